"""The catalogue (SQL, the truth) and the vector index (a cache of it)."""

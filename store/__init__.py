"""The catalogue (SQL, the source of truth) and the vector index (a cache of it)."""

"""From a query (a file, an id, a vector) to hits, by one path."""

"""Search: from a query (an image file, an image id or a vector) to the most similar images."""

"""Index folders of images: find files, train an encoder if needed, embed, store, and maintain a home."""

"""The `simile` command: a thin table of verbs. Importing it pulls in neither torch nor faiss."""

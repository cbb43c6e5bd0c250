"""The history of the catalogue's schema. store/schema.py runs it; `alembic` in the root does too, for new steps."""

"""Migrations of the catalogue's schema. store/database/schema.py runs them; `alembic` in the root adds new ones."""

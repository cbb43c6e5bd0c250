"""Run migrations on the home that store/database/schema.py passes; from the command line, on that of the settings."""

from __future__ import annotations

from alembic import context

from simile.core.errors import HomeError
from simile.core.settings import load_settings
from simile.store.database.engine import find_broken_references, make_engine
from simile.store.database.tables import Base
from simile.store.home import Home


def get_home() -> Home:
    """Return the home to migrate."""
    home = context.config.attributes.get("home")
    if isinstance(home, Home):
        return home
    settings = load_settings()
    return Home.from_settings(settings).create()


def run_migrations() -> None:
    """Run all pending migrations in one transaction: a failure leaves the catalogue unchanged."""
    engine = make_engine(get_home(), foreign_keys=False).execution_options(writes=True)
    try:
        with engine.begin() as connection:
            context.configure(
                connection=connection, target_metadata=Base.metadata, render_as_batch=True, transactional_ddl=True
            )
            context.run_migrations()
            broken = find_broken_references(connection)
            if broken:
                raise HomeError(f"The upgrade would lose rows: {broken[0]}. Nothing was changed; please report this.")
    finally:
        engine.dispose()


run_migrations()

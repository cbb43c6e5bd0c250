"""Which schema a catalogue has, and bringing it up to date.

Alembic is imported only when the schema is not current: asking is one small query.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import inspect, text

from simile import migrations
from simile.core.errors import HomeOutdated, HomeTooNew, NothingIndexed
from simile.store.database.engine import back_up_catalogue, catalogue_exists, make_engine
from simile.store.home import Home

if TYPE_CHECKING:
    from alembic.config import Config

log = logging.getLogger(__name__)

HEAD_REVISION = "2026_11_26_jobs"  # the newest file in migrations/versions
MIGRATIONS_FOLDER = Path(migrations.__file__).parent


def upgrade_schema(home: Home, scripts: Path = MIGRATIONS_FOLDER, head: str = HEAD_REVISION, wait: float = 60) -> None:
    """Brings the catalogue to the newest schema, for a writer; makes the home if there is none.

    A catalogue that holds rows is first copied to `catalogue.sqlite.bak-<revision>`. Works under the home's
    lock, which is taken here unless the caller holds it: workers that start together wait up to `wait` seconds for
    the one that upgrades. Raises HomeTooNew, HomeBusy, HomeNotWritable.
    """
    if read_revision(home.create()) == head:
        return
    if home.holds_lock:
        _upgrade_under_lock(home, scripts, head)
    else:
        with home.lock("upgrade of the catalogue", wait=wait):
            _upgrade_under_lock(home, scripts, head)


def check_schema(home: Home, scripts: Path = MIGRATIONS_FOLDER, head: str = HEAD_REVISION) -> None:
    """Lets a reader pass if the schema is current.

    Raises NothingIndexed if there is no catalogue, HomeOutdated or HomeTooNew if the schema is another one.
    """
    found = read_revision(home)
    if found == head:
        return
    if found is None:
        raise NothingIndexed(f"{home.root} holds no catalogue. Run `simile index PHOTOS`, or name another --home.")
    refuse_unknown_revision(home, found, scripts)
    raise HomeOutdated(
        f"{home.root} was made by an older simile. Run `simile status --upgrade`: it makes a backup first."
    )


def read_revision(home: Home) -> str | None:
    """The schema's name in the catalogue, or None where there is no catalogue yet."""
    if not catalogue_exists(home):
        return None
    engine = make_engine(home)
    try:
        with engine.connect() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return None
            found: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
            return found
    finally:
        engine.dispose()


def _upgrade_under_lock(home: Home, scripts: Path, head: str) -> None:
    from alembic import command  # 0.2 s that a current catalogue does not need  # noqa: PLC0415

    found = read_revision(home)  # again: another process may have upgraded while this one waited
    if found == head:
        return
    if found is not None:
        refuse_unknown_revision(home, found, scripts)
        log.info("Upgrading %s from %s to %s; backup: %s", home.root, found, head, back_up_catalogue(home, found))
    command.upgrade(make_alembic_config(home, scripts), head)


def refuse_unknown_revision(home: Home, catalogue_revision: str, scripts: Path = MIGRATIONS_FOLDER) -> None:
    """Raises HomeTooNew for a schema that no migration here leads to."""
    from alembic.script import ScriptDirectory  # noqa: PLC0415  # as above

    known = {
        script.revision for script in ScriptDirectory.from_config(make_alembic_config(home, scripts)).walk_revisions()
    }
    if catalogue_revision not in known:
        raise HomeTooNew(
            f"{home.root} was made by a newer simile (schema {catalogue_revision}). Install that one, or newer."
        )


def make_alembic_config(home: Home, scripts: Path = MIGRATIONS_FOLDER) -> Config:
    """What Alembic needs to know; migrations/env.py takes the home out of it."""
    from alembic.config import Config  # noqa: PLC0415  # as above

    config = Config(attributes={"home": home})
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config

"""Check and upgrade the schema of a catalogue.

Alembic is imported only if the schema is not current: the check is one small query.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import inspect, text

from simile import migrations
from simile.core.errors import HomeOutdated, HomeTooNew, NothingIndexed
from simile.store.database.engine import back_up_catalogue, catalogue_exists, find_catalogue_file, make_engine
from simile.store.home import Home

if TYPE_CHECKING:
    from alembic.config import Config

log = logging.getLogger(__name__)

HEAD_REVISION = "2026_12_01_series"  # the newest file in migrations/versions
MIGRATIONS_FOLDER = Path(migrations.__file__).parent


def upgrade_schema(home: Home, scripts: Path = MIGRATIONS_FOLDER, head: str = HEAD_REVISION, wait: float = 60) -> None:
    """Upgrade the catalogue to the newest schema, for a writer; create the home if it does not exist.

    An existing catalogue is first copied to `catalogue.sqlite.bak-<revision>`. The home's lock is taken here unless
    the caller holds it, after at most `wait` seconds: several workers may start at the same time. Raises HomeTooNew,
    HomeBusy, HomeNotWritable.
    """
    if read_revision(home.create()) == head:
        return
    if home.holds_lock:
        _upgrade_under_lock(home, scripts, head)
    else:
        with home.lock("upgrade of the catalogue", wait=wait):
            _upgrade_under_lock(home, scripts, head)


def check_schema(home: Home, scripts: Path = MIGRATIONS_FOLDER, head: str = HEAD_REVISION) -> None:
    """Check for a reader that the schema is current.

    If the catalogue is on a server, the home may be new on this host: its folders are created. Raises NothingIndexed
    if there is no catalogue, HomeOutdated or HomeTooNew if the schema is another one.
    """
    revision = read_revision(home)
    if revision == head:
        if find_catalogue_file(home) is None:
            home.create()
        return
    if revision is None:
        raise NothingIndexed(f"{home.root} holds no catalogue. Run `simile index PHOTOS`, or name another --home.")
    refuse_unknown_revision(home, revision, scripts)
    raise HomeOutdated(
        f"{home.root} was made by an older version of simile. Run `simile status --upgrade`: it makes a backup first."
    )


def read_revision(home: Home) -> str | None:
    """Return the catalogue's revision, or None if there is no catalogue yet."""
    if not catalogue_exists(home):
        return None
    engine = make_engine(home)
    try:
        with engine.connect() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return None
            revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
            return revision
    finally:
        engine.dispose()


def _upgrade_under_lock(home: Home, scripts: Path, head: str) -> None:
    from alembic import command  # takes 0.2 s, which a current catalogue does not need  # noqa: PLC0415

    revision = read_revision(home)  # again, because another process may have upgraded it meanwhile
    if revision == head:
        return
    if revision is not None:
        refuse_unknown_revision(home, revision, scripts)
        backup = back_up_catalogue(home, revision)
        log.info("Upgrading %s from %s to %s; backup: %s", home.root, revision, head, backup)
    command.upgrade(make_alembic_config(home, scripts), head)


def refuse_unknown_revision(home: Home, catalogue_revision: str, scripts: Path = MIGRATIONS_FOLDER) -> None:
    """Raise HomeTooNew if no migration creates this revision."""
    from alembic.script import ScriptDirectory  # noqa: PLC0415  # as above

    directory = ScriptDirectory.from_config(make_alembic_config(home, scripts))
    if catalogue_revision not in {script.revision for script in directory.walk_revisions()}:
        raise HomeTooNew(
            f"{home.root} was made by a newer version of simile (schema {catalogue_revision}). "
            "Install that version or a newer one."
        )


def make_alembic_config(home: Home, scripts: Path = MIGRATIONS_FOLDER) -> Config:
    """Return the configuration of Alembic. migrations/env.py reads the home from it."""
    from alembic.config import Config  # noqa: PLC0415  # as above

    # The default of `stdout` is bound when Alembic is imported, and that stream may be closed by now.
    config = Config(attributes={"home": home}, stdout=sys.stdout)
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config

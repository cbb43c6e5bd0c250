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
from simile.store.database.engine import back_up, exists, make_engine
from simile.store.home import Home

if TYPE_CHECKING:
    from alembic.config import Config

log = logging.getLogger(__name__)

HEAD = "2026_11_26_jobs"  # the newest file in migrations/versions
SCRIPTS = Path(migrations.__file__).parent


def upgrade(home: Home, scripts: Path = SCRIPTS, head: str = HEAD, wait: float = 60) -> None:
    """Brings the catalogue to the newest schema, for a writer; makes the home if there is none.

    A catalogue that holds rows is first copied to `catalogue.sqlite.bak-<revision>`. Works under the home's
    lock, which is taken here unless the caller holds it: workers that start together wait up to `wait` seconds for
    the one that upgrades. Raises HomeTooNew, HomeBusy, HomeNotWritable.
    """
    if revision(home.create()) == head:
        return
    if home.holds_lock:
        _upgrade_alone(home, scripts, head)
    else:
        with home.lock("upgrade of the catalogue", wait=wait):
            _upgrade_alone(home, scripts, head)


def check(home: Home, scripts: Path = SCRIPTS, head: str = HEAD) -> None:
    """Lets a reader pass if the schema is current.

    Raises NothingIndexed if there is no catalogue, HomeOutdated or HomeTooNew if the schema is another one.
    """
    found = revision(home)
    if found == head:
        return
    if found is None:
        raise NothingIndexed(f"{home.root} holds no catalogue. Run `simile index PHOTOS`, or name another --home.")
    refuse_unknown(home, found, scripts)
    raise HomeOutdated(
        f"{home.root} was made by an older simile. Run `simile status --upgrade`: it makes a backup first."
    )


def revision(home: Home) -> str | None:
    """The schema's name in the catalogue, or None where there is no catalogue yet."""
    if not exists(home):
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


def _upgrade_alone(home: Home, scripts: Path, head: str) -> None:
    from alembic import command  # noqa: PLC0415  # 0.2 s that a current catalogue does not need

    found = revision(home)  # again: another process may have upgraded while this one waited
    if found == head:
        return
    if found is not None:
        refuse_unknown(home, found, scripts)
        log.info("Upgrading %s from %s to %s; backup: %s", home.root, found, head, back_up(home, found))
    command.upgrade(alembic_config(home, scripts), head)


def refuse_unknown(home: Home, found: str, scripts: Path = SCRIPTS) -> None:
    """Raises HomeTooNew for a schema that no migration here leads to."""
    from alembic.script import ScriptDirectory  # noqa: PLC0415  # as above

    known = {script.revision for script in ScriptDirectory.from_config(alembic_config(home, scripts)).walk_revisions()}
    if found not in known:
        raise HomeTooNew(f"{home.root} was made by a newer simile (schema {found}). Install that one, or newer.")


def alembic_config(home: Home, scripts: Path = SCRIPTS) -> Config:
    """What Alembic needs to know; migrations/env.py takes the home out of it."""
    from alembic.config import Config  # noqa: PLC0415  # as above

    config = Config(attributes={"home": home})
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config

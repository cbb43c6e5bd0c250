"""Migrations: new homes, older homes with rows, and newer homes."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.script import ScriptDirectory

from simile.core.errors import HomeBusy, HomeError, HomeOutdated, HomeTooNew, NothingIndexed
from simile.store.catalogue.catalogue import Catalogue
from simile.store.database.schema import (
    HEAD_REVISION,
    MIGRATIONS_FOLDER,
    check_schema,
    make_alembic_config,
    read_revision,
    upgrade_schema,
)
from simile.store.home import Home
from tests.support.catalogue import make_new_image

pytestmark = pytest.mark.sqlite

ROOT = Path(__file__).parents[2]

NEXT = """
import sqlalchemy as sa
from alembic import op

revision = "2030_01_01_cameras"
down_revision = "{head}"


def upgrade():
    with op.batch_alter_table("images", recreate="always") as images:
        images.add_column(sa.Column("camera", sa.String(), nullable=False, server_default="unknown"))
    {more}
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home with the current schema and one image."""
    home = Home(tmp_path / "home")
    upgrade_schema(home)
    with Catalogue(home) as catalogue:
        catalogue.encoders.register("a" * 64, "first", "vae", dimensions=2)
        catalogue.images.add_batch([make_new_image(0, [1, 1], "/a.png")], "a" * 64, "eager")
    return home


@pytest.fixture
def later(tmp_path: Path) -> Path:
    """Migrations of a later version: one more, which copies the table of images."""
    scripts = tmp_path / "later"
    shutil.copytree(MIGRATIONS_FOLDER, scripts, ignore=shutil.ignore_patterns("__pycache__"))
    (scripts / "versions" / "2030_01_01_cameras.py").write_text(NEXT.format(head=HEAD_REVISION, more=""))
    return scripts


def rows(database: Path, query: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(database)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def test_the_named_head_is_the_newest_migration(home: Home) -> None:
    assert ScriptDirectory.from_config(make_alembic_config(home)).get_heads() == [HEAD_REVISION]


def test_the_migrations_make_the_tables_that_the_code_declares(home: Home) -> None:
    command.check(make_alembic_config(home))


def test_the_command_line_reaches_the_home_of_the_settings(home: Home) -> None:
    environment = os.environ | {"SIMILE_HOME": str(home.root)}
    alembic = [sys.executable, "-m", "alembic", "current"]
    done = subprocess.run(alembic, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{HEAD_REVISION} (head)"


def test_all_migrations_can_be_downgraded(home: Home) -> None:
    command.downgrade(make_alembic_config(home), "base")
    assert rows(
        home.catalogue_path, "SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' AND type = 'table'"
    ) == [("alembic_version",)]


def test_a_reader_creates_nothing(tmp_path: Path) -> None:
    home = Home(tmp_path / "nowhere")
    with pytest.raises(NothingIndexed, match="simile index"):
        check_schema(home)
    assert not home.root.exists()


IMPORTS = """
import sys
from pathlib import Path
from simile.store.home import Home
from simile.store.database.schema import check_schema, upgrade_schema
home = Home(Path(sys.argv[1]))
"""


@pytest.mark.real_processes
def test_a_current_catalogue_is_unchanged_and_alembic_is_not_imported(home: Home) -> None:
    code = IMPORTS + "check_schema(home); upgrade_schema(home); print('alembic' in sys.modules)"
    with home.lock("index"):  # another process works on it
        done = subprocess.run([sys.executable, "-c", code, home.root], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert list(home.root.glob("*.bak-*")) == []


def test_several_processes_may_create_the_same_home(tmp_path: Path) -> None:
    code = IMPORTS + "upgrade_schema(home); check_schema(home)"
    processes = [subprocess.Popen([sys.executable, "-c", code, tmp_path / "home"]) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4


def test_an_older_home_keeps_its_rows_and_gets_a_backup(home: Home, later: Path) -> None:
    upgrade_schema(home, scripts=later, head="2030_01_01_cameras")
    assert read_revision(home) == "2030_01_01_cameras"
    assert rows(home.catalogue_path, "SELECT id, camera FROM images") == [(1, "unknown")]
    assert rows(home.catalogue_path, "SELECT image_id, path FROM locations") == [(1, "/a.png")]
    assert rows(home.catalogue_path, "SELECT count(*) FROM embeddings") == [(1,)]
    backup = home.root / f"catalogue.sqlite.bak-{HEAD_REVISION}"
    assert rows(backup, "SELECT id, sha256 FROM images") == [(1, "0" * 64)]
    assert rows(backup, "SELECT version_num FROM alembic_version") == [(HEAD_REVISION,)]


@pytest.mark.parametrize("more", ["raise ZeroDivisionError", "op.execute('DELETE FROM encoders')"])
def test_a_failed_upgrade_changes_nothing(home: Home, later: Path, more: str) -> None:
    (later / "versions" / "2030_01_01_cameras.py").write_text(NEXT.format(head=HEAD_REVISION, more=more))
    with pytest.raises((ZeroDivisionError, HomeError)):
        upgrade_schema(home, scripts=later, head="2030_01_01_cameras")
    check_schema(home)
    with Catalogue(home) as catalogue:
        assert catalogue.images.get(1).paths == ("/a.png",)


def test_an_upgrade_needs_the_lock_unless_its_caller_holds_it(home: Home, later: Path) -> None:
    other = Home(home.root)
    with other.lock("index"), pytest.raises(HomeBusy, match="`index`"):
        upgrade_schema(home, scripts=later, head="2030_01_01_cameras", wait=0)
    check_schema(home)
    with home.lock("index"):
        upgrade_schema(home, scripts=later, head="2030_01_01_cameras")
    assert read_revision(home) == "2030_01_01_cameras"


def test_a_newer_home_is_rejected_by_readers_and_writers(home: Home, later: Path) -> None:
    upgrade_schema(home, scripts=later, head="2030_01_01_cameras")
    for verb in (check_schema, upgrade_schema):
        with pytest.raises(HomeTooNew, match="2030_01_01_cameras"):
            verb(home)


def test_a_reader_of_an_older_home_is_told_what_to_run(home: Home, later: Path) -> None:
    with pytest.raises(HomeOutdated, match="simile status --upgrade"):
        check_schema(home, scripts=later, head="2030_01_01_cameras")


def test_an_interrupted_creation_is_continued(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").create()
    home.catalogue_path.touch()
    with pytest.raises(NothingIndexed):
        check_schema(home)
    upgrade_schema(home)
    check_schema(home)

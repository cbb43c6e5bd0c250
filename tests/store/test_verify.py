"""`verify` finds and names each kind of damage, and finds nothing in an intact home."""

from __future__ import annotations

import io
import re
import shlex
import shutil
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import text

from simile.core.atomic_write import replace_folder
from simile.core.settings import Settings
from simile.indexer.maintenance.verify import find_home_leftovers, verify_home
from simile.indexer.pipeline.job import IndexRequest, index
from simile.indexer.pipeline.uploads import add_upload
from simile.search.encoder_registry import load_encoder
from simile.search.searcher import Searcher
from simile.store.backup.verify import find_leftovers, find_problems
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import NewImage
from simile.store.database.schema import upgrade_schema
from simile.store.home import Home
from simile.store.index.index import Index
from tests.support.catalogue import make_new_image
from tests.support.commands import run_simile

VAE = "a" * 64


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Three images, one of them an upload; two are in a segment, and one is newer."""
    home = Home(tmp_path / "home")
    upgrade_schema(home)
    (home.encoders / VAE).mkdir()
    (home.uploads / "2.png").write_bytes(b"x")
    with Catalogue(home) as catalogue:
        catalogue.encoders.register(VAE, "first", "vae", dimensions=3, index_dims=2, metric="cosine")
        catalogue.encoders.activate(VAE)
        catalogue.images.add_batch([new_image(1), new_image(2, str(home.uploads))], VAE, "eager")
        Index(catalogue).publish()
        catalogue.images.add_batch([new_image(3)], VAE, "eager")
    return home


def new_image(number: int, folder: str = "/photos") -> NewImage:
    mu = np.array([number, 1, 2], np.float32)
    return make_new_image(number, mu, f"{folder}/{number}.png", log_variance=-mu)


def execute(home: Home, *statements: str) -> None:
    """Run SQL statements on the catalogue."""
    with Catalogue(home) as catalogue, catalogue.begin_untracked_write() as connection:
        for statement in statements:
            connection.execute(text(statement))


def kinds(home: Home) -> list[str]:
    problems = find_problems(home)
    assert all(problem.description.endswith(".") and problem.next_step.endswith(".") for problem in problems)
    return [problem.kind for problem in problems]


def test_an_intact_home_has_no_problems(home: Home) -> None:
    assert find_problems(home) == []


def test_deleted_images_and_interrupted_runs_are_no_problem(home: Home) -> None:
    with Catalogue(home) as catalogue:
        catalogue.images.delete(1)
        catalogue.images.add_batch([new_image(2, str(home.uploads))], VAE, "eager")
        catalogue.runs.start("index", {})
        catalogue.runs.start("index", {})
    assert find_problems(home) == []


def test_a_home_without_an_encoder_has_no_problems(tmp_path: Path) -> None:
    home = Home(tmp_path / "new")
    upgrade_schema(home)
    assert find_problems(home) == []


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("mu", "x'00'", "mu of image 3 by encoder a+ has 1 bytes instead of 12"),
        ("mu", "x'0000c07f0000000000000000'", "mu of image 3 .* NaN"),
        ("log_variance", "x'00000000'", "log_variance of image 3 .* 4 bytes"),
    ],
)
@pytest.mark.sqlite
def test_a_bad_vector_is_found(home: Home, column: str, value: str, words: str) -> None:
    execute(home, f"UPDATE embeddings SET {column} = {value} WHERE image_id = 3")
    (problem,) = find_problems(home)
    assert problem.kind == "vector"
    assert re.search(words, problem.description)


def test_images_without_file_or_vector_are_found(home: Home) -> None:
    execute(home, "DELETE FROM locations WHERE image_id = 1", "DELETE FROM embeddings WHERE image_id = 3")
    assert [problem.description for problem in find_problems(home)] == [
        "Image 1 has no file.",
        "Image 3 has no vector by the active encoder.",
    ]


def test_an_altered_or_missing_segment_is_found(home: Home) -> None:
    (path,) = home.segments.iterdir()
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert [problem.description for problem in find_problems(home)] == [f"{path} has been altered."]
    path.unlink()
    (problem,) = find_problems(home)
    assert problem.description.startswith(f"{path} can't be read")
    assert problem.next_step == "Run `simile rebuild`."
    with Catalogue(home) as catalogue:
        Index(catalogue).rebuild()
    assert find_problems(home) == []


def test_a_segment_that_differs_from_the_rows_is_found(home: Home) -> None:
    swapped = "UPDATE embeddings SET mu = (SELECT mu FROM embeddings WHERE image_id = 3) WHERE image_id = 1"
    execute(home, swapped, "UPDATE embeddings SET change = 0 WHERE image_id = 3")
    assert ["image 1" in p.description or "image 3" in p.description for p in find_problems(home)] == [True, True]
    execute(home, "DELETE FROM images WHERE id = 1")
    assert any("holds image 1, which has no row" in problem.description for problem in find_problems(home))


def test_orphaned_files_and_missing_encoders_are_found(home: Home) -> None:
    (home.segments / "left.tmp").touch()
    (home.uploads / "9.png").touch()
    (home.encoders / VAE).rmdir()
    assert kinds(home) == ["encoder"]
    kinds_left = [problem.kind for problem in find_leftovers(home)]
    assert kinds_left == ["orphan", "orphan"]  # space to win back, nothing wrong


def test_an_upload_without_its_file_is_found(home: Home) -> None:
    (home.uploads / "2.png").unlink()
    (problem,) = find_problems(home)
    assert (problem.kind, problem.description) == ("upload", f"{home.uploads / '2.png'} of image 2 is missing.")


def test_a_home_is_intact_at_every_moment_while_others_write(home: Home) -> None:
    done = threading.Event()

    def change() -> None:
        with Catalogue(home) as catalogue:
            number = 10
            while not done.is_set():
                path = home.uploads / f"{number}.png"
                path.touch()
                (image_id,) = catalogue.images.add_batch([new_image(number, str(home.uploads))], VAE, "eager")
                Index(catalogue).publish()
                catalogue.images.delete(image_id)
                number += 1

    writer = threading.Thread(target=change)
    writer.start()
    try:
        assert [find_problems(home) for _ in range(40)] == [[]] * 40
    finally:
        done.set()
        writer.join()


def test_a_deleted_image_that_still_exists_is_found(home: Home) -> None:
    execute(home, "INSERT INTO deletions VALUES (3, 99)")
    assert [problem.description for problem in find_problems(home)] == ["Image 3 was deleted and still exists."]


def test_many_problems_of_one_kind_are_shortened(home: Home) -> None:
    with Catalogue(home) as catalogue:
        catalogue.images.add_batch([new_image(number) for number in range(4, 34)], VAE, "eager")
    execute(home, "DELETE FROM embeddings WHERE image_id >= 4")
    problems = find_problems(home)
    assert len(problems) == 21
    assert (problems[-1].kind, problems[-1].description) == ("image", "10 more like these.")


def test_images_embedded_only_by_the_next_encoder_are_no_problem_during_a_switch(home: Home) -> None:
    """`simile index --encoder` was interrupted: the next run goes on, and one that ends without them is a problem."""
    with Catalogue(home) as catalogue:
        catalogue.encoders.register("b" * 64, "second", "vae", dimensions=3)
        (home.encoders / ("b" * 64)).mkdir()
        run = catalogue.runs.start("index", {"encoder": "b" * 64})
        catalogue.images.add_batch([new_image(4)], "b" * 64, "eager")
        assert find_problems(home) == []
        catalogue.runs.finish(run, "interrupted", {})
        assert find_problems(home) == []
        catalogue.runs.start("index", {"encoder": VAE})
        assert [problem.description for problem in find_problems(home)] == [
            "Image 4 has no vector by the active encoder."
        ]


def test_leftovers_are_named_with_their_next_step(home: Home) -> None:
    (home.encoders / ".training").mkdir()
    for name in (".arriving", "c" * 16):
        (home.encoders / name).mkdir()
    (home.root / ".restoring").mkdir()
    (home.root / "catalogue.sqlite.bak-1.tmp").touch()
    assert find_problems(home) == []
    steps = [problem.next_step for problem in find_leftovers(home)]
    assert steps == ["Remove the folder.", "Run `simile encoders remove cccccccccccccccc`.", "Remove it.", "Remove it."]


@pytest.mark.parametrize("killed_at", ["before the swap", "after the swap"])
def test_a_kill_while_an_encoder_is_replaced_loses_no_encoder(
    trained_home: Settings, killed_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(trained_home.home)
    (folder,) = home.encoders.glob("[0-9a-f]*")
    arriving = home.encoders / ".arriving"
    shutil.copytree(folder, arriving)
    (arriving / "new").touch()

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        rename = Path.rename
        if killed_at == "before the swap":
            patched.setattr(Path, "rename", lambda self, to: killed() if self == arriving else rename(self, to))
        else:
            patched.setattr("simile.core.atomic_write.fsync_path", killed)
        with pytest.raises(KeyboardInterrupt):
            replace_folder(arriving, folder)
    aside = home.encoders / f".replaced-{folder.name}"
    assert aside.exists() and folder.exists() == (killed_at == "after the swap")
    if killed_at == "before the swap":
        assert str(aside) not in str(find_leftovers(home))
        load_encoder(home, folder.name, "cpu")
    assert verify_home(trained_home) == []
    assert folder.exists() and not aside.exists()
    assert (folder / "new").exists() == (killed_at == "after the swap")


def test_one_folder_exists_at_every_moment_of_a_replacement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "content").write_text(name)
    seen = []
    rmtree = shutil.rmtree

    def look(path: Path, **options: object) -> None:
        seen.append({file.read_text() for file in tmp_path.rglob("content")})
        rmtree(path, ignore_errors=True)

    monkeypatch.setattr(shutil, "rmtree", look)
    replace_folder(tmp_path / "new", tmp_path / "old")
    assert all("old" in contents for contents in seen)
    assert (tmp_path / "old" / "content").read_text() == "new" and [path.name for path in tmp_path.iterdir()] == ["old"]


@pytest.mark.sqlite
def test_uploads_of_a_moved_home_are_kept(trained_home: Settings, digits: Path, tmp_path: Path) -> None:
    index(trained_home, [digits], IndexRequest())
    with Searcher(trained_home) as searcher:
        data = (digits / sorted(path.name for path in digits.iterdir())[0]).read_bytes() + b" "
        image_id, _ = add_upload(searcher, data, name="upload.png")
    moved = trained_home.model_copy(update={"home": trained_home.home.rename(tmp_path / "the home")})
    (problem,) = find_home_leftovers(moved)
    assert f"holds image {image_id}" in problem.description
    command = shlex.split(problem.next_step.split("`")[1])
    assert command[:2] == ["simile", "index"]
    assert index(moved, [Path(command[2])], IndexRequest()).moved == 1
    assert find_home_leftovers(moved) == verify_home(moved, files=True) == []


def write_tar(path: Path, **members: bytes) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(f"{name}.png")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_files_are_read_and_compared_when_asked_for(trained_home: Settings, digits: Path, tmp_path: Path) -> None:
    changed, gone, *others = sorted(digits.iterdir())
    one, two = others[0].read_bytes(), others[1].read_bytes()
    write_tar(tmp_path / "some.tar", one=one + b" ", two=two + b" ")
    index(trained_home, [digits, tmp_path / "some.tar"], IndexRequest())
    assert verify_home(trained_home, files=True) == []
    changed.write_bytes(b"another image")
    gone.unlink()
    write_tar(tmp_path / "some.tar", one=one + b" ", two=two + b"?")
    assert verify_home(trained_home) == []
    found = [problem.description for problem in verify_home(trained_home, files=True)]
    assert len(found) == 3
    assert found[0] == f"{changed} has changed since it was indexed as image 1."
    assert found[1].startswith(f"{gone} of image 2 can't be read")
    assert found[2].startswith(f"{tmp_path / 'some.tar' / 'two.png'} has changed")
    result = run_simile("verify", "--files", "--home", trained_home.home)
    assert (result.exit_code, len(result.stdout.splitlines())) == (1, 3)


def test_a_row_that_differs_from_its_encoder_is_found(home_with_digits: Settings) -> None:
    execute(Home(home_with_digits.home), "UPDATE encoders SET metric = 'l2'")
    assert any("compares ('cosine', None)" in problem.description for problem in verify_home(home_with_digits))


def test_a_folder_that_holds_another_encoder_is_found(home_with_digits: Settings) -> None:
    home = Home(home_with_digits.home)
    with Catalogue(home) as catalogue:
        catalogue.encoders.register("b" * 16, "second", "vae", dimensions=16, metric="cosine")
    (folder,) = home.encoders.glob("[0-9a-f]*")
    shutil.copytree(folder, home.encoders / ("b" * 16))
    (problem,) = verify_home(home_with_digits)
    assert problem.description == f"{home.encoders / ('b' * 16)} holds encoder {folder.name}."


@pytest.mark.sqlite
def test_broken_references_and_a_damaged_file_are_found(home: Home) -> None:
    execute(home, "INSERT INTO deletions VALUES (77, 1)")
    assert find_problems(home) == []
    with Catalogue(home) as catalogue, catalogue.begin_read() as connection:
        connection.exec_driver_sql("COMMIT")
        connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
        connection.exec_driver_sql("UPDATE locations SET image_id = 99 WHERE image_id = 1")
    (problem,) = find_problems(home)
    assert problem.kind == "database"
    assert re.match(r"row \d of locations refers to a row of images that does not exist", problem.description)

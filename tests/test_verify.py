"""`verify` finds each kind of damage, names it, and is silent about a home that is whole."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import text

from core.records import FileFacts
from store.catalogue import Catalogue
from store.home import Home
from store.index import Index
from store.records import NewPicture
from store.schema import upgrade
from store.verify import leftovers, verify

VAE = "a" * 64


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Three pictures, one of them an upload; two are in a segment, and one came later."""
    home = Home(tmp_path / "home")
    upgrade(home)
    (home.encoders / VAE).mkdir()
    (home.uploads / "2.png").write_bytes(b"x")
    with Catalogue(home) as catalogue:
        catalogue.register_encoder(VAE, "first", "vae", dimensions=3, index_dims=2, metric="cosine")
        catalogue.activate(VAE)
        catalogue.store_batch([picture(1), picture(2, str(home.uploads))], VAE, "eager")
        Index(catalogue).publish()
        catalogue.store_batch([picture(3)], VAE, "eager")
    return home


def picture(number: int, folder: str = "/photos") -> NewPicture:
    mu = np.array([number, 1, 2], np.float32)
    return NewPicture(f"{number:064}", 1, "PNG", 8, 8, FileFacts(f"{folder}/{number}.png", 1, 1), mu, -mu)


def execute(home: Home, *statements: str) -> None:
    """Writes behind the catalogue's back."""
    with Catalogue(home) as catalogue, catalogue.noting() as connection:
        for statement in statements:
            connection.execute(text(statement))


def kinds(home: Home) -> list[str]:
    problems = verify(home)
    assert all(problem.what.endswith(".") and problem.next_step.endswith(".") for problem in problems)
    return [problem.kind for problem in problems]


def test_a_whole_home_has_no_problems(home: Home) -> None:
    assert verify(home) == []


def test_deleted_pictures_and_interrupted_runs_are_no_problem(home: Home) -> None:
    with Catalogue(home) as catalogue:
        catalogue.delete_image(1)
        catalogue.store_batch([picture(2, str(home.uploads))], VAE, "eager")
        catalogue.start_run("index", {})
        catalogue.start_run("index", {})
    assert verify(home) == []


def test_a_home_without_an_encoder_has_no_problems(tmp_path: Path) -> None:
    home = Home(tmp_path / "new")
    upgrade(home)
    assert verify(home) == []


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("mu", "x'00'", "mu of image 3 by encoder a+ has 1 bytes instead of 12"),
        ("mu", "x'0000c07f0000000000000000'", "mu of image 3 .* NaN"),
        ("log_variance", "x'00000000'", "log_variance of image 3 .* 4 bytes"),
    ],
)
def test_a_bad_vector_is_found(home: Home, column: str, value: str, words: str) -> None:
    execute(home, f"UPDATE embeddings SET {column} = {value} WHERE image_id = 3")
    (problem,) = verify(home)
    assert problem.kind == "vector"
    assert re.search(words, problem.what)


def test_images_without_file_or_vector_are_found(home: Home) -> None:
    execute(home, "DELETE FROM locations WHERE image_id = 1", "DELETE FROM embeddings WHERE image_id = 3")
    assert [problem.what for problem in verify(home)] == [
        "Image 1 has no file.",
        "Image 3 has no vector by the active encoder.",
    ]


def test_an_altered_or_missing_segment_is_found(home: Home) -> None:
    (path,) = home.segments.iterdir()
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert [problem.what for problem in verify(home)] == [f"{path} has been altered."]
    path.unlink()
    (problem,) = verify(home)
    assert problem.what.startswith(f"{path} can't be read")
    assert problem.next_step == "Run `simile rebuild`."
    with Catalogue(home) as catalogue:
        Index(catalogue).rebuild()
    assert verify(home) == []


def test_a_segment_that_differs_from_the_rows_is_found(home: Home) -> None:
    swapped = "UPDATE embeddings SET mu = (SELECT mu FROM embeddings WHERE image_id = 3) WHERE image_id = 1"
    execute(home, swapped, "UPDATE embeddings SET change = 0 WHERE image_id = 3")
    assert ["image 1" in p.what or "image 3" in p.what for p in verify(home)] == [True, True]
    execute(home, "DELETE FROM images WHERE id = 1")
    assert any("holds image 1, which has no row" in problem.what for problem in verify(home))


def test_orphaned_files_and_missing_encoders_are_found(home: Home) -> None:
    (home.segments / "left.tmp").touch()
    (home.uploads / "9.png").touch()
    (home.encoders / VAE).rmdir()
    assert kinds(home) == ["encoder"]
    assert [problem.kind for problem in leftovers(home)] == ["orphan", "orphan"]  # space to win back, nothing wrong


def test_references_into_nowhere_and_a_damaged_file_are_found(home: Home) -> None:
    execute(home, "INSERT INTO deletions VALUES (77, 1)")
    assert verify(home) == []
    with Catalogue(home) as catalogue, catalogue.reading() as connection:
        connection.exec_driver_sql("COMMIT")
        connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
        connection.exec_driver_sql("UPDATE locations SET image_id = 99 WHERE image_id = 1")
    (problem,) = verify(home)
    assert problem.kind == "database"
    assert "row 1 of locations points to a row of images" in problem.what

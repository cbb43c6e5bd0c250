"""An export in any format holds exactly the rows of the catalogue."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet
from sqlalchemy import text

from simile.core.csv_cells import escape_formulas
from simile.core.errors import BadSetting, NoSuchEncoder, NothingIndexed
from simile.core.records import FileStat, PhotoMetadata
from simile.core.settings import Settings, load_settings
from simile.indexer.maintenance.export import export_embeddings, read_table
from simile.store.backup import export_rows
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import NewImage
from simile.store.home import Home
from tests.support.catalogue import make_new_image
from tests.support.commands import run_json, run_simile

VAE, PLAIN = "a" * 16, "b" * 16


@pytest.mark.parametrize(
    ("value", "written"),
    [
        *((text, f"'{text}") for text in ("=1+1", "+SUM(A1)", "-cmd|calc!A1", "@SUM(1)", "\t=1", "\r=1")),
        *((value, value) for value in ("-5", "+3.2", "-1e9", "a=1", "/photos/=1.png", "", 7, -2.5, None)),
    ],
)
def test_text_that_a_spreadsheet_would_run_is_escaped(value: object, written: object) -> None:
    assert escape_formulas([value]) == [written]


def test_metadata_with_formulas_is_escaped_in_csv_only(settings: Settings) -> None:
    with Catalogue(Home(settings.home)) as catalogue:
        catalogue.metadata.set_for_image(2, {"class": "=1+1"})
    export_embeddings(settings, Path("all.csv"))
    with Path("all.csv").open(encoding="utf-8", newline="") as file:
        assert [row["metadata.class"] for row in csv.DictReader(file)][1] == "'=1+1"
    export_embeddings(settings, Path("all.npz"))
    assert np.load("all.npz")["metadata.class"][1] == "=1+1"


@pytest.fixture
def settings(home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """Five images by a VAE, the third in two files; two of them by an encoder without a variance; read in twos."""
    monkeypatch.setattr(export_rows, "EXPORT_CHUNK_ROWS", 2)
    with Catalogue(home) as catalogue:
        catalogue.encoders.register(VAE, "vae", "vae", dimensions=3)
        catalogue.encoders.register(PLAIN, "ae", "autoencoder", dimensions=2)
        catalogue.encoders.activate(VAE)
        catalogue.images.add_batch([new_image(n) for n in (1, 2, 3, 4, 5)], VAE, "eager")
        catalogue.images.add_batch([plain(n) for n in (2, 5)], PLAIN, "eager")
        catalogue.files.add([(3, FileStat("/photos/a copy, ü.png", 1, 1))])
        with catalogue.begin_untracked_write() as connection:
            for path, name, said, number in (
                ("/photos/1.png", "class", "shirt", None),
                ("/photos/3.png", "class", "shoe, left", None),
                ("/photos/1.png", "price", "12.50", 12.5),
            ):
                place = connection.scalar(text("SELECT id FROM locations WHERE path = :path"), {"path": path})
                values = {"place": place, "name": name, "said": said, "number": number}
                connection.execute(text("INSERT INTO metadata VALUES (:place, :name, :said, :number)"), values)
    yield load_settings(home=home.root)


def new_image(number: int) -> NewImage:
    mu = np.array([number / 3, 1e-8, -2], np.float32)
    return make_new_image(number, mu, log_variance=-mu, size=10 * number, height=9)


def plain(number: int) -> NewImage:
    return make_new_image(number, [number, 0], height=9)


MU = np.array([[n / 3, 1e-8, -2] for n in (1, 2, 3, 4, 5)], np.float32)
FIRST = ["/photos/1.png", "/photos/2.png", "/photos/3.png", "/photos/4.png", "/photos/5.png"]
CLASSES = ["shirt", "", "shoe, left", "", ""]


def test_npz_holds_arrays_of_one_length_without_pickle(settings: Settings) -> None:
    done = export_embeddings(settings, Path("all.npz"))
    assert (done["pictures"], done["lacking"], done["encoder"]) == (5, 0, VAE)
    arrays = np.load("all.npz")
    assert arrays["ids"].tolist() == [1, 2, 3, 4, 5]
    assert arrays["paths"].tolist() == FIRST
    assert arrays["sha256"].tolist() == [f"{n:064}" for n in (1, 2, 3, 4, 5)]
    assert np.array_equal(arrays["mu"], MU) and np.array_equal(arrays["log_variance"], -MU)
    assert arrays["metadata.class"].tolist() == CLASSES
    assert arrays["metadata.price"].tolist() == ["12.50", "", "", "", ""]


def test_parquet_has_lists_of_float32_and_numeric_columns_of_metadata(settings: Settings) -> None:
    export_embeddings(settings, Path("all.parquet"))
    table = parquet.read_table("all.parquet")
    rows: list[dict[str, Any]] = table.to_pylist()
    assert [row["image_id"] for row in rows] == [1, 2, 3, 4, 5]
    assert rows[2]["path"] == "/photos/3.png"
    assert rows[2]["paths"] == ["/photos/3.png", "/photos/a copy, ü.png"]
    assert np.array_equal(np.array([row["mu"] for row in rows], np.float32), MU)
    assert np.array_equal(np.array([row["log_variance"] for row in rows], np.float32), -MU)
    assert [row["metadata.class"] for row in rows] == ["shirt", None, "shoe, left", None, None]
    assert [row["metadata.price"] for row in rows] == [12.5, None, None, None, None]
    assert [(row["format"], row["bytes"], row["width"], row["height"]) for row in rows[:1]] == [("PNG", 10, 8, 9)]
    assert str(table.schema.field("mu").type) == "fixed_size_list<element: float>[3]"
    assert table.schema.metadata[b"encoder"] == VAE.encode()


def test_photo_metadata_has_typed_columns_if_there_is_any(settings: Settings) -> None:
    export_embeddings(settings, Path("without.parquet"))
    assert not [name for name in parquet.read_schema("without.parquet").names if name.startswith("photo.")]
    photo = PhotoMetadata(taken=datetime(2024, 5, 1, 9, 30), camera="=X100", iso=200, keywords=("sea", "süß"))
    with Catalogue(Home(settings.home)) as catalogue:
        catalogue.photo_metadata.set_for_files({"/photos/a copy, ü.png": photo})
        schema, tables = read_table(catalogue, catalogue.home).schema, read_table(catalogue, catalogue.home).to_pylist()
    for name, value in asdict(photo).items():
        expected = list(value) if isinstance(value, tuple) else value
        assert [row[f"photo.{name}"] for row in tables] == [None, None, expected, None, None]
    assert (str(schema.field("photo.taken").type), str(schema.field("photo.aperture").type)) == (
        "timestamp[us]",
        "double",
    )
    export_embeddings(settings, Path("all.csv"))
    with Path("all.csv").open(encoding="utf-8", newline="") as file:
        row = list(csv.DictReader(file))[2]
    assert (row["photo.taken"], row["photo.camera"], row["photo.iso"]) == ("2024-05-01 09:30:00", "'=X100", "200")
    assert json.loads(row["photo.keywords"]) == ["sea", "süß"] and row["photo.title"] == ""


def test_csv_keeps_every_float_exactly(settings: Settings) -> None:
    export_embeddings(settings, Path("all.csv"))
    with Path("all.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == FIRST
    assert json.loads(rows[2]["paths"]) == ["/photos/3.png", "/photos/a copy, ü.png"]
    assert [row["metadata.class"] for row in rows] == CLASSES
    for name, expected in (("mu", MU), ("log_variance", -MU)):
        found = np.array([[row[f"{name}_{n}"] for n in range(3)] for row in rows], np.float32)
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("suffix", [".npz", ".parquet", ".csv"])
def test_another_encoder_is_named_by_the_start_of_its_fingerprint(settings: Settings, suffix: str) -> None:
    output = Path("plain").with_suffix(suffix)
    done = export_embeddings(settings, output, encoder="bb")
    assert (done["encoder"], done["pictures"], done["lacking"]) == (PLAIN, 2, 3)
    if suffix == ".npz":
        assert np.load(output)["mu"].tolist() == [[2, 0], [5, 0]]
        assert "log_variance" not in np.load(output)
    else:
        columns = parquet.read_schema(output).names if suffix == ".parquet" else output.read_text().splitlines()[0]
        assert "log_variance" not in str(columns)


def test_a_row_without_a_variance_among_others_is_empty(settings: Settings) -> None:
    with Catalogue(Home(settings.home)) as catalogue, catalogue.begin_untracked_write() as connection:
        connection.execute(text("UPDATE embeddings SET log_variance = NULL WHERE image_id = 2"))
    export_embeddings(settings, Path("all.parquet"))
    export_embeddings(settings, Path("all.csv"))
    export_embeddings(settings, Path("all.npz"))
    assert parquet.read_table("all.parquet")["log_variance"].to_pylist()[1] is None
    assert Path("all.csv").read_text().splitlines()[2].endswith(",,,")
    assert np.isnan(np.load("all.npz")["log_variance"][1]).all()


def test_an_output_that_cannot_be_written_is_named_and_leaves_nothing(settings: Settings, tmp_path: Path) -> None:
    Path("old.csv").write_text("old")
    for output, words in (("all.txt", "ends in .parquet, .npz, .csv"), ("no/all.csv", "No such file or directory")):
        with pytest.raises(BadSetting, match=words):
            export_embeddings(settings, Path(output))
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))\n"
        "from pathlib import Path; from simile.core.settings import load_settings\n"
        "from simile.indexer.maintenance.export import export_embeddings\n"
        "export_embeddings(load_settings(home=sys.argv[1]), Path('old.csv'))"
    )
    with Catalogue(Home(settings.home)) as catalogue:
        catalogue.count_changes()  # SQLite's own small files are there, so the limit hits the output alone
        done = subprocess.run([sys.executable, "-c", code, settings.home], capture_output=True, text=True, check=False)
    assert "BadSetting: old.csv can't be written: File too large." in done.stderr
    assert Path("old.csv").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "old.csv"]


def test_an_unknown_encoder_and_an_empty_home_are_errors(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(NoSuchEncoder, match="simile encoders"):
        export_embeddings(settings, Path("all.csv"), encoder="c")
    with pytest.raises(NothingIndexed):
        export_embeddings(load_settings(home=tmp_path / "none"), Path("all.csv"))


def test_the_command_prints_what_it_wrote(settings: Settings) -> None:
    arguments = ("export", "--home", settings.home, "-o", "all.csv")
    assert run_simile(*arguments).stdout == f"all.csv: 5 images by encoder {VAE}\n"
    assert run_json(*arguments)["metadata"] == ["class", "price"]

"""Images from Python: arrays, Pillow images, paths and data frames in, vectors and data frames out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from PIL import Image

import simile
from simile.core.errors import BadSetting, UnreadableImage
from simile.core.settings import Settings
from tests.support.images import noise


def make_array(seed: int, shape: tuple[int, ...] = (32, 40, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def read_metadata(settings: Settings, ids: list[int | None]) -> list[dict[str, str | float]]:
    with simile.open_home(settings) as home:
        return [home.get_metadata(image_id) for image_id in ids if image_id is not None]


def test_objects_and_paths_are_added_together_and_found(trained_home: Settings, tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(noise(1))
    images = [make_array(1), Image.fromarray(make_array(2)), tmp_path / "1.png", make_array(3, (20, 20))]
    metadata = [{"split": "train", "n": 1}, None, {"split": "test"}, None]
    added = simile.add_images(trained_home, images, names=["a", "b", "c", "d"], metadata=metadata)
    assert (None in added.ids, added.failures, len(set(added.ids))) == (False, [], 4)
    assert read_metadata(trained_home, added.ids)[0] == {"name": "a", "split": "train", "n": 1.0}
    with simile.open_home(trained_home) as home:
        for image, image_id in zip(images, added.ids, strict=True):
            assert home.by_vector(
                simile.embed([image], encoder=home.get_encoder().fingerprint, settings=trained_home)[0]
            )
            assert image_id is not None
            (path,) = [file.path for file in home.catalogue.files.get_for_images([image_id])[image_id]]
            assert (path == str(tmp_path / "1.png")) == isinstance(image, Path)
        stored = Path(home.home.uploads)
    assert len(list(stored.iterdir())) == 3


def test_a_new_home_gets_the_shipped_encoder(tmp_path: Path) -> None:
    settings = simile.load_settings(home=tmp_path / "new")
    added = simile.add_images(settings, [make_array(1), make_array(2)])
    with simile.open_home(settings) as home:
        assert home.by_vector(simile.embed([make_array(2)])[0], limit=1).hits[0].image_id == added.ids[1]
        assert home.add_images([make_array(3)]).failures == []
        assert len(home.to_polars()) == 3


def test_an_array_is_stored_without_loss_and_once(trained_home: Settings) -> None:
    first = simile.add_images(trained_home, [make_array(1)])
    again = simile.add_images(trained_home, [make_array(1), make_array(1)], names=["x", "x"])
    assert again.ids == first.ids * 2
    with simile.open_home(trained_home) as home:
        (file,) = Path(home.home.uploads).iterdir()
    assert np.array_equal(np.asarray(Image.open(file)), make_array(1))


@pytest.mark.parametrize("make_frame", [pd.DataFrame, pl.DataFrame])
def test_rows_of_a_frame_are_images_with_metadata(trained_home: Settings, tmp_path: Path, make_frame: type) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(noise(number))
    paths = [str(tmp_path / f"{number}.png") for number in (2, 0, 9)]
    frame = make_frame({"file": paths, "label": ["cat", None, "dog"], "score": [0.5, 2.0, 3.0]})
    added = simile.add_images(trained_home, frame, path_column="file")
    assert (added.ids[2], [Path(failure.path).name for failure in added.failures]) == (None, ["9.png"])
    assert read_metadata(trained_home, added.ids) == [{"label": "cat", "score": 0.5}, {"score": 2.0}]


def test_a_home_comes_back_as_a_frame(home_with_digits: Settings) -> None:
    with simile.open_home(home_with_digits) as home:
        table, pandas, polars = home.to_arrow(), home.to_pandas(), home.to_polars()
    assert len(table) == len(pandas) == len(polars)
    assert pandas["sha256"].tolist() == polars["sha256"].to_list() == table["sha256"].to_pylist()
    assert np.stack(pandas["mu"].tolist()).shape == polars["mu"].to_numpy().shape


def test_the_embedding_of_an_object_is_that_of_its_file(trained_home: Settings, tmp_path: Path) -> None:
    array = make_array(7)
    Image.fromarray(array).save(tmp_path / "7.png")
    rotated = Image.fromarray(array)
    rotated.getexif()[0x0112] = 3
    vectors = simile.embed([array, Image.fromarray(array), tmp_path / "7.png", rotated, array[::-1, ::-1]])
    assert (vectors.dtype, vectors.ndim) == (np.float32, 2)
    assert np.allclose(vectors[0], vectors[1], atol=1e-5) and np.allclose(vectors[0], vectors[2], atol=1e-5)
    assert np.allclose(vectors[3], vectors[4], atol=1e-5) and not np.allclose(vectors[0], vectors[3], atol=1e-2)
    assert simile.embed([]).shape == (0, vectors.shape[1])


@pytest.mark.parametrize(
    "bad", [np.zeros((4, 4, 3)), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4), np.uint8), b"text", None, 7,
            Image.new("F", (4, 4))],
)  # fmt: skip
def test_an_object_that_is_no_image_is_named_by_its_number(trained_home: Settings, bad: object) -> None:
    with pytest.raises(BadSetting, match="Image 1 can't be used"):
        simile.embed([make_array(1), bad])
    with pytest.raises(BadSetting, match="Image 1 can't be used"):
        simile.add_images(trained_home, [make_array(1), bad])


def test_arguments_that_do_not_fit_are_refused(trained_home: Settings, tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="names has 1 items for 2 images"):
        simile.add_images(trained_home, [make_array(1), make_array(2)], names=["a"])
    with pytest.raises(BadSetting, match="no column 'path', only x"):
        simile.add_images(trained_home, pd.DataFrame({"x": [1]}))
    with pytest.raises(BadSetting, match="is a folder"):
        simile.add_images(trained_home, [tmp_path])
    with pytest.raises(BadSetting, match="rows without a path"):
        simile.add_images(trained_home, pd.DataFrame({"path": ["a", None]}))
    with pytest.raises(UnreadableImage):
        simile.embed([tmp_path / "missing.png"])
    assert simile.add_images(trained_home, []).ids == []


@pytest.mark.real_processes
def test_importing_simile_imports_no_frames_and_no_networks() -> None:
    code = "import sys, simile; print(sorted({'torch', 'pandas', 'polars', 'pyarrow', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"

"""Morphs: the ways through the latent space, what they are drawn as, and what they say without a decoder."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simile.core.errors import BadSetting, NoDecoder
from simile.core.settings import Settings
from simile.explore.latent.interpolation import interpolate_path, make_morph, write_morph
from simile.images.encoding import encode_png
from simile.images.rendering.sheets import encode_animation
from simile.search.searcher import Searcher
from tests.support.commands import run_json, run_simile


def test_a_straight_way_is_even_and_ends_where_it_should() -> None:
    way = interpolate_path(np.array([[0, 0], [4, 2], [4, 0]], np.float32), 3, "linear")
    assert way.tolist() == [[0, 0], [2, 1], [4, 2], [4, 1], [4, 0]]


def test_a_spherical_way_turns_evenly_and_its_length_grows_evenly() -> None:
    way = interpolate_path(np.array([[1, 0], [0, 3]], np.float32), 4, "spherical")
    assert np.linalg.norm(way, axis=1) == pytest.approx([1, 5 / 3, 7 / 3, 3], abs=1e-6)
    assert np.degrees(np.arctan2(way[:, 1], way[:, 0])) == pytest.approx([0, 30, 60, 90], abs=1e-4)


@pytest.mark.parametrize("other", [[2, 2], [-1, -1], [0, 0]])
def test_where_no_direction_turns_the_spherical_way_is_straight(other: list[float]) -> None:
    ends = np.array([[1, 1], other], np.float32)
    assert np.allclose(interpolate_path(ends, 5, "spherical"), interpolate_path(ends, 5, "linear"))


def test_a_morph_begins_and_ends_at_the_reconstructions_and_knows_its_neighbours(searcher: Searcher) -> None:
    file = Path(searcher.get_image(5).paths[0])
    made = make_morph(searcher, [file, 9, 12], steps=4)
    assert made.input_rows == [0, 3, 6] and made.frames.shape == (7, 32, 32, 3)
    for row, image_id in zip(made.input_rows, (5, 9, 12), strict=True):
        seen = searcher.get_reconstruction_pixels(image_id).astype(int)
        assert np.abs(made.frames[row] - seen).max() <= 1
        hit = made.nearest_hits[row]
        assert hit is not None and hit.image_id == image_id and hit.distance < 1e-3
    assert len(made.changes) == 6 and (made.changes > 0).all()
    again = make_morph(searcher, [file, 9, 12], steps=4)
    assert (again.frames == made.frames).all()


@pytest.mark.parametrize("how", ["linear", "spherical"])
def test_a_morph_is_written_as_a_loop_and_as_a_strip(searcher: Searcher, tmp_path: Path, how: str) -> None:
    made = make_morph(searcher, [1, 2], steps=5, interpolation=how)  # type: ignore[arg-type]
    for suffix in ("gif", "webp", "png"):
        write_morph(searcher, made, tmp_path / f"out.{suffix}")
    for suffix in ("gif", "webp"):
        with Image.open(tmp_path / f"out.{suffix}") as image:
            assert (image.n_frames, image.info["loop"], image.size) == (5, 0, (256, 256))
    with Image.open(tmp_path / "out.png") as strip:
        assert strip.width > 5 * 160 and strip.height > 2 * 160


def test_the_colours_of_an_animation_are_those_of_its_frames() -> None:
    frames = np.zeros((3, 16, 16, 3), np.uint8)
    frames[0, ..., 0], frames[1, ..., 1], frames[2, ..., 2] = 200, 150, 100
    with Image.open(io.BytesIO(encode_animation(frames, "WEBP", [0, 2]))) as image:
        image.seek(1)
        assert np.asarray(image.convert("RGB"))[128, 128].tolist() == [0, 150, 0]


def test_an_image_whose_file_is_gone_stands_in_the_strip_all_the_same(searcher: Searcher, tmp_path: Path) -> None:
    picture = tmp_path / "one.png"
    picture.write_bytes(encode_png(searcher.get_pixels(3)))
    made = make_morph(searcher, [picture, 4], steps=2)
    searcher.get_pixels = _gone  # type: ignore[method-assign]
    write_morph(searcher, made, tmp_path / "out.png")
    assert (tmp_path / "out.png").stat().st_size > 1000


def _gone(image_id: int, side: int = 256) -> np.ndarray:
    from simile.core.errors import NoSuchImage

    raise NoSuchImage(image_id)


def test_what_cannot_be_morphed_is_refused_by_name(searcher: Searcher) -> None:
    with pytest.raises(BadSetting, match="at least two"):
        make_morph(searcher, [1])
    with pytest.raises(BadSetting, match="linear or spherical"):
        make_morph(searcher, [1, 2], interpolation="round")  # type: ignore[arg-type]
    with pytest.raises(BadSetting, match="1000 frames"):
        make_morph(searcher, [1, 2, 3], steps=600)
    searcher.get_encoder().has_decoder = False
    with pytest.raises(NoDecoder, match="--decoder-only"):
        make_morph(searcher, [1, 2])


def test_the_command_writes_the_image_and_its_data(home_with_digits: Settings, tmp_path: Path) -> None:
    command = ("morph", "--id", 1, "--id", 2, "--home", home_with_digits.home, "--device", "cpu")
    drawn = tmp_path / "out.gif"
    said = run_json(*command, "--steps", 3, "-o", drawn)
    assert (len(said["frames"]), said["stops"], said["output"]) == (3, [0, 2], str(drawn))
    assert said["frames"][0]["nearest"]["image_id"] == 1 and len(said["frames"][1]["mu"]) == 16
    with pytest.raises(BadSetting):
        run_simile(*command)
    with pytest.raises(BadSetting, match=r"\.gif"):
        run_json(*command, "-o", "out.mp4")

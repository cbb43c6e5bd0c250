"""Sheets, thumbnails and charts: their sizes, their pixels, and captions of any alphabet."""

from __future__ import annotations

import numpy as np
import pytest

from simile.images.decoding import DecodedImage, decode_image
from simile.images.rendering.line_chart import compute_ticks, draw_line_chart
from simile.images.rendering.sheets import (
    SheetRow,
    SheetTile,
    draw_contact_sheets,
    draw_image_grid,
    draw_reconstruction_pairs,
    draw_side_by_side,
    encode_thumbnail,
)
from simile.images.rendering.text import choose_font, truncate_text

NAMES = ["plain.png", "сапог большой.jpg", "漢字の写真.png", "été ñandú.webp", "emoji 🙂.png", "tab\tand\x07bell", ""]


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def pixels_of(data: bytes) -> np.ndarray:
    return decode_image(data, name="drawn").pixels


def image(height: int, width: int) -> DecodedImage:
    return DecodedImage(pixels=noise(height, width), width=width, height=height, format="png", is_grey=False)


def tiles(count: int) -> list[SheetTile]:
    return [
        SheetTile(noise(20 + number, 30, number), f"distance 0.{number}\n{NAMES[number % 7]}")
        for number in range(count)
    ]


@pytest.mark.parametrize("size", [(8, 8), (28, 28), (28, 20), (128, 64)])
def test_thumbnail_of_a_small_image_is_enlarged_by_a_whole_factor(size: tuple[int, int]) -> None:
    small = image(*size)
    data = encode_thumbnail(small)
    factor = 256 // max(size)
    assert data.startswith(b"\x89PNG")
    assert np.array_equal(pixels_of(data), small.pixels.repeat(factor, 0).repeat(factor, 1))


@pytest.mark.parametrize(
    ("size", "shown"), [((129, 100), (129, 100)), ((1024, 512), (256, 128)), ((1, 4000), (1, 256))]
)
def test_thumbnail_of_a_larger_image_is_a_jpeg_within_its_side(size: tuple[int, int], shown: tuple[int, int]) -> None:
    data = encode_thumbnail(image(*size))
    assert data.startswith(b"\xff\xd8")
    assert pixels_of(data).shape[:2] == shown


def test_side_by_side_has_images_of_one_height() -> None:
    sheet = pixels_of(
        draw_side_by_side([np.zeros((64, 64, 3), np.uint8), np.zeros((300, 150, 3), np.uint8)], ["a", "b"])
    )
    dark = sheet[32 + 128].max(axis=1) < 128  # a line through the middle of both
    assert dark.sum() == 256 + 128
    assert (sheet[32:288, 40].max(axis=1) < 128).all()


def test_contact_sheet_grows_with_its_hits_and_goes_on_below() -> None:
    query = SheetTile(noise(28, 28), "query")
    few, many = (pixels_of(draw_contact_sheets([SheetRow(query, query, tiles(n))])).shape for n in (3, 8))
    assert many[1] - few[1] == 5 * 180 and many[0] == few[0]
    assert pixels_of(draw_contact_sheets([SheetRow(query, query, tiles(20))])).shape[1] == many[1]


def test_hits_of_one_sheet_are_placed_in_their_order() -> None:
    colours = [np.full((10, 10, 3), value, np.uint8) for value in (10, 60, 110, 160)]
    sheet = pixels_of(
        draw_contact_sheets([SheetRow(SheetTile(colours[0], "q"), None, [SheetTile(c, "") for c in colours[1:]])])
    )
    seen = sheet[32 + 80, 32 + 80 :: 180][:1].tolist() + sheet[32 + 80, 32 + 200 + 80 :: 180][:3].tolist()
    assert seen == [[10] * 3, [60] * 3, [110] * 3, [160] * 3]


def test_sheet_of_several_queries_takes_missing_parts() -> None:
    query = SheetTile(noise(5, 200), "a")
    rows = [SheetRow(query, query, tiles(3), tiles(3)), SheetRow(query, None, tiles(2)), SheetRow(query, query, [])]
    whole = pixels_of(draw_contact_sheets(rows))
    assert whole.shape[0] > sum(pixels_of(draw_contact_sheets([row])).shape[0] for row in rows) - 3 * 64
    assert pixels_of(draw_contact_sheets(rows[2:])).shape[1] == 160 + 2 * 32
    assert pixels_of(draw_contact_sheets([])).min() == 255


@pytest.mark.parametrize("channels", [1, 3])
def test_grid_keeps_the_pixels_square_and_in_order(channels: int) -> None:
    pictures = np.random.default_rng(1).integers(0, 256, (5, 28, 20, channels), dtype=np.uint8)
    drawn = pixels_of(draw_image_grid(pictures, 3))
    assert drawn.shape == (2 * 84 + 4, 3 * 60 + 2 * 4, 3)
    assert np.array_equal(drawn[88:172:3, 64:124:3], np.broadcast_to(pictures[4], (28, 20, 3)))


def test_reconstruction_stands_beneath_its_original() -> None:
    originals, seen = np.full((5, 32, 32, 1), 50, np.uint8), np.full((5, 32, 32, 1), 150, np.uint8)
    drawn = pixels_of(draw_reconstruction_pairs(originals, seen, 3))[:, 32 + 48, 0]
    order = [
        int(value) for value, before in zip(drawn[1:], drawn, strict=False) if value in (50, 150) and value != before
    ]
    assert order[-4:] == [50, 150, 50, 150]


@pytest.mark.parametrize("name", NAMES)
def test_captions_of_any_alphabet_are_drawn(name: str) -> None:
    line, font = choose_font(name, 13)
    assert len(line) == len(name) and font.getlength(line) >= 0
    assert draw_contact_sheets([SheetRow(SheetTile(noise(4, 4), name), None, [SheetTile(noise(4, 4), name)])])
    assert draw_side_by_side([noise(4, 4)], [name])


def test_long_file_names_are_cut_in_the_middle() -> None:
    name = "IMG_" + "0123456789" * 20 + "_end.jpg"
    short = truncate_text(name, 13, 160)
    line, font = choose_font(short, 13)
    assert font.getlength(line) <= 160
    assert short.startswith("IMG_") and short.endswith("end.jpg") and "…" in short
    assert truncate_text("short.jpg", 13, 160) == "short.jpg"


@pytest.mark.parametrize(
    "series",
    [
        {},
        {"empty": []},
        {"one point": [(1.0, -3.0)]},
        {"constant": [(float(x), 0.0) for x in range(5)]},
        {"gap": [(0.0, 1.0), (1.0, float("nan")), (2.0, float("inf")), (3.0, -1e6)]},
        {"tiny": [(0.0, 1e-12), (1.0, 2e-12)], "huge": [(0.0, 1e12), (1.0, -1e12)]},
        {f"a rather long name, number {n}": [(0.0, n), (1.0, -n)] for n in range(12)},
    ],
)
def test_chart_of_any_numbers_is_drawn(series: dict[str, list[tuple[float, float]]]) -> None:
    assert pixels_of(draw_line_chart(series, title="Loss, потери", x_label="epoch", y_label="nats")).shape[1] == 880


def test_chart_leaves_a_wild_first_epoch_out_and_says_so() -> None:
    tame = [(float(x), 20 - x / 10) for x in range(2, 40)]
    plain = pixels_of(draw_line_chart({"loss": tame}, title="t", x_label="x", y_label="y"))
    wild = pixels_of(draw_line_chart({"loss": [(1.0, 1e6), *tame]}, title="t", x_label="x", y_label="y"))
    blue = [np.argwhere((p[..., 2].astype(int) - p[..., 0]) > 100)[:, 0] for p in (plain, wild)]
    assert np.ptp(blue[1]) > 0.5 * np.ptp(blue[0])  # the curve still fills the chart
    assert (wild[60:118] < 200).sum() > (plain[60:118] < 200).sum()  # the note beside the label


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3, 250), (1e-9, 3e-9), (-1e6, 1e6), (19.9, 20.1)])
def test_ticks_are_round_numbers_within_the_range(low: float, high: float) -> None:
    marks = compute_ticks(low, high)
    assert 3 <= len(marks) <= 9
    assert min(marks) >= low - 1e-9 * (high - low) and max(marks) <= high + 1e-9 * (high - low)

"""From image to tensor and back: the spec chosen for a collection, the four fits, what a decoder's mean becomes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from simile.core.errors import BadSetting, CheckpointDamaged
from simile.images.decoding import DecodedImage, decode_image
from simile.images.encoding import encode_jpeg, encode_png
from simile.images.transforms import MAX_DECODED_SIDE, Preprocessing, choose_preprocessing, scale_to_unit

WHITE, RED, GREEN, BLUE = (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255)
FITS = ("stretch", "letterbox", "crop", "pad")


def shown(pixels: np.ndarray) -> DecodedImage:
    """The image that the decoder makes of a PNG with these pixels, (H, W, 3) or (H, W)."""
    return decode_image(encode_png(pixels.astype(np.uint8)), name="made here")


def noise(width: int, height: int, *, grey: bool = False, seed: int = 0) -> DecodedImage:
    shape = (height, width) if grey else (height, width, 3)
    return shown(np.random.default_rng(seed).integers(0, 256, shape))


def plain(width: int, height: int, colour: tuple[int, int, int] = RED) -> DecodedImage:
    return shown(np.full((height, width, 3), colour))


def three_stripes(width: int, height: int) -> DecodedImage:
    """Red, green, blue from left to right, each a third of the width."""
    pixels = np.zeros((height, width, 3))
    for number, colour in enumerate((RED, GREEN, BLUE)):
        pixels[:, number * width // 3 : (number + 1) * width // 3] = colour
    return shown(pixels)


def spec_for(fit: str, channels: int = 3, size: int = 32) -> Preprocessing:
    return Preprocessing(image_size=size, channels=channels, fit=fit, content=(28, 20) if fit == "pad" else None)  # type: ignore[arg-type]


def seen(spec: Preprocessing, image: DecodedImage) -> np.ndarray:
    """What a perfect decoder would give: (C, S, S) float32 in [0, 1]."""
    return scale_to_unit(spec.to_array(image)[None])[0]


# Choosing


@pytest.mark.parametrize(
    ("short_side", "size"), [(1, 32), (28, 32), (32, 32), (33, 64), (64, 64), (65, 64), (100, 64), (400, 64)]
)
def test_the_size_is_the_smallest_that_is_at_least_the_short_side_and_at_most_64(short_side: int, size: int) -> None:
    assert choose_preprocessing([plain(short_side, 3 * short_side)], image_size=None).image_size == size
    assert choose_preprocessing([plain(3 * short_side, short_side)], image_size=None).image_size == size


def test_the_median_short_side_decides_not_the_largest_or_the_smallest_image() -> None:
    assert choose_preprocessing([plain(8, 8), plain(30, 30), plain(500, 500)], image_size=None).image_size == 32
    assert choose_preprocessing([plain(8, 8), plain(60, 60), plain(500, 500)], image_size=None).image_size == 64


@pytest.mark.parametrize("size", [16, 32, 48, 128, 256])
def test_the_size_asked_for_is_taken_even_beyond_64(size: int) -> None:
    assert choose_preprocessing([plain(300, 300)], image_size=size) == Preprocessing(image_size=size, channels=3)


@pytest.mark.parametrize("size", [-1, 0, 1, 15, 257, 100_000])
def test_a_size_beyond_the_limits_is_refused_with_the_limits(size: int) -> None:
    with pytest.raises(BadSetting, match=f"image_size can't be {size}. Use 16 to 256"):
        choose_preprocessing([plain(300, 300)], image_size=size)


def test_grey_only_if_every_sampled_image_is_grey() -> None:
    grey, coloured = noise(40, 50, grey=True), noise(40, 50)
    assert choose_preprocessing([grey, grey, grey], image_size=None).channels == 1
    assert choose_preprocessing([grey, coloured, grey], image_size=None).channels == 3
    assert choose_preprocessing([plain(40, 50, WHITE)], image_size=None).channels == 1


def test_small_images_of_one_size_are_padded_not_enlarged() -> None:
    spec = choose_preprocessing([noise(20, 28, seed=seed) for seed in range(3)], image_size=None)
    assert spec == Preprocessing(image_size=32, channels=3, fit="pad", content=(28, 20))
    assert spec.content_box() == (2, 6, 28, 20)


@pytest.mark.parametrize(
    "sizes",
    [
        [(28, 28), (28, 27)],  # of two sizes
        [(32, 32), (32, 32)],  # they fill the square
        [(20, 100), (20, 100)],  # the longer side does not fit into it
        [(400, 534), (400, 534)],  # large
    ],
)
def test_all_others_are_stretched(sizes: list[tuple[int, int]]) -> None:
    spec = choose_preprocessing([plain(*size) for size in sizes], image_size=None)
    assert (spec.fit, spec.content) == ("stretch", None)
    assert spec.content_box() == (0, 0, spec.image_size, spec.image_size)


@pytest.mark.parametrize("fit", ["stretch", "letterbox", "crop"])
def test_the_fit_asked_for_wins_over_padding(fit: str) -> None:
    assert choose_preprocessing([noise(28, 28)], image_size=None, fit=fit) == Preprocessing(
        image_size=32, channels=3, fit=fit
    )  # type: ignore[arg-type]


@pytest.mark.parametrize("fit", ["pad", "", "Stretch", "squeeze"])
def test_an_unknown_fit_is_refused_with_those_there_are(fit: str) -> None:
    with pytest.raises(BadSetting, match="Use stretch, letterbox or crop"):
        choose_preprocessing([noise(28, 28)], image_size=None, fit=fit)  # type: ignore[arg-type]


def test_the_background_stays_with_the_spec() -> None:
    for sample in ([noise(28, 28)], [plain(300, 200)]):
        assert choose_preprocessing(sample, image_size=None, background="#102030").background == "#102030"


# In


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("width", "height"), [(20, 28), (32, 32), (1, 1), (300, 7), (5, 400), (333, 222)])
def test_every_image_becomes_the_same_shape(fit: str, channels: int, width: int, height: int) -> None:
    array = spec_for(fit, channels).to_array(noise(width, height))
    assert (array.shape, array.dtype) == ((32, 32, channels), np.uint8)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_same_image_gives_the_same_array(fit: str, channels: int) -> None:
    image, spec = noise(301, 203), spec_for(fit, channels)
    assert np.array_equal(spec.to_array(image), spec.to_array(image))
    assert np.array_equal(spec.to_array(image), spec.to_array(noise(301, 203)))


def test_an_image_of_the_right_size_is_left_as_it_is() -> None:
    image = noise(32, 32)
    for fit in ("stretch", "letterbox", "crop"):
        assert np.array_equal(spec_for(fit).to_array(image), image.pixels)


def test_grey_of_a_grey_image_keeps_its_values() -> None:
    image = noise(32, 32, grey=True)
    assert np.array_equal(spec_for("stretch", 1).to_array(image)[:, :, 0], image.pixels[:, :, 0])


def test_stretching_shows_the_whole_image() -> None:
    array = spec_for("stretch").to_array(three_stripes(300, 60))
    for column, colour in ((3, RED), (16, GREEN), (28, BLUE)):
        assert np.array_equal(array[:, column], np.full((32, 3), colour))


def test_cropping_shows_the_central_square() -> None:
    wide = three_stripes(300, 100)
    high = DecodedImage(
        pixels=wide.pixels.transpose(1, 0, 2).copy(), width=100, height=300, format="png", is_grey=False
    )
    inner = np.full((30, 30, 3), GREEN)  # the filter takes a little of the neighbours into the outermost pixels
    for image in (wide, high):
        assert np.array_equal(spec_for("crop").to_array(image)[1:-1, 1:-1], inner)


@pytest.mark.parametrize("background", ["#ffffff", "#102030"])
def test_letterboxing_shows_the_whole_image_between_bars_of_the_background(background: str) -> None:
    bar = np.frombuffer(bytes.fromhex(background[1:]), np.uint8)
    spec = Preprocessing(image_size=32, channels=3, fit="letterbox", content=None, background=background)
    wide = spec.to_array(plain(64, 32))
    assert np.array_equal(wide[8:24], np.full((16, 32, 3), RED))
    assert (wide[:8] == bar).all() and (wide[24:] == bar).all()
    high = spec.to_array(plain(32, 64))
    assert np.array_equal(high, wide.transpose(1, 0, 2))


def test_padding_keeps_the_pixels_and_repeats_the_edges() -> None:
    image = noise(20, 28)
    array = spec_for("pad").to_array(image)
    assert np.array_equal(array[2:30, 6:26], image.pixels)
    assert all(np.array_equal(array[row, 6:26], image.pixels[0]) for row in (0, 1))
    assert all(np.array_equal(array[row, 6:26], image.pixels[-1]) for row in (30, 31))
    assert all(np.array_equal(array[2:30, column], image.pixels[:, 0]) for column in range(6))
    assert all(np.array_equal(array[2:30, column], image.pixels[:, -1]) for column in range(26, 32))


@pytest.mark.parametrize(("width", "height"), [(1, 1), (28, 20), (200, 280), (1000, 3)])
def test_a_query_of_another_size_is_brought_to_the_padded_content(width: int, height: int) -> None:
    array = spec_for("pad").to_array(plain(width, height, BLUE))
    assert np.array_equal(array, np.full((32, 32, 3), BLUE))


def test_a_query_of_twice_the_size_is_seen_almost_as_the_image_itself() -> None:
    y, x = np.mgrid[0:28, 0:20]
    small = np.stack([x * 12, y * 9, 255 - x * 6 - y * 4], axis=-1)
    large = np.repeat(np.repeat(small, 2, axis=0), 2, axis=1)
    spec = spec_for("pad")
    difference = spec.to_array(shown(small)).astype(int) - spec.to_array(shown(large))
    assert np.abs(difference).max() <= 4


def test_units_are_float32_from_0_to_1_with_channels_first() -> None:
    batch = np.zeros((2, 4, 4, 3), np.uint8)
    batch[1, 2, 3] = (0, 51, 255)
    unit = scale_to_unit(batch)
    assert (unit.shape, unit.dtype, unit.flags.c_contiguous) == ((2, 3, 4, 4), np.float32, True)
    assert unit[1, :, 2, 3].tolist() == pytest.approx([0, 0.2, 1])
    assert (unit.min(), unit.max()) == (0, 1)


# And back


@pytest.mark.parametrize("grey", [True, False])
def test_28_by_28_stands_in_32_by_32_and_comes_back_pixel_for_pixel(grey: bool) -> None:
    image = noise(28, 28, grey=grey)
    spec = choose_preprocessing([image, image], image_size=None)
    assert spec == Preprocessing(image_size=32, channels=1 if grey else 3, fit="pad", content=(28, 28))
    assert np.array_equal(spec.to_pixels(seen(spec, image), 28, 28), image.pixels)


@pytest.mark.parametrize(("width", "height"), [(400, 534), (534, 400), (1000, 10), (7, 7), (1, 100)])
def test_a_stretched_image_is_shown_in_its_own_aspect_and_nothing_is_shrunk(width: int, height: int) -> None:
    pixels = spec_for("stretch").to_pixels(seen(spec_for("stretch"), plain(width, height)), width, height)
    rows, columns = pixels.shape[:2]
    assert min(rows, columns) == 32
    assert columns / rows == pytest.approx(width / height, rel=0.02)
    assert np.array_equal(pixels, np.full((rows, columns, 3), RED))


def test_a_sliver_of_an_image_does_not_become_gigabytes() -> None:
    decoded = np.zeros((3, 32, 32), np.float32)
    for fit in FITS:
        for width, height in ((1, 60_000), (60_000, 1), (1, 200_000_000)):
            assert max(spec_for(fit).to_pixels(decoded, width, height).shape) <= MAX_DECODED_SIDE


@pytest.mark.parametrize(("width", "height"), [(64, 32), (32, 64), (400, 534), (1000, 3), (50, 50)])
def test_letterbox_bars_are_removed_again(width: int, height: int) -> None:
    spec = spec_for("letterbox")
    pixels = spec.to_pixels(seen(spec, plain(width, height)), width, height)
    assert np.array_equal(pixels, np.full(pixels.shape, RED))
    assert max(pixels.shape[:2]) == 32


def test_no_bar_is_left_of_a_jpeg_that_was_decoded_at_a_quarter() -> None:
    width, height = 793, 1392  # a quarter, rounded up, has another letterbox than the whole
    spec = spec_for("letterbox", size=64)
    data = encode_jpeg(np.zeros((height, width, 3), np.uint8))
    image = decode_image(data, name="black", min_side=64)
    assert image.pixels.shape == (348, 199, 3)
    pixels = spec.to_pixels(seen(spec, image), image.width, image.height)
    assert pixels.max() == 0


def test_a_cropped_image_comes_back_square() -> None:
    spec = spec_for("crop")
    assert spec.to_pixels(seen(spec, noise(300, 100)), 300, 100).shape == (32, 32, 3)


def test_grey_comes_back_as_three_equal_channels() -> None:
    spec = spec_for("stretch", 1)
    pixels = spec.to_pixels(seen(spec, noise(32, 32, grey=True)), 32, 32)
    assert pixels.shape == (32, 32, 3)
    assert np.array_equal(pixels[..., 0], pixels[..., 1]) and np.array_equal(pixels[..., 1], pixels[..., 2])


def test_what_a_decoder_says_beyond_0_and_1_is_cut_off() -> None:
    decoded = np.stack([np.full((32, 32), value, np.float32) for value in (-0.5, 0.5, 1.5)])
    pixels = spec_for("stretch").to_pixels(decoded, 32, 32)
    assert pixels.dtype == np.uint8
    assert pixels[0, 0].tolist() == [0, 128, 255]


# On disk


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_spec_survives_json(fit: str, channels: int) -> None:
    spec = spec_for(fit, channels)
    assert Preprocessing.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize(
    "changes",
    [
        {"fit": "squeeze"},
        {"fit": "pad"},  # without content
        {"content": [28, 28]},  # without pad
        {"content": 28},
        {"channels": 2},
        {"channels": None},
        {"image_size": 0},
        {"image_size": -32},
        {"image_size": 10**9},
        {"image_size": "32"},
        {"normalisation": "imagenet"},  # of a later version
    ],
)
def test_values_that_this_version_does_not_know_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(CheckpointDamaged, match=r"encoder\.json has"):
        Preprocessing.from_dict({**Preprocessing(image_size=32, channels=3).to_dict(), **changes})


@pytest.mark.parametrize("missing", ["image_size", "channels", "content"])
def test_missing_values_are_refused_never_guessed(missing: str) -> None:
    values = Preprocessing(image_size=32, channels=3).to_dict()
    del values[missing]
    with pytest.raises(CheckpointDamaged, match="Train again"):
        Preprocessing.from_dict(values)

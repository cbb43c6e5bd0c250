"""The decoder, on real files of every format it reads, and on files that it must refuse."""

from __future__ import annotations

import io
import os
import socket
import struct
import tracemalloc
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pillow_jxl  # noqa: F401  # saves JXL
import pytest
from PIL import Image

from simile.core.errors import ImageTooLarge, UnreadableImage
from simile.core.settings import Settings
from simile.images.decoding import decode_image
from simile.images.encoding import encode_jpeg, encode_png
from simile.images.formats import IMAGE_SUFFIXES, Limits, get_media_type, has_image_signature
from simile.images.sources.reader import read_bytes
from tests.attacks.hostile_files import make_chunk

H, W = 48, 32
LIMITS = Limits()
# Pillow's name, how the file is saved, the format that the decoder gives, the largest error of a pixel.
KINDS = {
    "jpeg": ("JPEG", {"quality": 95, "subsampling": 0}, "jpeg", 12),
    "progressive": ("JPEG", {"quality": 95, "subsampling": 0, "progressive": True}, "jpeg", 12),
    "mpo": ("MPO", {"quality": 95, "subsampling": 0, "save_all": True}, "jpeg", 12),
    "png": ("PNG", {}, "png", 0),
    "apng": ("PNG", {"save_all": True}, "png", 0),
    "webp": ("WEBP", {"lossless": True}, "webp", 0),
    "webp-animated": ("WEBP", {"lossless": True, "save_all": True}, "webp", 0),
    "bmp": ("BMP", {}, "bmp", 0),
    "dib": ("DIB", {}, "dib", 0),
    "tiff": ("TIFF", {}, "tiff", 0),
    "tiff-lzw": ("TIFF", {"compression": "tiff_lzw"}, "tiff", 0),
    "tiff-pages": ("TIFF", {"save_all": True}, "tiff", 0),
    "ppm": ("PPM", {}, "ppm", 0),
    "avif": ("AVIF", {"quality": 95, "subsampling": "4:4:4"}, "avif", 12),
    "heif": ("HEIF", {"quality": 95, "chroma": 444}, "heif", 12),
    "jpeg2000": ("JPEG2000", {}, "jpeg2000", 0),
    "j2k": ("JPEG2000", {"no_jp2": True}, "jpeg2000", 0),
    "ico": ("ICO", {"sizes": [(W, H)]}, "ico", 0),
    "qoi": ("QOI", {}, "qoi", 0),
    "jxl": ("JXL", {"lossless": True}, "jxl", 0),
}


def gradient() -> np.ndarray:
    """(H, W, 3): another colour in each corner, smooth in between, so that turns and losses show."""
    y, x = np.mgrid[0:H, 0:W]
    return np.stack([x * 7, y * 5, 255 - x * 3 - y * 2], axis=-1).astype(np.uint8)


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def file_of(kind: str) -> bytes:
    format, options, *_ = KINDS[kind]
    second = Image.new("RGB", (W, H), "black")
    more = {"append_images": [second]} if "save_all" in options else {}
    return saved(Image.fromarray(gradient()), format, **options, **more)


def png(width: int, height: int, bits: int, colour: int, raw: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    """A PNG written by hand: what no encoder would write."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(make_chunk(*each) for each in chunks)


def reason_of(data: bytes, **options: object) -> str:
    with pytest.raises(UnreadableImage) as caught:
        decode_image(data, name="some/file", **options)
    assert caught.value.name == "some/file"
    return caught.value.reason


def first_pixels(data: bytes, **options: object) -> list[list[int]]:
    return decode_image(data, name="x", **options).pixels.reshape(-1, 3).tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_the_first_frame_in_rgb(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "picture"
    path.write_bytes(file_of(kind))
    picture = decode_image(read_bytes(path, LIMITS), name=path)
    _, _, format, tolerance = KINDS[kind]
    assert (picture.width, picture.height, picture.format, picture.is_grey) == (W, H, format, False)
    assert picture.pixels.dtype == np.uint8 and picture.pixels.flags.writeable and picture.pixels.flags.c_contiguous
    assert np.abs(picture.pixels.astype(int) - gradient()).max() <= tolerance


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_is_recognised_by_its_first_bytes(kind: str) -> None:
    assert has_image_signature(file_of(kind)[:32])
    assert get_media_type(KINDS[kind][2]).startswith("image/")


@pytest.mark.parametrize(
    "head", [b"", b"hello world, this is text", b"%PDF-1.7", b"%!PS-Adobe-3.0 EPSF", b"PK\3\4", b"P1 is urgent", b"BMW"]
)
def test_what_is_no_image_is_not_taken_for_one(head: bytes) -> None:
    assert not has_image_signature(head)
    assert not has_image_signature(head.ljust(32, b"\0"))


def test_suffixes_are_lower_case_with_a_dot() -> None:
    assert {".jpg", ".heic", ".png", ".tif", ".avif"} <= IMAGE_SUFFIXES
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in IMAGE_SUFFIXES)
    assert get_media_type("what is this") == "application/octet-stream"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", [0.02, 0.3, 0.6])
def test_truncated_file_of_every_format_is_refused(kind: str, part: float) -> None:
    data = file_of(kind)
    if kind in ("mpo", "apng", "webp-animated", "tiff-pages"):
        part *= 0.5  # beyond that the first frame is whole
    reason = reason_of(data[: int(len(data) * part)])
    assert any(word in reason for word in ("truncated", "damaged", "not an image"))


@pytest.mark.parametrize(
    "kind", ["jpeg", "progressive", "png", "webp", "bmp", "ppm", "heif", "jpeg2000", "qoi", "tiff"]
)
def test_truncated_image_is_refused_with_its_reason(kind: str) -> None:
    data = file_of(kind)
    assert reason_of(data[: len(data) * 3 // 5]) == "the file is truncated"


TRUNCATED, DAMAGED = "the file is truncated", "the image is damaged, or of a variant that simile does not read"


def noisy(kind: str) -> bytes:
    """A file of many bytes of pixels."""
    format, options, *_ = KINDS.get(kind, ("GIF", {}))
    pixels = np.random.default_rng(3).integers(0, 256, (80, 120, 3)).astype(np.uint8)
    return saved(Image.fromarray(pixels), format, **options)


@pytest.mark.parametrize("kind", ["jpeg", "progressive", "png", "gif", "webp", "heif", "avif", "jpeg2000", "j2k"])
@pytest.mark.parametrize("part", [0.1, 0.6, 0.95])
def test_a_file_without_its_end_is_called_truncated(kind: str, part: float) -> None:
    data = noisy(kind)
    assert reason_of(data[: int(len(data) * part)]) == TRUNCATED


@pytest.mark.parametrize("kind", ["png", "webp", "heif", "avif", "gif"])
def test_a_file_with_its_end_is_called_damaged(kind: str) -> None:
    data = noisy(kind)
    # The decoders of HEIF and AVIF make something of any pixels, but not of any description of them.
    start, length = (data.find(b"iinf"), 40) if b"iinf" in data else (len(data) // 4, 2000)
    overwritten = data[:start] + b"\xff" * length + data[start + length :]
    assert len(overwritten) == len(data)
    assert reason_of(overwritten) == DAMAGED


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"lossless": True, "exif": b"Exif\0\0II*\0\0\0\0\0"}])
def test_a_large_webp_is_refused_before_its_decoder_takes_memory(
    options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = saved(Image.new("RGB", (300, 200)), "WEBP", **options)
    assert decode_image(data, name="x", limits=Limits(max_pixels=60_000)).width == 300
    monkeypatch.setattr(Image, "open", None)
    with pytest.raises(ImageTooLarge, match="300 x 200 pixels are more than the limit of 59,999"):
        decode_image(data, name="x", limits=Limits(max_pixels=59_999))


def test_a_jpeg2000_of_nonsense_is_called_damaged() -> None:
    """A codestream of a fuzzer: its size is odd, and its end is there."""
    data = bytearray(file_of("jpeg2000"))
    at = data.find(b"\xff\x52")  # the coding style: too many levels
    data[at + 9] = 99
    assert reason_of(bytes(data)) == DAMAGED


def test_a_jpeg_cut_off_behind_its_preview_is_called_truncated() -> None:
    """The preview in the Exif block has an end of its own."""
    preview = io.BytesIO()
    Image.new("RGB", (16, 16)).save(preview, "JPEG")
    whole, exif = io.BytesIO(), b"Exif\0\0" + preview.getvalue()
    Image.effect_noise((200, 200), 90).convert("RGB").save(whole, "JPEG", exif=exif)
    data = whole.getvalue()
    assert reason_of(data[: len(exif) + 60]) == TRUNCATED
    assert reason_of(data[: len(data) // 2]) == TRUNCATED


@pytest.mark.parametrize(
    ("offset", "field", "reason"),
    [
        (14, 16, DAMAGED),  # a header of OS/2
        (14, 41, DAMAGED),
        (18, -127, "the image is damaged: its header states 4294967169 x 40 pixels"),
    ],
)
def test_a_bmp_with_an_odd_header_is_called_damaged(offset: int, field: int, reason: str) -> None:
    whole = io.BytesIO()
    Image.new("RGB", (40, 40)).save(whole, "BMP")
    data = bytearray(whole.getvalue())
    struct.pack_into("<i", data, offset, field)
    assert reason_of(bytes(data)) == reason


def test_a_ppm_of_a_negative_size_is_called_damaged() -> None:
    assert reason_of(b"P6\n-5 -5\n255\n" + bytes(75)) == DAMAGED


@pytest.mark.parametrize("head", [b"P1 is urgent", b"BMW", b"plain words"])
def test_text_is_still_called_no_image(head: bytes) -> None:
    assert reason_of(head.ljust(64)) == "not an image, or of a format that simile does not read"


def test_animated_gif_gives_its_first_frame() -> None:
    red, blue = Image.new("P", (4, 4), 1), Image.new("P", (4, 4), 2)
    for image in (red, blue):
        image.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255])
    data = saved(red, "GIF", save_all=True, append_images=[blue], duration=50)
    assert has_image_signature(data[:32])
    assert (first_pixels(data)[0], decode_image(data, name="x").format) == ([255, 0, 0], "gif")


def turned_for(orientation: int) -> np.ndarray:
    """The gradient stored in such a way that EXIF `orientation` makes it upright."""
    a = gradient()
    flips = {1: a, 2: a[:, ::-1], 3: a[::-1, ::-1], 4: a[::-1], 5: a.transpose(1, 0, 2)}
    turns = {6: np.rot90(a), 7: a[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(a, -1)}
    return np.ascontiguousarray((flips | turns)[orientation])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff", "avif", "heif"])
def test_exif_orientation_is_applied_once(kind: str, orientation: int) -> None:
    format, options, _, tolerance = KINDS[kind]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(Image.fromarray(turned_for(orientation)), format, **options, exif=exif.tobytes())
    picture = decode_image(data, name="x")
    assert (picture.width, picture.height) == (W, H)
    assert np.abs(picture.pixels.astype(int) - gradient()).max() <= tolerance


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0rubbish", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"]
)
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
def test_malformed_exif_does_not_cost_the_image(kind: str, exif: bytes) -> None:
    data = saved(Image.fromarray(gradient()), KINDS[kind][0], exif=exif)
    assert decode_image(data, name="x").width == W


def test_orientation_beyond_eight_is_ignored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 77
    assert np.array_equal(
        decode_image(saved(Image.fromarray(gradient()), "PNG", exif=exif), name="x").pixels, gradient()
    )


def test_a_large_image_is_not_held_twice() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3001, 4003, 3), np.uint8)
    data = b"P6\n4003 3001\n255\n" + pixels.tobytes()
    tracemalloc.start()
    try:
        decoded = decode_image(data, name="x").pixels
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * pixels.nbytes and np.array_equal(decoded, pixels)


@pytest.mark.parametrize(("orientation", "size"), [(1, (1600, 1200)), (6, (1200, 1600))])
def test_large_jpeg_is_decoded_at_the_smallest_scale_that_is_enough(orientation: int, size: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    big = Image.fromarray(gradient()).resize((1600, 1200))
    data = saved(big, "JPEG", quality=90, exif=exif)
    picture, whole = decode_image(data, name="x", min_side=64), decode_image(data, name="x")
    assert (picture.width, picture.height) == (whole.width, whole.height) == size
    assert picture.pixels.shape[:2] == (size[1] // 8, size[0] // 8)
    assert (
        min(decode_image(data, name="x", min_side=100).pixels.shape[:2]) == 300
    )  # 1/8 would be 150: less than twice 100
    small = Image.fromarray(whole.pixels).resize((size[0] // 8, size[1] // 8), Image.Resampling.BOX)
    assert np.abs(picture.pixels.astype(int) - np.asarray(small)).mean() < 2


def test_16_bit_grey_is_divided_by_257() -> None:
    values = np.array([[0, 257, 257 * 100, 65535]], np.uint16)
    for data in (saved(Image.fromarray(values), "PNG"), saved(Image.fromarray(values), "TIFF")):
        picture = decode_image(data, name="x")
        assert picture.pixels[0, :, 0].tolist() == [0, 1, 100, 255] and picture.is_grey
    pgm = b"P5 4 1 65535\n" + values.astype(">u2").tobytes()
    assert decode_image(pgm, name="x").pixels[0, :, 1].tolist() == [0, 1, 100, 255]


@pytest.mark.parametrize(
    ("values", "levels"),
    [
        ([0.0, 0.2, 1.0], [0, 51, 255]),  # in [0, 1]: kept
        ([0.2, 0.2, 0.2], [51, 51, 51]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),  # beyond: min to max
        ([7.0, 7.0, 7.0], [0, 0, 0]),
        ([-3e38, 0.0, 3e38], [0, 128, 255]),
    ],
)
def test_floats_are_kept_in_0_to_1_and_scaled_elsewhere(values: list[float], levels: list[int]) -> None:
    data = saved(Image.fromarray(np.array([values], np.float32)), "TIFF")
    assert decode_image(data, name="x").pixels[0, :, 2].tolist() == levels


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused(bad: float) -> None:
    reason = reason_of(saved(Image.fromarray(np.array([[0.5, bad]], np.float32)), "TIFF"))
    assert "NaN" in reason


def test_32_bit_integers_are_scaled_min_to_max() -> None:
    values = np.array([[-1000, 0, 1000]], np.int32)
    assert decode_image(saved(Image.fromarray(values), "TIFF"), name="x").pixels[0, :, 0].tolist() == [0, 128, 255]
    assert not decode_image(saved(Image.fromarray(values * 0 + 9), "TIFF"), name="x").pixels.any()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_laid_over_the_background(mode: str, format: str) -> None:
    if (mode, format) == ("LA", "WEBP"):
        mode = "RGBA"
    fill = (200, 128) if mode == "LA" else (200, 200, 200, 128)
    data = saved(Image.new(mode, (4, 4), fill), format, **({"lossless": True} if format == "WEBP" else {}))
    assert first_pixels(data)[0] == pytest.approx([227] * 3, abs=1)
    assert first_pixels(data, background="#000000")[0] == pytest.approx([100] * 3, abs=1)
    assert first_pixels(saved(Image.new("RGBA", (4, 4)), "PNG"), background="#1080ff")[0] == [16, 128, 255]


def test_transparent_colour_of_every_png_kind_is_laid_over_the_background() -> None:
    red = {"background": "#ff0000"}
    palette = ((b"PLTE", bytes([9, 9, 9, 8, 8, 8])), (b"tRNS", b"\0"))
    assert first_pixels(png(2, 1, 8, 3, b"\0\0\1", *palette), **red) == [[255, 0, 0], [8, 8, 8]]
    grey = [
        (2, b"\0\x1b", b"\0\1", [[0, 0, 0], [255, 0, 0], [170] * 3, [255] * 3]),
        (4, b"\0\x01\x2f", b"\0\2", [[0] * 3, [17] * 3, [255, 0, 0], [255] * 3]),
        (8, b"\0\0\7\x08\x09", b"\0\7", [[0] * 3, [255, 0, 0], [8] * 3, [9] * 3]),
        (16, b"\0\0\0\1\0\1\1\2\2", b"\1\0", [[0] * 3, [255, 0, 0], [1] * 3, [2] * 3]),
    ]
    for bits, raw, transparent, expected in grey:
        assert first_pixels(png(4, 1, bits, 0, raw, (b"tRNS", transparent)), **red) == expected
    rgb = png(2, 1, 8, 2, b"\0\1\2\3\4\5\6", (b"tRNS", b"\0\1\0\2\0\3"))
    assert first_pixels(rgb, **red) == [[255, 0, 0], [4, 5, 6]]


def test_gif_transparency_is_laid_over_the_background() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 255, 255, 255, 0, 255, 0])
    image.putdata([0, 2])
    assert first_pixels(saved(image, "GIF", transparency=0), background="#ff0000") == [[255, 0, 0], [0, 255, 0]]


@pytest.mark.parametrize(
    ("ink", "rgb"), [((0, 0, 0, 0), [255] * 3), ((0, 255, 255, 0), [255, 0, 0]), ((0, 0, 0, 255), [0] * 3)]
)
def test_cmyk_jpeg_and_tiff_show_their_colours(ink: tuple[int, ...], rgb: list[int]) -> None:
    image = Image.new("CMYK", (8, 8), ink)
    for format in ("JPEG", "TIFF"):  # Pillow writes JPEG as Adobe does: inverted
        assert first_pixels(saved(image, format))[0] == pytest.approx(rgb, abs=3)


def test_lab_tiff_shows_its_colours() -> None:
    white, red = Image.new("LAB", (4, 4), (255, 128, 128)), Image.new("LAB", (4, 4), (136, 208, 195))
    assert first_pixels(saved(white, "TIFF"))[0] == pytest.approx([255] * 3, abs=3)
    assert first_pixels(saved(red, "TIFF"))[0] == pytest.approx([255, 0, 0], abs=12)


@pytest.mark.parametrize("mode", ["1", "L", "P", "YCbCr"])
def test_other_modes_show_white_as_white(mode: str) -> None:
    data = saved(Image.new("RGB", (4, 4), "white").convert(mode), "TIFF")
    assert first_pixels(data)[0] == pytest.approx([255] * 3, abs=1)


def test_grey_means_that_no_colour_shows() -> None:
    grey = np.repeat(gradient()[..., :1], 3, axis=2)
    tinted = grey.copy()
    tinted[:, :, 2] //= 2
    assert decode_image(encode_png(grey), name="x").is_grey  # though its mode is RGB
    assert decode_image(encode_jpeg(grey, 90), name="x").is_grey
    assert decode_image(encode_png(grey[..., 0]), name="x").is_grey
    assert not decode_image(encode_png(tinted), name="x").is_grey


def test_pixel_bomb_is_refused_before_it_is_decoded() -> None:
    bomb = png(30_000, 30_000, 8, 2, bytes(100_000))
    with pytest.raises(ImageTooLarge, match=r"30000 x 30000 .* 200,000,000 \(SIMILE_MAX_PIXELS\)"):
        decode_image(bomb, name="bomb.png")
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(bomb), 22)
    with pytest.raises(ImageTooLarge, match="30000 x 30000"):
        decode_image(b"\0\0\1\0\1\0" + entry + bomb, name="bomb.ico")
    gif = b"GIF89a" + struct.pack("<HHBBB", 10, 10, 0, 0, 0) + b"," + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0)
    with pytest.raises(ImageTooLarge, match="65535 x 65535"):
        decode_image(gif + b"\x08\x10" + b"a" * 16 + b"\0;", name="bomb.gif")


def test_limits_are_the_callers() -> None:
    data = file_of("png")
    assert decode_image(data, name="x", limits=Limits(max_pixels=H * W)).width == W
    with pytest.raises(ImageTooLarge, match="SIMILE_MAX_PIXELS"):
        decode_image(data, name="x", limits=Limits(max_pixels=H * W - 1))
    with pytest.raises(ImageTooLarge, match="SIMILE_MAX_BYTES"):
        decode_image(data, name="x", limits=Limits(max_bytes=len(data) - 1))


def test_text_named_jpg_is_refused_as_no_image(tmp_path: Path) -> None:
    path = tmp_path / "notes.jpg"
    path.write_text("not a picture at all")
    with pytest.raises(UnreadableImage, match=r"notes\.jpg: not an image, or of a format that simile does not read\. "):
        decode_image(read_bytes(path, LIMITS), name=path)


def test_formats_that_run_other_programs_are_refused() -> None:
    assert reason_of(saved(Image.new("RGB", (4, 4)), "EPS")).startswith("not an image")


@pytest.mark.parametrize("kind", KINDS)
def test_flipped_bytes_raise_nothing_but_unreadable_image(kind: str) -> None:
    data, random = file_of(kind), np.random.default_rng(7)
    for _ in range(12):
        damaged = bytearray(data)
        for at in random.integers(0, min(len(data), 400), 4):
            damaged[at] ^= int(random.integers(1, 256))
        try:
            decode_image(bytes(damaged), name="x", limits=Limits(max_pixels=1_000_000))
        except UnreadableImage as error:
            assert error.reason


def test_long_text_and_strange_profiles_do_not_cost_the_image() -> None:
    workflow = b"workflow\0\0" + zlib.compress(b"x" * 3_000_000)
    profile = b"icc\0\0" + zlib.compress(b"x" * 3_000_000)
    assert first_pixels(png(1, 1, 8, 2, b"\0\1\2\3", (b"zTXt", workflow), (b"iCCP", profile))) == [[1, 2, 3]]


def test_warnings_of_the_parsers_neither_escape_nor_cost_the_image() -> None:
    image = Image.new("P", (2, 2))
    image.putpalette([1, 2, 3, 4, 5, 6])
    data = saved(image, "PNG", transparency=b"\x80\xff")  # Pillow warns of such palettes
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("error")
        decode_image(data, name="x")
    assert not seen


def test_many_threads_get_the_same_pixels() -> None:
    files = [file_of(kind) for kind in KINDS] * 4
    alone = [decode_image(data, name="x").pixels for data in files[: len(KINDS)]] * 4
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda data: decode_image(data, name="x").pixels, files))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def why_not_read(path: Path, limits: Limits = LIMITS) -> str:
    with pytest.raises(UnreadableImage) as caught:
        read_bytes(path, limits)
    assert caught.value.name == str(path)
    return caught.value.reason


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert why_not_read(tmp_path / "fifo") == "not a regular file: FIFO"
    assert why_not_read(tmp_path) == "not a regular file: folder"
    assert why_not_read(Path("/dev/null")) == "not a regular file: device"


def test_socket_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path may have some 100 characters only
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s")
        assert why_not_read(tmp_path / "s") == "not a regular file: socket"


def test_links_are_followed_unless_they_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "good").symlink_to("file")
    (tmp_path / "broken").symlink_to("missing")
    (tmp_path / "circle").symlink_to("circle")
    assert read_bytes(tmp_path / "good", LIMITS) == b"content"
    assert why_not_read(tmp_path / "broken") == "a broken symbolic link"
    assert why_not_read(tmp_path / "circle") == "a symbolic link that leads in a circle"
    assert why_not_read(tmp_path / "missing") == "there is no such file"


def test_empty_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    assert why_not_read(tmp_path / "empty.png") == "the file is empty"
    assert reason_of(b"") == "the file is empty"


def test_file_over_the_limit_of_bytes_is_refused_with_the_setting(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(bytes(1001))
    assert why_not_read(path, Limits(max_bytes=1000)) == (
        "1,001 bytes are more than the limit of 1,000 (SIMILE_MAX_BYTES)"
    )
    assert len(read_bytes(path, Limits(max_bytes=1001))) == 1001


def test_path_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    assert why_not_read(tmp_path / ("x" * 300)).startswith("it can't be read")
    assert why_not_read(Path("a\0b")).startswith("it can't be read")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_file_without_permission_says_so(tmp_path: Path) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(b"x")
    path.chmod(0)
    assert why_not_read(path) == "no permission to read it"


def test_limits_take_every_setting_that_bounds_an_image() -> None:
    settings = Settings(max_pixels=1000, max_bytes=2000, decode_seconds=3.5)
    assert Limits.from_settings(settings) == Limits(1000, 2000, 3.5)

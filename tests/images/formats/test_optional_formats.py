"""Raw files, JPEG XL and Photoshop documents: decoded within the limits; without a package, the reason names it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pillow_jxl  # noqa: F401  # saves JXL
import pytest
import rawpy
from PIL import Image

from simile.core.errors import ImageTooLarge, UnreadableImage
from simile.images import decoding
from simile.images.codecs.jxl import read_jxl_size
from simile.images.decoding import decode_image
from simile.images.formats import Limits, Pixels, has_image_signature
from simile.images.matching.tasks import compute_pixel_digest
from simile.images.measurement import measure_image
from simile.images.metadata.reader import MetadataReader
from simile.images.privacy.strip import strip_metadata
from tests.images.formats.camera_files import make_dng, make_psd, make_resource
from tests.support.images import make_exif, make_iptc, make_xmp

H, W = 48, 64
Y, X = np.mgrid[0:H, 0:W]
GRADIENT = np.stack([X * 4, Y * 5, 255 - X * 2 - Y * 2], axis=-1).astype(np.uint8)  # another colour in each corner
IMAGE = Image.fromarray(GRADIENT)
TURNED = {1: GRADIENT, 3: GRADIENT[::-1, ::-1], 6: np.rot90(GRADIENT, -1), 8: np.rot90(GRADIENT)}


def _save(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def _make_jpeg(pixels: Pixels = GRADIENT, orientation: int | None = None) -> bytes:
    options = {"exif": make_exif({274: orientation}, {}, None)} if orientation else {}
    return _save(Image.fromarray(pixels), "JPEG", quality=95, subsampling=0, **options)


def _decode(data: bytes, limits: Limits = Limits()) -> decoding.DecodedImage:  # noqa: B008  # frozen
    return decode_image(data, name="file", limits=limits)


def _differs(pixels: Pixels, expected: Pixels) -> int:
    assert pixels.shape == expected.shape
    return int(np.abs(pixels.astype(int) - expected).max())


def _refuse(data: bytes) -> str:
    with pytest.raises(UnreadableImage) as refused:
        decode_image(data, name="file")
    return refused.value.reason


# Raw files


@pytest.mark.parametrize("orientation", TURNED)
def test_a_raw_file_is_its_preview_turned_upright(orientation: int) -> None:
    image = _decode(make_dng(_make_jpeg(), orientation=orientation))
    assert _differs(image.pixels, TURNED[orientation]) < 12
    assert (image.format, image.width, image.height) == ("raw", image.pixels.shape[1], image.pixels.shape[0])


def test_a_preview_that_is_upright_or_says_how_it_is_turned_is_not_turned_again() -> None:
    upright = make_dng(_make_jpeg(TURNED[6]), orientation=6)
    named = make_dng(_make_jpeg(orientation=6), orientation=6)
    assert _differs(_decode(upright).pixels, TURNED[6]) < 12
    assert _differs(_decode(named).pixels, TURNED[6]) < 12


def test_a_preview_may_be_a_bitmap() -> None:
    assert _differs(_decode(make_dng(IMAGE)).pixels, GRADIENT) == 0


def test_the_limits_hold_for_the_preview() -> None:
    data = make_dng(_make_jpeg())
    with pytest.raises(ImageTooLarge, match="64 x 48 pixels"):
        _decode(data, Limits(max_pixels=W * H - 1))
    with pytest.raises(ImageTooLarge, match="SIMILE_MAX_BYTES"):
        _decode(data, Limits(max_bytes=1000))


def test_a_raw_file_without_a_preview_or_with_damage_is_refused() -> None:
    assert "without a preview" in _refuse(make_dng(None))
    data = make_dng(_make_jpeg())
    start = data.index(b"\xff\xd8\xff")
    assert _refuse(data[: start + 9] + bytes(900) + data[start + 909 :])
    for length in range(100, len(data), 997):
        assert _refuse(data[:length])


def test_a_raw_file_is_no_copy_that_may_go() -> None:
    data = make_dng(_make_jpeg())
    digests = {compute_pixel_digest(item, "file", Limits()) for item in (data, data + b"\0", _make_jpeg())}
    assert len(digests) == 3
    with pytest.raises(UnreadableImage, match="holds more than its preview"):
        measure_image(data, "file", Limits())


def test_without_a_package_the_reason_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "can_read_raw", lambda: False)
    monkeypatch.setattr(decoding, "register_jxl", lambda: False)
    assert "pip install 'simile[raw]'" in _refuse(make_dng(_make_jpeg()))
    assert "pip install 'simile[jxl]'" in _refuse(_save(IMAGE, "JXL"))


def test_the_reader_of_raw_files_is_only_asked_for_raw_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rawpy, "imread", lambda _: pytest.fail("asked"))
    assert _decode(_save(IMAGE, "TIFF")).format == "tiff"


# JPEG XL


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (64, 48), (70_000, 3), (2001, 3000), (1920, 1080), (400, 400)])
@pytest.mark.parametrize("use_container", [False, True])
def test_the_size_of_a_jxl_is_read_before_it_is_decoded(size: tuple[int, int], use_container: bool) -> None:
    assert read_jxl_size(_save(Image.new("L", size), "JXL", effort=1, use_container=use_container)) == [size]


def test_a_jxl_with_a_huge_size_is_refused_before_it_is_decoded() -> None:
    bits = 0 | 3 << 1 | (100_000 - 1) << 3 | 1 << 33  # the height in 30 bits; a square
    with pytest.raises(ImageTooLarge, match="100000 x 100000"):
        _decode(b"\xff\x0a" + bits.to_bytes(16, "little"))


def test_a_jxl_that_was_made_from_a_jpeg_is_turned_upright_and_keeps_its_metadata(tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    path.write_bytes(_make_jpeg(orientation=6))
    with Image.open(path) as image:
        data = _save(image, "JXL", lossless_jpeg=True)
    assert _differs(_decode(data).pixels, TURNED[6]) < 12
    assert has_image_signature(data[:32])
    plain = _save(IMAGE, "JXL", exif=make_exif(), xmp=make_xmp())
    photo = MetadataReader().read(plain, "file")
    assert photo is not None and (photo.camera, photo.rating) == ("NIKON D850", 4)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "I;16"])
def test_every_mode_of_jxl_is_decoded(mode: str) -> None:
    grey = np.asarray(IMAGE.convert("L"))
    image = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else IMAGE.convert(mode)
    expected = GRADIENT if mode == "RGBA" else np.repeat(grey[:, :, None], 3, 2)
    assert _differs(_decode(_save(image, "JXL", lossless=True)).pixels, expected) <= 1


# Photoshop


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK"])
def test_a_psd_is_the_image_of_all_its_layers(mode: str) -> None:
    image = IMAGE.convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.linear_gradient("L").resize(image.size))  # a saved selection
    decoded = _decode(make_psd(image))
    assert _differs(decoded.pixels, np.asarray(image.convert("RGB"))) <= 1
    assert decoded.format == "psd"


def test_a_psd_without_the_whole_image_says_how_to_save_it() -> None:
    assert "Maximize compatibility" in _refuse(make_psd(IMAGE, has_composite=False))


def test_a_psd_has_metadata_in_its_resources() -> None:
    blocks = {0x0404: make_iptc((25, b"cat")), 0x0422: make_exif()[6:], 0x0424: make_xmp()}
    resources = b"".join(make_resource(number, block) for number, block in blocks.items())
    photo = MetadataReader().read(make_psd(IMAGE, resources), "file")
    assert photo is not None and (photo.camera, photo.rating, photo.keywords) == ("NIKON D850", 4, ("cat",))


def test_a_psd_with_too_many_pieces_is_refused() -> None:
    assert "more than 5,000 resources" in _refuse(make_psd(IMAGE, make_resource(1, b"") * 5_001))
    tall = bytearray(make_psd(IMAGE))
    tall[14:18] = (30_001).to_bytes(4, "big")
    assert "more than 30,000 rows" in _refuse(bytes(tall))


def test_damaged_files_are_refused_and_never_an_error() -> None:
    random = np.random.default_rng(0)
    for data in (make_psd(IMAGE), _save(IMAGE, "JXL"), make_dng(_make_jpeg())):
        for _ in range(60):
            damaged = bytearray(data[: random.integers(1, len(data) + 1)])
            for _ in range(random.integers(0, 5)):
                damaged[random.integers(len(damaged))] = random.integers(256)
            try:
                _decode(bytes(damaged))
            except UnreadableImage as refused:
                assert refused.reason


@pytest.mark.parametrize("kind", ["dng", "jxl", "psd"])
def test_metadata_are_removed_with_everything_else(kind: str) -> None:
    files = {
        "dng": make_dng(_make_jpeg()),
        "jxl": _save(IMAGE, "JXL", exif=make_exif()),
        "psd": make_psd(IMAGE, make_resource(0x0424, make_xmp())),
    }
    stripped, media_type = strip_metadata(files[kind], "file", Limits())
    assert media_type == "image/png"
    assert MetadataReader().read(stripped, "file") is None
    assert _decode(stripped).pixels.shape == GRADIENT.shape

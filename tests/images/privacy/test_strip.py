"""What is served says nothing of people: the pixels stay, bit for bit, everything beside them goes."""

from __future__ import annotations

import io
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from simile.core.errors import ImageTooLarge, UnreadableImage
from simile.images.decoding import decode_image
from simile.images.formats import Limits
from simile.images.privacy.strip import strip_metadata

pillow_heif.register_heif_opener()

LIMITS = Limits()
SECRET = b"51.5007 N 0.1246 W, Ada's phone"
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF>' + SECRET + b"</rdf:RDF></x:xmpmeta>"
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
TURNED = 6  # a quarter to the right


def photo(side: int = 48) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(noise).resize((side, side * 3 // 4), Image.Resampling.BICUBIC)


def exif(orientation: int = TURNED) -> bytes:
    block = Image.Exif()
    block[0x0112], block[0x010F], block[0x9286] = orientation, SECRET.decode(), SECRET
    block.get_ifd(0x8825).update({1: "N", 2: (51.0, 30.0, 2.5), 29: SECRET.decode()})
    return block.tobytes()


def saved(format: str, image: Image.Image | None = None, **options: Any) -> bytes:
    file = io.BytesIO()
    (image or photo()).save(file, format, **options)
    return file.getvalue()


def with_texts() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", SECRET.decode())
    info.add_text("Location", SECRET.decode(), zip=False)
    info.add_itxt("XML:com.adobe.xmp", XMP.decode())
    return info


def jpeg_with_everything() -> bytes:
    data = saved("JPEG", exif=exif(), xmp=XMP, icc_profile=PROFILE, comment=SECRET, dpi=(72, 72), progressive=True)
    iptc = b"\xff\xed" + struct.pack(">H", 2 + 14 + len(SECRET)) + b"Photoshop 3.0\0" + SECRET
    film = b"\xff\xd8\xff" + SECRET + bytes(1000)
    return data[:2] + iptc + data[2:] + film


def animated() -> list[Image.Image]:
    return [photo().rotate(angle) for angle in (90, 180)]


MADE = {
    "JPEG": jpeg_with_everything,
    "MPO": lambda: saved("MPO", exif=exif(), save_all=True, append_images=[photo().rotate(90)], xmp=XMP),
    "PNG": lambda: saved("PNG", exif=exif(), icc_profile=PROFILE, pnginfo=with_texts()) + SECRET,
    "APNG": lambda: saved("PNG", save_all=True, append_images=animated(), pnginfo=with_texts()),
    "WEBP": lambda: saved("WEBP", exif=exif(), xmp=XMP, icc_profile=PROFILE, lossless=True) + SECRET,
    "WEBP animated": lambda: saved("WEBP", exif=exif(), xmp=XMP, save_all=True, append_images=animated()),
    "GIF": lambda: saved("GIF", comment=SECRET, save_all=True, append_images=animated(), loop=0),
    "TIFF": lambda: saved("TIFF", exif=exif(1), icc_profile=PROFILE),
    "TIFF pages": lambda: saved(
        "TIFF", save_all=True, append_images=animated(), software=SECRET.decode(), compression="tiff_lzw"
    ),
    "HEIF": lambda: saved("HEIF", exif=exif(1), xmp=XMP, quality=80),
    "AVIF": lambda: saved("AVIF", exif=exif(), xmp=XMP, icc_profile=PROFILE),
    "JPEG2000": lambda: saved("JPEG2000", comment=SECRET),
    "PPM": lambda: saved("PPM").replace(b"P6\n", b"P6\n# " + SECRET + b"\n"),
    "BMP": lambda: saved("BMP") + SECRET,
    "ICO": lambda: saved("ICO", sizes=[(32, 32)]) + SECRET,
}
LOSSLESS = [kind for kind in MADE if kind not in ("JPEG2000", "PPM", "BMP", "ICO")]


def shown(data: bytes) -> list[np.ndarray[Any, Any]]:
    """All frames, as they lie in the file."""
    with Image.open(io.BytesIO(data)) as im:
        frames = []
        for at in range(getattr(im, "n_frames", 1)):
            im.seek(at)
            frames.append(np.asarray(im.convert("RGBA")))
        return frames


@pytest.mark.parametrize("kind", MADE)
def test_nothing_of_what_was_written_beside_the_image_is_left(kind: str) -> None:
    data = MADE[kind]()
    assert SECRET in data or kind in ("ICO",)
    clean, media_type = strip_metadata(data, "a", LIMITS)
    assert SECRET not in clean and b"51.5007" not in clean
    assert media_type.startswith("image/")
    with Image.open(io.BytesIO(clean)) as im:
        assert dict(im.getexif().get_ifd(0x8825)) == {}
        assert set(im.getexif()) <= {0x0112} or im.format == "TIFF"
        assert not im.info.get("xmp") and not im.info.get("comment") and not im.info.get("Comment")


@pytest.mark.parametrize("kind", MADE)
def test_the_image_stays_as_it_was_seen(kind: str) -> None:
    data = MADE[kind]()
    before, after = (decode_image(one, name="a", limits=LIMITS) for one in (data, strip_metadata(data, "a", LIMITS)[0]))
    assert np.array_equal(before.pixels, after.pixels)


@pytest.mark.parametrize("kind", LOSSLESS)
def test_frames_and_pages_stay_bit_for_bit(kind: str) -> None:
    data = MADE[kind]()
    clean = shown(strip_metadata(data, "a", LIMITS)[0])
    whole = shown(data)
    if kind in ("JPEG", "MPO"):  # the second image of two is often what the first was cut from
        whole = whole[:1]
    assert len(clean) == len(whole)
    assert all(np.array_equal(one, other) for one, other in zip(clean, whole, strict=True))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_the_colour_profile_stays(kind: str) -> None:
    with Image.open(io.BytesIO(strip_metadata(MADE[kind](), "a", LIMITS)[0])) as im:
        assert im.info["icc_profile"] == PROFILE


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "MPO"])
def test_of_exif_only_the_orientation_stays(kind: str) -> None:
    with Image.open(io.BytesIO(strip_metadata(MADE[kind](), "a", LIMITS)[0])) as im:
        assert dict(im.getexif()) == {0x0112: TURNED}


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF"])
def test_an_image_with_nothing_beside_it_comes_back_byte_for_byte(format: str) -> None:
    data = saved(format)
    assert strip_metadata(data, "a", LIMITS)[0] == data


@pytest.mark.parametrize("kind", LOSSLESS)
def test_stripping_twice_is_stripping_once(kind: str) -> None:
    once = strip_metadata(MADE[kind](), "a", LIMITS)
    assert strip_metadata(once[0], "a", LIMITS) == once


def test_a_small_preview_in_the_head_of_a_jpeg_goes_too() -> None:
    preview = b"JFIF\0\x01\x01\0\0\x01\0\x01\x02\x02" + SECRET[:12]
    data = saved("JPEG")
    with_preview = data[:2] + b"\xff\xe0" + struct.pack(">H", 2 + len(preview)) + preview + data[20:]
    assert (
        strip_metadata(with_preview, "a", LIMITS)[0] == data[:4] + b"\0\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0" + data[20:]
    )


@pytest.mark.parametrize("kind", LOSSLESS)
def test_a_damaged_container_never_leaks_and_raises_nothing_else(kind: str) -> None:
    data, random = MADE[kind](), np.random.default_rng(1)
    head = data.index(SECRET) if SECRET in data else len(data)
    for _ in range(60):
        other = bytearray(data)
        at = int(random.integers(len(data)))
        if head <= at < head + len(SECRET):
            continue
        other[at] ^= int(random.integers(1, 256))
        try:
            clean, _ = strip_metadata(bytes(other), "a", LIMITS)
        except UnreadableImage:
            continue
        assert SECRET not in clean, at
    for length in np.linspace(0, len(data), 15, endpoint=False, dtype=int):
        try:
            assert SECRET not in strip_metadata(data[:length], "a", LIMITS)[0]
        except UnreadableImage:
            continue


def test_strips_that_lie_on_each_other_do_not_grow_without_end() -> None:
    data = saved("TIFF", photo(400))
    at = struct.unpack_from("<I", data, 4)[0]
    (count,) = struct.unpack_from("<H", data, at)
    entries = [bytearray(data[at + 2 + 12 * n : at + 14 + 12 * n]) for n in range(count)]
    many = 1000
    lists = {273: [8] * many, 279: [len(data) - 8] * many}
    place = len(data)
    tail = b""
    for entry in entries:
        tag = struct.unpack_from("<H", entry)[0]
        if tag in lists:
            entry[:] = struct.pack("<HHII", tag, 4, many, place + len(tail))
            tail += struct.pack(f"<{many}I", *lists[tag])
    bomb = data[: at + 2] + b"".join(map(bytes, entries)) + data[at + 2 + 12 * count :] + tail
    with suppress(UnreadableImage):  # if the decoder makes nothing of it either
        assert len(strip_metadata(bomb, "a", LIMITS)[0]) < 4 * len(data)


def test_what_is_no_image_is_refused_and_limits_hold(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage):
        strip_metadata(b"<svg onload=alert(1)>", "a.svg", LIMITS)
    with pytest.raises(ImageTooLarge):
        strip_metadata(saved("BMP"), "a.bmp", Limits(max_pixels=100))

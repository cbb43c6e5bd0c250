"""The pixel digest covers everything in a file, not only the first frame."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from simile.core.records import Failure
from simile.images.distortions import DISTORTION_KINDS
from simile.images.formats import Limits
from simile.images.matching.tasks import (
    CopySpec,
    compare_copy,
    compare_files,
    compute_file_digest,
    compute_pixel_digest,
    compute_thumbnail_descriptor,
)
from tests.support.synthetic_images import scene

COVER, OTHER, THIRD = (
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 48, 3), np.uint8)) for seed in range(3)
)


def compute_digest(image: Image.Image, format: str, **options: Any) -> str:
    file = io.BytesIO()
    image.save(file, format, **options)
    return compute_pixel_digest(file.getvalue(), "image", Limits())


def test_the_file_format_does_not_change_the_digest() -> None:
    digests = [compute_digest(COVER, format) for format in ("PNG", "BMP", "TIFF", "PPM")]
    digests += [compute_digest(COVER, "WEBP", lossless=True), compute_digest(COVER.convert("RGBA"), "PNG")]
    assert len(set(digests)) == 1


@pytest.mark.parametrize("format", ["TIFF", "PNG", "WEBP"])
def test_further_pages_and_frames_change_the_digest(format: str) -> None:
    lossless = {"lossless": True} if format == "WEBP" else {}
    one, other = (
        compute_digest(COVER, format, save_all=True, append_images=[last], **lossless) for last in (OTHER, THIRD)
    )
    again = compute_digest(COVER, format, save_all=True, append_images=[OTHER], **lossless)
    assert one == again
    assert len({one, other, compute_digest(COVER, "PNG")}) == 3


def test_more_than_eight_bits_change_the_digest() -> None:
    eight = np.random.default_rng(0).integers(0, 255, (40, 48))
    deep, deeper = (Image.fromarray((eight * 257 + more).astype(np.uint16)) for more in (0, 100))
    assert compute_digest(deep, "PNG") == compute_digest(deep, "TIFF")
    images = (deep, deeper, Image.fromarray(eight.astype(np.uint8)))
    assert len({compute_digest(image, "PNG") for image in images}) == 3


def test_animations_with_the_same_first_frame_are_no_near_copies(tmp_path):
    first, still = Image.fromarray(scene(1)), tmp_path / "still.png"
    for name, then in (("a.webp", 2), ("b.webp", 3)):
        first.save(tmp_path / name, save_all=True, append_images=[Image.fromarray(scene(then))], quality=90)
    first.save(still)
    found = compare_files((str(tmp_path / "a.webp"), str(tmp_path / "b.webp")), Limits())
    assert not found.is_copy
    assert found.reason == "only the first of several frames is the same view"
    assert not compare_files((str(still), str(tmp_path / "a.webp")), Limits()).is_copy


def test_what_can_never_be_a_near_copy_is_no_false_match_of_a_planted_copy(tmp_path: Path) -> None:
    """An animation beside another one with the same first frame would stop the calibration of a whole collection."""
    first, still = Image.fromarray(scene(1)), tmp_path / "still.png"
    first.save(tmp_path / "a.webp", save_all=True, append_images=[Image.fromarray(scene(2))], quality=90)
    first.save(still)
    kind = "resize-50"
    planted = compare_copy((CopySpec(str(still), kind, (0, 1)), [str(tmp_path / "a.webp"), str(still)]), Limits())
    assert isinstance(planted, list)
    assert [result is not None and result.is_copy for result in planted] == [True, False, True]
    of_animation = compare_copy((CopySpec(str(tmp_path / "a.webp"), kind, (0, 1)), [str(still)]), Limits())
    assert of_animation == Failure(
        str(tmp_path / "a.webp"), "an image with several frames is not compared as a near copy"
    )


def test_the_reason_of_a_failure_has_no_path(tmp_path: Path) -> None:
    frames, name = [Image.fromarray(scene(seed)) for seed in (1, 2)], str(tmp_path / "one.png")
    frames[0].save(name, save_all=True, append_images=frames[1:])
    data = bytearray(Path(name).read_bytes())
    at = data.index(b"fdAT") + 8
    data[at : at + 200] = bytes(200)
    Path(name).write_bytes(data)
    (broken := tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    spec = CopySpec(str(broken), DISTORTION_KINDS[0], (0, 1))
    failures = [
        compute_file_digest(name, Limits()),
        compute_file_digest(str(broken), Limits()),
        compute_thumbnail_descriptor(str(broken), Limits()),
        compare_files((name, str(broken)), Limits()),
        compare_copy((spec, []), Limits()),
    ]
    for failure in failures:
        assert isinstance(failure, Failure)
        assert failure.path.endswith(".png")
        assert ".png" not in failure.reason and "Replace" not in failure.reason
    assert failures[3] == failures[1]


@pytest.mark.parametrize("format", ["png", "tiff"])
def test_more_than_eight_bits_of_colour_change_the_digest(format: str) -> None:
    ramp = np.linspace(0, 65535, 40 * 48 * 3).astype(np.uint16).reshape(40, 48, 3)
    deep = cv2.imencode(f".{format}", ramp)[1].tobytes()
    other = cv2.imencode(f".{format}", ramp ^ 1)[1].tobytes()
    with Image.open(io.BytesIO(deep)) as im:
        eight = compute_digest(im.convert("RGB"), "TIFF")
    again = compute_pixel_digest(cv2.imencode(".png", ramp)[1].tobytes(), "deep", Limits())
    digests = [compute_pixel_digest(data, "deep", Limits()) for data in (deep, other)]
    assert len({eight, *digests}) == 3
    assert digests[0] == again, "the container does not matter"


@pytest.mark.parametrize("appended", ["MPO", "film"])
def test_a_second_image_or_film_in_a_jpeg_changes_the_digest(appended: str) -> None:
    plain, pair = io.BytesIO(), io.BytesIO()
    COVER.save(plain, "JPEG", quality=90)
    if appended == "MPO":
        COVER.save(pair, "MPO", quality=90, save_all=True, append_images=[OTHER])
    else:
        pair.write(plain.getvalue() + b"\0\0\0\x18ftypmp42" + bytes(100))
    digests = {compute_pixel_digest(file.getvalue(), "image", Limits()) for file in (plain, pair)}
    assert len(digests) == 2
    junk = compute_pixel_digest(plain.getvalue() + b"\0\0 padding", "image", Limits())
    assert junk in digests, "bytes that are no image do not matter"

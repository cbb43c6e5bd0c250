"""A plan never removes the better file: what is better is decided by what the files hold, not by their names."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms, ImageFilter

from simile.dedup.cleanup.plan import plan_of
from simile.dedup.grouping.groups import make_groups
from simile.dedup.grouping.keep_rules import KeepRanking
from simile.dedup.grouping.quality import NOT_MEASURED_REASON, find_loss
from simile.dedup.records import ImageFile
from simile.images.formats import Limits
from simile.images.measurement import ImageMeasurement, measure_image
from tests.support.dedup_records import make_file, make_findings, make_pair

SIZE = (480, 360)


def make_photo() -> Image.Image:
    """Return an image with the statistics of a photo: detail at all scales, in colour."""
    random, layers = np.random.default_rng(5), []
    for octave in range(8):
        shape = (360 >> octave) + 2, (480 >> octave) + 2, 3
        layer = cv2.resize(random.normal(0, 12, shape).astype(np.float32), SIZE, interpolation=cv2.INTER_CUBIC)
        layers.append(layer * (0.5 if octave == 0 else 1))
    tint = np.linspace(-50, 50, 480)[None, :, None] * np.array([1, -0.5, -1])
    return Image.fromarray(np.clip(np.sum(layers, 0) + 128 + tint, 2, 252).astype(np.uint8))


PHOTO = make_photo()


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def decode(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def describe(number: int, name: str, data: bytes) -> ImageFile:
    """Return the measured file with this content."""
    measurement = measure_image(data, name, Limits())
    size = {"width": measurement.size[0], "height": measurement.size[1], "size": len(data)}
    return make_file(number, f"/photos/{name}", format=name.rpartition(".")[2], measurement=measurement, **size)


ORIGINAL = encode(PHOTO, "JPEG", quality=95)
WIDE_GAMUT = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes().replace(b"rXYZ", b"gXYY").replace(
    b"gXYZ", b"rXYZ").replace(b"gXYY", b"gXYZ")  # fmt: skip
DEEP = np.repeat(np.linspace(0, 65535, 480 * 360).astype(np.uint16).reshape(360, 480)[..., None], 3, 2)
DEEP[..., 0] = DEEP[::-1, :, 0]
LOGO = PHOTO.quantize(16)
FILM = b"\0\0\0\x18ftypmp42" + bytes(400)
CAMERA = Image.Exif()
CAMERA[ExifTags.Base.Make] = "Camera"

# The file that must stay, and a worse copy whose format, size or name promises more.
WORSE: dict[str, tuple[Callable[[], bytes], Callable[[], bytes], str]] = {
    "grey as PNG": (lambda: ORIGINAL, lambda: encode(PHOTO.convert("L"), "PNG"), "png"),
    "grey in colour channels": (lambda: ORIGINAL, lambda: encode(PHOTO.convert("L").convert("RGB"), "TIFF"), "tif"),
    "JPEG in a TIFF": (lambda: ORIGINAL, lambda: encode(PHOTO, "TIFF", compression="jpeg", quality=5), "tif"),
    "16 colours": (lambda: ORIGINAL, lambda: encode(PHOTO.quantize(16), "PNG"), "png"),
    "16 colours without palette": (lambda: ORIGINAL, lambda: encode(PHOTO.quantize(16).convert("RGB"), "BMP"), "bmp"),
    "a GIF": (lambda: ORIGINAL, lambda: encode(PHOTO, "GIF"), "gif"),
    "a bad JPEG as PNG": (
        lambda: ORIGINAL,
        lambda: encode(decode(encode(PHOTO, "JPEG", quality=10)), "PNG"),
        "png",
    ),
    "a bad JPEG saved again": (
        lambda: ORIGINAL,
        lambda: encode(decode(encode(PHOTO, "JPEG", quality=10)), "JPEG", quality=100),
        "jpg",
    ),
    "saved again with more bytes": (
        lambda: encode(PHOTO, "JPEG", quality=60),
        lambda: encode(decode(encode(PHOTO, "JPEG", quality=60)), "JPEG", quality=97),
        "jpg",
    ),
    "blurred as PNG": (lambda: ORIGINAL, lambda: encode(PHOTO.filter(ImageFilter.GaussianBlur(2)), "PNG"), "png"),
    "enlarged": (lambda: ORIGINAL, lambda: encode(PHOTO.resize((960, 720), Image.Resampling.BICUBIC), "PNG"), "png"),
    "enlarged a little": (
        lambda: ORIGINAL,
        lambda: encode(PHOTO.resize((640, 480), Image.Resampling.LANCZOS), "JPEG", quality=97),
        "jpg",
    ),
    "a JPEG of an HEIC": (
        lambda: encode(PHOTO, "HEIF", quality=50),
        lambda: encode(decode(encode(PHOTO, "HEIF", quality=50)), "JPEG", quality=92),
        "jpg",
    ),
    "a WebP of a JPEG": (lambda: ORIGINAL, lambda: encode(PHOTO, "WEBP", quality=100), "webp"),
    "a lossless WebP of 8 bits": (
        cv2.imencode(".png", DEEP)[1].tobytes,
        lambda: encode(decode(cv2.imencode(".png", DEEP)[1].tobytes()), "WEBP", lossless=True),
        "webp",
    ),
    "without transparency": (
        lambda: encode(Image.merge("RGBA", (*PHOTO.split(), Image.linear_gradient("L").resize(SIZE))), "PNG"),
        lambda: encode(PHOTO, "BMP"),
        "bmp",
    ),
    "without its profile": (
        lambda: encode(PHOTO, "PNG", icc_profile=WIDE_GAMUT),
        lambda: encode(PHOTO, "BMP"),
        "bmp",
    ),
    "without its second image": (
        lambda: encode(PHOTO, "MPO", quality=90, save_all=True, append_images=[PHOTO.rotate(180)]),
        lambda: encode(decode(encode(PHOTO, "JPEG", quality=90)), "PNG"),
        "png",
    ),
    "without the film of a smaller one": (
        lambda: encode(PHOTO.resize((240, 180)), "PNG") + FILM,
        lambda: encode(PHOTO, "PNG"),
        "png",
    ),
    "without the film of a WebP": (
        lambda: encode(PHOTO, "WEBP", lossless=True) + FILM,
        lambda: encode(PHOTO, "PNG"),
        "png",
    ),
    "without the camera's data": (
        lambda: encode(PHOTO, "JPEG", quality=90, exif=CAMERA),
        lambda: encode(PHOTO, "JPEG", quality=96),
        "jpg",
    ),
    "bright parts cut off": (
        lambda: ORIGINAL,
        lambda: encode(PHOTO.point(lambda value: min(255, value * 2)), "PNG"),
        "png",
    ),
}


@pytest.mark.parametrize("kind", WORSE)
@pytest.mark.parametrize(
    "rules", [("largest", "least-compressed", "oldest"), ("least-compressed",), ("under:/photos",)]
)
def test_a_plan_never_removes_the_better_file(kind: str, rules: tuple[str, ...]) -> None:
    make_better, make_worse, suffix = WORSE[kind]
    better, worse = describe(1, "better.xyz", make_better()), describe(2, f"a.{suffix}", make_worse())
    findings = make_findings(make_pair(1, 2), files=(better, worse))
    plan = plan_of(findings, make_groups(findings, rules))
    assert [line.path for line in plan.removals] in ([], [worse.path])
    assert find_loss(worse, better) not in ("", NOT_MEASURED_REASON)


@pytest.mark.parametrize(
    "kind",
    [
        "grey as PNG",
        "JPEG in a TIFF",
        "16 colours",
        "a bad JPEG as PNG",
        "saved again with more bytes",
        "a JPEG of an HEIC",
    ],
)
def test_the_better_file_is_also_the_one_that_is_shown_as_kept(kind: str) -> None:
    make_better, make_worse, suffix = WORSE[kind]
    better, worse = describe(1, "better.xyz", make_better()), describe(2, f"a.{suffix}", make_worse())
    assert KeepRanking().choose_kept([worse, better]) is better


GOOD: dict[str, tuple[bytes, bytes]] = {
    "a smaller JPEG": (ORIGINAL, encode(PHOTO.resize((240, 180), Image.Resampling.LANCZOS), "JPEG", quality=95)),
    "a worse JPEG": (ORIGINAL, encode(PHOTO, "JPEG", quality=50)),
    "a JPEG of a PNG": (encode(PHOTO, "PNG"), encode(PHOTO, "JPEG", quality=80)),
    "a grey copy": (ORIGINAL, encode(PHOTO.convert("L"), "JPEG", quality=80)),
    "a WebP of a PNG": (encode(PHOTO, "PNG"), encode(PHOTO, "WEBP", quality=70)),
    "a smaller PNG of a JPEG": (
        encode(PHOTO, "JPEG", quality=60),
        encode(PHOTO.resize((240, 180), Image.Resampling.LANCZOS), "PNG"),
    ),
}


@pytest.mark.parametrize("kind", GOOD)
def test_an_ordinary_copy_still_goes(kind: str) -> None:
    original, copy = GOOD[kind]
    better, worse = describe(1, "better.xyz", original), describe(2, "a.copy", copy)
    findings = make_findings(make_pair(1, 2), files=(better, worse))
    assert [line.path for line in plan_of(findings, make_groups(findings)).removals] == [worse.path]


def test_equal_pixels_without_the_camera_s_data_are_worse() -> None:
    dated, stripped = (
        encode(PHOTO, "JPEG", quality=90, exif=CAMERA, progressive=True),
        encode(PHOTO, "JPEG", quality=90),
    )
    assert len(stripped) > len(dated)  # so that it is preferred, by its bytes per pixel
    better, worse = describe(1, "dated.jpg", dated), describe(2, "a.jpg", stripped)
    findings = make_findings(make_pair(1, 2, tier="pixels"), files=(better, worse))
    (group,) = make_groups(findings)
    assert [line.path for line in plan_of(findings, [group]).removals] != [better.path]


def test_a_group_that_is_not_clear_waits_for_a_decision() -> None:
    heic, export = (
        describe(n, name, data) for n, name, data in ((1, "a.heic", encode(PHOTO, "HEIF")), (2, "a.jpg", ORIGINAL))
    )
    findings = make_findings(make_pair(1, 2), files=(heic, export))
    (group,) = make_groups(findings)
    assert group.members[1].undecided == "the quality of heif and jpeg can't be compared"
    decided = make_findings(make_pair(1, 2), files=(heic, export), decided={(1, 2): (True, 2)})
    assert [line.path for line in plan_of(decided, make_groups(decided)).removals] == [heic.path]


def test_what_was_not_measured_is_not_removed() -> None:
    findings = make_findings(make_pair(1, 2), files=(make_file(1), make_file(2, measurement=None)))
    (group,) = make_groups(findings)
    assert group.members[1].undecided == NOT_MEASURED_REASON
    assert plan_of(findings, [group]).removals == ()


def test_eight_bits_in_sixteen_are_eight() -> None:
    eight = np.asarray(PHOTO)[..., ::-1].astype(np.uint16)
    padded = [cv2.imencode(".png", values)[1].tobytes() for values in (eight * 257, eight * 256, eight * 256 + 3)]
    assert [measure_image(data, "deep", Limits()).depth for data in padded] == [8, 8, 16]


def test_facts_are_stored_as_json() -> None:
    measurement = measure_image(ORIGINAL, "photo", Limits())
    assert ImageMeasurement.from_json(measurement.to_json()) == measurement
    assert ImageMeasurement.from_json(measurement.to_json() | {"version": 0}) is None

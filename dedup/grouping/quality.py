"""Compare what two copies hold: is the kept file at least as good as the other in every respect that is measured?

`simile dedup` measures every image that is in a pair (images/measurement.py), and stores the result in the home by the
SHA-256 of the file. An image that was not measured is never removed without a decision.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import sqrt

from simile.dedup.grouping.stored_results import load_results, store_results
from simile.dedup.records import ImageFile
from simile.images.measurement import ImageMeasurement
from simile.images.quality.detail import DETAIL_SIDES
from simile.store.home import Home

MEASUREMENTS_NAME = "measurements"
NOT_MEASURED_REASON = "the two files were not measured; run `simile dedup` again"
MIN_CHROMA = 12.0  # of 255; below it an image is grey
MAX_COUNTED_COLOURS = 1024  # an image of fewer colours has a palette, or is grey
MIN_STEP = 3.0  # quantisation steps below look like rounding
ROUGH_STEP = 16.0  # quantisation steps above add as many edges as they remove, about quality 50
MUCH_LARGER = 1.5  # as many times as wide: then lossy compression costs less than the missing pixels


def load_measurements(home: Home) -> dict[str, ImageMeasurement]:
    """Return the stored measurements of the home's images, by SHA-256."""
    stored = load_results(home, MEASUREMENTS_NAME) or {}  # without them, the next run measures again
    measurements = {sha256: ImageMeasurement.from_json(body) for sha256, body in stored.items()}
    return {sha256: known for sha256, known in measurements.items() if known is not None}


def store_measurements(home: Home, measurements: Mapping[str, ImageMeasurement]) -> None:
    """Replace the stored measurements. Raises HomeNotWritable."""
    store_results(home, MEASUREMENTS_NAME, {sha256: known.to_json() for sha256, known in measurements.items()})


def find_loss(chosen: ImageFile, other: ImageFile, *, same_pixels: bool = False) -> str:
    """Return what would be lost if only the first of two copies stayed; "" if it is at least as good."""
    if chosen.sha256 == other.sha256:
        return ""
    if chosen.measurement is None or other.measurement is None:
        return NOT_MEASURED_REASON
    losses = _iterate_look_losses(chosen.measurement, other.measurement, same_pixels=same_pixels)
    first = next(losses, "")
    if not first and not same_pixels:
        first = next(_iterate_pixel_losses(chosen, other, chosen.measurement, other.measurement), "")
    return first


def is_reencoded(quality: ImageMeasurement) -> bool:
    """Return whether the pixels show a stronger JPEG compression than that of their own file."""
    return quality.step > max(MIN_STEP, 1.5 * quality.table_step)


def _iterate_look_losses(chosen: ImageMeasurement, other: ImageMeasurement, *, same_pixels: bool) -> Iterator[str]:
    """Yield losses that equal numbers of the pixels do not exclude."""
    if other.profile not in ("", chosen.profile):
        yield "it has a colour profile that the kept file lacks"
    if chosen.frames < other.frames:
        yield f"it has {other.frames} frames, pages or images, the kept file {chosen.frames}"
    if other.has_alpha and chosen.has_alpha and not same_pixels:
        yield "both are transparent, which is not compared"
    if other.has_alpha and not chosen.has_alpha:
        yield "it is transparent, the kept file is not"
    if other.has_camera_data and not chosen.has_camera_data:
        yield "it has data of the camera, such as the date, that the kept file lacks"
    if chosen.depth < other.depth:
        yield f"it has {other.depth} bits per channel, the kept file {chosen.depth}"


def _iterate_pixel_losses(
    chosen: ImageFile, other: ImageFile, quality: ImageMeasurement, other_quality: ImageMeasurement
) -> Iterator[str]:
    """Yield losses of resolution, colours, detail and by compression."""
    scale = sqrt(_count_pixels(quality) / _count_pixels(other_quality))
    if scale < 0.99:
        width, height = other_quality.size
        yield f"it is larger: {width}×{height}, not {quality.size[0]}×{quality.size[1]}"
    peak, mean = other_quality.chroma
    if peak >= MIN_CHROMA and (quality.chroma[0] < 0.6 * peak or quality.chroma[1] < 0.6 * mean - 1):
        yield "it has colours that the kept file lacks"
    if quality.colours < min(other_quality.colours, MAX_COUNTED_COLOURS) / 2:
        yield f"the kept file has only {quality.colours:,} different colours"
    if quality.clipped > other_quality.clipped + 0.05:
        yield "more of the kept file is plain black or white"
    yield from _iterate_compression_losses(chosen, other, quality, other_quality, max(1.0, scale))
    if _lacks_detail(quality, other_quality, scale):
        yield "the kept file has less detail" if scale < 1.02 else "the kept file is larger, but has no more detail"


def _iterate_compression_losses(
    chosen: ImageFile,
    other: ImageFile,
    quality: ImageMeasurement,
    other_quality: ImageMeasurement,
    scale: float,
) -> Iterator[str]:
    """Yield losses by lossy compression; `scale`: how many times as wide the kept image is, at least 1."""
    if scale < MUCH_LARGER and quality.step > 1.25 * max(MIN_STEP, other_quality.step) * scale:
        yield "the kept file shows traces of stronger JPEG compression"
    if (
        is_reencoded(quality)
        and not is_reencoded(other_quality)
        and scale < 1.1
        and other_quality.step <= 1.1 * quality.step
    ):
        yield "the kept file was compressed once more"
    if quality.codec == "lossless":
        return
    is_much_larger = scale >= MUCH_LARGER and chosen.size >= other.size
    if other_quality.codec == "lossless":
        was_jpeg = quality.codec == "jpeg" and 1.25 * other_quality.step >= quality.step > 0
        is_much_larger = scale >= MUCH_LARGER and (quality.codec == "jpeg" or is_much_larger)
        if not was_jpeg and not is_much_larger:
            yield f"it is lossless, the kept file is {quality.codec}"
    elif quality.codec != other_quality.codec:
        if not is_much_larger:
            yield f"the quality of {quality.codec} and {other_quality.codec} can't be compared"
    elif quality.codec != "jpeg" and chosen.size < 0.9 * other.size:
        yield f"it is less compressed: {other.size:,} bytes of {quality.codec}, not {chosen.size:,}"


def _lacks_detail(quality: ImageMeasurement, other: ImageMeasurement, scale: float) -> bool:
    """Return whether the kept image is blurred compared with the other, or was only enlarged from one of its size."""
    side, other_side = max(quality.size), max(other.size)
    # Strong compression adds edges that are no detail: then only coarser details are compared.
    is_noisy = other.step > 1.5 * max(MIN_STEP, quality.step) or other.codec not in ("lossless", "jpeg")
    limit = min(side, other_side) / (1.8 if is_noisy else 1)
    sides, other_sides = _list_detail(quality), _list_detail(other)
    common = [name for name in sides.keys() & other_sides.keys() if name <= limit]
    if any(sides[name] < 0.8 * other_sides[name] for name in common):
        return True
    if not is_noisy and abs(scale - 1) < 0.02:
        return quality.detail[0] < 0.8 * other.detail[0]
    # Of 60 photos, all were above this limit relative to reduced copies, and below it when they were enlarged.
    is_rough = other.step > ROUGH_STEP or other.codec not in ("lossless", "jpeg")
    return scale >= 1.02 and quality.detail[0] < scale**-1.3 * other.detail[0] * (0.7 if is_rough else 1)


def _list_detail(quality: ImageMeasurement) -> dict[int, float]:
    """Return the detail at each of DETAIL_SIDES."""
    sides = [side for side in DETAIL_SIDES if side <= max(quality.size)]
    return dict(zip(sides, quality.detail[1:], strict=False))


def _count_pixels(quality: ImageMeasurement) -> int:
    return max(1, quality.size[0]) * max(1, quality.size[1])

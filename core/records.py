"""Small frozen records that several packages exchange."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simile.core.errors import BadSetting
from simile.core.filters.expression import Expression

FloatArray = NDArray[np.float32]
Float64Array = NDArray[np.float64]
MIN_BOX_SIDE, MAX_SHARE = 0.01, 1.0001  # of a box; the sum of two rounded numbers may be a little above 1
MAX_LISTED_PATHS = 100  # of one image in a response or a message; an image may have any number of files
OnProgress = Callable[[str, int, int], object]  # (stage, done, total)


@dataclass(frozen=True)
class Latent:
    """The encoder's posterior of n images: q(z|x) = N(mu, diag(sigma²)).

    Attributes:
        mu: Means, (n, d) float32.
        sigma: Standard deviations, (n, d) float32; None for an encoder without a variance.
    """

    mu: FloatArray
    sigma: FloatArray | None

    def __len__(self) -> int:
        return len(self.mu)


class FileStat(NamedTuple):
    """Path, size and time of a file, from `stat`. A file in an archive has the archive's path first, and its time."""

    path: str  # absolute
    size: int  # bytes
    mtime_ns: int  # nanoseconds
    position: int = 0  # index in its archive


class Box(NamedTuple):
    """A part of an image, as shares of its width and height, seen upright. (0, 0) is the corner at the top left."""

    x: float
    y: float
    width: float
    height: float

    @classmethod
    def parse(cls, text: str) -> Box:
        """Parse `x,y,width,height`, such as 0.25,0,0.5,1. Raises BadSetting."""
        try:
            box = cls(*map(float, text.split(",")))
            fits = box.x >= 0 <= box.y and box.x + box.width <= MAX_SHARE and box.y + box.height <= MAX_SHARE
            if fits and min(box.width, box.height) >= MIN_BOX_SIDE:
                return box
        except (ValueError, TypeError):
            pass
        raise BadSetting(
            f"box can't be {text!r}. Write x,y,width,height as shares of the image, each side at least {MIN_BOX_SIDE}: "
            "0.25,0,0.5,1 is the middle half."
        )

    def to_pixels(self, width: int, height: int) -> tuple[slice, slice]:
        """Return the rows and columns of the box in an image of this size, at least one each."""
        left, top = min(int(self.x * width), width - 1), min(int(self.y * height), height - 1)
        right = max(left + 1, round((self.x + self.width) * width))
        bottom = max(top + 1, round((self.y + self.height) * height))
        return slice(top, bottom), slice(left, right)


@dataclass(frozen=True)
class Failure:
    """A file that was skipped, and the reason."""

    path: str
    reason: str


@dataclass(frozen=True)
class IgnoredFile:
    """A file in a source that is no image by its name and its first bytes."""

    path: str
    kind: str  # its suffix in lower case, without the dot: pdf


@dataclass(frozen=True, kw_only=True)
class PhotoMetadata:
    """EXIF, XMP and IPTC of a photo. A value that is missing, or that can't be true, is None.

    Attributes:
        taken: Local time at which it was taken, as the camera's clock showed it, without a time zone. Photos of
            several time zones sort by the time of day that people remember.
        taken_offset: Minutes that this clock was ahead of UTC; None if the photo does not tell.
        exposure_time: In seconds.
        aperture: The f-number.
        focal_length: In millimetres, of the lens itself.
        latitude: Degrees, positive in the north.
        longitude: Degrees, positive in the east.
        rating: 0 (none) to 5 stars, or -1 for a rejected photo, as in XMP.
        keywords: Sorted, each once.
    """

    taken: datetime | None = None
    taken_offset: int | None = None
    camera: str | None = None
    lens: str | None = None
    exposure_time: float | None = None
    aperture: float | None = None
    iso: int | None = None
    focal_length: float | None = None
    latitude: float | None = None
    longitude: float | None = None
    rating: int | None = None
    title: str | None = None
    description: str | None = None
    copyright: str | None = None
    keywords: tuple[str, ...] = ()

    @property
    def taken_text(self) -> str | None:
        """The time as in ISO 8601, with its offset if that is known."""
        if self.taken is None or self.taken_offset is None:
            return None if self.taken is None else self.taken.isoformat()
        return self.taken.replace(tzinfo=timezone(timedelta(minutes=self.taken_offset))).isoformat()


@dataclass(frozen=True, kw_only=True)
class ImageQuality:
    """Measures of the pixels of an image; images/quality/ computes them at one size for all images.

    Attributes:
        sharpness: Amplitude of the finest details relative to details of twice the size: 0.55 to 1 for sharp photos,
            below 0.4 for blurred ones; None for an image without details, or of very few pixels.
        brightness: Mean, 0 to 1.
        brightness_p5: 5 % of the pixels are darker. `brightness_p99`: 99 % are.
        contrast: Standard deviation of the channel that varies most, 0 to 0.5.
        shadows: Share of the pixels that are as dark as possible, 0 to 1. `highlights`: as bright as possible.
        profile: "" if the file means sRGB; "other" if its colour profile means other colours, which viewers convert;
            "unusable" if the profile is damaged, or for pixels of another kind.
    """

    sharpness: float | None
    brightness: float
    brightness_p5: float
    brightness_p99: float
    contrast: float
    shadows: float
    highlights: float
    profile: str = ""


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One result of a search.

    Attributes:
        distance: Euclidean distance between the indexed vectors.
        path: The first of `paths`, which are all files of the image.
        expected_matches: How many images of the collection are as near to one of its images, on average; None if the
            collection is not calibrated.
        spread: Standard deviation of the distance, given the query's σ; None without a σ.
        metadata: The image's metadata, if requested.
        verified: Whether it shows the same as the query image, by a comparison of their pixels; None if they were not
            compared.
        relation: How the two differ, for people, if it is verified: mirrored, cropped to a share of the area.
        copy_count: Number of images that are left out as its copies; None unless only distinct images are requested.
        group: The value of the field that hits are grouped by; None without groups.
    """

    image_id: int
    distance: float
    path: str
    width: int
    height: int
    format: str
    paths: tuple[str, ...] = ()
    expected_matches: float | None = None
    spread: float | None = None
    metadata: Mapping[str, str | float] | None = None
    verified: bool | None = None
    relation: str | None = None
    copy_count: int | None = None
    group: str | None = None

    @property
    def score(self) -> float:
        """1 / (1 + expected_matches): 1 if chance never gives such a match, 0.5 for a typical nearest neighbour.

        Without a calibration it is 1 / (1 + distance).
        """
        return 1.0 / (1.0 + (self.distance if self.expected_matches is None else self.expected_matches))


@dataclass(kw_only=True)
class IndexSummary:
    """Counts of one indexing run.

    Attributes:
        new: Paths that were unknown.
        copied: New paths that hold a known image whose other path still exists.
        moved: Known images whose old path is gone.
        missing: Known files that are gone; `removed` of them were deleted from the catalogue.
        duplicates: New or changed files that repeat an image.
        partners: Raw files and films of Live Photos that are one image with a JPEG or HEIC of the same name.
        ignored_kinds: The number of ignored files by kind.
        ignored_files: The ignored files; None unless requested.
        done: Files processed so far.
        lacking: Images without a vector by the requested encoder, which is not active for that reason.
    """

    run_id: int
    new: int = 0
    changed: int = 0
    unchanged: int = 0
    moved: int = 0
    copied: int = 0
    removed: int = 0
    missing: int = 0
    duplicates: int = 0
    ignored: int = 0
    partners: int = 0
    embedded: int = 0
    done: int = 0
    lacking: int = 0
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)
    ignored_kinds: dict[str, int] = field(default_factory=dict)
    ignored_files: list[IgnoredFile] | None = None

    @property
    def images_per_second(self) -> float:
        """Images embedded each second, rounded to one decimal."""
        return round(self.embedded / self.seconds, 1) if self.seconds > 0 else 0.0

    @property
    def has_changes(self) -> bool:
        """Whether the run changed the catalogue, or found files that it could not read."""
        return bool(self.new or self.changed or self.moved or self.removed or self.failures)

    def get_speed(self, total: int) -> tuple[float | None, float | None]:
        """Return files per second, and the seconds left for `total` files; None if unknown."""
        speed = self.done / self.seconds if self.seconds else None
        return speed, (total - self.done) / speed if speed else None


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Conditions on the images of a search. An image matches if it and one of its files satisfy all of them.

    Attributes:
        where: Conditions on the file and its metadata. Numbers compare as numbers, everything else as text; `!=`
            also matches files without this name.
        under: Absolute path of the file, or of a folder or archive that holds it.
        under_names: Other names of that folder under which files are indexed, by links.
        formats: Image formats in lower case, as in `Hit.format`.
        since: Earliest modification time of the file, with a time zone, inclusive.
        until: Latest modification time, inclusive.
    """

    where: tuple[Expression, ...] = ()
    under: str | None = None
    under_names: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    min_bytes: int | None = None  # these bounds are inclusive
    max_bytes: int | None = None
    min_width: int | None = None
    max_width: int | None = None
    min_height: int | None = None
    max_height: int | None = None
    since: datetime | None = None
    until: datetime | None = None

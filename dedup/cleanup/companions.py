"""What goes along with a removed image: its sidecars, the raw file or film of the same shot, its rating and keywords.

`photo.jpg.xmp` belongs to `photo.jpg`. `photo.xmp`, `photo.aae`, `photo.mov` and a raw file `photo.cr3` belong to all
images named `photo`, so they stay as long as one of these stays. An indexed file is an image of its own, never a
companion.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from simile.core.errors import SimileError
from simile.core.records import PhotoMetadata
from simile.dedup.cleanup.file_ops import OTHER_BYTES_REASON, FileIdentity, SkippedFile, identify_file, path_exists
from simile.dedup.cleanup.safety import CopyEvidence, OperationHistory
from simile.dedup.cleanup.sidecar_writes import SidecarWrite, prepare_write
from simile.dedup.records import CleanupPlan, Companion, Removal
from simile.images.formats import IMAGE_SUFFIXES, RAW_SUFFIXES, Limits
from simile.images.metadata.reader import MetadataReader
from simile.images.metadata.sidecars import get_sidecar_paths
from simile.images.sources.folders import SIDECAR_SUFFIX
from simile.images.sources.reader import read_bytes
from simile.store.catalogue.catalogue import Catalogue

# .aae: edits by Apple's Photos. .mov: the film of a Live Photo.
COMPANION_SUFFIXES = RAW_SUFFIXES | {SIDECAR_SUFFIX, ".aae", ".mov"}
_NOTHING = PhotoMetadata()


@dataclass(frozen=True)
class PlanAdditions:
    """What a line of a plan may have in addition to the file; the names are those of `Removal`."""

    companions: tuple[Companion, ...] = ()
    rating: int | None = None
    keywords: tuple[str, ...] = ()


@dataclass
class CompanionFinder:
    """Finds the files that belong to images. A folder is listed once."""

    is_indexed: Callable[[str], bool]
    _names: dict[Path, dict[str, list[str]]] = field(default_factory=dict)  # by folder, then by name without suffix

    def find(self, path: Path, leaving: Collection[Path] = ()) -> list[Path]:
        """Return the files that belong to an image and to no other image that stays.

        Args:
            path: The image.
            leaving: Further images that are removed.
        """
        candidates = [path.with_name(name) for stem in (path.stem, path.name) for name in self._get_names(path, stem)]
        return sorted(
            candidate
            for candidate in set(candidates) - {path}
            if path_exists(candidate)
            and self._is_companion(candidate, path)
            and not any(self._is_used_by(other, path, leaving) for other in self._get_owners(candidate))
        )

    def choose_sidecar(self, path: Path) -> Path:
        """Return the sidecar of an image to write into: the one it has, unless further images use it, or a new one."""
        shared, own = map(Path, get_sidecar_paths(str(path)))
        return shared if not path_exists(own) and path_exists(shared) and shared in self.find(path) else own

    def _is_companion(self, candidate: Path, path: Path) -> bool:
        suffix = candidate.suffix.lower()
        if candidate.stem == path.name:
            is_named_so = suffix == SIDECAR_SUFFIX
        else:
            is_named_so = suffix in COMPANION_SUFFIXES and not (suffix in RAW_SUFFIXES and is_raw(path))
        return is_named_so and not self.is_indexed(str(candidate))

    def _get_owners(self, companion: Path) -> list[Path]:
        """Return the files that may be images with this companion."""
        own_name = companion.with_name(companion.stem)  # photo.jpg of photo.jpg.xmp
        names = self._get_names(companion, companion.stem)
        return [own_name, *(companion.with_name(name) for name in names if name != companion.name)]

    def _is_used_by(self, other: Path, path: Path, leaving: Collection[Path]) -> bool:
        """Return whether another image stays and uses the companions of `path`."""
        if other == path or other in leaving or not path_exists(other):
            return False
        suffix = other.suffix.lower()
        if (suffix in RAW_SUFFIXES and not is_raw(path)) or suffix not in IMAGE_SUFFIXES:
            return self.is_indexed(str(other))
        return True

    def _get_names(self, path: Path, stem: str) -> list[str]:
        """Return the names in the folder of `path` that are `stem` with a suffix."""
        names = self._names.get(path.parent)
        if names is None:
            names = self._names[path.parent] = {}
            for name in os.listdir(path.parent):  # noqa: PTH208  # names only
                names.setdefault(os.path.splitext(name)[0], []).append(name)  # noqa: PTH122  # for every file
        return names.get(stem, [])


def is_raw(path: Path) -> bool:
    """Return whether the path is named like a camera's raw file."""
    return path.suffix.lower() in RAW_SUFFIXES


def make_finder(catalogue: Catalogue) -> CompanionFinder:
    """Return a finder that knows the files of a home."""
    return CompanionFinder(lambda path: bool(catalogue.files.get_many([path])))


def add_companions(plan: CleanupPlan, catalogue: Catalogue) -> CleanupPlan:
    """Return the plan with what goes along with each file. Files are read, and none is changed."""
    finder, reader = make_finder(catalogue), ValueReader()
    leaving = {Path(removal.path) for removal in plan.removals}
    return replace(plan, removals=tuple(_complete(removal, finder, reader, leaving) for removal in plan.removals))


def _complete(removal: Removal, finder: CompanionFinder, reader: ValueReader, leaving: set[Path]) -> Removal:
    try:
        companions = finder.find(Path(removal.path), leaving)
    except OSError:  # in an archive, or in a folder that is missing: `apply` reports it
        return removal
    rating, keywords = reader.find_additions(removal)
    return replace(removal, companions=identify_companions(companions), rating=rating, keywords=keywords)


def find_additions(path: str, finder: CompanionFinder, reader: ValueReader, leaving: Collection[Path]) -> PlanAdditions:
    """Return what a plan's line says of a file, whichever file is kept; nothing for a file that is no plain file."""
    try:
        companions = identify_companions(finder.find(Path(path), leaving))
    except OSError:
        return PlanAdditions()
    return PlanAdditions(companions, *find_missing(reader.read(path), _NOTHING))


def identify_companions(paths: list[Path]) -> tuple[Companion, ...]:
    """Return regular files with their hashes; links stay where they are."""
    companions = []
    for path in paths:
        try:
            companions.append(Companion(str(path), identify_file(path).sha256))
        except SkippedFile:
            continue
    return tuple(companions)


class ValueReader:
    """Reads ratings and keywords of files, from the file and its sidecars."""

    def __init__(self) -> None:
        self._reader = MetadataReader(with_gps=False)
        self._read_cached = lru_cache(maxsize=64)(self.read)  # the lines of a group follow each other

    def read(self, path: str) -> PhotoMetadata:
        """Return the metadata of a file; without any if it can't be read."""
        try:
            return self._reader.read(read_bytes(path, Limits()), path) or _NOTHING
        except SimileError:
            return _NOTHING

    def find_additions(self, removal: Removal) -> tuple[int | None, tuple[str, ...]]:
        """Return the rating and the keywords that the removed file has and the kept file lacks."""
        # Equal bytes have equal metadata, so that only a sidecar makes a difference.
        if removal.sha256 == removal.keep_sha256 and not any(map(os.path.exists, get_sidecar_paths(removal.path))):
            return None, ()
        return find_missing(self.read(removal.path), self._read_cached(removal.keep_path))


def find_missing(removed: PhotoMetadata, keep_values: PhotoMetadata) -> tuple[int | None, tuple[str, ...]]:
    """Return the rating and the keywords that one file has and the other lacks. A kept file's rating stays."""
    has_rating = removed.rating is not None and removed.rating > 0 and not keep_values.rating
    keywords = tuple(keyword for keyword in removed.keywords if keyword not in keep_values.keywords)
    return removed.rating if has_rating else None, keywords


@dataclass(kw_only=True)
class CompanionChecker:
    """Checks what a plan says of companions, ratings and keywords against the files."""

    finder: CompanionFinder
    history: OperationHistory
    evidence: CopyEvidence
    keep_paths: Collection[Path]  # of the plan
    value_reader: ValueReader = field(default_factory=ValueReader)

    def check(self, removal: Removal, path: Path, removed_paths: Collection[Path]) -> list[FileIdentity]:
        """Read the files that go along with the image at a path. Raises SkippedFile if one was changed.

        What the plan names must belong to the image by its name and to no image that stays; `removed_paths` are
        images that were removed.
        """
        if not removal.companions:
            return []
        found = set(self.finder.find(path, removed_paths)).difference(self.keep_paths)
        companions = []
        for companion in removal.companions:
            companion_path = path.with_name(Path(companion.path).name)
            if companion_path not in found:
                continue  # an image that stays uses it, or it went along with another one
            try:
                file = identify_file(companion_path)
                if file.sha256 != companion.sha256:
                    raise SkippedFile(OTHER_BYTES_REASON)
                self.history.check_dependents(companion_path, file.sha256, removal.keep_sha256, self.evidence)
            except SkippedFile as error:
                raise SkippedFile(f"{companion_path.name}, which goes along with it: {error.reason}") from None
            companions.append(file)
        return companions

    def prepare_write(self, removal: Removal, keep_file: FileIdentity) -> SidecarWrite | None:
        """Return what to write into the sidecar of the kept file; None: nothing. Raises SkippedFile.

        Of what the plan names, only what the removed file has and the kept file lacks at this moment is written.
        """
        if removal.rating is None and not removal.keywords:
            return None
        keep_values = self.value_reader.read(str(keep_file.path))
        rating, keywords = find_missing(self.value_reader.read(removal.path), keep_values)
        rating = rating if rating == removal.rating else None
        keywords = tuple(keyword for keyword in keywords if keyword in removal.keywords)
        if rating is None and not keywords:
            return None
        path = self.finder.choose_sidecar(keep_file.path)
        # A sidecar's keywords replace those of the image, so that it must have all.
        return prepare_write(path, rating, (*keep_values.keywords, *keywords) if keywords else ())

"""The scope of a search for copies: which folders two files must be in to count as copies of each other.

Groups are made of images, and a file represents all equal files. With a scope this is true only of files that are
copies of each other within the scope, so an image is split into parts before groups are made.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from typing import Literal

from simile.dedup.grouping.findings import Findings
from simile.dedup.grouping.keep_rules import KeepRanking
from simile.dedup.records import ImageFile, ImagePair

Scope = Literal["across", "within"]


@dataclass(frozen=True)
class ImageParts:
    """The parts of the images by id, and their pairs. The first part of an image has the image's id.

    Attributes:
        files: The files of each part, without links: the kept file, and files that it can replace.
        part_ids: By image id.
        pairs: The pairs of the findings, between parts.
    """

    files: Mapping[int, Sequence[ImageFile]]
    part_ids: Mapping[int, Sequence[int]]
    pairs: Sequence[ImagePair]


def is_in_scope(first: ImageFile, second: ImageFile, scope: Scope | None) -> bool:
    """Return whether two files that show the same count as copies of each other; None: in any folders."""
    return scope is None or (_get_folder(first) == _get_folder(second)) == (scope == "within")


def split_images(findings: Findings, ranking: KeepRanking, scope: Scope | None) -> ImageParts:
    """Split each image into parts: within the scope, the files of a part are copies of its kept file."""
    files: dict[int, Sequence[ImageFile]] = {}
    part_ids: dict[int, list[int]] = {}
    next_id = max(findings.files, default=0) + 1
    for image_id, image_files in findings.files.items():
        part_ids[image_id] = []
        for part in _split_files(findings.exclude_links(image_files), ranking, scope):
            part_id = next_id if part_ids[image_id] else image_id
            next_id += part_id == next_id
            part_ids[image_id].append(part_id)
            files[part_id] = part
    pairs = findings.pairs if scope is None else tuple(_iterate_part_pairs(findings, files, part_ids, scope))
    return ImageParts(files, part_ids, pairs)


def _split_files(
    files: Sequence[ImageFile], ranking: KeepRanking, scope: Scope | None
) -> Iterator[Sequence[ImageFile]]:
    """Yield the files of each part of an image."""
    if len(files) < 2 or scope is None:
        yield from [files] if files else []
    elif scope == "within":
        for _, part in groupby(sorted(files, key=_get_folder), _get_folder):
            yield list(part)
    else:
        best, *others = ranking.sort(files)
        yield [best, *(file for file in others if is_in_scope(best, file, scope))]
        yield from ([file] for file in others if not is_in_scope(best, file, scope))


def _iterate_part_pairs(
    findings: Findings, files: Mapping[int, Sequence[ImageFile]], part_ids: Mapping[int, Sequence[int]], scope: Scope
) -> Iterator[ImagePair]:
    """Yield the pairs between parts. Those in one folder connect images with equal pixels in others, so they stay."""
    for pair in findings.pairs:
        for first, second in product(part_ids.get(pair.first, ()), part_ids.get(pair.second, ())):
            if scope == "across" or is_in_scope(files[first][0], files[second][0], scope):
                yield pair._replace(first=first, second=second)


def _get_folder(file: ImageFile) -> str:
    return os.path.dirname(file.path)  # noqa: PTH120  # called for every file; a Path is slower

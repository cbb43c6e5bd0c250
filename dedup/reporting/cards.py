"""The cards of the HTML report: one group each, with embedded images, differences and file properties."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

from simile.core.errors import SimileError
from simile.dedup.cleanup.companions import (
    CompanionFinder,
    PlanAdditions,
    ValueReader,
    find_additions,
    make_finder,
)
from simile.dedup.grouping.findings import Findings
from simile.dedup.grouping.keep_rules import is_protected
from simile.dedup.grouping.pair_changes import find_objection
from simile.dedup.records import DuplicateGroup, GroupMember, ImageFile
from simile.images.encoding import encode_jpeg, encode_png, make_data_url
from simile.images.formats import Pixels
from simile.images.matching.difference import draw_difference
from simile.images.transforms import downscale
from simile.search.searcher import Searcher

MAX_CARD_MEMBERS = 16
CARD_IMAGE_SIDE = 288  # approximate longer side of an image on a card, pixels
_JPEG_QUALITY = 80
_SIZE_UNITS = ("bytes", "kB", "MB", "GB")


@dataclass(frozen=True)
class FileProperty:
    """One line of a file's properties."""

    name: str
    text: str
    is_better: bool = False  # than the same property of the other file


@dataclass(frozen=True, kw_only=True)
class CardImage:
    """One image of a card."""

    member: GroupMember
    position: int
    name: str
    folder: str  # shortened
    path: str
    properties: list[FileProperty]
    additions: list[FileProperty]  # what goes along with the file
    image_url: str  # a data URL; empty if the image is not shown again or can't be read
    difference_url: str  # a data URL of the difference to the kept image; empty if there is nothing to see
    is_protected: bool  # no plan touches the file


@dataclass(frozen=True, kw_only=True)
class ReportCard:
    """One group."""

    case: DuplicateGroup
    images: list[CardImage]
    plan_data: dict[str, Any]  # what the page's script needs to make a plan
    hidden_members: int  # beyond MAX_CARD_MEMBERS

    @property
    def distance(self) -> float:
        """Return the largest distance to the kept image; 0 if all are unknown."""
        distances = [image.member.distance for image in self.images]
        return max((distance for distance in distances if not math.isnan(distance)), default=0.0)


@dataclass(frozen=True, kw_only=True)
class CardRenderer:
    """Makes cards. Safe to share between threads."""

    searcher: Searcher
    findings: Findings
    matched_pairs: frozenset[tuple[int, int]] = field(repr=False)  # the pairs of the findings, by image id
    leaving: frozenset[Path] = frozenset()  # files that a plan of the report may remove
    value_reader: ValueReader = field(default_factory=ValueReader)

    @cached_property
    def finder(self) -> CompanionFinder:
        """Finds the files that go along with a removed one."""
        return make_finder(self.searcher.catalogue)

    def make_card(self, case: DuplicateGroup) -> ReportCard:
        """Render a group."""
        count = min(len(case.members), MAX_CARD_MEMBERS)
        kept_pixels = self._read_pixels(case.members[0].file)
        additions = [
            PlanAdditions()
            if case.tier == "similar"
            else find_additions(member.file.path, self.finder, self.value_reader, self.leaving)
            for member in case.members[:count]
        ]
        return ReportCard(
            case=case,
            images=[self._make_image(case, position, kept_pixels, additions[position]) for position in range(count)],
            plan_data=self._make_plan_data(case, additions),
            hidden_members=len(case.members) - count,
        )

    def _make_image(
        self, case: DuplicateGroup, position: int, kept_pixels: Pixels | None, additions: PlanAdditions
    ) -> CardImage:
        member = case.members[position]
        other = case.members[0 if position else 1]  # the kept file is compared with the first other file
        path = format_path(member.file.path)
        image_url, difference_url = self._render_image(case, position, kept_pixels)
        return CardImage(
            member=member,
            position=position,
            name=PurePath(path).name,
            folder=shorten_folder(path, format_path(other.file.path)),
            path=path,
            properties=compare_file_properties(member.file, other.file),
            additions=list_additions(additions),
            image_url=image_url,
            difference_url=difference_url,
            is_protected=is_protected(member.file.path, self.findings.uploads_folder),
        )

    def _render_image(self, case: DuplicateGroup, position: int, kept_pixels: Pixels | None) -> tuple[str, str]:
        """Return the image and its difference to the kept image as data URLs.

        Equal bytes are shown once; equal pixels have no difference.
        """
        member = case.members[position]
        file = member.file
        if position and case.tier == "bytes":
            return "", ""
        pixels = self._read_pixels(file) if position else kept_pixels
        if pixels is None:
            return "", ""
        # Small images are embedded without loss: the browser enlarges them.
        is_small = max(file.width, file.height) <= CARD_IMAGE_SIDE // 3
        image_url = make_data_url(encode_png(pixels), "png") if is_small else _make_jpeg_url(pixels)
        if not position or case.tier == "pixels" or kept_pixels is None:
            return image_url, ""
        return image_url, _make_jpeg_url(draw_difference(kept_pixels, pixels, member.changes.regions))

    def _read_pixels(self, file: ImageFile) -> Pixels | None:
        """Read an image at about CARD_IMAGE_SIDE; None if it can no longer be read."""
        try:
            pixels = self.searcher.get_pixels(file.image_id or 0, CARD_IMAGE_SIDE)
        except SimileError:
            return None
        return downscale(pixels, max(1, round(max(pixels.shape[:2]) / CARD_IMAGE_SIDE)))

    def _make_plan_data(self, case: DuplicateGroup, additions: Sequence[PlanAdditions]) -> dict[str, Any]:
        """Return the JSON of the first members for the page's script, those with `additions`."""
        count = len(additions)
        members = case.members[:count]
        ids = [member.file.image_id for member in members]
        pairs = [[i, j] for i in range(count) for j in range(count) if (ids[i], ids[j]) in self.matched_pairs]
        undecided = [
            [index, chosen]
            for index in range(count)
            for chosen in range(count)
            if case.tier in ("pixels", "near")
            and index != chosen
            and find_objection(case.tier, self.findings.changes, members[chosen].file, members[index].file)
        ]
        files = [
            {
                "path": member.file.path,
                "sha256": member.file.sha256,
                "reason": "; ".join(text for text in (member.reason, member.keep_reason) if text),
                "fixed": is_protected(member.file.path, self.findings.uploads_folder),
                "additions": asdict(member_additions),
            }
            for member, member_additions in zip(members, additions, strict=True)
        ]
        return {"id": case.id, "tier": case.tier, "matches": pairs, "undecided": undecided, "files": files}


def compare_file_properties(file: ImageFile, other_file: ImageFile) -> list[FileProperty]:
    """List a file's properties and labels, and mark those in which it is better than the other file."""
    pixels, other_pixels = file.width * file.height, other_file.width * other_file.height
    codec, other_codec = (
        None if known.measurement is None else known.measurement.codec for known in (file, other_file)
    )
    # With as many pixels and one codec, the larger file is less compressed; otherwise the size says nothing.
    is_less_compressed = codec == other_codec and pixels == other_pixels and file.size > other_file.size
    is_lossless = codec == "lossless" and other_codec not in ("lossless", None)
    return [
        FileProperty("Pixels", f"{file.width} × {file.height}", pixels > other_pixels),
        FileProperty("Format", file.format.upper(), is_lossless),
        FileProperty("Size", format_size(file.size), is_less_compressed),
        FileProperty("Modified", f"{file.modified_at:%Y-%m-%d %H:%M}", file.mtime_ns < other_file.mtime_ns),
        *(FileProperty(name, text) for name, text in sorted(file.labels.items())),
    ]


def list_additions(additions: PlanAdditions) -> list[FileProperty]:
    """List what goes along with a file that is removed."""
    names = ", ".join(PurePath(companion.path).name for companion in additions.companions)
    values = {
        "Goes along": format_path(names),
        "Rating": "" if additions.rating is None else str(additions.rating),
        "Keywords": ", ".join(additions.keywords),
    }
    return [FileProperty(name, text) for name, text in values.items() if text]


def format_path(path: str) -> str:
    """Return a path as valid Unicode for a web page; file names may contain other bytes."""
    return path.encode("utf-8", "replace").decode("utf-8")


def shorten_folder(path: str, other_path: str) -> str:
    """Return the path's folder without the part that both paths share, except the last shared name."""
    folder, other = os.path.dirname(path), os.path.dirname(other_path)  # noqa: PTH120  # texts of any system
    if folder == other:
        return f"…/{os.path.basename(folder)}/" if folder.count("/") > 1 else f"{folder}/"  # noqa: PTH119
    common = os.path.commonpath([folder, other]) if folder.startswith("/") and other.startswith("/") else ""
    return f"…{folder[len(common) :]}/" if len(common) > 1 else f"{folder}/"


def format_size(count: int) -> str:
    """Format a number of bytes: 2.4 MB."""
    value, unit = float(count), 0
    while value >= 1000 and unit < len(_SIZE_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{count:,} bytes" if unit == 0 else f"{value:.{1 if value < 100 else 0}f} {_SIZE_UNITS[unit]}"


def _make_jpeg_url(pixels: Pixels) -> str:
    return make_data_url(encode_jpeg(pixels, _JPEG_QUALITY), "jpeg")

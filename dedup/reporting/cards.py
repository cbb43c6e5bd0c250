"""One group as it stands in the report: its pictures read, scaled and compared, and what a plan needs of it."""

from __future__ import annotations

import base64
import math
import os
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import numpy as np

from simile.core.errors import SimileError
from simile.dedup.grouping.findings import Findings, find_decision
from simile.dedup.grouping.keep_rules import LOSSLESS_FORMATS, is_protected
from simile.dedup.records import Decision, GroupMember, ImageFile
from simile.dedup.review import ReviewCase
from simile.images.encoding import encode_jpeg, encode_png
from simile.images.formats import Pixels
from simile.images.matching.difference import draw_difference
from simile.search.searcher import Searcher

pass

MAX_CARD_MEMBERS = 16  # of one group
CARD_IMAGE_SIDE = 288  # pixels of the longer side of a picture, about


@dataclass(frozen=True)
class CardImage:
    """One picture of a group. source: a data URL, "" where it is not shown again or can't be read.

    difference: to the kept one, "" where there is none to see. fixed: no plan touches it.
    """

    member: GroupMember
    position: int
    name: str
    folder: str
    path: str
    properties: list[FileProperty]
    image_url: str
    difference_url: str
    is_protected: bool


@dataclass(frozen=True)
class ReportCard:
    """One group. data: what a plan needs of it. left_out: how many members are not shown."""

    case: ReviewCase
    images: list[CardImage]
    plan_data: dict[str, Any]
    matched_pairs: int
    possible_pairs: int
    hidden_members: int

    @property
    def distance(self) -> float:
        """The largest to the kept one, 0 where it is unknown."""
        known = [one.member.distance for one in self.images if not math.isnan(one.member.distance)]
        return max(known, default=0.0)


@dataclass(frozen=True)
class CardRenderer:
    """Makes cards. Safe to share between threads. matched: the pairs that were found, by image id."""

    searcher: Searcher
    findings: Findings
    matched_pairs: frozenset[tuple[int, int]] = field(repr=False)

    def make_card(self, case: ReviewCase, match_count: int, pair_count: int) -> ReportCard:
        """A group with its pictures; `matched` of `possible` pairs of it match."""
        count = min(len(case.members), MAX_CARD_MEMBERS)
        base = self._read_pixels(case.members[0].file)
        pictures = [self._make_image(case, place, base) for place in range(count)]
        return ReportCard(
            case, pictures, self._make_plan_data(case, count), match_count, pair_count, len(case.members) - count
        )

    def _make_image(self, case: ReviewCase, position: int, kept_pixels: Pixels | None) -> CardImage:
        member, kept = case.members[position], case.members[0]
        beside = kept if position else case.members[1]
        path, other = format_path(member.file.path), format_path(beside.file.path)
        source, differs = self._render_image(case, position, kept_pixels)
        return CardImage(
            member=member,
            position=position,
            name=PurePath(path).name,
            folder=shorten_folder(path, other),
            path=path,
            properties=compare_file_properties(member.file, beside.file),
            image_url=source,
            difference_url=differs,
            is_protected=is_protected(member.file.path, self.findings.uploads_folder),
        )

    def _render_image(self, case: ReviewCase, position: int, kept_pixels: Pixels | None) -> tuple[str, str]:
        """The picture and what differs, as data URLs: the same bytes are shown once, same pixels differ in nothing."""
        file = case.members[position].file
        if position and case.tier == "bytes":
            return "", ""
        pixels = self._read_pixels(file) if position else kept_pixels
        if pixels is None:
            return "", ""
        differs = kept_pixels is not None and position and case.tier != "pixels"
        return _make_thumbnail_url(pixels, file), _make_jpeg_url(
            draw_difference(kept_pixels, pixels)
        ) if differs and kept_pixels is not None else ""

    def _read_pixels(self, file: ImageFile) -> Pixels | None:
        """The file's picture, about SIDE large; None where it can't be read any more."""
        try:
            pixels = self.searcher.get_pixels(file.image_id or 0, CARD_IMAGE_SIDE)
        except SimileError:
            return None
        step = max(1, round(max(pixels.shape[:2]) / CARD_IMAGE_SIDE))
        return pixels if step == 1 else _downscale(pixels, step)

    def _make_plan_data(self, case: ReviewCase, count: int) -> dict[str, Any]:
        members = case.members[:count]
        ids = [member.file.image_id for member in members]
        pairs = [[i, j] for i in range(count) for j in range(count) if (ids[i], ids[j]) in self.matched_pairs]
        files = [self._make_file_data(member, members[0]) for member in members]
        return {"id": case.id, "tier": case.tier, "matches": pairs, "files": files}

    def _make_file_data(self, member: GroupMember, kept_member: GroupMember) -> dict[str, Any]:
        return {
            "path": member.file.path,
            "sha256": member.file.sha256,
            "reason": "; ".join(text for text in (member.reason, member.keep_reason) if text),
            "fixed": is_protected(member.file.path, self.findings.uploads_folder),
            "said": _decision_to_json(find_decision(self.findings, kept_member.file.sha256, member.file.sha256)),
        }


def format_path(path: str) -> str:
    """A path that a page can carry: names on disk may be no valid Unicode."""
    return path.encode("utf-8", "replace").decode("utf-8")


def _decision_to_json(decision: Decision | None) -> dict[str, Any] | None:
    return None if decision is None else {"same": decision.same, "keep": decision.keep_sha256}


def _make_thumbnail_url(pixels: Pixels, file: ImageFile) -> str:
    """JPEG; a picture of few pixels as it is: the browser enlarges it."""
    return (
        _make_data_url(encode_png(pixels), "png")
        if max(file.width, file.height) <= CARD_IMAGE_SIDE // 3
        else _make_jpeg_url(pixels)
    )


def _make_jpeg_url(pixels: Pixels) -> str:
    return _make_data_url(encode_jpeg(pixels, 80), "jpeg")


def _make_data_url(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _downscale(pixels: Pixels, step: int) -> Pixels:
    """(H, W, 3) reduced by a whole factor, each pixel the mean of step x step."""
    height, width = (max(1, length // step) for length in pixels.shape[:2])
    if min(pixels.shape[:2]) < step:  # a strip: no block of it is whole
        return np.ascontiguousarray(pixels[::step, ::step])
    blocks = pixels[: height * step, : width * step].reshape(height, step, width, step, 3)
    reduced: Pixels = np.rint(blocks.mean((1, 3))).astype(np.uint8)
    return reduced


_UNITS = ("bytes", "kB", "MB", "GB")


@dataclass(frozen=True)
class FileProperty:
    """One line. `better`: this file has the advantage over the other in it."""

    name: str
    text: str
    is_better: bool = False


def compare_file_properties(file: ImageFile, other_file: ImageFile) -> list[FileProperty]:
    """What is to be known of a file, compared to another one."""
    pixels, others = file.width * file.height, other_file.width * other_file.height
    lossless = file.format in LOSSLESS_FORMATS, other_file.format in LOSSLESS_FORMATS
    facts = [
        FileProperty("Pixels", f"{file.width} × {file.height}", pixels > others),
        FileProperty("Format", file.format.upper(), lossless == (True, False)),
        # Of pictures with as many pixels, the larger file has lost less; of others it says nothing.
        FileProperty(
            "Size",
            format_size(file.size),
            lossless[0] == lossless[1] and pixels == others and file.size > other_file.size,
        ),
        FileProperty("Modified", f"{file.modified_at:%Y-%m-%d %H:%M}", file.mtime_ns < other_file.mtime_ns),
    ]
    return facts + [FileProperty(name, text) for name, text in sorted(file.labels.items())]


def shorten_folder(path: str, other_path: str) -> str:
    """The folder of a path, without what it has in common with the other one, but for the last name of that."""
    folder, other = os.path.dirname(path), os.path.dirname(other_path)  # noqa: PTH120  # of texts, of any system
    if folder == other:
        return f"…/{os.path.basename(folder)}/" if folder.count("/") > 1 else f"{folder}/"  # noqa: PTH119
    common = os.path.commonpath([folder, other]) if folder.startswith("/") and other.startswith("/") else ""
    return f"…{folder[len(common) :]}/" if len(common) > 1 else f"{folder}/"


def format_size(count: int) -> str:
    """Bytes for people: 2.4 MB."""
    value, unit = float(count), 0
    while value >= 1000 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{count:,} bytes" if unit == 0 else f"{value:.{1 if value < 100 else 0}f} {_UNITS[unit]}"

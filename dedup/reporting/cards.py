"""One group as it stands in the report: its pictures read, scaled and compared, and what a plan needs of it."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import numpy as np

from simile.core.errors import SimileError

pass
import os
from dataclasses import dataclass

from simile.dedup.grouping.findings import Findings, find_decision
from simile.dedup.grouping.keep_rules import WITHOUT_LOSS, is_fixed
from simile.dedup.records import Decision, Member, PictureFile
from simile.dedup.review import Case
from simile.images.encoding import encode_jpeg, encode_png
from simile.images.matching.difference import difference
from simile.images.transforms import Pixels
from simile.search.searcher import Searcher

MOST_MEMBERS = 16  # of one group
SIDE = 288  # pixels of the longer side of a picture, about


@dataclass(frozen=True)
class Shown:
    """One picture of a group. source: a data URL, "" where it is not shown again or can't be read.

    difference: to the kept one, "" where there is none to see. fixed: no plan touches it.
    """

    member: Member
    place: int
    name: str
    folder: str
    path: str
    facts: list[Fact]
    source: str
    difference: str
    fixed: bool


@dataclass(frozen=True)
class Card:
    """One group. data: what a plan needs of it. left_out: how many members are not shown."""

    case: Case
    pictures: list[Shown]
    data: dict[str, Any]
    matched: int
    possible: int
    left_out: int

    @property
    def distance(self) -> float:
        """The largest to the kept one, 0 where it is unknown."""
        known = [one.member.distance for one in self.pictures if not math.isnan(one.member.distance)]
        return max(known, default=0.0)


@dataclass(frozen=True)
class Drawer:
    """Makes cards. Safe to share between threads. matched: the pairs that were found, by image id."""

    searcher: Searcher
    findings: Findings
    matched: frozenset[tuple[int, int]] = field(repr=False)

    def card(self, case: Case, matched: int, possible: int) -> Card:
        """A group with its pictures; `matched` of `possible` pairs of it match."""
        count = min(len(case.members), MOST_MEMBERS)
        base = self._pixels(case.members[0].file)
        pictures = [self._shown(case, place, base) for place in range(count)]
        return Card(case, pictures, self._data(case, count), matched, possible, len(case.members) - count)

    def _shown(self, case: Case, place: int, base: Pixels | None) -> Shown:
        member, kept = case.members[place], case.members[0]
        beside = kept if place else case.members[1]
        path, other = shown_path(member.file.path), shown_path(beside.file.path)
        source, differs = self._drawn(case, place, base)
        return Shown(
            member=member,
            place=place,
            name=PurePath(path).name,
            folder=folders_of(path, other),
            path=path,
            facts=facts_of(member.file, beside.file),
            source=source,
            difference=differs,
            fixed=is_fixed(member.file.path, self.findings.uploads),
        )

    def _drawn(self, case: Case, place: int, base: Pixels | None) -> tuple[str, str]:
        """The picture and what differs, as data URLs: the same bytes are shown once, same pixels differ in nothing."""
        file = case.members[place].file
        if place and case.tier == "bytes":
            return "", ""
        pixels = self._pixels(file) if place else base
        if pixels is None:
            return "", ""
        differs = base is not None and place and case.tier != "pixels"
        return _small(pixels, file), _jpeg(difference(base, pixels)) if differs and base is not None else ""

    def _pixels(self, file: PictureFile) -> Pixels | None:
        """The file's picture, about SIDE large; None where it can't be read any more."""
        try:
            pixels = self.searcher.pixels(file.image_id or 0, SIDE)
        except SimileError:
            return None
        step = max(1, round(max(pixels.shape[:2]) / SIDE))
        return pixels if step == 1 else _reduced(pixels, step)

    def _data(self, case: Case, count: int) -> dict[str, Any]:
        members = case.members[:count]
        ids = [member.file.image_id for member in members]
        pairs = [[i, j] for i in range(count) for j in range(count) if (ids[i], ids[j]) in self.matched]
        files = [self._file(member, members[0]) for member in members]
        return {"id": case.id, "tier": case.tier, "matches": pairs, "files": files}

    def _file(self, member: Member, kept: Member) -> dict[str, Any]:
        return {
            "path": member.file.path,
            "sha256": member.file.sha256,
            "reason": "; ".join(text for text in (member.reason, member.keep_reason) if text),
            "fixed": is_fixed(member.file.path, self.findings.uploads),
            "said": _said(find_decision(self.findings, kept.file.sha256, member.file.sha256)),
        }


def shown_path(path: str) -> str:
    """A path that a page can carry: names on disk may be no valid Unicode."""
    return path.encode("utf-8", "replace").decode("utf-8")


def _said(decision: Decision | None) -> dict[str, Any] | None:
    return None if decision is None else {"same": decision.same, "keep": decision.keep_sha256}


def _small(pixels: Pixels, file: PictureFile) -> str:
    """JPEG; a picture of few pixels as it is: the browser enlarges it."""
    return _url(encode_png(pixels), "png") if max(file.width, file.height) <= SIDE // 3 else _jpeg(pixels)


def _jpeg(pixels: Pixels) -> str:
    return _url(encode_jpeg(pixels, 80), "jpeg")


def _url(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _reduced(pixels: Pixels, step: int) -> Pixels:
    """(H, W, 3) reduced by a whole factor, each pixel the mean of step x step."""
    height, width = (max(1, length // step) for length in pixels.shape[:2])
    if min(pixels.shape[:2]) < step:  # a strip: no block of it is whole
        return np.ascontiguousarray(pixels[::step, ::step])
    blocks = pixels[: height * step, : width * step].reshape(height, step, width, step, 3)
    reduced: Pixels = np.rint(blocks.mean((1, 3))).astype(np.uint8)
    return reduced


_UNITS = ("bytes", "kB", "MB", "GB")


@dataclass(frozen=True)
class Fact:
    """One line. `better`: this file has the advantage over the other in it."""

    name: str
    text: str
    better: bool = False


def facts_of(file: PictureFile, beside: PictureFile) -> list[Fact]:
    """What is to be known of a file, compared to another one."""
    pixels, others = file.width * file.height, beside.width * beside.height
    lossless = file.format in WITHOUT_LOSS, beside.format in WITHOUT_LOSS
    facts = [
        Fact("Pixels", f"{file.width} × {file.height}", pixels > others),
        Fact("Format", file.format.upper(), lossless == (True, False)),
        # Of pictures with as many pixels, the larger file has lost less; of others it says nothing.
        Fact(
            "Size", human_size(file.size), lossless[0] == lossless[1] and pixels == others and file.size > beside.size
        ),
        Fact("Modified", f"{file.modified:%Y-%m-%d %H:%M}", file.mtime_ns < beside.mtime_ns),
    ]
    return facts + [Fact(name, text) for name, text in sorted(file.labels.items())]


def folders_of(path: str, beside: str) -> str:
    """The folder of a path, without what it has in common with the other one, but for the last name of that."""
    folder, other = os.path.dirname(path), os.path.dirname(beside)  # noqa: PTH120  # of texts, of any system
    if folder == other:
        return f"…/{os.path.basename(folder)}/" if folder.count("/") > 1 else f"{folder}/"  # noqa: PTH119
    common = os.path.commonpath([folder, other]) if folder.startswith("/") and other.startswith("/") else ""
    return f"…{folder[len(common) :]}/" if len(common) > 1 else f"{folder}/"


def human_size(count: int) -> str:
    """Bytes for people: 2.4 MB."""
    value, unit = float(count), 0
    while value >= 1000 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{count:,} bytes" if unit == 0 else f"{value:.{1 if value < 100 else 0}f} {_UNITS[unit]}"

"""Two files side by side: what is to be known of each, and which of the two is the better in it."""

from __future__ import annotations

import os
from dataclasses import dataclass

from dedup.keep import WITHOUT_LOSS
from dedup.records import PictureFile

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

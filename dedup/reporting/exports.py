"""Results as data: groups.json, pairs.csv and Parquet, streamed whatever their number."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simile.core.atomic_write import write_durably
from simile.core.errors import BadSetting
from simile.core.records import Filter
from simile.dedup.grouping.findings import Findings, FoundPair, calibration_json, find_decision, similar_pairs
from simile.dedup.grouping.groups import GROUPED, Copies
from simile.dedup.records import Group, Member, Pair, PictureFile
from simile.dedup.reporting.dataset_checks import ClassCount, Conflict, Leak, count_leaks
from simile.store.catalogue.catalogue import Catalogue
from simile.store.database.transactions import chunks

COLUMNS = ("tier", "path_a", "path_b", "image_id_a", "image_id_b", "distance", "agreement", "reason", "decision")
SUFFIXES = (".json", ".csv", ".parquet", ".html")
ROWS = 10_000  # of Parquet written together


@dataclass(frozen=True)
class Results:
    """All that was asked for. threshold: of near pairs, that the groups were made with. leaks, conflicts, classes:
    None where nobody asked.
    """

    findings: Findings
    copies: Copies
    groups: Sequence[Group]
    tiers: Sequence[str] = (*GROUPED, "similar")
    threshold: float | None = None
    only: Filter | None = None
    leaks: Sequence[Leak] | None = None
    conflicts: Sequence[Conflict] | None = None
    classes: dict[str, ClassCount] | None = None


def check_output(path: Path, suffixes: Sequence[str] = SUFFIXES) -> None:
    """Raises BadSetting for a file that can't be written, before anything is read."""
    if path.suffix.lower() not in suffixes:
        raise BadSetting(f"{path} can't be written: name a file that ends in {', '.join(suffixes)}.")
    if path.is_dir():
        raise BadSetting(f"{path} can't be written: it is a folder. Name another file.")
    if not path.absolute().parent.is_dir():
        raise BadSetting(f"{path.absolute().parent} is no folder. Make it, or name another file.")


def write_output(path: Path, results: Results, catalogue: Catalogue) -> None:
    """Writes .json (groups), .csv or .parquet (pairs): there whole or not at all. Raises BadSetting."""
    writers = {
        ".json": lambda at: write_groups(at, results),
        ".csv": lambda at: write_csv(at, COLUMNS, map(_cells, pair_rows(catalogue, results))),
        ".parquet": lambda at: _write_parquet(at, pair_rows(catalogue, results)),
    }
    try:
        write_durably(path, writers[path.suffix.lower()])
    except OSError as error:
        reason = error.strerror or error
        raise BadSetting(f"{path} can't be written: {reason}. Make space, or name another file.") from error


def write_groups(path: Path, results: Results) -> None:
    """groups.json: one group in a line."""
    with path.open("w", encoding="utf-8") as file:
        for number, group in enumerate(results.groups):
            file.write((",\n" if number else '{"groups": [\n') + _dumps(group_json(group)))
        file.write(("\n], " if results.groups else '{"groups": [], ') + _dumps(rest_json(results))[1:] + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A header and rows, UTF-8."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def groups_json(results: Results) -> dict[str, Any]:
    """groups.json as one object."""
    return {"groups": [group_json(group) for group in results.groups], **rest_json(results)}


def rest_json(results: Results) -> dict[str, Any]:
    """All of groups.json but the groups."""
    found = results.findings
    calibration = found.calibration
    return {
        "run_id": found.run_id,
        "found_at": None if found.found_at is None else found.found_at.isoformat(),
        "encoder": found.encoder,
        "threshold": found.reach(results.threshold),
        "precision": None if calibration is None else calibration.precision,
        "calibration": None if calibration is None else calibration_json(calibration),
        "leaks": None if results.leaks is None else _leaks_json(results.leaks),
        "conflicts": None if results.conflicts is None else [conflict_json(one) for one in results.conflicts],
        "classes": None if results.classes is None else {name: vars(one) for name, one in results.classes.items()},
    }


def group_json(group: Group) -> dict[str, Any]:
    """One group, the kept file first."""
    return {
        "id": group.id,
        "tier": group.tier,
        "keep": group.keep.file.path,
        "keep_reason": group.keep.keep_reason,
        "members": [member_json(member) for member in group.members],
        "matched": group.matched,
        "possible": group.possible,
        "decided": group.decided,
    }


def member_json(member: Member) -> dict[str, Any]:
    """One file of a group; distance, agreement and reason speak of it and the kept one."""
    return {
        **file_json(member.file),
        "keep": member.keep,
        "keep_reason": member.keep_reason,
        "distance": _number(member.distance),
        "agreement": member.agreement,
        "reason": member.reason,
    }


def file_json(file: PictureFile) -> dict[str, Any]:
    """What is known of a file; mtime in UTC, to the second."""
    return {
        "path": file.path,
        "image_id": file.image_id,
        "sha256": file.sha256,
        "size": file.size,
        "width": file.width,
        "height": file.height,
        "format": file.format,
        "mtime": file.modified.isoformat(timespec="seconds"),
        "labels": dict(file.labels),
    }


def pair_json(found: FoundPair) -> dict[str, Any]:
    """One pair, as a row of pairs.csv."""
    pair, said = found.pair, found.decision
    return {
        "tier": pair.tier,
        "path_a": found.first.path,
        "path_b": found.second.path,
        "image_id_a": found.first.image_id,
        "image_id_b": found.second.image_id,
        "distance": _number(pair.distance),
        "agreement": pair.agreement,
        "reason": pair.reason,
        "decision": None if said is None else "same" if said.same else "different",
    }


def conflict_json(conflict: Conflict) -> dict[str, Any]:
    """A group with its labels."""
    labels = {label: list(paths) for label, paths in conflict.labels.items()}
    return {"group": conflict.group.id, "tier": conflict.group.tier, "labels": labels}


def leak_json(leak: Leak) -> dict[str, Any]:
    """Two files of two splits."""
    return {
        "tier": leak.tier,
        "splits": [leak.first_split, leak.second_split],
        "paths": [leak.first.path, leak.second.path],
        "distance": _number(leak.distance),
        "agreement": leak.agreement,
        "reason": leak.reason,
    }


def pair_rows(catalogue: Catalogue, results: Results) -> Iterator[FoundPair]:
    """Every pair of the tiers that are asked for: of equal bytes and pixels each file beside the one that is kept of
    them, near pictures with the file that they stand with, similar ones nearest first.
    """
    findings, stands = results.findings, results.copies.stands
    for group in results.groups:
        if group.tier in ("bytes", "pixels"):
            for member in group.members[1:]:
                yield _beside_kept(group, member, findings)
    if "near" in results.tiers:
        for one, two, pair in results.copies.near.pairs():
            first, second = stands[one], stands[two]
            yield FoundPair(pair, first, second, find_decision(findings, first.sha256, second.sha256))
    if "similar" in results.tiers:
        yield from similar_pairs(catalogue, findings, only=results.only, threshold=results.threshold)


def _beside_kept(group: Group, member: Member, findings: Findings) -> FoundPair:
    kept, file = group.keep.file, member.file
    pair = Pair(kept.image_id or 0, file.image_id or 0, group.tier, member.distance, member.agreement, member.reason)
    return FoundPair(pair, kept, file, find_decision(findings, kept.sha256, file.sha256))


def _leaks_json(leaks: Sequence[Leak]) -> dict[str, Any]:
    return {"counts": [vars(count) for count in count_leaks(leaks)], "pairs": [leak_json(leak) for leak in leaks]}


def _cells(found: FoundPair) -> list[Any]:
    return ["" if cell is None else cell for cell in pair_json(found).values()]


def _write_parquet(path: Path, rows: Iterable[FoundPair]) -> None:
    import pyarrow as pa  # noqa: PLC0415  # half a second, for those who want Parquet
    from pyarrow import parquet  # noqa: PLC0415

    text, whole, real = pa.string(), pa.int64(), pa.float64()
    schema = pa.schema(list(zip(COLUMNS, (text, text, text, whole, whole, real, real, text, text), strict=True)))
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for chunk in chunks(rows, ROWS):
            writer.write_table(pa.Table.from_pylist([pair_json(found) for found in chunk], schema=schema))


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _dumps(body: Any) -> str:
    return json.dumps(body, ensure_ascii=False, allow_nan=False)

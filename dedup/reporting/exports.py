"""Results as data: groups.json, pairs.csv and Parquet, streamed whatever their number."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simile.core.atomic_write import write_atomically
from simile.core.errors import BadSetting
from simile.core.records import Filter
from simile.dedup.grouping.findings import FilePair, Findings, calibration_to_json, find_decision, find_similar_pairs
from simile.dedup.grouping.groups import GROUP_TIERS, CopyMatches
from simile.dedup.records import DuplicateGroup, GroupMember, ImageFile, ImagePair
from simile.dedup.reporting.dataset_checks import ClassCount, LabelConflict, SplitLeak, count_leaks
from simile.store.catalogue.catalogue import Catalogue
from simile.store.database.transactions import split_chunks

PAIR_COLUMNS = ("tier", "path_a", "path_b", "image_id_a", "image_id_b", "distance", "agreement", "reason", "decision")
DEDUP_SUFFIXES = (".json", ".csv", ".parquet", ".html")
PARQUET_BATCH_ROWS = 10_000  # of Parquet written together


@dataclass(frozen=True)
class DedupResults:
    """All that was asked for. threshold: of near pairs, that the groups were made with. leaks, conflicts, classes:
    None where nobody asked.
    """

    findings: Findings
    copies: CopyMatches
    groups: Sequence[DuplicateGroup]
    tiers: Sequence[str] = (*GROUP_TIERS, "similar")
    threshold: float | None = None
    filter: Filter | None = None
    leaks: Sequence[SplitLeak] | None = None
    conflicts: Sequence[LabelConflict] | None = None
    class_counts: dict[str, ClassCount] | None = None


def check_dedup_output(path: Path, suffixes: Sequence[str] = DEDUP_SUFFIXES) -> None:
    """Raises BadSetting for a file that can't be written, before anything is read."""
    if path.suffix.lower() not in suffixes:
        raise BadSetting(f"{path} can't be written: name a file that ends in {', '.join(suffixes)}.")
    if path.is_dir():
        raise BadSetting(f"{path} can't be written: it is a folder. Name another file.")
    if not path.absolute().parent.is_dir():
        raise BadSetting(f"{path.absolute().parent} is no folder. Make it, or name another file.")


def write_dedup_output(path: Path, results: DedupResults, catalogue: Catalogue) -> None:
    """Writes .json (groups), .csv or .parquet (pairs): there whole or not at all. Raises BadSetting."""
    writers = {
        ".json": lambda at: write_groups(at, results),
        ".csv": lambda at: write_csv(at, PAIR_COLUMNS, map(_make_csv_row, iterate_file_pairs(catalogue, results))),
        ".parquet": lambda at: _write_pairs_parquet(at, iterate_file_pairs(catalogue, results)),
    }
    try:
        write_atomically(path, writers[path.suffix.lower()])
    except OSError as error:
        reason = error.strerror or error
        raise BadSetting(f"{path} can't be written: {reason}. Make space, or name another file.") from error


def write_groups(path: Path, results: DedupResults) -> None:
    """groups.json: one group in a line."""
    with path.open("w", encoding="utf-8") as file:
        for number, group in enumerate(results.groups):
            file.write((",\n" if number else '{"groups": [\n') + _dump_json(group_to_json(group)))
        file.write(("\n], " if results.groups else '{"groups": [], ') + _dump_json(summary_to_json(results))[1:] + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A header and rows, UTF-8."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def groups_to_json(results: DedupResults) -> dict[str, Any]:
    """groups.json as one object."""
    return {"groups": [group_to_json(group) for group in results.groups], **summary_to_json(results)}


def summary_to_json(results: DedupResults) -> dict[str, Any]:
    """All of groups.json but the groups."""
    found = results.findings
    calibration = found.calibration
    return {
        "run_id": found.run_id,
        "found_at": None if found.found_at is None else found.found_at.isoformat(),
        "encoder": found.encoder,
        "threshold": found.get_effective_threshold(results.threshold),
        "precision": None if calibration is None else calibration.precision,
        "calibration": None if calibration is None else calibration_to_json(calibration),
        "leaks": None if results.leaks is None else _leaks_to_json(results.leaks),
        "conflicts": None if results.conflicts is None else [conflict_to_json(one) for one in results.conflicts],
        "classes": None
        if results.class_counts is None
        else {name: vars(one) for name, one in results.class_counts.items()},
    }


def group_to_json(group: DuplicateGroup) -> dict[str, Any]:
    """One group, the kept file first."""
    return {
        "id": group.id,
        "tier": group.tier,
        "keep": group.kept_member.file.path,
        "keep_reason": group.kept_member.keep_reason,
        "members": [member_to_json(member) for member in group.members],
        "matched": group.matched,
        "possible": group.possible,
        "decided": group.decided,
    }


def member_to_json(member: GroupMember) -> dict[str, Any]:
    """One file of a group; distance, agreement and reason speak of it and the kept one."""
    return {
        **file_to_json(member.file),
        "keep": member.is_kept,
        "keep_reason": member.keep_reason,
        "distance": _nan_to_none(member.distance),
        "agreement": member.agreement,
        "reason": member.reason,
    }


def file_to_json(file: ImageFile) -> dict[str, Any]:
    """What is known of a file; mtime in UTC, to the second."""
    return {
        "path": file.path,
        "image_id": file.image_id,
        "sha256": file.sha256,
        "size": file.size,
        "width": file.width,
        "height": file.height,
        "format": file.format,
        "mtime": file.modified_at.isoformat(timespec="seconds"),
        "labels": dict(file.labels),
    }


def file_pair_to_json(file_pair: FilePair) -> dict[str, Any]:
    """One pair, as a row of pairs.csv."""
    pair, said = file_pair.pair, file_pair.decision
    return {
        "tier": pair.tier,
        "path_a": file_pair.first.path,
        "path_b": file_pair.second.path,
        "image_id_a": file_pair.first.image_id,
        "image_id_b": file_pair.second.image_id,
        "distance": _nan_to_none(pair.distance),
        "agreement": pair.agreement,
        "reason": pair.reason,
        "decision": None if said is None else "same" if said.same else "different",
    }


def conflict_to_json(conflict: LabelConflict) -> dict[str, Any]:
    """A group with its labels."""
    labels = {label: list(paths) for label, paths in conflict.labels.items()}
    return {"group": conflict.group.id, "tier": conflict.group.tier, "labels": labels}


def leak_to_json(leak: SplitLeak) -> dict[str, Any]:
    """Two files of two splits."""
    return {
        "tier": leak.tier,
        "splits": [leak.first_split, leak.second_split],
        "paths": [leak.first.path, leak.second.path],
        "distance": _nan_to_none(leak.distance),
        "agreement": leak.agreement,
        "reason": leak.reason,
    }


def iterate_file_pairs(catalogue: Catalogue, results: DedupResults) -> Iterator[FilePair]:
    """Every pair of the tiers that are asked for: of equal bytes and pixels each file beside the one that is kept of
    them, near pictures with the file that they stand with, similar ones nearest first.
    """
    findings, stands = results.findings, results.copies.representative_files
    for group in results.groups:
        if group.tier in ("bytes", "pixels"):
            for member in group.members[1:]:
                yield _pair_with_kept_file(group, member, findings)
    if "near" in results.tiers:
        for one, two, pair in results.copies.near_matches.iterate_pairs():
            first, second = stands[one], stands[two]
            yield FilePair(pair, first, second, find_decision(findings, first.sha256, second.sha256))
    if "similar" in results.tiers:
        yield from find_similar_pairs(catalogue, findings, filter=results.filter, threshold=results.threshold)


def _pair_with_kept_file(group: DuplicateGroup, member: GroupMember, findings: Findings) -> FilePair:
    kept, file = group.kept_member.file, member.file
    pair = ImagePair(
        kept.image_id or 0, file.image_id or 0, group.tier, member.distance, member.agreement, member.reason
    )
    return FilePair(pair, kept, file, find_decision(findings, kept.sha256, file.sha256))


def _leaks_to_json(leaks: Sequence[SplitLeak]) -> dict[str, Any]:
    return {"counts": [vars(count) for count in count_leaks(leaks)], "pairs": [leak_to_json(leak) for leak in leaks]}


def _make_csv_row(file_pair: FilePair) -> list[Any]:
    return ["" if cell is None else cell for cell in file_pair_to_json(file_pair).values()]


def _write_pairs_parquet(path: Path, rows: Iterable[FilePair]) -> None:
    import pyarrow as pa  # half a second, for those who want Parquet  # noqa: PLC0415
    from pyarrow import parquet  # noqa: PLC0415

    text, whole, real = pa.string(), pa.int64(), pa.float64()
    schema = pa.schema(list(zip(PAIR_COLUMNS, (text, text, text, whole, whole, real, real, text, text), strict=True)))
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for chunk in split_chunks(rows, PARQUET_BATCH_ROWS):
            writer.write_table(pa.Table.from_pylist([file_pair_to_json(found) for found in chunk], schema=schema))


def _nan_to_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _dump_json(body: Any) -> str:
    return json.dumps(body, ensure_ascii=False, allow_nan=False)

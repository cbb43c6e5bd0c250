"""Write results to files: groups.json, pairs.csv and Parquet. Pairs are written as a stream, however many there are."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from simile.core.atomic_write import write_atomically
from simile.core.csv_cells import escape_formulas
from simile.core.errors import BadSetting
from simile.dedup.grouping.findings import FilePair, calibration_to_json, find_decision, find_similar_pairs
from simile.dedup.records import DuplicateGroup, GroupMember, ImageFile, ImagePair
from simile.dedup.reporting.dataset_checks import SplitLeak, count_leaks
from simile.dedup.reporting.results import DedupResults
from simile.store.catalogue.catalogue import Catalogue
from simile.store.database.transactions import split_chunks

PAIR_COLUMNS = (
    *("tier", "path_a", "path_b", "image_id_a", "image_id_b", "distance", "agreement", "reason", "decision"),
    "changed",  # whether each image has something that the other lacks
)
DEDUP_SUFFIXES = (".json", ".csv", ".parquet", ".html")
PARQUET_BATCH_ROWS = 10_000


def check_dedup_output(path: Path, suffixes: Sequence[str] = DEDUP_SUFFIXES) -> None:
    """Raise BadSetting for a file that can't be written, before any work is done."""
    if path.suffix.lower() not in suffixes:
        raise BadSetting(f"{path} can't be written: its name must end in {', '.join(suffixes)}.")
    if path.is_dir():
        raise BadSetting(f"{path} can't be written: it is a folder. Name another file.")
    if not path.absolute().parent.is_dir():
        raise BadSetting(f"{path.absolute().parent} is not a folder. Create it, or name another file.")


def write_output(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file completely or not at all. Raises BadSetting if it can't be written."""
    try:
        write_atomically(path, write)
    except OSError as error:
        reason = error.strerror or error
        raise BadSetting(f"{path} can't be written: {reason}. Free some space, or name another file.") from error


def write_dedup_output(path: Path, results: DedupResults, catalogue: Catalogue) -> None:
    """Write .json (groups), .csv or .parquet (pairs), completely or not at all. Raises BadSetting."""
    writers: dict[str, Callable[[Path], object]] = {
        ".json": lambda temporary: write_groups(temporary, results),
        ".csv": lambda temporary: write_csv(temporary, PAIR_COLUMNS, _iterate_pair_rows(catalogue, results)),
        ".parquet": lambda temporary: _write_pairs_parquet(temporary, _iterate_pair_rows(catalogue, results)),
    }
    write_output(path, writers[path.suffix.lower()])


def write_groups(path: Path, results: DedupResults) -> None:
    """Write groups.json, one group per line."""
    with path.open("w", encoding="utf-8") as file:
        for number, group in enumerate(results.groups):
            file.write((",\n" if number else '{"groups": [\n') + dump_json(group_to_json(group)))
        file.write(("\n], " if results.groups else '{"groups": [], ') + dump_json(summary_to_json(results))[1:] + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a header and rows as UTF-8."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(map(escape_formulas, rows))


def groups_to_json(results: DedupResults) -> dict[str, Any]:
    """Return the content of groups.json."""
    return {"groups": [group_to_json(group) for group in results.groups], **summary_to_json(results)}


def summary_to_json(results: DedupResults) -> dict[str, Any]:
    """Return the content of groups.json without the groups."""
    findings, calibration = results.findings, results.findings.calibration
    leaks = conflicts = classes = None
    if results.leaks is not None:
        counts = [vars(count) for count in count_leaks(results.leaks)]
        leaks = {"counts": counts, "pairs": [_leak_to_json(leak) for leak in results.leaks]}
    if results.conflicts is not None:
        conflicts = [
            {
                "group": conflict.group.id,
                "tier": conflict.group.tier,
                "labels": {label: list(paths) for label, paths in conflict.labels.items()},
            }
            for conflict in results.conflicts
        ]
    if results.class_counts is not None:
        classes = {name: vars(count) for name, count in results.class_counts.items()}
    return {
        "series": [group_to_json(group) for group in results.series],
        "run_id": findings.run_id,
        "found_at": None if findings.found_at is None else findings.found_at.isoformat(),
        "encoder": findings.encoder,
        "threshold": findings.get_effective_threshold(results.threshold),
        "scope": results.scope,
        "precision": None if calibration is None else calibration.precision,
        "calibration": None if calibration is None else calibration_to_json(calibration),
        "left_out": [vars(failure) for failure in findings.left_out],
        "leaks": leaks,
        "conflicts": conflicts,
        "classes": classes,
    }


def group_to_json(group: DuplicateGroup) -> dict[str, Any]:
    """Return a group, the kept file first."""
    return {
        "id": group.id,
        "tier": group.tier,
        "keep": group.kept_member.file.path,
        "keep_reason": group.kept_member.keep_reason,
        "members": [_member_to_json(member) for member in group.members],
        "matched": group.matched,
        "possible": group.possible,
        "decided": group.decided,
    }


def file_to_json(file: ImageFile) -> dict[str, Any]:
    """Return a file; mtime in UTC, to the second."""
    fields = {**vars(file), "labels": dict(file.labels)}
    del fields["mtime_ns"], fields["measurement"]
    return {**fields, "mtime": file.modified_at.isoformat(timespec="seconds")}


def iterate_file_pairs(catalogue: Catalogue, results: DedupResults) -> Iterator[FilePair]:
    """Yield the pairs of the requested tiers.

    Of equal bytes and pixels: each file with the kept file of its group. Of near copies: each match, with the file
    that represents each image. Similar pairs last, the nearest first.
    """
    findings, files = results.findings, results.copies.representative_files
    for group in results.groups:
        if group.tier in ("bytes", "pixels"):
            for member in group.members[1:]:
                yield _pair_with_kept_file(results, group, member)
    if "near" in results.tiers:
        for first_id, second_id, pair in results.copies.near_matches.iterate_pairs():
            first, second = files[first_id], files[second_id]
            yield FilePair(pair, first, second, find_decision(findings, first.sha256, second.sha256))
    if "similar" in results.tiers:
        yield from find_similar_pairs(catalogue, findings, filter=results.filter, threshold=results.threshold)


def _pair_with_kept_file(results: DedupResults, group: DuplicateGroup, member: GroupMember) -> FilePair:
    kept, file = group.kept_member.file, member.file
    ids = kept.image_id or 0, file.image_id or 0
    pair = ImagePair(*ids, group.tier, member.distance, member.agreement, member.reason)
    return FilePair(pair, kept, file, find_decision(results.findings, kept.sha256, file.sha256))


def _member_to_json(member: GroupMember) -> dict[str, Any]:
    """Return a member of a group; distance, agreement and reason describe its pair with the kept file."""
    return {
        **file_to_json(member.file),
        "keep": member.is_kept,
        "keep_reason": member.keep_reason,
        "distance": _nan_to_none(member.distance),
        "agreement": member.agreement,
        "reason": member.reason,
        **({"changed": member.changes.is_mutual, "changes": member.changes.regions} if member.changes.regions else {}),
        **({"undecided": member.undecided} if member.undecided else {}),
    }


def _leak_to_json(leak: SplitLeak) -> dict[str, Any]:
    return {
        "tier": leak.pair.tier,
        "splits": [leak.first_split, leak.second_split],
        "paths": [leak.first.path, leak.second.path],
        "distance": _nan_to_none(leak.pair.distance),
        "agreement": leak.pair.agreement,
        "reason": leak.pair.reason,
    }


def _iterate_pair_rows(catalogue: Catalogue, results: DedupResults) -> Iterator[list[Any]]:
    """Yield rows of PAIR_COLUMNS."""
    for file_pair in iterate_file_pairs(catalogue, results):
        pair, first, second, decision = file_pair.pair, file_pair.first, file_pair.second, file_pair.decision
        verdict = None if decision is None else "same" if decision.same else "different"
        files = [first.path, second.path, first.image_id, second.image_id]
        found = results.findings.changes.get(first, second) if pair.tier == "near" else None
        changed = None if found is None else found.is_mutual
        yield [pair.tier, *files, _nan_to_none(pair.distance), pair.agreement, pair.reason, verdict, changed]


def _write_pairs_parquet(path: Path, rows: Iterable[list[Any]]) -> None:
    import pyarrow as pa  # the import takes half a second  # noqa: PLC0415
    from pyarrow import parquet  # noqa: PLC0415

    text, integer, real = pa.string(), pa.int64(), pa.float64()
    types = (text, text, text, integer, integer, real, real, text, text, pa.bool_())
    schema = pa.schema(list(zip(PAIR_COLUMNS, types, strict=True)))
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for chunk in split_chunks(rows, PARQUET_BATCH_ROWS):
            columns = zip(*chunk, strict=True)
            writer.write_table(pa.Table.from_arrays(list(map(pa.array, columns, types)), schema=schema))


def _nan_to_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def dump_json(body: Any) -> str:
    """Return JSON text; NaN is an error."""
    return json.dumps(body, ensure_ascii=False, allow_nan=False)

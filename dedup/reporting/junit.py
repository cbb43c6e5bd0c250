"""Write leaks between splits as JUnit XML, which CI services show as tests."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree as ET

from simile.core.logs import escape_controls
from simile.dedup.records import ThresholdCalibration
from simile.dedup.reporting.dataset_checks import SplitLeak
from simile.dedup.reporting.results import DedupResults

MAX_LISTED_LEAKS = 1_000  # of a test; groups.json has all of them
RECALL_METHOD = (
    "share of altered copies, made of a random sample of the indexed images, that are within the threshold and "
    "confirmed by their pixels; the threshold was chosen on the same copies; the search for candidates "
    "is not part of it"
)


def write_junit(path: Path, results: DedupResults, splits: Sequence[str]) -> None:
    """Write a test for each tier and pair of splits, which fails if there are leaks. Properties have the measures."""
    leaks: defaultdict[tuple[str, str, str], list[SplitLeak]] = defaultdict(list)
    for leak in results.leaks or ():
        leaks[leak.first_split, leak.second_split, leak.pair.tier].append(leak)
    tiers = [tier for tier in results.tiers if tier not in ("series", "similar")]  # these are no copies
    cases = [(first, second, tier) for first, second in combinations(splits, 2) for tier in tiers]
    counts = {"tests": str(len(cases)), "failures": str(len(leaks)), "errors": "0"}
    root = ET.Element("testsuites", {"name": "simile dedup", **counts})
    suite = ET.SubElement(root, "testsuite", {"name": f"leaks between {', '.join(splits)}", **counts})
    properties = ET.SubElement(suite, "properties")
    for name, value in _get_properties(results):
        ET.SubElement(properties, "property", {"name": name, "value": value})
    for first, second, tier in cases:
        case = ET.SubElement(suite, "testcase", {"classname": f"{first} – {second}", "name": f"{tier} copies"})
        if found := leaks.get((first, second, tier)):
            failure = ET.SubElement(case, "failure", {"type": "leak", "message": f"{len(found):,} leaks"})
            failure.text = "\n".join(_describe_leaks(found))
    ET.indent(root)
    ET.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)


def measure_recall(calibration: ThresholdCalibration, threshold: float) -> float | None:
    """Return the recall at a threshold up to that of the calibration; None if it was not measured."""
    if threshold >= calibration.threshold:
        return calibration.reached_recall
    return max((point.recall for point in calibration.curve if point.distance <= threshold), default=None)


def _get_properties(results: DedupResults) -> Iterable[tuple[str, str]]:
    findings = results.findings
    calibration, threshold = findings.calibration, findings.get_effective_threshold(results.threshold)
    yield "encoder", findings.encoder or "none"
    yield "left out files", str(len(findings.left_out))
    if "near" not in results.tiers or calibration is None or threshold is None:
        return
    recall = measure_recall(calibration, threshold)
    yield "threshold", f"{threshold:.4f}"
    yield "recall of near copies", "not measured: run without --threshold" if recall is None else f"{recall:.4f}"
    if recall is not None:
        yield "altered copies", str(calibration.copies)
        yield "recall is", RECALL_METHOD
    if calibration.reached_precision is not None and threshold == calibration.threshold:
        yield "precision of near copies", f"{calibration.reached_precision:.4f}"


def _describe_leaks(leaks: Sequence[SplitLeak]) -> Iterable[str]:
    for leak in leaks[:MAX_LISTED_LEAKS]:
        yield escape_controls(f"{leak.first.path}  =  {leak.second.path}  ({leak.pair.reason})")
    if len(leaks) > MAX_LISTED_LEAKS:
        yield f"… and {len(leaks) - MAX_LISTED_LEAKS:,} more: --output groups.json has them all"

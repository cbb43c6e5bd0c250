"""Report the quality of a collection: how many images have each issue, the worst of them, and unreadable files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simile.core.errors import BadSetting
from simile.core.records import Failure
from simile.images.sources.sources import is_path_missing
from simile.search.searcher import Searcher
from simile.store.quality.issues import ISSUES


@dataclass(frozen=True, kw_only=True)
class QualityExample:
    """An image with an issue; `value`: of its measure."""

    image_id: int
    path: str
    width: int
    height: int
    value: float | str


@dataclass(frozen=True, kw_only=True)
class IssueReport:
    """The images with an issue.

    Attributes:
        measure: The value that is compared.
        low, high: Values below the one or above the other have the issue; None: no such limit.
        count: How many images have it.
        examples: The worst of them first.
    """

    issue: str
    description: str
    measure: str
    low: float | None
    high: float | None
    count: int
    examples: list[QualityExample]

    def describe_limits(self) -> str:
        """Describe the limits: sharpness below 0.42. Empty without limits."""
        limits = {"below": self.low, "above": self.high}
        texts = [
            f"{name} {limit:,.0f}" if limit >= 1000 else f"{name} {limit:.3g}"
            for name, limit in limits.items()
            if limit is not None
        ]
        return f"{self.measure} {' or '.join(texts)}" if texts else ""


@dataclass(frozen=True, kw_only=True)
class QualityReport:
    """The quality of a collection.

    Attributes:
        images: Images in the collection; `measured`: those with a known quality.
        unreadable: Files that the last indexing of their folder could not read, such as truncated ones.
    """

    images: int
    measured: int
    issues: list[IssueReport]
    unreadable: list[Failure]


def make_quality_report(searcher: Searcher, *, count: int, issue: str | None = None) -> QualityReport:
    """Count the images with each issue, or with one, and list the `count` worst.

    Raises BadSetting if there is no such issue.
    """
    check_issue(issue)
    quality = searcher.catalogue.quality
    limits, counts = quality.get_limits(), quality.count_issues()
    issues = [
        IssueReport(
            issue=name,
            description=ISSUES[name].description,
            measure=ISSUES[name].measure,
            low=limits[name].low if name in limits else None,
            high=limits[name].high if name in limits else None,
            count=counts[name],
            examples=find_examples(searcher, name, count) if counts[name] else [],
        )
        for name in (ISSUES if issue is None else [issue])
    ]
    return QualityReport(
        images=searcher.catalogue.images.count(),
        measured=quality.count(),
        issues=issues,
        unreadable=find_unreadable_files(searcher) if issue is None else [],
    )


def check_issue(issue: str | None) -> None:
    """Raise BadSetting if this is no issue."""
    if issue is not None and issue not in ISSUES:
        raise BadSetting(f"issue can't be {issue!r}. Use {', '.join(ISSUES)}.")


def find_examples(searcher: Searcher, issue: str, count: int | None) -> list[QualityExample]:
    """Return the images with an issue, the worst first."""
    found = searcher.catalogue.quality.find_images(issue, count)
    summaries = searcher.catalogue.images.get_summaries([image.image_id for image in found])
    return [
        QualityExample(
            image_id=image.image_id,
            path=next(iter(summary.paths), ""),
            width=summary.width,
            height=summary.height,
            value=image.value,
        )
        for image in found
        if (summary := summaries.get(image.image_id))  # otherwise it was deleted a moment ago
    ]


def find_unreadable_files(searcher: Searcher) -> list[Failure]:
    """Return the files that exist, and that could not be read when they were indexed last."""
    failures: Sequence[Failure] = searcher.catalogue.runs.get_unreadable_files()
    return [failure for failure in failures if not is_path_missing(failure.path)]

"""The quality of images in the catalogue: measures, limits of issues, and the images that have them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import Connection, Row, delete, func, select

from simile.core.records import ImageQuality
from simile.store.database.tables import ImageQualityRow, ImageRow, LocationRow, QualityLimitRow
from simile.store.database.transactions import Repository, insert_new, insert_rows, split_chunks
from simile.store.quality.expressions import QUALITY_JOIN, get_measure, make_issue_condition, make_severity
from simile.store.quality.issues import ISSUES, IssueLimits

_MEASURES = [field.name for field in fields(ImageQuality)]
_COLUMNS: list[Any] = [getattr(ImageQualityRow, name) for name in _MEASURES]


class IssueImage(NamedTuple):
    """An image with an issue, and the value that shows it."""

    image_id: int
    value: float | str


class QualityRepository(Repository):
    """Queries and updates of the quality of images."""

    def get_for_images(self, image_ids: Iterable[int]) -> dict[int, ImageQuality]:
        """Return the quality of these images by id; images that were not measured are left out."""
        query = select(ImageQualityRow.image_id, *_COLUMNS)
        rows = self.read_in_chunks(query, ImageQualityRow.image_id, image_ids)
        return {image_id: ImageQuality(**dict(zip(_MEASURES, values, strict=True))) for image_id, *values in rows}

    def get_issues(self, image_id: int) -> list[str]:
        """Return the names of the issues of an image."""
        is_issue = [make_issue_condition(name) for name in ISSUES]
        query = select(*is_issue).select_from(ImageRow).join(ImageQualityRow, QUALITY_JOIN)
        with self.database.begin_query() as connection:
            row = connection.execute(query.where(ImageRow.id == image_id)).one_or_none()
        return [name for name, has_issue in zip(ISSUES, row or (), strict=False) if has_issue]

    def set_for_images(self, quality_by_image: Mapping[int, ImageQuality]) -> None:
        """Store the quality of images that have none. Unknown ids are ignored."""
        with self.database.begin_write() as (connection, _):
            known: set[int] = set()
            for chunk in split_chunks(quality_by_image):
                known.update(connection.scalars(select(ImageRow.id).where(ImageRow.id.in_(chunk))))
            write_quality(connection, {image_id: quality_by_image[image_id] for image_id in known})

    def count(self) -> int:
        """Return how many images were measured."""
        return self.read_value(select(func.count()).select_from(ImageQualityRow))

    def iterate_unmeasured(self) -> Iterator[Row[int, str, str]]:
        """Yield image id, SHA-256 and path of the files of images that were not measured, by id and path."""
        query = select(ImageRow.id, ImageRow.sha256, LocationRow.path)
        query = query.join(LocationRow, LocationRow.image_id == ImageRow.id).outerjoin(ImageQualityRow, QUALITY_JOIN)
        unmeasured = query.where(ImageQualityRow.image_id.is_(None))
        return self.stream(unmeasured.order_by(ImageRow.id, LocationRow.path))

    def iterate_measured(self) -> Iterator[tuple[int, ImageQuality]]:
        """Yield id and quality of all images that were measured, by id."""
        query = select(ImageQualityRow.image_id, *_COLUMNS).order_by(ImageQualityRow.image_id)
        for image_id, *values in self.stream(query):
            yield image_id, ImageQuality(**dict(zip(_MEASURES, values, strict=True)))

    def update_limits(self) -> None:
        """Compute the limits of the issues from all images that were measured."""
        numeric = {name: issue for name, issue in ISSUES.items() if issue.text is None}
        measures = sorted({issue.measure for issue in numeric.values()})
        query = select(*map(get_measure, measures)).join_from(ImageRow, ImageQualityRow, QUALITY_JOIN)
        with self.database.begin_write() as (connection, _):
            rows = [tuple(row) for row in connection.execute(query)]
            values = np.array(rows, np.float64).reshape(len(rows), len(measures))
            limits = {
                name: issue.compute_limits(values[:, measures.index(issue.measure)]) for name, issue in numeric.items()
            }
            connection.execute(delete(QualityLimitRow))
            insert_rows(connection, QualityLimitRow, [{"issue": name, **of._asdict()} for name, of in limits.items()])

    def get_limits(self) -> dict[str, IssueLimits]:
        """Return the limits of the issues by name; empty if no image was measured."""
        rows = self.stream(select(QualityLimitRow.issue, QualityLimitRow.low, QualityLimitRow.high))
        return {issue: IssueLimits(low, high) for issue, low, high in rows}

    def count_issues(self) -> dict[str, int]:
        """Return how many images have each issue."""
        counts = [func.count().filter(make_issue_condition(name)) for name in ISSUES]
        with self.database.begin_query() as connection:
            row = connection.execute(select(*counts).join_from(ImageRow, ImageQualityRow, QUALITY_JOIN)).one()
        return dict(zip(ISSUES, row, strict=True))

    def find_images(self, issue: str, limit: int | None = None) -> list[IssueImage]:
        """Return the images with an issue, the worst first, at most `limit`."""
        query = select(ImageRow.id.label("image_id"), get_measure(ISSUES[issue].measure).label("value"))
        query = query.join(ImageQualityRow, QUALITY_JOIN).where(make_issue_condition(issue))
        return self.read_all(IssueImage, query.order_by(make_severity(issue).desc(), ImageRow.id).limit(limit))


def write_quality(connection: Connection, quality_by_image: Mapping[int, ImageQuality]) -> None:
    """Store the quality of images that have none."""
    rows = [{"image_id": image_id, **vars(quality)} for image_id, quality in quality_by_image.items()]
    for chunk in split_chunks(rows):
        list(insert_new(connection, ImageQualityRow, chunk, [ImageQualityRow.image_id]))

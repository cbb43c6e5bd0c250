"""Issues of images as SQL: their values, conditions and severity."""

from __future__ import annotations

from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Double, case, cast, or_, select

from simile.store.database.tables import ImageQualityRow, ImageRow, QualityLimitRow
from simile.store.quality.issues import ISSUES

QUALITY_JOIN = ImageQualityRow.image_id == ImageRow.id
_WIDTH, _HEIGHT = cast(ImageRow.width, Double), cast(ImageRow.height, Double)
_IMAGE_MEASURES: dict[str, ColumnElement[Any]] = {
    "pixels": _WIDTH * _HEIGHT,
    "aspect": case((_WIDTH >= _HEIGHT, _WIDTH / _HEIGHT), else_=_HEIGHT / _WIDTH),
}


def get_measure(name: str) -> Any:
    """Return the SQL expression of a measure of `Issue.measure`, on images joined with their quality."""
    return _IMAGE_MEASURES[name] if name in _IMAGE_MEASURES else getattr(ImageQualityRow, name)


@cache
def make_issue_condition(name: str) -> ColumnElement[bool]:
    """Return the condition that an image has an issue, on images joined with their quality. NULL counts as false."""
    issue, value = ISSUES[name], get_measure(ISSUES[name].measure)
    if issue.text is not None:
        condition: ColumnElement[bool] = value == issue.text
        return condition
    low, high = _get_limits(name)
    return or_(*([value < low] if issue.low else []), *([value > high] if issue.high else []))


def make_severity(name: str) -> ColumnElement[float]:
    """Return how many times beyond its limit the value of an image with the issue is."""
    value = get_measure(ISSUES[name].measure)
    if ISSUES[name].text is not None:
        return cast(1, Double)
    low, high = _get_limits(name)
    return case((value < low, low / (value + 1e-6)), else_=value / high)


def _get_limits(name: str) -> tuple[Any, Any]:
    """Return the stored limits of an issue as scalar queries."""
    columns = QualityLimitRow.low, QualityLimitRow.high
    low, high = (select(column).where(QualityLimitRow.issue == name).scalar_subquery() for column in columns)
    return low, high

"""Series: their shots without copies, and the best shot: the sharpest, unless too much of it is black or white.

Sharpness is the detail that `simile dedup` measures of every copy and shot, relative to the contrast of the image
(images/quality/detail.py), so that a brighter or darker shot is not sharper. Shots of one camera have one size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from simile.dedup.grouping.matches import MatchGraph, make_greedy_stars
from simile.dedup.records import ImageFile, ImagePair

CLIPPED_WEIGHT = 2.0  # a shot with 1 % of its pixels clipped counts as 2 % less sharp
MIN_MENTIONED_SHARE = 0.01  # of clipped pixels


def match_shots(
    pairs: Iterable[ImagePair],
    decisions: Iterable[tuple[int, int, bool, int | None]],
    replaced_by: Mapping[int, int],
    near_matches: MatchGraph,
    keep_order: Mapping[int, int],
) -> MatchGraph:
    """Collect the pairs of series. Of copies of one shot, only the image that is kept counts.

    Args:
        decisions: As for MatchGraph.
        replaced_by: For images that a pixel group does not keep, the image that it keeps.
        keep_order: The rank of each image by the keep rules.
    """
    pairs = [pair for pair in pairs if pair.tier == "series"]
    stars = make_greedy_stars(near_matches, keep_order) if pairs else []
    near_best = {other_id: star.kept_id for star in stars for other_id in star.other_ids}
    replaced_by = near_best | {other: near_best.get(best, best) for other, best in replaced_by.items()}
    matches = MatchGraph(decisions, replaced_by)
    for pair in pairs:
        first, second = replaced_by.get(pair.first, pair.first), replaced_by.get(pair.second, pair.second)
        if first != second and not matches.is_decided_different(first, second):
            matches.add_pair(pair, first, second)
    return matches


def compute_shot_score(file: ImageFile) -> float:
    """Return how good a shot is; the best shot of a series has the highest score. 0 if it was not measured."""
    clipped = file.measurement.clipped if file.measurement else 0.0
    return _measure_sharpness(file) * (1 - CLIPPED_WEIGHT * clipped)


def explain_shot(file: ImageFile, series: Iterable[ImageFile]) -> str:
    """Describe the quality of a shot, compared with all shots of its series."""
    sharpness, others = _measure_sharpness(file), [_measure_sharpness(shot) for shot in series]
    if file.measurement is None or not sharpness:
        return "its sharpness is not known"
    share = sharpness / max(others)
    text = f"sharpest of {len(others)}" if share == 1 else f"{share:.0%} as sharp as the sharpest"
    clipped = file.measurement.clipped
    return text + (f"; {clipped:.0%} of it is black or white" if clipped >= MIN_MENTIONED_SHARE else "")


def _measure_sharpness(file: ImageFile) -> float:
    return sum(file.measurement.detail) if file.measurement else 0.0

"""Where a reader of the page of copies is: which list, which group, which pair; and how to take an answer back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, Field

from simile.dedup.records import Tier
from simile.dedup.review import DuplicateReview, ReviewCase, ReviewQuestion
from simile.service import urls
from simile.service.state.review_cache import TierSelection, make_tier_selection

MAX_UNDO_LENGTH = 16_000  # characters of an address: some 800 pairs

_UNDO_PATTERN = re.compile(r"(\d{1,19})-(\d{1,19})-(same|different|open)(?:-(\d{1,19}))?")


class ReviewPageParams(BaseModel):
    """What the page's address says. `pair`: which member of the group, counted from 1; 0 is the first to be decided."""

    tier: list[Tier] = Field([], max_length=8)
    threshold: float | None = Field(None, ge=0, le=1e18, allow_inf_nan=False)
    show: Literal["open", "decided", "all"] = "open"
    group: str = Field("", max_length=64)
    pair: int = Field(0, ge=0, le=10**9)
    undo: str = Field("", max_length=MAX_UNDO_LENGTH)
    back: str = Field("", max_length=100)

    @property
    def selection(self) -> TierSelection:
        return make_tier_selection(self.tier, self.threshold)

    @property
    def state(self) -> str:
        """Same bytes are never to be decided: alone, all of them are shown."""
        return "all" if self.tier == ["bytes"] else self.show

    def make_url(self, **changes: object) -> str:
        """The page's address with something else in it. `undo` is of one answer only."""
        usual = {"tier": self.tier, "threshold": self.threshold, "show": None if self.show == "open" else self.show}
        return urls.duplicates_page(**(usual | changes))


def filter_cases(review: DuplicateReview, params: ReviewPageParams) -> list[ReviewCase]:
    """The cases that the address asks for, by how things stood when the list was made: it keeps its order."""
    wanted = {"open": (False,), "decided": (True,), "all": (True, False)}[params.state]
    return [case for case in review.cases if case.decided in wanted and (case.tier != "bytes" or params.state == "all")]


def find_case_index(review: DuplicateReview, cases: Sequence[ReviewCase], params: ReviewPageParams) -> int | None:
    """Which case of the list is shown: the one that was asked for, or the first that waits for an answer."""
    for at, case in enumerate(cases):
        if case.id == params.group:
            return at
    first = next((at for at, case in enumerate(cases) if review.is_open(case)), None)
    return first if params.state == "open" or first is not None else (0 if cases else None)


def find_question(review: DuplicateReview, case: ReviewCase, pair: int) -> ReviewQuestion:
    """The pair of that member, or the first that waits for an answer."""
    questions = review.get_questions(case)
    asked = next((question for question in questions if question.position == pair), None)
    return asked or next((question for question in questions if question.is_open), questions[0])


def parse_undo(text: str) -> list[tuple[int, int, bool | None, int | None]]:
    """(first, second, same, keep) as it was before an answer, of each pair that it changed."""
    parts = [_UNDO_PATTERN.fullmatch(part) for part in text.split(",")]
    said = {"same": True, "different": False, "open": None}
    return [(int(one[1]), int(one[2]), said[one[3]], int(one[4]) if one[4] else None) for one in parts if one]


def format_undo(questions: Sequence[ReviewQuestion]) -> str:
    """How things are with these pairs, for `parse_undo`; "" where they are too many for an address."""
    text = ",".join(_format_undo_entry(question) for question in questions)
    return text if len(text) <= MAX_UNDO_LENGTH else ""


def _format_undo_entry(question: ReviewQuestion) -> str:
    said, ids = question.decision, f"{question.kept_file.image_id}-{question.other_file.image_id}"
    if said is None:
        return f"{ids}-open"
    if not said.same:
        return f"{ids}-different"
    kept = next((file for file in (question.kept_file, question.other_file) if file.sha256 == said.keep_sha256), None)
    return f"{ids}-same" + (f"-{kept.image_id}" if kept else "")

"""The state of the review page in its URL: list, group, pair, and how to undo a decision."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from simile.dedup.records import DuplicateGroup, Tier
from simile.dedup.review import DuplicateReview, ReviewQuestion
from simile.service import urls
from simile.service.schemas.duplicates import DecisionRequest
from simile.service.schemas.search import DistanceParam
from simile.service.state.review_cache import TierSelection, make_tier_selection
from simile.service.web.query_params import PageParams, validate_fields

MAX_UNDO_LENGTH = 16_000  # characters of a URL: about 800 pairs
ANSWERS = {"same": True, "swap": True, "different": False, "open": None}  # whether the two are the same; None: unknown

_UNDO_PATTERN = re.compile(
    r"(?P<first>\d{1,19})-(?P<second>\d{1,19})-(?P<same>same|different|open)(?:-(?P<keep>\d{1,19}))?"
)


class ReviewPageParams(PageParams):
    """Parameters of the review page. `pair`: member of the group, counted from 1; 0 is the first undecided one."""

    make_page_url = staticmethod(urls.duplicates_page)
    own_fields = frozenset({"group", "pair", "undo", "back"})

    tier: list[Tier] = Field([], max_length=8)
    threshold: DistanceParam = None
    show: Literal["open", "decided", "all"] = "open"
    group: str = Field("", max_length=64)
    pair: int = Field(0, ge=0, le=10**9)
    undo: str = Field("", max_length=MAX_UNDO_LENGTH)
    back: str = Field("", max_length=100)

    @property
    def selection(self) -> TierSelection:
        """The tiers and the threshold of the list."""
        return make_tier_selection(self.tier, self.threshold)

    @property
    def state(self) -> str:
        """Exact duplicates need no review, so the tier `bytes` alone lists every group."""
        return "all" if self.tier == ["bytes"] else self.show


def filter_cases(review: DuplicateReview, params: ReviewPageParams) -> list[DuplicateGroup]:
    """Return the groups that match the parameters, as of the time when the list was made, so that its order stays."""
    states = {"open": (False,), "decided": (True,), "all": (True, False)}[params.state]
    return [case for case in review.cases if case.decided in states and (case.tier != "bytes" or params.state == "all")]


def find_case_index(review: DuplicateReview, cases: Sequence[DuplicateGroup], params: ReviewPageParams) -> int | None:
    """Return the index of the requested group, or of the first undecided one."""
    for at, case in enumerate(cases):
        if case.id == params.group:
            return at
    first = next((at for at, case in enumerate(cases) if review.is_open(case)), None)
    return first if params.state == "open" or first is not None else (0 if cases else None)


def find_question(review: DuplicateReview, case: DuplicateGroup, pair: int) -> ReviewQuestion:
    """Return the requested pair of a group, or the first undecided one."""
    questions = review.get_questions(case)
    requested = next((question for question in questions if question.position == pair), None)
    return requested or next((question for question in questions if question.is_open), questions[0])


def make_decision(fields: dict[str, Any], answer: str) -> DecisionRequest:
    """Return the decision for an answer about the images `first` and `second`. Raises RequestValidationError."""
    return validate_fields(DecisionRequest, fields | {"same": ANSWERS[answer]})


def parse_undo(text: str) -> list[DecisionRequest]:
    """Parse the state before a decision, of each pair that it changed."""
    parts = [_UNDO_PATTERN.fullmatch(part) for part in text.split(",")]
    return [make_decision(part.groupdict(), part["same"]) for part in parts if part]


def format_undo(questions: Sequence[ReviewQuestion]) -> str:
    """Format the state of pairs for `parse_undo`; "" if there are too many for a URL."""
    text = ",".join(_format_undo_entry(question) for question in questions)
    return text if len(text) <= MAX_UNDO_LENGTH else ""


def _format_undo_entry(question: ReviewQuestion) -> str:
    previous, ids = question.decision, f"{question.kept_file.image_id}-{question.other_file.image_id}"
    if previous is None or not previous.same:
        return f"{ids}-{'open' if previous is None else 'different'}"
    two = question.kept_file, question.other_file
    kept = next((file for file in two if file.sha256 == previous.keep_sha256), None)
    return f"{ids}-same" + (f"-{kept.image_id}" if kept else "")

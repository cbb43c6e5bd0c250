"""Searches from a place that is pushed along attributes: like this, but smiling."""

from __future__ import annotations

from collections.abc import Sequence

from core.errors import BadSetting
from explore.mixing import pushed
from search.questions import Asked, Question
from search.searcher import Searcher


def pushed_question(
    searcher: Searcher, question: Question, plus: Sequence[str], minus: Sequence[str], strength: float
) -> Question:
    """The same search from where there is more of some attributes and less of others.

    It asks with a vector then, so the pictures that were asked with may be among the hits.
    Raises BadSetting for an attribute that isn't there, and what the question itself would raise.
    """
    if not (plus or minus):
        return question
    both = set(plus) & set(minus)
    if both:
        raise BadSetting(f"{', '.join(sorted(both))} can't be both more and less. Name it in plus or in minus.")
    base = searcher.ask(Question(question.positives, question.negatives, Asked(limit=0, error=False))).query.mu
    wanted = dict.fromkeys(plus, strength) | dict.fromkeys(minus, -strength)
    return Question((pushed(searcher, base, wanted),), asked=question.asked)

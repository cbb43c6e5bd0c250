"""Searches from a place that is pushed along attributes: like this, but smiling. One rule for every door."""

from __future__ import annotations

from collections.abc import Sequence

from core.errors import BadSetting
from explore.mixing import pushed
from search.questions import Asked, Question
from search.searcher import Searcher


def pushed_question(
    searcher: Searcher, question: Question, plus: Sequence[str], minus: Sequence[str], strength: float
) -> Question:
    """The same search from where there is more of some attributes and less of others, each once though named twice.

    Images that are asked with are no hits, here as elsewhere. Raises BadSetting for an attribute that isn't there or
    stands on both sides, and what the question itself would raise.
    """
    if not (plus or minus):
        return question
    if question.asked.posterior:
        raise BadSetting("posterior compares a picture's own σ: leave it out, or plus and minus.")
    wanted = strengths(plus, minus, strength)
    base = searcher.ask(Question(question.positives, question.negatives, Asked(limit=0, error=False))).query.mu
    return Question((pushed(searcher, base, wanted),), asked=question.asked, hidden=frozenset(question.ids))


def strengths(plus: Sequence[str], minus: Sequence[str], strength: float) -> dict[str, float]:
    """How far each attribute is pushed. Raises BadSetting for one that is to be both more and less."""
    both = sorted(set(plus) & set(minus))
    if both:
        raise BadSetting(f"{', '.join(both)} can't be both more and less. Name it in plus or in minus.")
    return dict.fromkeys(plus, strength) | dict.fromkeys(minus, -strength)

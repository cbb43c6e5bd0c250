"""The words that a text may have."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from simile.search.queries import serialize_word
from simile.search.words.text import suggest_words
from simile.service import urls
from simile.service.dependencies import ComputePoolDep, LimitParam, SearcherDep
from simile.service.openapi.install import document_errors
from simile.service.schemas.search import WordListResponse, WordResponse

router = APIRouter(prefix=f"{urls.API}/words", tags=["search"])

BeginningParam = Annotated[str, Query(max_length=100, description="The beginning of a word or of one of its parts.")]


@router.get("", responses=document_errors(409, 422, 503))
async def list_words(
    searcher: SearcherDep, pool: ComputePoolDep, q: BeginningParam = "", limit: LimitParam = 100
) -> WordListResponse:
    """List the words that `text` of a search may have, learned from tags, labels, keywords and folder names.

    A word is known if at least 10 images have it, and it separates images that it was not learned from.
    """

    def find() -> WordListResponse:
        vocabulary = searcher.get_vocabulary()
        words = [WordResponse(**serialize_word(word)) for word in suggest_words(q, vocabulary)[:limit]]
        any_text = searcher.get_encoder().has_text_tower
        return WordListResponse(words=words, total=len(vocabulary.words), any_text=any_text)

    return await pool.run(find)

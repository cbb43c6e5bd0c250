"""The encoders of a home: which there are, and which one is in use."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Path

from simile.core.errors import NoSuchEncoder
from simile.core.settings import Settings
from simile.indexer.maintenance.encoders import activate_encoder, list_encoders
from simile.models.checkpoints.description import DESCRIPTION_FILE
from simile.search.searcher import Searcher
from simile.service import urls
from simile.service.dependencies import SearcherDep
from simile.service.errors import ProblemException
from simile.service.openapi.install import document_errors
from simile.service.schemas.encoders import (
    ActivateEncoderResponse,
    EncoderDetailResponse,
    EncoderListResponse,
    EncoderResponse,
)

router = APIRouter(prefix=f"{urls.API}/encoders", tags=["encoders"])

FingerprintParam = Annotated[
    str, Path(pattern="^[0-9a-f]{1,64}$", description="The fingerprint of an encoder, or the start of one alone.")
]


@router.get("", responses=document_errors(409, 503))
def show_encoders(searcher: SearcherDep) -> EncoderListResponse:
    """Every encoder of the home, the oldest first."""
    return EncoderListResponse(
        encoders=[EncoderResponse(**_make_encoder_fields(one)) for one in list_encoders(searcher.settings)]
    )


@router.get("/{fingerprint}", responses=document_errors(404, 409, 422, 503))
def show_encoder(fingerprint: FingerprintParam, searcher: SearcherDep) -> EncoderDetailResponse:
    """One encoder, with its architecture, preprocessing, recipe and training."""
    found = _find_encoder(searcher.settings, fingerprint)
    return EncoderDetailResponse(
        **_make_encoder_fields(found), description=_read_description(searcher, found["fingerprint"])
    )


@router.post("/{fingerprint}/activate", responses=document_errors(404, 409, 422, 503))
def activate(fingerprint: FingerprintParam, searcher: SearcherDep) -> ActivateEncoderResponse:
    """Put an encoder in use, with an index of what it has seen, at once for every search that starts afterwards.

    Answers when that is done. 503 `home-busy` while another command holds the home.
    """
    found = _find_encoder(searcher.settings, fingerprint)
    return ActivateEncoderResponse(**activate_encoder(searcher.settings, found["fingerprint"]))


def _find_encoder(settings: Settings, reference: str) -> dict[str, Any]:
    matching = [one for one in list_encoders(settings) if one["fingerprint"].startswith(reference)]
    exact = [one for one in matching if one["fingerprint"] == reference]
    if exact or len(matching) == 1:
        return (exact or matching)[0]
    which = "is the start of several encoders" if matching else "is no encoder of this home"
    detail = f"{reference!r} {which}. {urls.API}/encoders lists them."
    raise ProblemException(404, "no-such-encoder", detail) from NoSuchEncoder(detail)


def _make_encoder_fields(encoder: dict[str, Any]) -> dict[str, Any]:
    return {name: encoder.get(name) for name in EncoderResponse.model_fields} | {"size": encoder["bytes"]}


def _read_description(searcher: Searcher, fingerprint: str) -> dict[str, Any] | None:
    """What the encoder's folder says; None where it can't be read."""
    try:
        text = (searcher.home.encoders / fingerprint / DESCRIPTION_FILE).read_text(encoding="utf-8")
        found = json.loads(text)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None

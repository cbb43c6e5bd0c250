"""The encoders of a home, and which one is active."""

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
    str, Path(pattern="^[0-9a-f]{1,64}$", description="The fingerprint of an encoder, or a unique prefix of it.")
]


@router.get("", responses=document_errors(409, 503))
def show_encoders(searcher: SearcherDep) -> EncoderListResponse:
    """List all encoders of the home, oldest first."""
    encoders = list_encoders(searcher.settings)
    return EncoderListResponse(encoders=[EncoderResponse(**_make_encoder_fields(encoder)) for encoder in encoders])


@router.get("/{fingerprint}", responses=document_errors(404, 409, 422, 503))
def show_encoder(fingerprint: FingerprintParam, searcher: SearcherDep) -> EncoderDetailResponse:
    """Return one encoder with its architecture, preprocessing, recipe and training."""
    encoder = _find_encoder(searcher.settings, fingerprint)
    description = _read_description(searcher, encoder["fingerprint"])
    return EncoderDetailResponse(**_make_encoder_fields(encoder), description=description)


@router.post("/{fingerprint}/activate", responses=document_errors(404, 409, 422, 503))
def activate(fingerprint: FingerprintParam, searcher: SearcherDep) -> ActivateEncoderResponse:
    """Activate an encoder and the index of its vectors for all searches that start afterwards.

    The response is sent after the switch. 503 `home-busy` while another command uses the home.
    """
    encoder = _find_encoder(searcher.settings, fingerprint)
    return ActivateEncoderResponse(**activate_encoder(searcher.settings, encoder["fingerprint"]))


def _find_encoder(settings: Settings, prefix: str) -> dict[str, Any]:
    matches = [encoder for encoder in list_encoders(settings) if encoder["fingerprint"].startswith(prefix)]
    exact = [encoder for encoder in matches if encoder["fingerprint"] == prefix]
    if exact or len(matches) == 1:
        return (exact or matches)[0]
    reason = "is a prefix of several encoders" if matches else "is not an encoder of this home"
    detail = f"{prefix!r} {reason}. {urls.API}/encoders lists them."
    raise ProblemException(404, "no-such-encoder", detail) from NoSuchEncoder(detail)


def _make_encoder_fields(encoder: dict[str, Any]) -> dict[str, Any]:
    return {name: encoder.get(name) for name in EncoderResponse.model_fields} | {"size": encoder["bytes"]}


def _read_description(searcher: Searcher, fingerprint: str) -> dict[str, Any] | None:
    """Read the description in the encoder's folder; None if it cannot be read."""
    try:
        text = (searcher.home.encoders / fingerprint / DESCRIPTION_FILE).read_text(encoding="utf-8")
        description = json.loads(text)
    except (OSError, ValueError):
        return None
    return description if isinstance(description, dict) else None

"""The encoders of a home: which there are, and which one is in use."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Path

from simile.core.errors import NoSuchEncoder
from simile.core.settings import Settings
from simile.indexer.maintenance.encoders import DESCRIPTION, activate_encoder, list_encoders
from simile.search.searcher import Searcher
from simile.service import urls
from simile.service.dependencies import TheSearcher
from simile.service.errors import Refusal
from simile.service.openapi.install import errors
from simile.service.schemas.encoders import ActivatedOut, EncoderDetailOut, EncoderOut, EncodersOut

router = APIRouter(prefix=f"{urls.API}/encoders", tags=["encoders"])

Fingerprint = Annotated[
    str, Path(pattern="^[0-9a-f]{1,64}$", description="The fingerprint of an encoder, or the start of one alone.")
]


@router.get("", responses=errors(409, 503))
def list_all(searcher: TheSearcher) -> EncodersOut:
    """Every encoder of the home, the oldest first."""
    return EncodersOut(encoders=[EncoderOut(**_fields(one)) for one in list_encoders(searcher.settings)])


@router.get("/{fingerprint}", responses=errors(404, 409, 422, 503))
def show(fingerprint: Fingerprint, searcher: TheSearcher) -> EncoderDetailOut:
    """One encoder, with its architecture, preprocessing, recipe and training."""
    found = _find(searcher.settings, fingerprint)
    return EncoderDetailOut(**_fields(found), description=_description(searcher, found["fingerprint"]))


@router.post("/{fingerprint}/activate", responses=errors(404, 409, 422, 503))
def activate(fingerprint: Fingerprint, searcher: TheSearcher) -> ActivatedOut:
    """Put an encoder in use, with an index of what it has seen, at once for every search that starts afterwards.

    Answers when that is done. 503 `home-busy` while another command holds the home.
    """
    found = _find(searcher.settings, fingerprint)
    return ActivatedOut(**activate_encoder(searcher.settings, found["fingerprint"]))


def _find(settings: Settings, reference: str) -> dict[str, Any]:
    matching = [one for one in list_encoders(settings) if one["fingerprint"].startswith(reference)]
    exact = [one for one in matching if one["fingerprint"] == reference]
    if exact or len(matching) == 1:
        return (exact or matching)[0]
    which = "is the start of several encoders" if matching else "is no encoder of this home"
    detail = f"{reference!r} {which}. {urls.API}/encoders lists them."
    raise Refusal(404, "no-such-encoder", detail) from NoSuchEncoder(detail)


def _fields(found: dict[str, Any]) -> dict[str, Any]:
    return {name: found.get(name) for name in EncoderOut.model_fields} | {"size": found["bytes"]}


def _description(searcher: Searcher, fingerprint: str) -> dict[str, Any] | None:
    """What the encoder's folder says; None where it can't be read."""
    try:
        text = (searcher.home.encoders / fingerprint / DESCRIPTION).read_text(encoding="utf-8")
        found = json.loads(text)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None

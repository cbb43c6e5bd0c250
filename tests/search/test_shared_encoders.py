"""Encoders in a store of objects: a host that lacks one, or has a damaged copy, fetches it."""

from __future__ import annotations

import shutil

import pytest

from simile.core.errors import CheckpointDamaged, NoSuchEncoder
from simile.core.settings import Settings
from simile.indexer.maintenance.encoders import list_encoders
from simile.search.encoder_registry import find_encoder, load_encoder, register_encoder
from simile.store.catalogue.catalogue import Catalogue
from simile.store.home import Home
from tests.support.object_store import ObjectServer


@pytest.fixture
def home(trained_home: Settings, object_server: ObjectServer) -> Home:
    """A home with an encoder, which the store has, too."""
    home = Home(trained_home.home, objects_url=object_server.url)
    with Catalogue(home) as catalogue:
        register_encoder(catalogue, load_encoder(home, get_fingerprint(home), "cpu"))
    return home


def get_fingerprint(home: Home) -> str:
    return next(home.encoders.glob("[0-9a-f]*")).name


def test_a_missing_encoder_is_fetched(home: Home, trained_home: Settings, object_server: ObjectServer) -> None:
    fingerprint = get_fingerprint(home)
    files = {path.name for path in (home.encoders / fingerprint).iterdir()}
    shutil.rmtree(home.encoders / fingerprint)
    settings = trained_home.model_copy(update={"objects": object_server.url})
    assert [encoder["fingerprint"] for encoder in list_encoders(settings)] == [fingerprint]
    assert find_encoder(home, fingerprint[:8], "cpu").fingerprint == fingerprint
    assert {path.name for path in (home.encoders / fingerprint).iterdir()} == files


def test_a_damaged_encoder_is_fetched_again(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    fingerprint = get_fingerprint(home)
    weights = home.encoders / fingerprint / "weights.safetensors"
    intact = weights.read_bytes()
    weights.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
    assert load_encoder(home, fingerprint, "cpu").fingerprint == fingerprint
    assert weights.read_bytes() == intact
    assert "Fetching the encoder again" in caplog.text


def test_an_encoder_that_the_store_lacks_or_has_damaged_is_refused(home: Home, object_server: ObjectServer) -> None:
    with pytest.raises(NoSuchEncoder):
        load_encoder(home, "b" * 64, "cpu")
    fingerprint = get_fingerprint(home)
    shutil.rmtree(home.encoders / fingerprint)
    object_server.write(f"encoders/{fingerprint}/weights.safetensors", b"altered")
    with pytest.raises(CheckpointDamaged):
        load_encoder(home, fingerprint, "cpu")

"""An encoder with a text tower: words reach the images of their colour, at the command line and over HTTP."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from simile.core.errors import BadSetting, BadUsage
from simile.core.settings import Settings
from simile.search.encoder_registry import find_encoder
from simile.search.searcher import Searcher
from simile.store.home import Home
from tests.conftest import app_client
from tests.models.external.colour_home import EACH, make_colour_home
from tests.models.external.model_files import COLOURS
from tests.support.commands import run_json, run_simile


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return make_colour_home(tmp_path_factory.mktemp("colours"))


@pytest.fixture
def home(settings: Settings) -> tuple[str, Path]:
    return "--home", settings.home


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    with app_client(settings) as client:
        yield client


def colours(found: dict[str, Any]) -> list[str]:
    return [Path(hit["path"]).name.split("-")[0] for hit in found["hits"]]


@pytest.mark.parametrize("colour", COLOURS)
def test_a_word_finds_the_images_of_its_colour(home: Any, colour: str) -> None:
    found = run_json("search", "--text", colour, "-k", EACH, *home)
    assert colours(found) == [colour] * EACH
    assert found["query"]["text"] == colour and found["query"]["words"] == []
    assert not found["score_calibrated"]


def test_sentences_capitals_several_words_and_a_minus(home: Any) -> None:
    assert colours(run_json("search", "--text", "a very RED thing", "-k", 3, *home)) == ["red"] * 3
    assert colours(run_json("search", "--text", "red blue", "-k", EACH, *home)) == ["purple"] * EACH
    assert colours(run_json("search", "--text", "yellow -red", "-k", EACH, *home)) == ["green"] * EACH
    assert colours(run_json("search", "--text", 'purple -"a very blue thing"', "-k", EACH, *home)) == ["red"] * EACH
    assert "takes any text" in run_simile("words", *home).stderr
    with pytest.raises(BadSetting, match="nothing in it is without a minus"):
        run_simile("search", "--text", "-red", *home)


def test_with_an_image_a_filter_and_a_radius(settings: Settings, home: Any) -> None:
    photos = settings.home.parent / "photos"
    mixed = run_json("search", photos / "red-0.png", "--text", "blue", "-k", EACH, *home)
    assert colours(mixed) == ["purple"] * EACH
    assert [term["name"] for term in mixed["query"]["positives"]] == [str(photos / "red-0.png")]
    narrow = run_json("search", "--text", "blue", "--under", photos / "red-1.png", *home)
    assert colours(narrow) == ["red"]
    near = run_json("search", "--text", "blue", "--within", 0.3, *home)
    assert colours(near) == ["blue"] * EACH and near["hits"][-1]["distance"] <= 0.3
    with pytest.raises(BadUsage):
        run_simile("search", photos / "red-0.png", "--text", "blue", "--verify", *home)


def test_a_zero_shot_attribute_leads_from_one_colour_to_another(settings: Settings, home: Any) -> None:
    learned = run_json("attribute", "learn", "redness", "--text", "red", "--against", "blue", *home)
    assert learned["auc"] == {} and learned["positives"] == 0
    image = settings.home.parent / "photos" / "blue-2.png"
    assert colours(run_json("search", image, "-k", 2, *home)) == ["blue"] * 2
    assert colours(run_json("search", image, "--plus", "redness", "-k", 2, *home)) == ["red"] * 2
    with Searcher(settings) as searcher:  # the ranking direction separates the two
        from simile.explore.latent.aggregate_posterior import load_aggregate_posterior
        from simile.search.attributes import load_attribute

        posterior = load_aggregate_posterior(searcher)
        attribute = load_attribute(searcher.home, posterior.encoder.fingerprint, "redness")
        ranked = posterior.ids[np.argsort(posterior.mu @ attribute.whitened)].tolist()
        names = [Path(searcher.get_image(image_id).paths[0]).name for image_id in ranked]
    assert {name.split("-")[0] for name in names[:EACH]} == {"blue"}
    assert {name.split("-")[0] for name in names[-EACH:]} == {"red"}
    assert "its AUC is not known" in run_simile("attribute", "list", *home).stdout
    with pytest.raises(BadSetting, match="Both texts have the same vector"):
        run_simile("attribute", "learn", "other", "--text", "red", "--against", "RED", *home)
    with pytest.raises(BadUsage, match="--text and --against"):
        run_simile("attribute", "learn", "other", "--text", "red", *home)


def test_over_http(client: TestClient) -> None:
    found = client.post("/v1/search", json={"text": "green", "limit": EACH}).json()
    assert colours(found) == ["green"] * EACH
    image_id = found["hits"][0]["image_id"]
    mixed = client.post("/v1/search", json={"text": "red", "image_id": image_id, "limit": EACH}).json()
    assert colours(mixed) == ["yellow"] * EACH
    by_form = client.post("/v1/search", files={"text": (None, "yellow -red"), "limit": (None, "3")}).json()
    assert colours(by_form) == ["green"] * 3
    assert client.get("/v1/words").json() == {"words": [], "total": 0, "any_text": True}
    assert client.get("/v1/attributes").status_code == client.get("/latent").status_code == 200


def test_an_exported_encoder_keeps_its_text_tower(home: Any, tmp_path: Path, settings: Settings) -> None:
    run_json("encoders", "export", "colours", tmp_path / "exported", *home)
    other = ("--home", tmp_path / "home")
    run_json("index", settings.home.parent / "photos", "--encoder", tmp_path / "exported", *other)
    assert colours(run_json("search", "--text", "red", "-k", EACH, *other)) == ["red"] * EACH


def test_an_encoder_with_a_decoder_over_it_reads_the_same_texts(settings: Settings, tmp_path: Path) -> None:
    home = ("--home", shutil.copytree(settings.home, tmp_path / "home"))
    photos = settings.home.parent / "photos"
    run_json("train", photos, "--decoder-only", "colours", "--epochs", 1, "--image-size", 16, "--width", 8, *home)
    before, after = (find_encoder(Home(tmp_path / "home"), name, "cpu") for name in ("colours", "colours-decoder"))
    assert after.has_decoder and not before.has_decoder
    np.testing.assert_array_equal(after.encode_texts(["red"]), before.encode_texts(["red"]))

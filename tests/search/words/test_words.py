"""Words: learned from tags, labels and folder names, with a held-out AUC, and answered by a calibrated probability."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from simile.core.errors import BadSetting, BadUsage
from simile.core.filters.parser import make_filter
from simile.core.records import PhotoMetadata
from simile.core.settings import Settings
from simile.search.queries import SearchParams, SearchQuery
from simile.search.searcher import Searcher
from simile.search.words.examples import read_tagged_images, split_words
from simile.search.words.fit import compute_auc, fit_logistic_curve
from tests.support.commands import run_json, run_simile

TAGGED = 90  # of the 120 digits: the others have no tags


def read_labels(searcher: Searcher) -> dict[int, bool]:
    """By id, which side of the collection an image is on, along the direction in which the vectors vary most."""
    embeddings = searcher.catalogue.embeddings.get_many(range(1, 121), searcher.get_encoder().fingerprint)
    mu = np.stack([embeddings[image_id].mu for image_id in range(1, 121)])
    position = (mu - mu.mean(0)) @ np.linalg.svd(mu - mu.mean(0))[2][0]
    return dict(enumerate((position > np.median(position)).tolist(), 1))


@pytest.fixture(scope="module")
def tagged_home(shared_home: Settings) -> Settings:
    """With tags for the first 90 images: bright or dark, the side of a coin, and a rare one."""
    random = np.random.default_rng(0)
    with Searcher(shared_home) as searcher:
        for image_id, bright in list(read_labels(searcher).items())[:TAGGED]:
            tags = f"{'Bright' if bright else 'dark'}; {random.choice(['coin', 'side'])}"
            metadata = {"tags": tags, "is-heavy": "yes" if bright else "no"}
            if image_id <= 3:
                metadata["tags"] += "; rare"
            searcher.catalogue.metadata.set_for_image(image_id, metadata)
    return shared_home


@pytest.fixture
def searcher(tagged_home: Settings) -> Iterator[Searcher]:
    with Searcher(tagged_home) as searcher:
        yield searcher


def test_words_of_lists_hierarchies_and_phrases() -> None:
    assert split_words("Red_dress; T-shirt/top|  summer ") == ("red dress", "red", "dress", "t-shirt", "top", "summer")
    assert split_words('["a", "b"]') == ("a", "b")
    assert split_words("not smiling,not-glad") == ("not smiling", "not-glad")
    assert split_words("/photos/Beach 2024") == ("photos", "beach 2024", "beach", "2024")


def test_keywords_of_photos_are_words(home_with_digits: Settings) -> None:
    with Searcher(home_with_digits) as searcher:
        first, second = (searcher.get_image(image_id).paths[0] for image_id in (1, 2))
        photos = {first: PhotoMetadata(keywords=("Red dress", "beach")), second: PhotoMetadata(keywords=("beach",))}
        searcher.catalogue.photo_metadata.set_for_files(photos)
        tagged = read_tagged_images(searcher.catalogue)
    assert {word: sorted(tagged.words[word].positive_ids) for word in ("red dress", "red", "beach")} == {
        "red dress": [1],
        "red": [1],
        "beach": [1, 2],
    }
    assert tagged.get_ids(frozenset(tagged.words["beach"].sources)).tolist() == [1, 2]


def test_a_curve_turns_scores_into_frequencies() -> None:
    random = np.random.default_rng(1)
    scores = random.normal(size=20_000)
    has_word = random.random(20_000) < 1 / (1 + np.exp(-(2 * scores - 3)))
    slope, bias = fit_logistic_curve(scores, has_word)
    assert (slope, bias) == (pytest.approx(2, abs=0.15), pytest.approx(-3, abs=0.15))
    assert fit_logistic_curve(-scores, has_word)[0] == 0  # a direction that is wrong on held-out images
    assert compute_auc(np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, True, False, True])) == 0.875


def test_words_that_separate_images_are_known_and_others_are_not(searcher: Searcher) -> None:
    vocabulary = searcher.get_vocabulary()
    words = {word.text: word for word in vocabulary.words}
    assert {"bright", "dark", "is-heavy"} <= words.keys()
    assert words["bright"].auc > 0.8
    assert words["bright"].count + words["dark"].count == TAGGED  # images without tags are no examples
    assert not {"coin", "side", "rare", "photos"} & words.keys()
    assert "chance is 0.5" in vocabulary.refused["coin"]
    assert "3 images have it" in vocabulary.refused["rare"]


def test_images_without_tags_are_found_by_what_they_show(searcher: Searcher) -> None:
    labels = read_labels(searcher)
    scores = {hit.image_id: hit.score for hit in searcher.by_text("bright", limit=None).hits}
    assert len(scores) == 120
    untagged = [image_id for image_id in scores if image_id > TAGGED]
    is_bright = np.array([labels[image_id] for image_id in untagged])
    assert compute_auc(np.array([scores[image_id] for image_id in untagged]), is_bright) > 0.8
    # The mean probability is about the frequency.
    assert np.mean([scores[image_id] for image_id in untagged]) == pytest.approx(is_bright.mean(), abs=0.15)


def test_two_words_multiply_and_a_minus_is_the_complement(searcher: Searcher) -> None:
    def get_scores(text: str) -> dict[int, float]:
        return {hit.image_id: hit.score for hit in searcher.by_text(text, limit=None).hits}

    bright, dark, both, without = map(get_scores, ("bright", "dark", "bright -dark", "-bright"))
    for image_id, score in both.items():
        assert score == pytest.approx(bright[image_id] * (1 - dark[image_id]), rel=1e-4, abs=1e-9)
        assert without[image_id] == pytest.approx(1 - bright[image_id], rel=1e-4, abs=1e-9)
    result = searcher.by_text("a Bright, -dark")
    assert [(term.word.text, term.is_absent) for term in result.terms] == [("bright", False), ("dark", True)]
    assert result.is_calibrated
    assert [hit.score for hit in result.hits] == sorted((hit.score for hit in result.hits), reverse=True)
    assert [hit.distance for hit in result.hits] == pytest.approx([-np.log(hit.score) for hit in result.hits])


def test_with_an_image_and_a_filter(searcher: Searcher) -> None:
    words = searcher.by_text("bright", limit=None)
    by_id = {hit.image_id: hit.score for hit in words.hits}
    mixed = searcher.search(SearchQuery((5,), params=SearchParams(limit=None), text="bright"))
    nearest = [hit.image_id for hit in searcher.by_id(5, limit=None).hits]
    assert 5 not in {hit.image_id for hit in mixed.hits}
    assert len(mixed.hits) == 119
    for hit in mixed.hits:  # not calibrated: the images that are nearer, the query image among them
        expected = 1 + nearest.index(hit.image_id)
        assert hit.score == pytest.approx(by_id[hit.image_id] / (1 + expected), rel=1e-3, abs=1e-12)
    filtered = searcher.by_text("bright", limit=None, filter=make_filter(where=["is-heavy=no"]))
    assert {hit.image_id for hit in filtered.hits} < set(by_id)
    assert filtered.hits[0].score == by_id[filtered.hits[0].image_id]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("brigth", "The word 'brigth' is not known here. The nearest known words are bright"),
        ("bright velvet", "The word 'velvet' is not known here"),
        ("coin", "The word 'coin' is not offered: its .* look like others"),
        ("rare", "The word 'rare' is not offered: 3 images have it, and at least 10 are needed"),
        ("bright -bright", "'bright' both with and without a minus"),
        (" , ", "Write 1 to 32 words"),
    ],
)
def test_other_words_are_refused_by_name(searcher: Searcher, text: str, message: str) -> None:
    with pytest.raises(BadSetting, match=message):
        searcher.by_text(text)


def test_what_needs_an_image_is_refused(searcher: Searcher) -> None:
    for query in (
        SearchQuery(text="bright", params=SearchParams(radius=1.0)),
        SearchQuery(text="bright", params=SearchParams(verify=True)),
        SearchQuery(text="bright", negatives=(3,)),
        SearchQuery(text="bright", attributes={"smile": 1.0}),
    ):
        with pytest.raises(BadSetting):
            searcher.search(query)


def test_a_change_of_the_tags_is_learned_and_stored(home_with_digits: Settings) -> None:
    with Searcher(home_with_digits) as searcher:
        labels = read_labels(searcher)
        with pytest.raises(BadSetting, match="no word is known here"):
            searcher.by_text("bright")
        for image_id, bright in labels.items():
            searcher.catalogue.metadata.set_for_image(image_id, {"light": "bright" if bright else "dark"})
        assert searcher.by_text("bright").hits
    stored = list(Path(home_with_digits.home).glob("gauges/*-words.npz"))
    assert len(stored) == 1
    written = stored[0].stat().st_mtime_ns
    with Searcher(home_with_digits) as searcher:  # another process reads what this one stored
        assert searcher.by_text("dark").hits
    assert stored[0].stat().st_mtime_ns == written
    stored[0].write_bytes(b"damaged")
    with Searcher(home_with_digits) as searcher:
        assert searcher.by_text("dark").hits


def test_at_the_command_line(tagged_home: Settings, searcher: Searcher) -> None:
    home = ("--home", tagged_home.home)
    assert {word["word"] for word in run_json("words", *home)["words"]} == {"bright", "dark", "is-heavy"}
    assert "coin" in run_json("words", *home)["rejected"]
    assert [word["word"] for word in run_json("words", "bri", *home)["words"]] == ["bright"]
    found = run_json("search", "--text", "bright -dark", "-k", 5, *home)
    assert [hit["image_id"] for hit in found["hits"]] == [
        hit.image_id for hit in searcher.by_text("bright -dark", limit=5).hits
    ]
    assert [(word["word"], word["absent"]) for word in found["query"]["words"]] == [("bright", False), ("dark", True)]
    with pytest.raises(BadSetting, match="The word 'velvet' is not known here"):
        run_simile("search", "--text", "bright velvet", *home)
    done = run_simile("search", "--text", "bright", *home)
    assert re.search(r"scored by bright \(held-out AUC 0\.\d{3}, \d+ images\)", done.stderr)
    with pytest.raises(BadUsage, match="--id or --text"):
        run_simile("search", *home)


@pytest.fixture
def client(tagged_home: Settings) -> Iterator[TestClient]:
    from tests.conftest import app_client

    with app_client(tagged_home) as client:
        yield client


def test_over_http(client: TestClient, searcher: Searcher) -> None:
    expected = [hit.image_id for hit in searcher.by_text("bright -dark", limit=5).hits]
    image = Path(searcher.get_image(5).paths[0])
    for sent in (
        {"json": {"text": "bright -dark", "limit": 5}},
        {"params": {"text": "bright -dark", "limit": 5}},
        {"files": {"text": (None, "bright -dark"), "limit": (None, "5")}},
    ):
        response = client.post("/v1/search", **sent)
        assert response.status_code == 200, response.text
        body = response.json()
        assert [hit["image_id"] for hit in body["hits"]] == expected
        assert (body["query"]["text"], body["score_calibrated"]) == ("bright -dark", True)
    mixed = client.post("/v1/search", json={"text": "bright", "image_id": 5}).json()
    by_file = client.post("/v1/search", files={"file": image.read_bytes()}, data={"text": "bright"}).json()
    assert [hit["image_id"] for hit in mixed["hits"][:3]] == [
        hit["image_id"] for hit in by_file["hits"] if hit["image_id"] != 5
    ][:3]
    refused = client.post("/v1/search", json={"text": "velvet"})
    assert (refused.status_code, refused.json()["type"].rpartition(":")[2]) == (422, "bad-setting")
    assert "'velvet' is not known here" in refused.json()["detail"]
    assert client.post("/v1/search", json={"text": "bright", "image_id": 5, "positive": [6]}).status_code == 422
    batch = client.post("/v1/search/batch", json={"searches": [{"text": "bright"}, {"text": "velvet"}]}).json()
    assert [next(iter(result)) for result in batch["results"]] == ["query", "problem"]
    words = client.get("/v1/words", params={"q": "bri"}).json()
    assert [word["word"] for word in words["words"]] == ["bright"]
    assert words["any_text"] is False and words["total"] == len(searcher.get_vocabulary().words)


def test_the_page_without_scripts(client: TestClient) -> None:
    assert 'name="text"' in client.get("/").text
    page = client.get("/", params={"text": "bright -dark"}).text
    assert "“bright -dark”" in page
    assert "without <b>dark</b>" in page
    refused = client.get("/", params={"text": "velvet"})
    assert refused.status_code == 422
    assert "is not known here" in refused.text
    assert 'value="velvet"' in refused.text

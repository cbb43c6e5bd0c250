"""Like this, but with more or less of something: one rule, whether it is asked at the command line or over HTTP."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from simile.core.errors import BadSetting
from simile.core.settings import Settings
from simile.explore.attributes.directions import AttributeExamples, learn_attribute
from simile.explore.latent.aggregate_posterior import load_aggregate_posterior
from simile.search import attributes
from simile.search.searcher import Searcher
from simile.service.app import create_app
from tests.support.commands import run_json


@pytest.fixture
def home(home_with_digits: Settings) -> Settings:
    """With two attributes: of the second half of the images, and of every other one."""
    with Searcher(home_with_digits) as searcher:
        everything = load_aggregate_posterior(searcher)
        for name, has in (("late", everything.ids > 60), ("odd", everything.ids % 2 == 1)):
            examples = AttributeExamples(everything.mu, has, [str(one) for one in everything.ids.tolist()])
            made = learn_attribute(name, searcher.get_encoder().fingerprint, examples)
            attributes.save_attribute(searcher.home, made)
    return home_with_digits


@pytest.fixture
def client(home: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(home)) as client:
        yield client


@pytest.fixture
def picture(home: Settings) -> Path:
    with Searcher(home) as searcher:
        return Path(searcher.get_image(5).paths[0])


def at_the_command_line(home: Settings, *arguments: str) -> dict[str, Any]:
    return dict(run_json("search", *arguments, "-k", 6, "--home", home.home))


def hits(answer: dict[str, Any]) -> list[tuple[int, float]]:
    return [(hit["image_id"], round(hit["distance"], 4)) for hit in answer["hits"]]


ASKED: list[dict[str, Any]] = [
    {"plus": ["late"]},
    {"minus": ["odd"], "strength": 1.5},
    {"plus": ["late"], "minus": ["odd"], "strength": 0.5},
    {"plus": ["late", "late"], "strength": 0.01},  # named twice is pushed once; hardly moved, 5 is no hit yet
]


@pytest.mark.parametrize("asked", ASKED)
def test_both_doors_find_the_same(home: Settings, client: TestClient, picture: Path, asked: dict[str, Any]) -> None:
    said = [f"--{side}={name}" for side in ("plus", "minus") for name in asked.get(side, [])]
    said.append(f"--strength={asked.get('strength', 1)}")
    by_id = at_the_command_line(home, "--id", "5", *said)
    answers = [
        client.post("/v1/search", json={"image_id": 5, "limit": 6, **asked}),
        client.get("/v1/images/5/neighbours", params={"limit": 6, **asked}),
        client.post("/v1/search/batch", json={"searches": [{"image_id": 5, "limit": 6, **asked}]}),
    ]
    for answer in answers:
        body = answer.json()
        assert hits(body["results"][0] if "results" in body else body) == hits(by_id), answer.url
    assert len(by_id["hits"]) == 6 and 5 not in dict(hits(by_id)) and by_id["query"]["name"] == picture.name
    by_file = at_the_command_line(home, str(picture), *said)
    sent = client.post("/v1/search", params={"limit": 6, **asked}, files={"file": ("a.png", picture.read_bytes())})
    assert hits(sent.json()) == hits(by_file) and (by_file["query"]["width"], by_file["query"]["height"]) == (32, 32)


def test_named_twice_is_pushed_once(home: Settings) -> None:
    once, twice = (at_the_command_line(home, "--id", "5", *said) for said in (["--plus=late"], ["--plus=late"] * 2))
    assert hits(once) == hits(twice)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"plus": ["late", "odd"], "minus": ["odd"]}, "odd can't be in both plus and minus"),
        ({"plus": ["late"], "posterior": True}, "can't be combined with plus and minus"),
        ({"minus": ["nobody"]}, "no attribute nobody (known: late, odd)"),
    ],
)
def test_both_doors_refuse_the_same(home: Settings, client: TestClient, asked: dict[str, Any], said: str) -> None:
    refused = client.post("/v1/search", json={"image_id": 5, **asked})
    assert refused.status_code == 422 and said in refused.json()["detail"]
    options = [f"--{side}={name}" for side in ("plus", "minus") for name in asked.get(side, [])]
    options += ["--posterior"] if "posterior" in asked else []
    with pytest.raises(BadSetting, match=re.escape(said)):
        run_json("search", "--id", 5, *options, "--home", home.home)


def test_several_images_are_pushed_from_the_middle_of_them(home: Settings, client: TestClient) -> None:
    answer = client.post("/v1/search", json={"positive": [5, 70], "plus": ["odd"], "limit": 120}).json()
    assert {5, 70}.isdisjoint(dict(hits(answer))) and len(answer["hits"]) == 118
    with Searcher(home) as searcher:
        middle = np.mean([searcher.by_id(one).query.mu for one in (5, 70)], axis=0)
        mu = attributes.load_attribute(searcher.home, searcher.get_encoder().fingerprint, "odd").shift(middle, 1.0)
        assert [hit.image_id for hit in searcher.by_vector(mu, limit=120).hits if hit.image_id not in (5, 70)] == [
            image_id for image_id, _ in hits(answer)
        ]

"""Filters: parsing, SQL, and their use in the library, the command line and the service."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import insert, select
from starlette.testclient import TestClient

from simile.core.errors import BadSetting
from simile.core.filters.expression import MAX_CONDITIONS, Combination, Condition, Negation, parse_expression
from simile.core.filters.parser import make_filter, parse_datetime
from simile.core.records import FileStat, Filter, PhotoMetadata
from simile.core.settings import Settings
from simile.indexer.pipeline.job import IndexRequest, index
from simile.search.searcher import Searcher
from simile.service.app import create_app
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import NewImage
from simile.store.database.tables import LocationRow, MetadataRow
from simile.store.home import Home
from simile.store.index.index import FILTER_CACHE_SIZE, Index
from tests.support.catalogue import make_new_image
from tests.support.commands import run_json

VAE = "a" * 64
FIRST = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def catalogue(home: Home) -> Iterator[Catalogue]:
    """Ten images, on a line at 1 to 10, of days 1 to 10; the tenth has files in two folders.

    Odd ones are PNGs of 100 x 50 in /photos/odd, even ones JPEGs of 200 x 100 in /photos/even. Image n has n kB.
    """
    with Catalogue(home) as catalogue:
        catalogue.encoders.register(VAE, "first", "vae", dimensions=2)
        catalogue.encoders.activate(VAE)
        catalogue.images.add_batch([new_image(n) for n in range(1, 11)], VAE, "eager")
        catalogue.files.add([(10, FileStat("/photos/odd/copy.jpg", 1, nanoseconds(FIRST)))])
        yield catalogue


def new_image(n: int) -> NewImage:
    side, kind, suffix = (100, "odd", "png") if n % 2 else (200, "even", "jpeg")
    facts = FileStat(f"/photos/{kind}/{n}.{suffix}", n * 1000, nanoseconds(FIRST + timedelta(days=n - 1)))
    return make_new_image(n, [n, 0], file=facts, size=n * 1000, format=suffix, width=side, height=side // 2)


def nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp()) * 10**9


def say(catalogue: Catalogue, path: str, **said: str | float) -> None:
    """Set metadata of a file, as a manifest does."""
    with catalogue.begin_write() as (connection, _):
        location = connection.execute(select(LocationRow.id).where(LocationRow.path == path)).scalar_one()
        for name, value in said.items():
            number = None if isinstance(value, str) else value
            row = {"location_id": location, "name": name, "text": str(value), "number": number}
            connection.execute(insert(MetadataRow).values(row))


def found(catalogue: Catalogue, **words: Any) -> list[int]:
    """Return the ids that match a filter, sorted by the distance of their vectors to 0."""
    only = make_filter(**words)
    assert only is not None
    hits = Index(catalogue).search(np.zeros((1, 2), np.float32), 100, filter=only)[0]
    assert [distance for _, distance in hits] == [float(image_id) for image_id, _ in hits]
    return [image_id for image_id, _ in hits]


def test_sizes_and_formats(catalogue: Catalogue) -> None:
    assert found(catalogue, formats=["PNG"]) == [1, 3, 5, 7, 9]
    assert found(catalogue, formats=["jpg", ".png"]) == list(range(1, 11))
    assert found(catalogue, formats=["gif"]) == []
    assert found(catalogue, min_bytes=3000, max_bytes=5000) == [3, 4, 5]
    assert found(catalogue, min_width=101) == found(catalogue, min_height=51) == [2, 4, 6, 8, 10]
    assert found(catalogue, max_width=100, max_height=50, min_bytes=6000) == [7, 9]


def test_a_folder_matches_its_files_and_no_folder_with_the_same_prefix(catalogue: Catalogue) -> None:
    assert found(catalogue, under="/photos/odd") == [1, 3, 5, 7, 9, 10]
    assert found(catalogue, under="/photos/odd/") == found(catalogue, under="/photos/x/../odd")
    assert found(catalogue, under="/photos/od") == []
    assert found(catalogue, under="/photos/odd/3.png") == [3]
    assert found(catalogue, under="/") == list(range(1, 11))


def test_dates_are_inclusive_and_a_date_without_a_time_is_the_whole_day(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    assert found(catalogue, since="2026-01-03", until="2026-01-05") == [3, 4, 5]
    assert found(catalogue, until="2026-01-03T00:00:00Z") == [1, 2, 3, 10]  # its other file is of the first day
    assert found(catalogue, until="2026-01-03T00:00:00+01:00") == [1, 2, 10]
    assert found(catalogue, since="2026-01-10T00:00:00.000001+00:00") == []


def test_one_file_must_satisfy_all_conditions_on_files(catalogue: Catalogue) -> None:
    assert found(catalogue, under="/photos/odd", until="2026-01-01T12:00:00Z") == [1, 10]
    assert found(catalogue, under="/photos/even", until="2026-01-01T12:00:00Z") == []
    say(catalogue, "/photos/even/10.jpeg", colour="red")
    assert found(catalogue, where=["colour=red"]) == [10]
    assert found(catalogue, where=["colour=red"], under="/photos/odd") == []
    assert found(catalogue, where=["colour=red"], under="/photos/even", formats=["jpeg"]) == [10]
    assert found(catalogue, where=["colour=red"], formats=["png"]) == []


def test_numbers_compare_as_numbers_and_text_as_text(catalogue: Catalogue) -> None:
    for n in range(1, 11):
        kind, suffix = ("odd", "png") if n % 2 else ("even", "jpeg")
        say(catalogue, f"/photos/{kind}/{n}.{suffix}", price=float(n), day=f"2026-01-{n:02}")
    assert found(catalogue, where=["price<10"]) == list(range(1, 10))  # as text, "10" < "9"
    assert found(catalogue, where=["price >= 9"]) == [9, 10]
    assert found(catalogue, where=["price>2", "price<=4"]) == [3, 4]
    assert found(catalogue, where=["price=7"]) == found(catalogue, where=["price = 7.00"]) == [7]
    assert found(catalogue, where=["day>2026-01-08"]) == [9, 10]
    assert found(catalogue, where=["day<=2026-01-02", "price!=2"]) == [1]
    assert found(catalogue, where=["price<cheap"]) == list(range(1, 11))  # "1.0" < "cheap", as words
    assert found(catalogue, where=["price<nan"]) == list(range(1, 11))


def test_unequal_matches_files_without_the_name(catalogue: Catalogue) -> None:
    say(catalogue, "/photos/odd/1.png", label="shirt")
    say(catalogue, "/photos/odd/3.png", label="Shirt")
    assert found(catalogue, where=["label=shirt"]) == [1]
    assert found(catalogue, where=["label!=shirt"]) == list(range(2, 11))
    assert found(catalogue, where=["label!=shirt", "label!=Shirt"], under="/photos/odd") == [5, 7, 9, 10]


def test_values_are_never_run_as_sql(catalogue: Catalogue) -> None:
    for value in ("'; DROP TABLE images; --", "%", "_", "x' OR '1'='1"):
        assert found(catalogue, where=[f"label={value}"]) == []
    assert found(catalogue, under="/photos/%") == []


@pytest.mark.parametrize("kind", ["exact", "ivf"])
@pytest.mark.parametrize("published", [0, 5, 10])
def test_every_image_that_a_filter_allows_is_found(catalogue: Catalogue, kind: str, published: int) -> None:
    """Of 600 more images some are in the segment, some newer, some deleted."""
    more = [new_image(n) for n in range(11, 611)]
    catalogue.images.add_batch(more[: published * 60], VAE, "eager")
    Index(catalogue).publish(kind=kind)
    catalogue.images.add_batch(more[published * 60 :], VAE, "eager")
    catalogue.images.delete(11)
    catalogue.images.delete(600)
    assert found(catalogue, min_bytes=599_000) == [599, *range(601, 611)]
    assert found(catalogue, max_bytes=12_000, formats=["png"]) == [1, 3, 5, 7, 9]
    for count in (1, 2, 5, 50):
        only = make_filter(max_bytes=count * 1000)
        hits = Index(catalogue).search(np.full((1, 2), 1e6, np.float32), 5, filter=only)[0]
        assert len(hits) == min(5, count - (count >= 11))


def test_a_filter_is_evaluated_again_only_after_a_change(catalogue: Catalogue) -> None:
    index, only = Index(catalogue), make_filter(formats=["png"])
    before = index.find_matching_ids(only)
    assert index.find_matching_ids(only) is before
    catalogue.images.add_batch([new_image(11)], VAE, "eager")
    after = index.find_matching_ids(only)
    assert after is index.find_matching_ids(only)
    assert (len(before), len(after)) == (5, 6)
    for n in range(FILTER_CACHE_SIZE):
        index.find_matching_ids(Filter(min_bytes=n))
    assert index.find_matching_ids(only) is not after  # a few are kept, not all


def test_a_range_search_respects_the_filter(catalogue: Catalogue) -> None:
    hits = Index(catalogue).range(np.zeros((1, 2), np.float32), 7, filter=make_filter(formats=["png"]))[0]
    assert hits == [(1, 1.0), (3, 3.0), (5, 5.0), (7, 7.0)]


# Words


def test_conditions_are_parsed() -> None:
    assert parse_expression("class=shirt") == ("class", "=", "shirt")
    assert parse_expression(" price <= 10 ") == ("price", "<=", "10")
    assert parse_expression("a!=b=c") == ("a", "!=", "b=c")
    assert parse_expression("empty=") == ("empty", "=", "")
    for text in ("shirt", "=shirt", "", "   =x", "!x"):
        with pytest.raises(BadSetting, match="where can't be"):
            parse_expression(text)


def test_and_binds_more_tightly_than_or() -> None:
    a, b, c = (Condition(name, "=", "1") for name in "abc")
    assert parse_expression("a=1 or b=1 AND c=1") == Combination("or", (a, Combination("and", (b, c))))
    assert parse_expression("(a=1 or b=1) and not c=1") == Combination("and", (Combination("or", (a, b)), Negation(c)))
    assert parse_expression("a in (1, 2)") == Combination("or", (a, Condition("a", "=", "2")))
    assert parse_expression("a not in (1)") == Negation(a)
    assert parse_expression("exists a or b contains x") == Combination(
        "or", (Condition("a", "exists", ""), Condition("b", "contains", "x"))
    )


def test_a_value_may_hold_keywords_and_parentheses() -> None:
    price = Condition("price", "<", "3")
    assert parse_expression("title=salt and pepper") == ("title", "=", "salt and pepper")
    assert parse_expression("title=salt and pepper and price<3").parts == (("title", "=", "salt and pepper"), price)  # type: ignore[union-attr]
    assert parse_expression("(title=Sunset (2) or price<3)").parts == (("title", "=", "Sunset (2)"), price)  # type: ignore[union-attr]
    assert parse_expression('title="a or b=\\"c\\"" and price<3').parts == (("title", "=", 'a or b="c"'), price)  # type: ignore[union-attr]
    assert parse_expression('"is = odd"=1') == ("is = odd", "=", "1")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("(a=1", r"a \) is missing"),
        ("a in (b", "write the values of `in`"),
        ("(a=1) b=2", "`and` or `or` is missing"),
        ("not " * 30 + "a=1", "levels of parentheses"),
        ("(" * 4000, "levels of parentheses"),
        (" and ".join(["a=1"] * (MAX_CONDITIONS + 1)), "conditions"),
        (f"a in ({','.join('x' * (MAX_CONDITIONS + 1))})", "conditions"),
        ("a=" + "x" * 4096, "4,098 characters"),
    ],
)
def test_a_wrong_expression_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(BadSetting, match=reason):
        parse_expression(text)


def test_expressions_combine_conditions_on_one_file(catalogue: Catalogue) -> None:
    say(catalogue, "/photos/odd/1.png", label="shirt", price=1)
    say(catalogue, "/photos/odd/3.png", label="Red Dress", price=3)
    say(catalogue, "/photos/even/10.jpeg", label="shirt")
    assert found(catalogue, where=["label=shirt or price>2"]) == [1, 3, 10]
    assert found(catalogue, where=["(label=shirt or price>2) and not exists price"]) == [10]
    assert found(catalogue, where=["label in (shirt, x)"]) == [1, 10]
    assert found(catalogue, where=["label contains DRESS"]) == [3]
    assert found(catalogue, where=["label not in (shirt) and width<101"]) == [3, 5, 7, 9]
    assert found(catalogue, where=["not (label=shirt or label contains dress)", "path contains /odd/"]) == [5, 7, 9, 10]
    assert found(catalogue, where=["label contains %"]) == found(catalogue, where=["label contains _"]) == []
    many = " or ".join(f"a{n}=1" for n in range(MAX_CONDITIONS - 1))
    assert found(catalogue, where=[f"label=shirt or {many}"]) == [1, 10]


def test_fields_of_every_image_are_conditions(catalogue: Catalogue) -> None:
    assert found(catalogue, where=["format=png and bytes>=5000"]) == [5, 7, 9]
    assert found(catalogue, where=["height=50 or bytes<=2000"]) == [1, 2, 3, 5, 7, 9]
    assert found(catalogue, where=["width=wide"]) == []
    assert found(catalogue, where=["modified<2026-01-03"]) == [1, 2, 10]
    assert found(catalogue, where=["modified=2026"]) == list(range(1, 11))
    say(catalogue, "/photos/odd/3.png", width=7)
    assert found(catalogue, where=["width=7"]) == [3]  # what a user says about a file overrides the field
    assert found(catalogue, where=["width=100"]) == [1, 5, 7, 9]


PHOTOS = {
    "/photos/odd/1.png": PhotoMetadata(
        taken=datetime(2024, 5, 31, 23, 59), camera="NIKON D850", rating=4, latitude=52.5, longitude=13.4,
        keywords=("cat", "dog"),
    ),
    "/photos/odd/3.png": PhotoMetadata(
        taken=datetime(2024, 6, 1), camera="Canon EOS", rating=-1, latitude=52.55, longitude=13.4, keywords=("cat",)
    ),
    "/photos/odd/5.png": PhotoMetadata(taken=datetime(2023, 1, 1), latitude=-52.5, longitude=-179.99),
}  # fmt: skip


def test_photo_metadata_are_conditions(catalogue: Catalogue) -> None:
    catalogue.photo_metadata.set_for_files(PHOTOS)
    assert found(catalogue, taken="2024-05") == found(catalogue, taken="2024-05-31..2024-05-31") == [1]
    assert found(catalogue, taken="2024-05..2024-06") == found(catalogue, taken="2024") == [1, 3]
    assert found(catalogue, where=["taken<2024"]) == [5]
    assert found(catalogue, camera="nikon") == [1]
    assert found(catalogue, rating=">=3") == [1]
    assert found(catalogue, rating="-1") == [3]
    assert found(catalogue, keyword=["cat"]) == [1, 3]
    assert found(catalogue, keyword=["cat", "dog"]) == [1]
    assert found(catalogue, where=["exists keyword or exists camera"]) == [1, 3]
    assert found(catalogue, near="52.5,13.4,1km") == found(catalogue, near="52.5, 13.4, 900 m") == [1]
    assert found(catalogue, near="52.5,13.4,5.5km") == [1]  # 0.05 degrees of latitude are 5.56 km
    assert found(catalogue, near="52.5,13.4,5.6km") == [1, 3]
    assert found(catalogue, near="-52.5,179.99,2km") == [5]  # across the 180th meridian
    assert found(catalogue, where=["rating>3 or place near -52.5,179.99,2km"]) == [1, 5]
    assert found(catalogue, near="0,0,99999km") == [1, 3, 5]
    assert found(catalogue, where=["not rating>=3"], camera="canon") == [3]


@pytest.mark.parametrize(
    "options",
    [
        {"taken": "May"},
        {"taken": "2024-13"},
        {"taken": "2024.."},
        {"rating": "good"},
        {"near": "52.5,13.4"},
        {"near": "95,13.4,1km"},
    ],
)
def test_a_wrong_option_about_photos_is_refused_by_name(options: dict[str, str]) -> None:
    with pytest.raises(BadSetting, match=f"{next(iter(options))} can't be"):
        make_filter(**options)  # type: ignore[arg-type]


def test_times_are_parsed() -> None:
    assert parse_datetime("2026-01-31T18:00:00+02:00", "since") == datetime(
        2026, 1, 31, 18, tzinfo=timezone(timedelta(hours=2))
    )
    assert parse_datetime("2026-01-31", "since").tzinfo is not None
    assert parse_datetime("20260131", "until", end_of_day=True) - parse_datetime("2026-01-31", "since") == timedelta(
        days=1, microseconds=-1
    )
    for text in ("yesterday", "2026-13-01", "", "0001-01-01", "9999-12-31T23:59"):
        try:
            assert parse_datetime(text, "since").tzinfo is not None
        except BadSetting as error:
            assert "since can't be" in str(error)


def test_no_options_are_no_filter_and_wrong_ones_are_rejected() -> None:
    assert make_filter() is None
    with pytest.raises(BadSetting, match="starting with /"):
        make_filter(under="photos")
    for asked in ({"under": "/odd\udcff"}, {"where": ["a=\udcff"]}, {"where": ["\udcff=a"]}, {"formats": ["\udcff"]}):
        with pytest.raises(BadSetting, match="UTF-8"):
            make_filter(**asked)  # type: ignore[arg-type]


# The library, the command line and the service


def test_a_searcher_filters_every_kind_of_query(home_with_digits: Settings) -> None:
    with Searcher(home_with_digits) as searcher:
        first = searcher.get_image(1)
        mu = searcher.catalogue.embeddings.get(1, searcher.get_encoder().fingerprint).mu
        only = make_filter(under=str(Path(first.paths[0]).parent), max_bytes=first.size)
        for answer in (
            searcher.by_id(1, limit=200, filter=only),
            searcher.by_vector(mu, limit=200, filter=only),
            searcher.by_file(Path(first.paths[0]), name="q", limit=200, filter=only),
        ):
            assert answer.hits and all(searcher.get_image(hit.image_id).size <= first.size for hit in answer.hits)
        assert searcher.by_id(1, filter=make_filter(under="/nowhere")).hits == []


def test_a_searcher_finds_all_within_a_distance(home_with_digits: Settings) -> None:
    with Searcher(home_with_digits) as searcher:
        whole = searcher.by_id(1, limit=200).hits
        radius = whole[19].distance
        assert searcher.by_id(1, limit=None, radius=radius).hits == whole[:20]
        assert searcher.by_id(1, limit=5, offset=3, radius=radius).hits == whole[3:8]
        assert searcher.by_id(1, limit=None, radius=0).hits == []
        assert searcher.by_id(1, limit=None, radius=1e30).hits == whole
        for bad in (-1.0, float("nan"), float("inf")):
            with pytest.raises(BadSetting, match="within can't be"):
                searcher.by_id(1, radius=bad)


def test_the_command_line_filters_and_limits_the_distance(home_with_digits: Settings) -> None:
    def search(*options: str) -> list[dict[str, Any]]:
        return list(run_json("search", "--id", 1, "--home", home_with_digits.home, *options)["hits"])

    whole = search("-k", "119")
    assert len(whole) == 119 and len(search()) == 10
    folder = str(Path(whole[0]["path"]).parent)
    assert search("--under", folder, "--format", "png", "--min-width", "32", "--where", "class!=x") == whole[:10]
    assert search("--within", str(whole[29]["distance"])) == whole[:30]
    assert search("--within", str(whole[29]["distance"]), "-k", "4") == whole[:4]


def test_a_hit_shows_the_file_in_the_folder_of_the_filter(home_with_digits: Settings, tmp_path: Path) -> None:
    with Searcher(home_with_digits) as searcher:
        before = searcher.by_id(1, limit=1).hits[0]
        copy = shutil.copy(before.path, tmp_path / "zz.png")
        index(home_with_digits, [Path(copy)], IndexRequest())
        assert searcher.by_id(1, limit=1).hits[0].path == min(before.path, str(copy))
        for place in (Path(before.path), Path(copy)):
            for under in (place, place.parent):
                assert searcher.by_id(1, limit=1, filter=make_filter(under=str(under))).hits[0].path == str(place)


def test_the_service_filters_by_url_form_and_json(home_with_digits: Settings) -> None:
    with TestClient(create_app(home_with_digits)) as client:

        def search(address: str = "", **body: Any) -> list[int]:
            answer = client.post(f"/v1/search{address}", json={"image_id": 1, "limit": 200, **body})
            assert answer.status_code == 200, answer.text
            return [hit["image_id"] for hit in answer.json()["hits"]]

        whole = search()
        path = client.get(f"/v1/images/{whole[0]}").json()["path"]
        assert search(under=path) == search(f"?under={path}") == whole[:1]
        assert search(format="png") == search("?format=png&format=gif") == search(format=["gif", "png"]) == whole
        assert search(where="class=x") == search("?where=class%3Dx") == []
        assert search(max_bytes=1) == search(since="2999-01-01") == []
        assert search(where=["class!=x", "price!=3"], min_width=1, max_height=64, since="1999-01-01") == whole
        hits = client.post("/v1/search", json={"image_id": 1, "limit": 20}).json()["hits"]
        assert search(within=hits[-1]["distance"]) == whole[:20]
        data = client.get("/v1/images/1/file").content
        fields = {"where": ["class!=x", "price!=3"], "format": ["png", "gif"], "within": "1e9", "limit": "3"}
        form = client.post("/v1/search", files={"file": ("q.png", data)}, data=fields)
        assert [hit["image_id"] for hit in form.json()["hits"]] == [1, *whole[:2]]

        def neighbours(**asked: Any) -> list[int]:
            answer = client.get("/v1/images/1/neighbours", params={"limit": 200, **asked})
            return [hit["image_id"] for hit in answer.json()["hits"]]

        assert neighbours(where=["class!=x", "price!=3"], format="png") == whole
        assert neighbours(under=path) == neighbours(within=hits[0]["distance"]) == whole[:1]
        assert neighbours(where="class=x") == []
        assert client.get("/v1/images/1/neighbours?since=soon").status_code == 422


@pytest.mark.parametrize(
    "body",
    [
        {"where": "shirt"},
        {"under": "photos"},
        {"since": "soon"},
        {"within": -1},
        {"min_bytes": -1},
        {"max_width": 2**63},
    ],
)
def test_a_filter_that_the_service_cannot_parse_is_a_422(home_with_digits: Settings, body: dict[str, Any]) -> None:
    with TestClient(create_app(home_with_digits)) as client:
        answer = client.post("/v1/search", json={"image_id": 1, **body})
        assert answer.status_code == 422
        assert next(iter(body)) in answer.text


@pytest.mark.parametrize("text", ["a=\\ud800", "\\ud800=a", "a=\\u0000", "a<\\u0000"])
def test_text_that_is_not_utf8_is_a_client_error(home_with_digits: Settings, text: str) -> None:
    with TestClient(create_app(home_with_digits)) as client:
        for field in ("where", "under", "since"):
            body = f'{{"image_id": 1, "{field}": "{"/" if field == "under" else ""}{text}"}}'
            answer = client.post("/v1/search", content=body, headers={"content-type": "application/json"})
            assert answer.status_code in (200, 400, 422), answer.text

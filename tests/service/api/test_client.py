"""The client against the real service over a real socket, and against the document."""

from __future__ import annotations

import inspect
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from simile.client import (
    Client,
    ClientError,
    Conflict,
    NotAllowed,
    NotFound,
    Problem,
    Refused,
    TooMuch,
    Unavailable,
    Unreachable,
    responses,
)
from simile.client.transport import Transport
from simile.core.settings import Settings, load_settings
from simile.service.app import create_app
from simile.service.schemas.duplicates import DecisionRequest
from simile.service.schemas.jobs import JobResponse
from simile.service.schemas.latents import LatentResponse
from simile.service.schemas.search import (
    AddImageResponse,
    FilterParams,
    HitResponse,
    ImageDetailResponse,
    ImageListItemResponse,
    ImageListResponse,
    ImageResponse,
    QueryResponse,
    SearchOptions,
    SearchResponse,
)
from simile.store.catalogue.catalogue import Catalogue
from simile.store.home import Home
from tests.support.images import noise
from tests.support.server import listening

SCHEMAS: dict[str, type[BaseModel]] = {
    "ClientFilterOptions": FilterParams,
    "ClientSearchOptions": SearchOptions,
    "QueryJson": QueryResponse,
    "HitJson": HitResponse,
    "SearchResponseJson": SearchResponse,
    "ImageJson": ImageResponse,
    "ImageDetailJson": ImageDetailResponse,
    "ListedImageJson": ImageListItemResponse,
    "AddedImageJson": AddImageResponse,
    "ImagePageJson": ImageListResponse,
    "DecisionJson": DecisionRequest,
    "JobJson": JobResponse,
    "LatentJson": LatentResponse,
}


@pytest.fixture
def client(home_with_digits: Settings, digits: Path) -> Iterator[Client]:
    settings = home_with_digits.model_copy(update={"roots": f"digits={digits}"})
    with listening(settings) as server, Client(f"http://127.0.0.1:{server.port}", timeout=60) as found:
        yield found


def test_the_latent_space_through_the_client(client: Client) -> None:
    place = client.encode_images(noise(1))
    mixed = client.mix([3, place["mu"]], [1, 0], dims={2: 1.5}, nearest=2)
    assert len(mixed["nearest"]) == 2 and mixed["picture"]
    assert len(client.morph([3, place["mu"]], steps=3)["frames"]) == 3
    assert len(client.samples("image", 4, count=2)) == 2 and len(client.samples(count=1)) == 1
    assert [row["dim"] for row in client.traverse(3, [1, 2], steps=2)["dimensions"]] == [1, 2]
    assert client.uncertainty(image_id=3, samples=4)["samples"] == 4
    assert client.uncertainty(noise(1))["log_likelihood"]
    learned = client.learn_attribute("late", range(61, 121), range(1, 61))
    for painted in (client.apply_attribute("late", source=3), client.apply_attribute("late", noise(1), strengths=[0])):
        assert [item["strength"] for item in painted["pictures"]] in ([1.0], [0.0]) and painted["attribute"] == "late"
    assert (
        client.encode_images(noise(1), noise(2), weights=[1, 0], attributes={"late": 0.5}, nearest=1)["mu"]
        != place["mu"]
    )
    assert len(client.morph([3], 3, "spherical", images=[noise(1), noise(2)])["frames"]) == 5
    assert len(client.samples(count=2, image=noise(1))) == 2
    assert client.traverse(dims=[2], steps=3, image=noise(1))["name"] == "image"
    assert client.uncertainty(noise(1), samples=4)["samples"] == 4
    assert client.attributes() == [learned] and client.attribute("late") == learned
    assert client.search(image_id=3, plus=["late"], strength=0.5)["hits"]
    client.remove_attribute("late")
    with pytest.raises(NotFound):
        client.attribute("late")
    assert client.facets("format", where=["width>0"])["facets"][0]["value_count"] == 1
    with pytest.raises(Unavailable):
        client.outliers()


def test_every_operation_has_a_method_and_no_method_asks_for_what_is_not_there(tmp_path: Path) -> None:
    document = create_app(load_settings(home=tmp_path)).openapi()
    there = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    asked = set(re.findall(r'"((?:GET|POST|PUT|DELETE) /[^"]*)"', inspect.getsource(sys.modules[Client.__module__])))
    assert asked == there


def test_the_types_of_the_client_have_the_fields_of_the_schemas() -> None:
    named = {name for name, kind in vars(responses).items() if hasattr(kind, "__total__")}
    assert named == SCHEMAS.keys()
    for name, model in SCHEMAS.items():
        fields = model.model_fields.keys() - ({"distance"} if model is SearchOptions else set())
        assert getattr(responses, name).__annotations__.keys() == fields, name


@pytest.mark.real_processes
def test_the_client_starts_without_a_network_library_beside_simile() -> None:
    heavy = "{'torch', 'numpy', 'pydantic', 'faiss', 'starlette'}"
    code = f"import simile.client, sys; assert not {heavy} & sys.modules.keys(); import simile; simile.Settings"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_simile_has_every_name_that_it_lists_and_no_other() -> None:
    code = "import simile; [getattr(simile, name) for name in simile.__all__]; simile.nothing"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "has no attribute 'nothing'" in done.stderr.splitlines()[-1]


def test_images_are_searched_for_in_every_way(client: Client, digits: Path) -> None:
    first, second = sorted(digits.iterdir())[:2]
    by_file = client.search(first, limit=3, include=["metadata", "reconstruction"])
    assert by_file["hits"][0]["image_id"] == 1 and by_file["hits"][0]["metadata"] == {}
    assert (by_file["query"]["reconstruction"] or "").startswith("data:image/png")
    by_id = client.search(image_id=1, limit=2)
    assert [hit["image_id"] for hit in by_id["hits"]] == [hit["image_id"] for hit in by_file["hits"][1:]]
    assert client.neighbours(1, limit=2)["hits"] == by_id["hits"]
    several = client.search(first, second.read_bytes(), positive=[3], negative_images=[second], negative=[5], limit=4)
    assert [item["image_id"] for item in several["query"]["positives"]] == [None, None, 3]
    assert {3, 5}.isdisjoint(hit["image_id"] for hit in several["hits"])
    assert len(client.search(positive=[1, 2], negative=[3], limit=5)["hits"]) == 5
    assert client.search(vector=[0.0] * 16, within=9.0, limit=1)["query"]["name"] is None
    quick = client.search(first, certainty="quick")
    assert quick["query"]["reconstruction_error"] is None and quick["query"]["sigma"] is not None


def test_a_batch_brings_its_problems_in_their_places(client: Client, digits: Path) -> None:
    first = min(digits.iterdir())
    found = client.search_batch([first, b"no picture", first], limit=2)
    assert not isinstance(found[0], Problem) and found[0]["hits"] == found[2]["hits"]  # type: ignore[index]
    assert isinstance(found[1], Problem) and found[1].kind == "unreadable-image"
    item, other = client.search_batch(searches=[{"image_id": 1}, {"image_id": 4242}], limit=1)
    assert not isinstance(item, Problem) and len(item["hits"]) == 1
    assert isinstance(other, Problem) and other.status == 404
    with pytest.raises(ClientError, match="either"):
        client.search_batch()


def test_the_collection_is_added_to_described_listed_and_shrunk(client: Client) -> None:
    added = client.add_image(noise(1), metadata={"artist": "Ada", "price": 9.5, "note": None})
    assert added["metadata"] == {"artist": "Ada", "price": 9.5}
    assert client.add_image(noise(1))["image_id"] == added["image_id"]
    with pytest.raises(Conflict) as refused:
        client.add_image(noise(1), if_duplicate="reject")
    assert refused.value.kind == "duplicate" and refused.value.extra["duplicates"][0]["image_id"] == added["image_id"]
    assert client.set_metadata(added["image_id"], {"price": 12})["metadata"] == {"price": 12}
    assert client.image(added["image_id"])["sigma"] is not None
    assert [item["image_id"] for item in client.images(where=["price>10"])["images"]] == [added["image_id"]]
    assert len(list(client.iterate_images("newest"))) == 121
    for data in (
        client.file(added["image_id"]),
        client.file(added["image_id"], "keep"),
        client.thumbnail(added["image_id"], 64),
        client.reconstruction(added["image_id"]),
        client.reconstruct(noise(2)),
        client.difference(1, 2),
    ):
        assert data.startswith(b"\x89PNG") or data.startswith(b"\xff\xd8")
    client.delete_image(added["image_id"])
    with pytest.raises(NotFound, match="There is no image"):
        client.image(added["image_id"])


def test_the_rest_of_the_document_works_too(client: Client) -> None:
    assert client.is_alive() and client.is_ready()
    status = client.status()
    assert status["images"] == 120 and (status["index"] or {})["kind"] == "exact" and status["runs"]
    (encoder,) = client.encoders()
    assert client.encoder(encoder["fingerprint"][:6])["description"]["fingerprint"] == encoder["fingerprint"]  # type: ignore[index]
    assert client.activate_encoder(encoder["fingerprint"])["lacking"] == 0
    with pytest.raises(NotFound) as unknown:
        client.encoder("ffff")
    assert unknown.value.kind == "no-such-encoder"
    assert client.duplicates()["groups"] == []
    assert client.save_decisions([{"first": 1, "second": 2, "same": False, "keep": None}]) == {
        "stored": 1,
        "removed": 0,
    }
    assert client.duplicate_plan(include_undecided=True)["removals"] == []
    with pytest.raises(Refused) as wrong:
        client.images(limit=0)
    assert wrong.value.errors[0][0] == "query.limit"


def test_a_job_is_started_followed_and_read(client: Client) -> None:
    assert client.jobs()["roots"] == ["digits"]
    job = client.start_job("digits")
    *_, last = client.job_events(job["id"])
    assert last["status"] == "finished" and client.job(job["id"])["status"] == "finished"
    assert client.job_failures(job["id"])["total"] == 0
    with pytest.raises(Conflict):
        client.cancel_job(job["id"])
    with pytest.raises(NotFound):
        list(client.job_events(4242))


def test_a_key_is_sent_and_its_lack_is_named(home_with_digits: Settings) -> None:
    with Catalogue(Home(home_with_digits.home)) as catalogue:
        key, _ = catalogue.keys.create("test", "search")
    with listening(home_with_digits) as server:
        address = f"http://127.0.0.1:{server.port}/"
        with Client(address) as nobody, pytest.raises(NotAllowed) as refused:
            nobody.status()
        assert refused.value.kind == "key-needed"
        with Client(address, key.text) as reader:
            assert reader.status()["images"] == 120
            with pytest.raises(NotAllowed) as forbidden:
                reader.delete_image(1)
        assert forbidden.value.kind == "missing-scope"


def test_a_home_that_is_empty_is_not_ready(tmp_path: Path) -> None:
    with (
        listening(load_settings(home=tmp_path / "none")) as server,
        Client(f"http://127.0.0.1:{server.port}") as client,
    ):
        assert client.is_alive() and not client.is_ready()
        with pytest.raises(Conflict, match="simile index"):
            client.search(image_id=1)


def test_a_service_that_is_not_there_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(Unreachable, match=str(port)):
        Client(f"http://127.0.0.1:{port}").status()
    with pytest.raises(ClientError, match="not the URL"):
        Client("127.0.0.1:8000")
    with pytest.raises(ClientError, match="cannot be read"):
        Client("http://127.0.0.1:1").search("/nowhere/a.png")


def test_a_connection_that_the_service_closed_is_opened_anew() -> None:
    ready = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 18\r\n\r\n{"status":"alive"}'
    busy = b"HTTP/1.1 503 Busy\r\nRetry-After: 3\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbusy"
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for reply in (ready, ready, busy):
                connection, _ = server.accept()
                with connection:  # closed after one answer, without a word
                    connection.recv(65536)
                    connection.sendall(reply)

        thread = threading.Thread(target=serve)
        thread.start()
        with Client(f"http://127.0.0.1:{server.getsockname()[1]}", timeout=20) as client:
            assert client.is_alive() and client.is_alive()
            with pytest.raises(Unavailable) as later:
                client.status()
        thread.join()
    assert later.value.retry_after == 3.0 and later.value.detail == "busy"


def test_names_of_files_and_odd_responses_break_nothing(client: Client, tmp_path: Path) -> None:
    odd = tmp_path / 'a"; filename="b\r\nX: y.png'
    odd.write_bytes(noise(4))
    response: Any = client.search(odd, limit=1)
    assert "X: y.png" in response["query"]["name"]


# Kept connections that end


class Ending:
    """A service that answers the first request of each connection, and ends the connection in one of two ways.

    when: "idle", right after the answer; "asked", when the next request has been read whole.
    """

    def __init__(self, when: str) -> None:
        self.when, self.asked = when, list[str]()
        self.ended = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as lines:
                self._read(lines)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
                if self.when == "asked":
                    self._read(lines)
            self.ended.set()

    def _read(self, lines: Any) -> None:
        head = list(iter(lines.readline, b"\r\n"))
        if head and head[0]:
            self.asked.append(head[0].split()[0].decode())


@pytest.fixture(params=["idle", "asked"])
def ending(request: pytest.FixtureRequest) -> Iterator[Ending]:
    service = Ending(request.param)
    yield service
    service.close()


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "POST", "PUT"])
def test_only_a_request_that_was_not_sent_or_changes_nothing_is_repeated(ending: Ending, method: str) -> None:
    with Transport(ending.url, None, 30, None) as transport:
        transport.request("GET", "/")
        if ending.when == "idle":
            assert ending.ended.wait(30)
        elif method not in ("GET", "HEAD"):
            with pytest.raises(Unreachable):
                transport.request(method, "/")
            assert ending.asked == ["GET", method]
            return
        assert transport.request(method, "/").status == 200
    assert ending.asked == ["GET", method] + ([method] if ending.when == "asked" else [])


@pytest.mark.parametrize("is_reset", [False, True], ids=["closed", "reset"])
def test_the_response_that_came_before_the_body_was_sent_is_read(is_reset: bool) -> None:
    """The service refuses by the headers; if bytes wait unread when it closes, the system resets the connection."""
    listener = socket.create_server(("127.0.0.1", 0))
    problem = b'{"title": "Content Too Large", "detail": "Send less."}'
    head = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(problem)

    def refuse() -> None:
        connection, _ = listener.accept()
        with connection:
            received = b""
            while b"\r\n\r\n" not in received:
                received += connection.recv(1024)
            connection.sendall(head + problem)
            if not is_reset:
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(1 << 20):
                    pass

    thread = threading.Thread(target=refuse)
    thread.start()
    with listener, Client(f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
        with pytest.raises(TooMuch, match="Send less"):
            client.search(bytes(30_000_000))
        thread.join()


def test_a_file_over_the_limit_is_too_much(home_with_digits: Settings) -> None:
    settings = home_with_digits.model_copy(update={"max_bytes": 100_000})
    with listening(settings) as service, Client(f"http://127.0.0.1:{service.port}") as client:
        for size in (300_000, 40_000_000):
            with pytest.raises(TooMuch, match="SIMILE_MAX_BYTES"):
                client.search(bytes(size))
        assert client.search(image_id=3)["hits"]

"""Indexing jobs: begun, watched, cancelled and lost, with real processes and a real home."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from simile.core.errors import BadSetting, JobRunning
from simile.core.hosts import parse_roots
from simile.core.settings import Settings, load_settings
from simile.service.app import create_app
from simile.service.state.job_manager import MAX_LISTENERS, JobEventBroker, JobManager
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import JobRecord
from simile.store.home import Home
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[3]


@pytest.fixture
def settings(trained_home: Settings, digits: Path) -> Settings:
    """A home with an encoder and nothing indexed; 12 pictures may be indexed by the name `photos`."""
    for path in sorted(digits.iterdir())[12:]:
        path.unlink()
    return trained_home.model_copy(update={"roots": f"photos={digits}", "workers": 1, "batch_size": 16})


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client


def start(client: TestClient, **body: Any) -> dict[str, Any]:
    response = client.post("/v1/jobs", json={"root": "photos"} | body)
    assert response.status_code == 202, response.text
    assert response.headers["location"] == response.json()["url"]
    return dict(response.json())


def ended(client: TestClient, job: dict[str, Any]) -> dict[str, Any]:
    """The job, once it is over."""

    def look() -> dict[str, Any] | None:
        now: dict[str, Any] = client.get(job["url"]).json()
        return now if now["status"] != "running" else None

    return wait_until(look) or {}


def runs(pid: int) -> bool:
    """Whether it is there and no zombie."""
    try:
        return "zombie" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def events_of(text: str) -> list[tuple[str, int, dict[str, Any]]]:
    """Name, id and data of each event in a stream."""
    found = re.findall(r"event: (\w+)\nid: (\d+)\ndata: (.*)\n\n", text)
    return [(name, int(number), json.loads(data)) for name, number, data in found]


# What the operator says


def test_roots_are_named_by_the_operator(tmp_path: Path) -> None:
    assert parse_roots(None) == parse_roots("") == parse_roots(" , ") == {}
    assert parse_roots("photos=s3://bucket/photos") == {"photos": Path("s3://bucket/photos")}
    assert parse_roots("photos=/pictures, old-scans = /scans/2001=a") == {
        "photos": Path("/pictures"),
        "old-scans": Path("/scans/2001=a"),
    }
    assert parse_roots("here=pictures") == {"here": Path.cwd() / "pictures"}


@pytest.mark.parametrize("text", ["/pictures", "photos=", "a/b=/x", "=/x", "photos=/x,photos=/y", "photos=/x,y"])
def test_roots_that_can_t_be_meant_are_refused(text: str) -> None:
    with pytest.raises(BadSetting, match="SIMILE_ROOTS"):
        load_settings(roots=text)


# A job from beginning to end


def test_a_job_indexes_its_folder_and_tells_of_it_until_its_end(client: TestClient) -> None:
    assert client.get("/v1/jobs").json() == {"jobs": [], "roots": ["photos"]}
    job = start(client)
    assert (job["status"], job["root"], job["prune"], job["result"]) == ("running", "photos", False, None)
    events_response = client.get(job["events_url"])
    assert (
        events_response.headers["content-type"].startswith("text/event-stream")
        and events_response.headers["cache-control"] == "no-store"
    )
    events = events_of(events_response.text)
    assert [name for name, _, _ in events] == ["progress"] * (len(events) - 1) + ["end"] and len(events) > 1
    versions = [version for _, version, _ in events]
    assert versions == sorted(set(versions))
    over = client.get(job["url"]).json()
    assert events[-1][2] == over and client.get("/v1/jobs").json()["jobs"] == [over]
    assert over["status"] == "finished" and over["message"] is None and over["finished_at"]
    assert (over["result"]["new"], over["result"]["failed"], over["done"], over["total"]) == (12, 0, 12, 12)
    assert len(client.post("/v1/search", json={"image_id": 1, "limit": 100}).json()["hits"]) == 11


def test_the_next_job_finds_what_changed_and_forgets_what_is_gone_if_asked(client: TestClient, digits: Path) -> None:
    ended(client, start(client))
    sorted(digits.iterdir())[0].unlink()
    assert ended(client, start(client))["result"]["missing"] == 1
    over = ended(client, start(client, prune=True))
    assert over["prune"] and (over["result"]["removed"], over["result"]["unchanged"]) == (1, 11)
    assert [job["id"] for job in client.get("/v1/jobs", params={"limit": 2}).json()["jobs"]] == [3, 2]


def test_files_that_a_job_set_aside_are_listed_in_pages(client: TestClient, digits: Path) -> None:
    for n in range(3):
        (digits / f"broken{n}.png").write_bytes(b"no picture")
    over = ended(client, start(client))
    assert (over["status"], over["failed"]) == ("finished", 3)
    listed = client.get(over["failures_url"], params={"limit": 2, "offset": 1}).json()
    assert [Path(item["path"]).name for item in listed["failures"]] == ["broken1.png", "broken2.png"]
    assert listed["failures"][0]["reason"] and listed["total"] == 3


def test_a_job_that_can_t_be_done_says_why_and_makes_the_home_all_the_same(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path / "home", roots=f"gone={tmp_path / 'gone'}", device="cpu")
    with TestClient(create_app(settings)) as client:
        assert client.get("/v1/jobs").json() == {"jobs": [], "roots": ["gone"]}
        assert client.get("/v1/jobs/1").status_code == 404
        assert not settings.home.exists()
        over = ended(client, start(client, root="gone"))
        assert over["status"] == "failed" and "gone does not exist" in over["message"]
        assert client.get(over["failures_url"]).json() == {"failures": [], "total": 0, "limit": 100, "offset": 0}


@pytest.mark.parametrize("root", ["/etc", "../photos", "Photos", "photos/.."])
def test_a_client_names_no_path(client: TestClient, root: str) -> None:
    response = client.post("/v1/jobs", json={"root": root})
    assert response.status_code == 404 and response.json()["type"].endswith("no-such-root")
    assert "photos" in response.json()["detail"]


def test_jobs_that_are_not_there_are_named(client: TestClient) -> None:
    for method, address in (
        ("GET", "/v1/jobs/7"),
        ("GET", "/v1/jobs/7/failures"),
        ("GET", "/v1/jobs/7/events"),
        ("POST", "/v1/jobs/7/cancel"),
    ):
        response = client.request(method, address)
        assert response.status_code == 404 and response.json()["type"].endswith("no-such-job")
    assert client.post("/v1/jobs", json={"root": "photos", "path": "/etc"}).status_code == 422
    assert client.post("/v1/jobs", json={"root": "photos", "prune": 1}).status_code == 422
    assert client.post("/v1/jobs", data={"root": "photos"}).status_code == 415


# One at a time, cancelled, lost. A home that a command holds keeps a job waiting for as long as a test likes.


def test_one_job_runs_at_a_time_and_any_worker_cancels_it(client: TestClient, settings: Settings) -> None:
    with Home(settings.home).lock("a test"), TestClient(create_app(settings)) as other:
        job = start(client)
        refused = other.post("/v1/jobs", json={"root": "photos"})
        assert refused.status_code == 409 and refused.json()["type"].endswith("job-running")
        assert f"Job {job['id']}" in refused.json()["detail"]
        requested = other.post(job["cancel_url"])
        assert requested.status_code == 202 and requested.json()["cancelling"]
        over = ended(client, job)
        assert over["status"] == "cancelled" and not over["cancelling"] and "stopped" in over["message"]
        again = other.post(job["cancel_url"])
        assert again.status_code == 409 and again.json()["type"].endswith("job-over")


def test_what_a_cancelled_job_stored_is_kept(client: TestClient, settings: Settings, digits: Path) -> None:
    pictures = sorted(digits.iterdir())
    for copy in range(30):  # so many that it can be cancelled half-way
        for path in pictures:
            (digits / f"{copy} {path.name}").write_bytes(path.read_bytes() + bytes([copy]))
    job = start(client)
    wait_until(lambda: client.get(job["url"]).json()["done"])
    client.post(job["cancel_url"])
    over = ended(client, job)
    if over["status"] == "cancelled":  # a fast machine may have been done before
        with Catalogue(Home(settings.home)) as catalogue:
            assert 0 < catalogue.images.count() < 31 * 12
            assert catalogue.runs.get_latest(1)[0].status == "interrupted"
        over = ended(client, start(client))
    assert over["status"] == "finished"
    with Catalogue(Home(settings.home)) as catalogue:
        assert catalogue.images.count() == 31 * 12


def test_a_job_whose_process_is_killed_has_failed(client: TestClient, settings: Settings) -> None:
    with Home(settings.home).lock("a test"):
        job = start(client)
        os.kill(client.app.state.job_manager._process.pid, signal.SIGKILL)  # type: ignore[attr-defined]
        over = ended(client, job)
        assert over["status"] == "failed" and "SIGKILL" in over["message"]
        assert start(client)["id"] == 2


def test_a_service_that_ends_takes_its_job_along(settings: Settings) -> None:
    with Home(settings.home).lock("a test"):
        with TestClient(create_app(settings)) as client:
            job = start(client)
            pid = client.app.state.job_manager._process.pid  # type: ignore[attr-defined]
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        with TestClient(create_app(settings)) as client:
            assert client.get(job["url"]).json()["status"] == "interrupted"


STARTER = """
import sys, time
from pathlib import Path
from simile.core.settings import load_settings
from simile.service.state.job_manager import JobManager
jobs = JobManager(load_settings(home=Path(sys.argv[1]), roots=sys.argv[2], device="cpu"))
jobs.start("photos", False)
print(jobs._process.pid, flush=True)
time.sleep(600)
"""


def test_a_server_that_is_killed_takes_its_job_along_and_the_next_marks_it_interrupted(settings: Settings) -> None:
    with Home(settings.home).lock("a test"):
        starter = subprocess.Popen(
            [sys.executable, "-c", STARTER, settings.home, str(settings.roots)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        starter.kill()
        starter.wait()
        starter.stdout.close()
        with TestClient(create_app(settings)) as client:
            job = client.get("/v1/jobs").json()["jobs"][0]
            over = ended(client, job)
            assert over["status"] == "interrupted" and "new job" in over["message"]
        wait_until(lambda: not runs(pid))


# Server-sent events


def test_a_browser_that_has_seen_the_end_is_told_to_stop_asking(client: TestClient, settings: Settings) -> None:
    with Catalogue(Home(settings.home)) as catalogue:
        job = catalogue.jobs.add("photos", prune=False)
        catalogue.jobs.finish(job.id, "failed", "a test", None)
        version = catalogue.jobs.get(job.id).version
    address = f"/v1/jobs/{job.id}/events"
    assert client.get(address, headers={"Last-Event-ID": str(version)}).status_code == 204
    for seen in (str(version - 1), "nonsense", "", "9" * 40):
        response = client.get(address, headers={"Last-Event-ID": seen})
        assert [name for name, _, _ in events_of(response.text)] == ["end"]


def test_head_of_an_endless_stream_ends(client: TestClient, settings: Settings) -> None:
    with Home(settings.home).lock("a test"):
        job = start(client, root="photos")
        head = client.head(f"/v1/jobs/{job['id']}/events")
        assert client.get(f"/v1/jobs/{job['id']}").json()["status"] == "running"
        client.post(f"/v1/jobs/{job['id']}/cancel")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"].startswith("text/event-stream")


@pytest.fixture
def waiting(settings: Settings) -> Iterator[tuple[JobManager, JobRecord]]:
    """The jobs of a home, and one that waits for the home."""
    jobs = JobManager(settings)
    with Home(settings.home).lock("a test"):
        job = jobs.start("photos", False)
        yield jobs, job
        jobs.close()


def test_a_slow_listener_gets_the_newest_state_alone(waiting: tuple[JobManager, JobRecord], settings: Settings) -> None:
    jobs, job = waiting

    async def listen() -> list[str]:
        stream = JobEventBroker(jobs).stream(job.id, None)
        said = [await anext(stream), await anext(stream)]
        with Catalogue(Home(settings.home)) as catalogue:
            for done in range(100):
                catalogue.jobs.update(job.id, done=done)
        said.append(await anext(stream))
        await stream.aclose()
        return said

    said = asyncio.run(listen())
    (_, first, _), (_, second, newest) = events_of("".join(said))
    assert second >= first + 100 and newest["done"] == 99


def test_a_quiet_stream_says_now_and_then_that_it_lives_and_ends_when_the_service_does(
    waiting: tuple[JobManager, JobRecord],
) -> None:
    jobs, job = waiting

    async def listen() -> list[str]:
        said: list[str] = []
        async for part in JobEventBroker(jobs, 0.05, 0.1).stream(job.id, job.version):
            said.append(part)
            if part.startswith(":"):
                jobs.drain()
        return said

    said = asyncio.run(listen())
    assert [part[0] for part in said] == ["r", ":"]
    wait_until(lambda: jobs.get(job.id).is_over)


def test_many_listeners_need_no_thread_each_and_too_many_are_refused(waiting: tuple[JobManager, JobRecord]) -> None:
    jobs, job = waiting
    events = JobEventBroker(jobs)

    async def listen() -> int:
        streams = [events.stream(job.id, None) for _ in range(MAX_LISTENERS)]
        await asyncio.gather(*(anext(stream) for stream in streams))
        states = await asyncio.gather(*(anext(stream) for stream in streams))
        assert len(set(states)) <= 2 and events.is_full
        most = threading.active_count()
        for stream in streams:
            await stream.aclose()
        return most

    assert asyncio.run(listen()) < 20
    assert not events.is_full


def test_a_job_that_runs_is_not_lost_to_whoever_looks(
    waiting: tuple[JobManager, JobRecord], settings: Settings
) -> None:
    jobs, job = waiting
    other = JobManager(settings)
    for _ in range(20):
        assert not other.get(job.id).is_over
    with pytest.raises(JobRunning, match=f"Job {job.id}"):
        other.start("photos", False)
    other.close()
    assert not jobs.get(job.id).is_over  # a service that began nothing ends nothing

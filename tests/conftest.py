"""Small real things for every test: images, a trained encoder, an indexed home; and a clean environment."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: two workers share the cores already

import fcntl
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import forking
from tests.support.servers import postgresql

if TYPE_CHECKING:  # the process that only hands tests to the workers imports nothing of the product: 5 s
    from fastapi import FastAPI
    from starlette.testclient import TestClient

    from simile.core.settings import Settings
    from simile.store.catalogue.catalogue import Catalogue
    from simile.store.home import Home
    from tests.support.object_store import ObjectServer

COUNT = 120
MEMORY_FOLDER, MIN_FREE_BYTES = Path("/dev/shm"), 4_000_000_000  # tmp_path of the tests, if there is room
running = ExitStack()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--database", default="sqlite", choices=["sqlite", "postgresql"], help="what holds the catalogue of a home"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Processes are forked from servers of this run (forking.py): one pair for both of its workers."""
    if forking.SERVERS not in os.environ:
        running.enter_context(forking.servers())
    if MEMORY_FOLDER.is_dir() and shutil.disk_usage(MEMORY_FOLDER).free >= MIN_FREE_BYTES:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY_FOLDER))  # a disk makes the tests a quarter slower
    subprocess.Popen = forking.Popen  # type: ignore[misc]
    if config.getoption("--database") == "postgresql":
        # Tests leave it to the collector to close a catalogue; SQLite says nothing about that.
        config.addinivalue_line("filterwarnings", "ignore:<psycopg.Connection:ResourceWarning")
        config.addinivalue_line(
            "filterwarnings", "ignore:.*BaseConnection.__del__:pytest.PytestUnraisableExceptionWarning"
        )
        if postgresql.PORT_VARIABLE not in os.environ:
            server = running.enter_context(postgresql.running_server())
            os.environ[postgresql.PORT_VARIABLE] = str(server.port)
        postgresql.use_server_of_run()


@pytest.fixture(autouse=True)
def _skip_other_databases(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--database") != "sqlite":
        if request.node.get_closest_marker("sqlite"):
            pytest.skip("it is about the file of SQLite")
        if request.node.get_closest_marker("real_processes"):
            pytest.skip("processes that are not forked use SQLite")


def pytest_unconfigure() -> None:
    running.close()


@pytest.fixture(autouse=True)
def _real_processes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("real_processes"):
        monkeypatch.setattr(subprocess, "Popen", forking.RealPopen)
        monkeypatch.delenv(forking.SERVERS)


@pytest.fixture(scope="session", autouse=True)
def _routes_are_analysed_once() -> Iterator[None]:
    """Every app of a run shares what FastAPI makes of the routes, which are the same for all: 0.2 s for each app."""
    from fastapi import FastAPI

    analysed: dict[int, Any] = {}
    include = FastAPI.include_router

    def include_once(app: FastAPI, router: Any, **options: Any) -> None:
        assert not options
        if id(router) in analysed:
            app.router.routes.append(analysed[id(router)])
        else:
            include(app, router)
            analysed[id(router)] = app.router.routes[-1]

    FastAPI.include_router = include_once  # type: ignore[assignment, method-assign]
    yield
    FastAPI.include_router = include  # type: ignore[method-assign]


@pytest.fixture(autouse=True)
def _clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the person's own reaches a test, and what a test writes by accident lands in its folder."""
    for name in [name for name in os.environ if name.startswith("SIMILE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SIMILE_ALLOWED_HOSTS", "testserver")  # so starlette's test client calls the service
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def _made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """Gives a folder that a function fills, once for all workers of the run."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def made(name: str, fill: Callable[[Path], None]) -> Path:
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            done = shared / f"{name}.done"
            if not done.exists():
                (shared / name).mkdir()
                fill(shared / name)
                done.touch()
        return shared / name

    return made


@pytest.fixture(scope="session")
def _all_digits(_made_once: Callable[..., Path]) -> Path:
    from simile.models.demo_datasets import write_digits

    return _made_once("digits", write_digits)


@pytest.fixture(scope="session")
def _trained(_made_once: Callable[..., Path], _all_digits: Path) -> tuple[Path, Path]:
    """A home with an indexed folder of 120 digits and a quickly trained encoder with 16 latent dimensions."""
    from simile.core.settings import load_settings
    from simile.indexer.pipeline.job import IndexRequest, index
    from simile.indexer.training.train import TrainingRequest, train_on_sources

    def fill(root: Path) -> None:
        copy_some(_all_digits, root / "photos", COUNT)
        settings = load_settings(home=root / "home", workers=2, device="cpu")
        overrides = {"latent_dim": 16, "width": 8, "epochs": 12, "kl_warmup_steps": 20}
        train_on_sources(
            settings, [root / "photos"], TrainingRequest(recipe="vae", overrides=overrides), lambda _: None
        )
        index(settings, [root / "photos"], IndexRequest())

    warm = subprocess.Popen([sys.executable, "-c", ""])  # so that no test with a time limit waits for imports
    root = _made_once("trained", fill)
    warm.wait()
    return root / "home", root / "photos"


@pytest.fixture(scope="session")
def _empty_home(_made_once: Callable[..., Path]) -> Path:
    from simile.store.database import schema
    from simile.store.home import Home

    return _made_once("empty", lambda root: schema.upgrade_schema(Home(root)))


@pytest.fixture(scope="session")
def _trained_home(_made_once: Callable[..., Path], _trained: tuple[Path, Path], _empty_home: Path) -> Path:
    from simile.search.encoder_registry import find_encoder, register_encoder
    from simile.store.catalogue.catalogue import Catalogue
    from simile.store.home import Home

    def fill(root: Path) -> None:
        home = Home(postgresql.copy_home(_empty_home, root))
        shutil.copytree(_trained[0] / "encoders", home.encoders, dirs_exist_ok=True)
        encoder = find_encoder(home, next(home.encoders.glob("[0-9a-f]*")).name, "cpu")
        with Catalogue(home) as catalogue:
            register_encoder(catalogue, encoder)
            catalogue.encoders.activate(encoder.fingerprint)

    return _made_once("trained-home", fill)


@pytest.fixture
def digits(tmp_path: Path, _all_digits: Path) -> Path:
    """A folder of one's own with 120 images of digits, 32 x 32."""
    return copy_some(_all_digits, tmp_path / "photos", COUNT)


def own_settings(template: Path, home: Path) -> Settings:
    """Settings of a copy of a home."""
    from simile.core.settings import load_settings

    postgresql.copy_home(template, home)
    return load_settings(home=home, workers=2, device="cpu", allowed_hosts="testserver")


@pytest.fixture
def home_with_digits(tmp_path: Path, _trained: tuple[Path, Path]) -> Settings:
    """Settings of a home of one's own, with 120 digits indexed; its images are shared, so don't change them."""
    return own_settings(_trained[0], tmp_path / "home")


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory: pytest.TempPathFactory, _trained: tuple[Path, Path]) -> Settings:
    """As `home_with_digits`, once for a file of tests, which leave it as it is."""
    return own_settings(_trained[0], tmp_path_factory.mktemp("shared") / "home")


@pytest.fixture
def client(home_with_digits: Settings) -> Iterator[TestClient]:
    """A client of a service of a home of one's own."""
    with app_client(home_with_digits) as client:
        yield client


@pytest.fixture(scope="module")
def shared_client(shared_home: Settings) -> Iterator[TestClient]:
    """A client of a service of `shared_home`, for tests that change nothing."""
    with app_client(shared_home) as client:
        yield client


def app_client(settings: Settings) -> TestClient:
    """A client of a service in this process; an error of the service is an answer with status 500."""
    from starlette.testclient import TestClient

    from simile.service.app import create_app

    return TestClient(create_app(settings), raise_server_exceptions=False)


@pytest.fixture
def address(home_with_digits: Settings) -> Iterator[str]:
    """Where a service of a home of one's own runs."""
    from tests.support.browser import serving

    with serving(home_with_digits) as address:
        yield address


@pytest.fixture(scope="module")
def shared_address(shared_home: Settings) -> Iterator[str]:
    """Where a service of `shared_home` runs, for tests that change nothing."""
    from tests.support.browser import serving

    with serving(shared_home) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, started once for a file of tests: no longer, for playwright's event loop would be in others' way."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pages are looked at in a browser")
    from tests.support.browser import CHROMIUM, launched

    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    with launched(playwright) as browser:
        yield browser


@pytest.fixture
def trained_home(tmp_path: Path, _trained_home: Path) -> Settings:
    """Settings of a home with an encoder in use and nothing indexed."""
    return own_settings(_trained_home, tmp_path / "home")


@pytest.fixture
def home(tmp_path: Path, _empty_home: Path) -> Home:
    """An empty home with a current catalogue."""
    from simile.store.home import Home

    return Home(postgresql.copy_home(_empty_home, tmp_path / "home"))


@pytest.fixture
def object_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    """A real S3 server with an empty bucket."""
    from tests.support.object_store import serve_objects

    yield from serve_objects(monkeypatch)


def copy_some(source: Path, target: Path, count: int) -> Path:
    """The first `count` files of `source`, copied to `target`; gives `target`."""
    target.mkdir()
    for path in sorted(source.iterdir())[:count]:
        shutil.copy2(path, target)
    return target


def copy_home_and_photos(template: Path, folder: Path) -> Settings:
    """Copies `home` and `photos`, so that the home knows the copied images."""
    shutil.copytree(template / "photos", folder / "photos")
    settings = own_settings(template / "home", folder / "home")
    from sqlalchemy import func, update

    from simile.store.catalogue.catalogue import Catalogue
    from simile.store.database.tables import LocationRow
    from simile.store.home import Home

    with Catalogue(Home(settings.home)) as catalogue:
        moved = func.replace(LocationRow.path, f"{template}/", f"{folder}/")
        catalogue.files.write_untracked(update(LocationRow).values(path=moved))
    return settings


@dataclass(frozen=True)
class Copies:
    """A home in which copies were found. `settings` of it; `photos`: its folder; ids: image ids by path beneath it."""

    settings: Settings
    photos: Path
    ids: dict[str, int]


@pytest.fixture(scope="session")
def _copies(_made_once: Callable[..., Path], _trained_home: Path) -> Path:
    from simile.indexer.pipeline.job import IndexRequest, index
    from simile.store.catalogue.catalogue import Catalogue
    from simile.store.home import Home

    def fill(root: Path) -> None:
        write_copies(root / "photos")
        settings = own_settings(_trained_home, root / "home")
        index(settings, [root / "photos"], IndexRequest())
        with Catalogue(Home(settings.home)) as catalogue:
            found = catalogue.files.find_under([str(root / "photos")])
            ids = {Path(path).relative_to(root / "photos").as_posix(): known.image_id for path, known in found.items()}
            record_copies(catalogue, ids)
        (root / "ids.json").write_text(json.dumps(ids))

    return _made_once("copies", fill)


def load_copies(template: Path, folder: Path) -> Copies:
    settings = copy_home_and_photos(template, folder)
    return Copies(settings, folder / "photos", json.loads((template / "ids.json").read_text()))


@pytest.fixture
def copies(tmp_path: Path, _copies: Path) -> Copies:
    """48 x 64 images: ten that have smaller copies as JPEG (00 has two), two with the same pixels as BMP, two with
    the same bytes; 08 and 09 are only similar. What a run would have found stands in the home, at made-up distances.
    """
    return load_copies(_copies, tmp_path)


@pytest.fixture(scope="module")
def shared_copies(tmp_path_factory: pytest.TempPathFactory, _copies: Path) -> Copies:
    """As `copies`, once for a file of tests, which leave it as it is."""
    return load_copies(_copies, tmp_path_factory.mktemp("shared-copies"))


def record_copies(catalogue: Catalogue, ids: dict[str, int]) -> None:
    """Stores what a run would have found in the images of the fixture `copies`."""
    from simile.dedup.records import CurvePoint
    from simile.store.catalogue.records import DuplicateRecord
    from tests.support.dedup_records import make_calibration, record_dedup_run

    near = [(f"camera/{n:02}.png", f"phone/{n:02}.jpg", "near", 0.1 + n / 100) for n in range(10)]
    near += [("camera/00.png", "phone/00 again.jpg", "near", 0.3), ("phone/00.jpg", "phone/00 again.jpg", "near", 0.2)]
    same = [(f"camera/{n}.png", f"scans/{n}.bmp", "pixels", 0.0) for n in (20, 21)]
    alike = [("camera/08.png", "camera/09.png", "similar", 0.9)]
    rows = [
        DuplicateRecord(
            *sorted((ids[one], ids[two])), tier, distance, None if tier == "pixels" else 0.9, f"a {tier} one"
        )
        for one, two, tier, distance in near + same + alike
    ]
    curve = tuple(CurvePoint(n / 20, 1 - n / 1000, min(1, n / 10)) for n in range(1, 21))
    record_dedup_run(catalogue, rows, make_calibration(curve))


def write_copies(photos: Path) -> None:
    """The images of the fixture `copies`."""
    import numpy as np
    from PIL import Image

    for folder in ("camera", "phone", "scans", "backup"):
        (photos / folder).mkdir(parents=True)
    for n in (*range(10), 20, 21, 30, 31):
        random = np.random.default_rng(n)
        squares = Image.fromarray(random.integers(50, 206, (8, 6, 3), np.uint8))
        shapes = squares.resize((48, 64), Image.Resampling.BICUBIC)
        grain = random.integers(-20, 21, (64, 48, 1))  # detail that a smaller copy lacks
        image = Image.fromarray(np.clip(np.asarray(shapes, np.int16) + grain, 0, 255).astype(np.uint8))
        image.save(photos / f"camera/{n:02}.png")
        if n < 10:
            image.resize((30, 40)).save(photos / f"phone/{n:02}.jpg", quality=80)
        if n == 0:
            image.resize((24, 32)).save(photos / "phone/00 again.jpg", quality=70)
        if n in (20, 21):
            image.save(photos / f"scans/{n}.bmp")
        if n >= 30:
            shutil.copy2(photos / f"camera/{n}.png", photos / f"backup/{n} of old.png")

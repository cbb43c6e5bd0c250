"""`index --ray`: the same rows and the same summary as without it, also when actors are lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

from simile.core.errors import BadSetting
from simile.core.records import IndexSummary, PhotoMetadata
from simile.core.settings import Settings
from simile.images.encoding import encode_png
from simile.images.formats import Limits
from simile.images.loading.worker_pool import WorkerPool
from simile.images.metadata.reader import MetadataReader
from simile.images.sources.sources import ImageSources
from simile.indexer.maintenance.verify import verify_home
from simile.indexer.pipeline import job, ray_embedder
from simile.indexer.pipeline.file_embedder import EmbeddedBatch, FileEmbedder
from simile.indexer.pipeline.job import IndexRequest, index
from simile.indexer.pipeline.plan import IndexTask, Spool, make_index_plan
from simile.search.encoder_registry import load_encoder
from simile.store.catalogue.catalogue import Catalogue
from simile.store.home import Home
from tests.conftest import own_settings
from tests.support.commands import run_simile
from tests.support.images import make_xmp

SIMILE = str(Path(sys.executable).with_name("simile"))
ROOT = Path(__file__).parents[2]
TOKEN = "0" * 64


@pytest.fixture(autouse=True)
def _own_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test joins another cluster of this machine. Ray reads the variables when it is imported, also by mistake."""
    folder = tempfile.mkdtemp(prefix="ray-")  # short: it becomes a part of the names of sockets
    for name, value in {"RAY_TMPDIR": folder, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def ray_here() -> None:
    """The test needs Ray, and is skipped without it."""
    pytest.importorskip("ray", reason="embedding on Ray is tried with Ray: pip install 'simile[ray]'")


def write_some(folder: Path, first: int, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(first, first + count):
        blocks = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
        (folder / f"{seed:04}.png").write_bytes(encode_png(blocks.repeat(6, 0).repeat(6, 1)))


def write_sources(photos: Path) -> None:
    """60 images, copies of 20 of them, with sidecars, a damaged one, and a compressed tar."""
    write_some(photos / "a", 0, 60)
    for seed in range(0, 60, 3):
        (photos / "b").mkdir(exist_ok=True)
        shutil.copy2(photos / f"a/{seed:04}.png", photos / f"b/copy of {seed}.png")
        (photos / f"b/copy of {seed}.xmp").write_bytes(make_xmp(f'xmp:Rating="{seed % 5}"'))
    (photos / "b/damaged.png").write_bytes((photos / "a/0001.png").read_bytes()[:60])
    write_some(photos / "packed", 100, 20)
    with tarfile.open(photos / "more.tar.gz", "w:gz") as archive:
        for path in sorted((photos / "packed").iterdir()):
            archive.add(path, path.name)
    shutil.rmtree(photos / "packed")


def change_sources(photos: Path) -> None:
    """Some files are changed, moved, renamed, new and deleted."""
    for seed in range(5):
        shutil.copy2(photos / f"a/{seed + 30:04}.png", photos / f"a/{seed:04}.png")
    for seed in range(10, 20):
        (photos / f"a/{seed:04}.png").rename(photos / f"moved {seed}.png")
    write_some(photos / "c", 200, 30)
    (photos / "a/0050.png").unlink()


def read_rows(settings: Settings) -> dict[tuple[str, str], np.ndarray]:
    """The vector of each file in the catalogue, by path and hash."""
    with Catalogue(Home(settings.home)) as catalogue:
        fingerprint = catalogue.encoders.find_active().fingerprint  # type: ignore[union-attr]
        files = catalogue.files.find_under([os.sep])
        hashes = {image.id: image.sha256 for image in catalogue.images.get_page(10_000)}
        embeddings = catalogue.embeddings.get_many(hashes, fingerprint)
        return {(path, hashes[file.image_id]): embeddings[file.image_id].mu for path, file in files.items()}


def read_photos(settings: Settings) -> dict[str, PhotoMetadata]:
    with Catalogue(Home(settings.home)) as catalogue:
        return catalogue.photo_metadata.get_for_files(catalogue.files.find_under([os.sep]))


def counts(summary: IndexSummary) -> dict[str, Any]:
    values = asdict(summary)
    del values["seconds"], values["run_id"]
    return {**values, "failures": sorted(failure["path"] for failure in values["failures"])}


class RepeatingEmbedder:
    """Embeds each block twice, as when an actor was lost after its commit, and in the wrong order."""

    def __init__(self, catalogue: Catalogue, settings: Settings, fingerprint: str, _address: str) -> None:
        self.workers = WorkerPool(2)
        self.embedder = FileEmbedder(
            catalogue=catalogue,
            encoder=load_encoder(catalogue.home, fingerprint, "cpu"),
            workers=self.workers,
            limits=Limits(),
            batch_size=settings.batch_size,
            metadata_reader=MetadataReader(),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.workers.close()

    def embed(self, tasks: Spool[IndexTask]) -> Iterator[EmbeddedBatch]:
        first = list(self.embedder.embed(tasks))
        second = list(self.embedder.embed(tasks))
        for number in reversed(range(len(first))):
            yield second[number] if number % 3 else first[number]

    def stop(self) -> None:
        self.embedder.stop()


def compare_runs(template: Settings, folder: Path, photos: Path) -> None:
    """Two runs with Ray give the rows and the summary of two runs without."""
    homes = [own_settings(template.home, folder / name) for name in ("local", "ray")]
    local, distributed = (settings.model_copy(update={"batch_size": 16}) for settings in homes)
    sources = [photos, photos / "more.tar.gz"]
    write_sources(photos)
    for change in (lambda _: None, change_sources):
        change(photos)
        expected = index(local, sources, IndexRequest(prune=True))
        assert expected.new >= 30
        found = index(distributed, sources, IndexRequest(prune=True, ray="auto"))
        assert counts(found) == counts(expected)
        assert read_photos(distributed) == read_photos(local) != {}
        rows, expected_rows = read_rows(distributed), read_rows(local)
        assert rows.keys() == expected_rows.keys()
        for file, vector in rows.items():
            assert vector == pytest.approx(expected_rows[file], abs=1e-3)
    assert verify_home(distributed) == []


def test_batches_that_are_embedded_twice_count_once(
    trained_home: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "check_ray", lambda _: None)
    monkeypatch.setattr(job, "RayEmbedder", RepeatingEmbedder)
    compare_runs(trained_home, tmp_path, tmp_path / "photos")


def test_a_switch_of_encoders_counts_each_image_once(
    home_with_digits: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All images are known, and lack a vector; their batches are embedded twice."""
    monkeypatch.setattr(job, "check_ray", lambda _: None)
    monkeypatch.setattr(job, "RayEmbedder", RepeatingEmbedder)
    homes = [own_settings(home_with_digits.home, tmp_path / name) for name in ("local", "ray")]
    summaries = []
    for settings, ray in zip(homes, (None, "auto"), strict=True):
        with Catalogue(Home(settings.home)) as catalogue:
            photos = catalogue.files.get_folders()
        summaries.append(index(settings, photos, IndexRequest(encoder="shipped", ray=ray)))
    assert counts(summaries[1]) == counts(summaries[0])
    assert summaries[1].embedded == summaries[1].unchanged == 120
    assert read_rows(homes[1]).keys() == read_rows(homes[0]).keys()
    assert verify_home(homes[1]) == []


def test_a_compressed_tar_stays_in_one_block(trained_home: Settings, tmp_path: Path) -> None:
    """It is read from front to back once, by one actor; other files are shared out."""
    write_sources(tmp_path / "photos")
    sources = ImageSources([tmp_path / "photos", tmp_path / "photos/more.tar.gz"])
    tasks = make_index_plan(None, sources, None).tasks
    blocks = [block.tasks for block in ray_embedder._split_blocks(tasks, 16)]
    assert [task for block in blocks for task in block] == list(tasks)
    packed = [block for block in blocks if any("more.tar.gz/" in task.file.path for task in block)]
    assert len(packed) <= 2 and max(map(len, packed)) >= 16
    inside = [task for task in packed[-1] if "more.tar.gz/" in task.file.path]
    assert len(inside) >= 16
    assert max(len(block) for block in blocks if block not in packed) == 16


@pytest.mark.parametrize(
    ("arguments", "address"),
    [
        (["PHOTOS", "--ray"], "auto"),
        (["--ray", "PHOTOS"], "auto"),
        (["--ray", "--strict", "PHOTOS"], "auto"),
        (["--ray", "10.0.0.1:6379", "PHOTOS"], "10.0.0.1:6379"),
        (["PHOTOS", "--ray=head.example:1"], "head.example:1"),
        (["PHOTOS"], None),
    ],
)
def test_the_address_of_ray_may_be_left_out(
    arguments: list[str], address: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = []

    def remember(_settings: Settings, sources: list[Path], request: IndexRequest) -> IndexSummary:
        requests.append((sources, request.ray))
        return IndexSummary(run_id=1)

    monkeypatch.setattr(job, "index", remember)
    assert run_simile("index", *arguments, "--home", tmp_path / "home").exit_code == 0
    assert requests == [([Path("PHOTOS")], address)]


def test_without_ray_the_message_names_the_package(
    trained_home: Settings, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BadSetting, match=r"pip install 'simile\[ray\]'"):
        index(trained_home, [digits], IndexRequest(ray="auto"))


def test_what_ray_says_of_nodes_is_not_printed_to_stdout(ray_here: None) -> None:
    """It says there that a node was lost; the program prints its summary there."""
    program = (
        "from simile.indexer.pipeline.ray_embedder import check_ray; check_ray('auto')\n"
        "from ray._private.worker import print_to_stdstream\n"
        "message = {'lines': ['the node was lost'], 'pid': 'raylet', 'is_err': False}\n"
        "print_to_stdstream(message, ignore_prefix=False)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == ""


@pytest.mark.long
@pytest.mark.real_processes
@pytest.mark.timeout(600)
def test_actors_store_what_a_run_without_ray_stores(ray_here: None, trained_home: Settings, tmp_path: Path) -> None:
    compare_runs(trained_home, tmp_path, tmp_path / "photos")


@pytest.mark.long
@pytest.mark.real_processes
@pytest.mark.timeout(600)
def test_a_killed_actor_loses_and_doubles_nothing(ray_here: None, trained_home: Settings, tmp_path: Path) -> None:
    write_some(tmp_path / "photos", 0, 600)
    killed: list[int] = []

    def kill_one(summary: IndexSummary, _total: int) -> None:
        actors = find_actors()
        if len(killed) < 3 and actors and summary.done < 500:
            os.kill(actors[0], signal.SIGKILL)
            killed.append(actors[0])

    settings = trained_home.model_copy(update={"batch_size": 16})
    summary = index(settings, [tmp_path / "photos"], IndexRequest(ray="auto", on_progress=kill_one))
    assert len(killed) == 3
    assert (summary.new, summary.embedded, summary.copied, summary.duplicates) == (600, 600, 0, 0)
    assert len(read_rows(settings)) == 600
    assert verify_home(settings) == []


@pytest.mark.long
@pytest.mark.real_processes
@pytest.mark.timeout(600)
def test_ctrl_c_ends_actors_and_keeps_what_is_stored(ray_here: None, trained_home: Settings, tmp_path: Path) -> None:
    write_some(tmp_path / "photos", 0, 1500)
    command = [SIMILE, "index", str(tmp_path / "photos"), "--home", str(trained_home.home), "--ray", "--json"]
    environment = {**os.environ, "SIMILE_BATCH_SIZE": "16"}
    notes = []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "progress" in line and not any("progress" in note for note in notes):
                process.send_signal(signal.SIGINT)
            notes.append(line)
    assert process.returncode == 130, notes
    assert "Interrupted. Progress is saved; rerun to resume." in notes[-1]
    assert find_actors() == []
    stored = len(read_rows(trained_home))
    assert 0 < stored < 1500
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    summary = json.loads(done.stdout)
    assert (summary["unchanged"], summary["new"], summary["embedded"]) == (stored, 1500 - stored, 1500 - stored)
    assert len(read_rows(trained_home)) == 1500


def test_an_address_without_ray_is_named(ray_here: None, trained_home: Settings, digits: Path) -> None:
    with pytest.raises(BadSetting, match=r"Ray at 127\.0\.0\.1:1 can't be used: .*refused"):
        index(trained_home, [digits], IndexRequest(ray="127.0.0.1:1"))


@pytest.mark.long
@pytest.mark.real_processes
@pytest.mark.timeout(1200)
def test_a_killed_node_loses_and_doubles_nothing(ray_here: None) -> None:
    """Two nodes on PostgreSQL, the second one killed at a random moment."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scaling.ray", "--images", "3000", "--rounds", "2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def find_actors() -> list[int]:
    """Processes of actors on this machine that this test has started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            is_actor = b"ray::EmbeddingActor" in (folder / "cmdline").read_bytes()
            is_own = f"RAY_AUTH_TOKEN={TOKEN}".encode() in (folder / "environ").read_bytes()
        except OSError:
            continue
        if is_actor and is_own:
            found.append(int(folder.name))
    return sorted(found)

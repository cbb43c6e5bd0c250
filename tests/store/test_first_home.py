"""A home made by the first version, with rows, an encoder, a segment and an upload, still works."""

from __future__ import annotations

import hashlib
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from simile.core.errors import HomeOutdated
from simile.core.settings import Settings, load_settings
from simile.images.encoding import encode_png
from simile.images.formats import Pixels
from simile.images.transforms import Preprocessing
from simile.indexer.maintenance.rebuild import rebuild_index
from simile.indexer.maintenance.status import read_status
from simile.indexer.maintenance.verify import verify_home
from simile.indexer.pipeline.job import IndexRequest, index
from simile.indexer.pipeline.uploads import add_upload
from simile.models.checkpoints import checkpoint
from simile.models.checkpoints.description import EncoderDescription
from simile.models.inference.encoder import TrainedEncoder
from simile.models.networks.architecture import Architecture
from simile.models.networks.vae import Network
from simile.search.searcher import Searcher
from simile.store.database.schema import HEAD_REVISION, read_revision
from simile.store.home import Home

pytestmark = pytest.mark.sqlite

DUMP = Path(__file__).with_name("first_home.sql")
FIRST = "2026_11_22_first_schema"
LIVING = [1, 2, 4, 5, 6]


def new_image(number: int) -> Pixels:
    """(16, 16, 1): bars, thicker with each number."""
    columns = np.arange(16) % (number + 2) < (number + 2) // 2
    return np.where(columns[None, :, None], 255, 16 * number).astype(np.uint8).repeat(16, 0)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A home as the first version made it: dump, files in their old layout, a flat segment."""
    home = Home(tmp_path / "home").create()
    encoder = first_encoder(home)
    values: dict[str, Any] = {"encoder": encoder.fingerprint, "copy": str(tmp_path / "photos" / "copy.png")}
    (tmp_path / "photos").mkdir()
    for number in (1, 2, 3, 4, 5, 6):
        latent = encoder.encode(new_image(number)[None])
        assert latent.sigma is not None
        data = encode_png(new_image(number).repeat(3, 2))
        values[f"sha_{number}"] = hashlib.sha256(data).hexdigest()
        values[f"size_{number}"] = len(data)
        values[f"mu_{number}"] = latent.mu[0].astype("<f4").tobytes()
        values[f"log_variance_{number}"] = (2 * np.log(latent.sigma[0])).astype("<f4").tobytes()
        path = tmp_path / "photos" / f"{number}.png"
        if number == 5:
            path = home.uploads / f"{values['sha_5']}.png"
            values["upload"] = str(path)
        path.write_bytes(data)
        values[f"path_{number}"] = str(path)
    (tmp_path / "photos" / "3.png").unlink()
    Path(values["copy"]).write_bytes(Path(values["path_1"]).read_bytes())
    values["segment"], values["segment_sha256"] = first_segment(
        home, encoder, np.array([np.frombuffer(values[f"mu_{n}"], "<f4") for n in (1, 2, 3, 4)])
    )
    write_catalogue(home, values)
    return load_settings(home=home.root, device="cpu", workers=1)


def first_encoder(home: Home) -> TrainedEncoder:
    """An encoder's folder with the names and words of the first version."""
    network = Network(Architecture(image_size=16, channels=1, latent_dim=4, width=4)).eval()
    old_names = {"encoder.head.1.weight": "encoder.head.weight", "encoder.head.1.bias": "encoder.head.bias"}
    weights = {old_names.get(name, name): tensor for name, tensor in network.state_dict().items()}
    description = EncoderDescription(
        architecture={"image_size": 16, "channels": 1, "latent_dim": 4, "width": 4, "kind": "convolutional-vae"},
        preprocessing=Preprocessing(image_size=16, channels=1).to_dict(),
        metric="cosine",
        index_dims=None,
        recipe={"name": "vae"},
    )
    fingerprint = checkpoint.save_checkpoint(home.encoders / "new", weights, description)
    (home.encoders / "new").rename(home.encoders / fingerprint)
    return TrainedEncoder.load(home.encoders / fingerprint, "cpu", "torch")


def first_segment(home: Home, encoder: TrainedEncoder, mu: NDArray[np.float32]) -> tuple[str, str]:
    """The file of images 1 to 4, of change 3, as FAISS itself writes it; its name and SHA-256."""
    index: Any = faiss.IndexIDMap2(faiss.IndexFlatL2(4))
    length = np.linalg.norm(mu.astype(np.float64), axis=1, keepdims=True)
    index.add_with_ids((mu / length).astype(np.float32), np.arange(1, 5))
    path = home.segments / "unnamed"
    faiss.write_index(index, str(path))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    name = f"{3:012d}-{encoder.fingerprint[:12]}-{sha256[:12]}.faiss"
    path.rename(home.segments / name)
    return name, sha256


def write_catalogue(home: Home, values: dict[str, Any]) -> None:
    connection = sqlite3.connect(home.catalogue_path)
    connection.execute("PRAGMA journal_mode = WAL")
    for statement in re.sub("^--.*$", "", DUMP.read_text(), flags=re.MULTILINE).split(";\n"):
        names = set(re.findall(r":(\w+)", statement)) & values.keys()
        connection.execute(statement, {name: values[name] for name in names})
    connection.commit()
    connection.close()


def neighbours(settings: Settings, image_id: int) -> list[int]:
    with Searcher(settings) as searcher:
        return [hit.image_id for hit in searcher.by_id(image_id, limit=10).hits]


def test_a_reader_names_the_command_to_run_and_changes_nothing(settings: Settings) -> None:
    before = (settings.home / "catalogue.sqlite").read_bytes()
    for reader in (Searcher, verify_home, read_status):
        with pytest.raises(HomeOutdated, match="simile status --upgrade"):
            reader(settings)
    assert (settings.home / "catalogue.sqlite").read_bytes() == before


def test_the_upgrade_keeps_every_row_and_leaves_a_backup(settings: Settings) -> None:
    found = read_status(settings, upgrade=True)
    assert read_revision(Home(settings.home)) == HEAD_REVISION
    assert (found["images"], found["segment"]["rows"], found["segment"]["details"]) == (5, 4, {})
    assert [run["status"] for run in found["runs"]] == ["interrupted", "finished"]  # nobody holds the lock any more
    assert found["runs"][1]["failures"] == [{"path": "/photos/broken.jpg", "reason": "not a picture"}]
    assert (settings.home / f"catalogue.sqlite.bak-{FIRST}").is_file()
    assert verify_home(settings) == []


@pytest.mark.parametrize(("limit", "refused"), [(50_000, True), (200_000, False)])
def test_an_upgrade_without_space_loses_nothing(settings: Settings, limit: int, refused: bool) -> None:
    """Without space for the backup nothing changes. With space for it and SQLite's log, the log keeps the change."""
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from simile.store.home import Home; from simile.store.database.schema import upgrade_schema\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); upgrade_schema(Home(Path(sys.argv[1])))"
    )
    home = Home(settings.home)
    with sqlite3.connect(home.catalogue_path) as reader:  # so that SQLite's index of the log is there
        reader.execute("SELECT count(*) FROM images").fetchone()
        done = subprocess.run([sys.executable, "-c", code, home.root], capture_output=True, text=True, check=False)
    reader.close()
    assert bool(done.returncode) == refused, done.stderr
    if refused:
        assert "simile.core.errors.HomeNotWritable: Can't" in done.stderr
        assert read_revision(home) == FIRST
        assert list(home.root.glob("*.tmp")) == []
    read_status(settings, upgrade=True)
    assert read_revision(home) == HEAD_REVISION
    assert verify_home(settings) == []


def test_its_images_are_found_by_id_and_by_file_with_its_own_segment(settings: Settings) -> None:
    read_status(settings, upgrade=True)
    for image_id in LIVING:
        assert sorted([*neighbours(settings, image_id), image_id]) == LIVING
    with Searcher(settings) as searcher:
        for image_id in LIVING:
            path = Path(searcher.read_file(image_id)[1].paths[0])
            nearest = searcher.by_file(path, name=path.name, limit=1).hits[0]
            assert (nearest.image_id, nearest.distance < 1e-3) == (image_id, True)


def test_it_continues_as_a_current_home(settings: Settings) -> None:
    """The folder is indexed again, an image uploaded and deleted, the index made anew: everything is in its place."""
    summary = index(settings, [settings.home.parent / "photos"], IndexRequest())
    assert (summary.new, summary.changed, summary.failures) == (0, 0, [])
    with Searcher(settings) as searcher:
        added, created = add_upload(searcher, encode_png(new_image(9).repeat(3, 2)), name="nine")
        assert (added, created) == (7, True)  # 3 was used once, and never comes back
        searcher.catalogue.images.delete(2)
    assert sorted([*neighbours(settings, 1), 1]) == [1, 4, 5, 6, 7]
    assert rebuild_index(settings) == 5
    assert verify_home(settings) == []

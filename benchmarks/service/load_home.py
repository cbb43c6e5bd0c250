"""What load.py serves and sends: a home of many rows, ready-made uploads, and the same work done in a loop."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np

from benchmarks.common.serving_home import form
from benchmarks.common.simile_runs import encoder_of, simile
from benchmarks.common.synthetic_rows import add_rows, made_home
from simile.images.decoding import decode_image
from simile.images.encoding import encode_jpeg
from simile.images.formats import Limits
from simile.images.loading.loader import prepare_image
from simile.store.catalogue.catalogue import Catalogue
from simile.store.home import Home

SIZE = (400, 533)  # width and height of what is uploaded
LIMITS = Limits(200_000_000, 50_000_000)

# In a process of its own, on the server's core, with one thread.
LOOP = """if True:
    import pickle, sys, time; from pathlib import Path
    import numpy as np
    from simile.images.loading.loader import prepare_image; from simile.models.inference.encoder import TrainedEncoder
    from simile.images.formats import Limits
    folder, pictures, runtime, batch, seconds, whole = sys.argv[1:]
    encoder = TrainedEncoder.load(Path(folder), 'cpu', runtime); encoder.prepare()
    data, limits, done = pickle.loads(Path(pictures).read_bytes()), Limits(200_000_000, 50_000_000), 0
    work = encoder.embed if whole == 'whole' else encoder.encode
    def step(done):
        chosen = [data[(done + at) % len(data)] for at in range(int(batch))]
        work(np.stack([prepare_image(one, 'q', encoder.preprocessing, limits).array for one in chosen]))
    step(0); started = time.perf_counter()
    while time.perf_counter() - started < float(seconds):
        step(done); done += int(batch)
    print(done / (time.perf_counter() - started), encoder.runtime)
"""


def make_pictures(data: Path, work: Path, count: int = 512) -> list[bytes]:
    """Photos of the archive as JPEGs of one size."""
    pictures: list[bytes] = []
    with tarfile.open(data / "clothing-photos.tar") as archive:
        for member in archive:
            file = archive.extractfile(member) if member.name.lower().endswith(".jpg") else None
            if file is not None and len(pictures) < count:
                pictures.append(encode_jpeg(_resized(file.read())))
    (work / "pictures.pickle").write_bytes(pickle.dumps(pictures))
    (work / "bodies.pickle").write_bytes(pickle.dumps([form(one) for one in pictures]))
    return pictures


def _resized(data: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """(533, 400, 3), the nearest pixels."""
    pixels = decode_image(data, name="photo", limits=LIMITS).pixels
    rows = np.linspace(0, pixels.shape[0] - 1, SIZE[1]).round().astype(int)
    columns = np.linspace(0, pixels.shape[1] - 1, SIZE[0]).round().astype(int)
    return np.ascontiguousarray(pixels[rows][:, columns])


def make_rows(data: Path, work: Path, encoder: Path | None, pictures: list[bytes], rows: int) -> Path:
    """A home of so many rows, drawn from the posterior of the pictures by a VAE that was trained on the archive."""
    home, trained = work / "home", encoder or work / "trained"
    if encoder is None and not trained.exists():
        simile("train", data / "clothing-photos.tar", "--recipe", "vae", "--minutes", "1", home=trained)
    if not home.exists():
        made_home(home, trained)
        network = encoder_of(trained)
        arrays = [prepare_image(one, "picture", network.preprocessing, LIMITS).array for one in pictures]
        latent = network.encode(np.stack(arrays))
        assert latent.sigma is not None, "an encoder without a variance has no posterior to draw rows from"
        labels = np.zeros(len(arrays), np.int64)
        np.savez(work / "posterior.npz", mu=latent.mu, sigma=latent.sigma, labels=labels)
        add_rows(home, work / "posterior.npz", rows, 1)
        simile("rebuild", home=home)
    return home


def write_vectors(home: Path, target: Path) -> None:
    """All vectors of a home, (n, d), for the peer's own index."""
    with Catalogue(Home(home)) as catalogue:
        active = catalogue.encoders.find_active()
        assert active is not None
        np.save(target, np.concatenate([mu for _, mu, _ in catalogue.embeddings.iterate_chunks(active.fingerprint)]))


def encoder_folder(home: Path) -> Path:
    (folder,) = [path.parent for path in home.glob("encoders/[0-9a-f]*/encoder.json")]
    return folder


def loop(core: int, home: Path, work: Path, runtime: str, batch: int, seconds: float, *, whole: bool) -> float:
    """Pictures a second, decoded and encoded (`whole`: and reconstructed) on one core without a service."""
    arguments = [encoder_folder(home), work / "pictures.pickle", runtime, batch, seconds, "whole" if whole else "part"]
    done = subprocess.run(
        ["taskset", "-c", str(core), sys.executable, "-c", LOOP, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout.split()[0])


def read_seen(path: Path) -> dict[str, object]:
    return dict(json.loads(path.read_text(encoding="utf-8")))

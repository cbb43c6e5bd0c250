"""The home and the uploads of the benchmark `load`, and the same work in a loop without a service."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.runs import get_encoder_folder, iterate_jpegs, load_encoder, simile
from benchmarks.common.serving import make_form
from benchmarks.common.synthetic_rows import add_rows, make_empty_home
from simile.images.decoding import decode_image
from simile.images.encoding import encode_jpeg
from simile.images.formats import Limits
from simile.images.loading.loader import prepare_image
from simile.store.catalogue.catalogue import Catalogue
from simile.store.home import Home

SIZE = (400, 533)  # width and height of the uploads
LIMITS = Limits(200_000_000, 50_000_000)

# Runs in its own process, on the server's core, with one thread.
LOOP = """if True:
    import pickle, sys, time; from pathlib import Path
    import numpy as np
    from simile.images.loading.loader import prepare_image; from simile.models.inference.encoder import TrainedEncoder
    from simile.images.formats import Limits
    folder, images, runtime, batch, seconds, mode = sys.argv[1:]
    encoder = TrainedEncoder.load(Path(folder), 'cpu', runtime); encoder.prepare()
    data, limits, done = pickle.loads(Path(images).read_bytes()), Limits(200_000_000, 50_000_000), 0
    work = encoder.embed if mode == 'reconstruct' else encoder.encode
    def run_batch(done):
        files = [data[(done + offset) % len(data)] for offset in range(int(batch))]
        work(np.stack([prepare_image(file, 'q', encoder.preprocessing, limits).array for file in files]))
    run_batch(0); started = time.perf_counter()
    while time.perf_counter() - started < float(seconds):
        run_batch(done); done += int(batch)
    print(done / (time.perf_counter() - started), encoder.runtime)
"""


def make_images(data: Path, work: Path, count: int = 512) -> list[bytes]:
    """Write the first photos of the archive as JPEGs of one size, alone and as forms; return them."""
    photos = iterate_jpegs(data / "clothing-photos.tar", by_name=False)
    images = [encode_jpeg(resize(content)) for _, content in islice(photos, count)]
    (work / "images.pickle").write_bytes(pickle.dumps(images))
    (work / "bodies.pickle").write_bytes(pickle.dumps([make_form(image) for image in images]))
    return images


def resize(data: bytes) -> NDArray[np.uint8]:
    """Return the nearest pixels of an encoded image, (533, 400, 3)."""
    pixels = decode_image(data, name="photo", limits=LIMITS).pixels
    rows = np.linspace(0, pixels.shape[0] - 1, SIZE[1]).round().astype(int)
    columns = np.linspace(0, pixels.shape[1] - 1, SIZE[0]).round().astype(int)
    return np.ascontiguousarray(pixels[rows][:, columns])


def make_home(data: Path, work: Path, encoder_home: Path | None, images: list[bytes], rows: int) -> Path:
    """Make a home with rows drawn from the posterior of the images, by a VAE trained on the archive or a given one."""
    home, trained = work / "home", encoder_home or work / "trained"
    if encoder_home is None and not trained.exists():
        simile("train", data / "clothing-photos.tar", "--recipe", "vae", "--minutes", "1", home=trained)
    if not home.exists():
        make_empty_home(home, trained)
        encoder = load_encoder(trained)
        arrays = [prepare_image(image, "image", encoder.preprocessing, LIMITS).array for image in images]
        latent = encoder.encode(np.stack(arrays))
        assert latent.sigma is not None, "the encoder has no variance, so it has no posterior to draw rows from"
        labels = np.zeros(len(arrays), np.int64)
        np.savez(work / "posterior.npz", mu=latent.mu, sigma=latent.sigma, labels=labels)
        add_rows(home, work / "posterior.npz", rows, 1)
        simile("rebuild", home=home)
    return home


def write_vectors(home: Path, target: Path) -> None:
    """Write all vectors of a home, (n, d), for the peer's index."""
    with Catalogue(Home(home)) as catalogue:
        active = catalogue.encoders.find_active()
        assert active is not None
        np.save(target, np.concatenate([mu for _, mu, _ in catalogue.embeddings.iterate_chunks(active.fingerprint)]))


def run_loop(
    core: int, home: Path, work: Path, runtime: str, batch: int, seconds: float, *, reconstruct: bool
) -> float:
    """Return images a second, decoded and encoded (and reconstructed) on one core without a service."""
    mode = "reconstruct" if reconstruct else "encode"
    arguments = [get_encoder_folder(home), work / "images.pickle", runtime, batch, seconds, mode]
    done = subprocess.run(
        ["taskset", "-c", str(core), sys.executable, "-c", LOOP, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout.split()[0])


def read_results(path: Path) -> dict[str, object]:
    """Read the results that load_clients wrote."""
    return dict(json.loads(path.read_text(encoding="utf-8")))

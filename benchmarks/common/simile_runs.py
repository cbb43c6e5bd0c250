"""What the benchmarks share: pictures as files, and the commands that a user types."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simile.images.encoding import encode_png
from simile.models.inference.encoder import TrainedEncoder

SIMILE = str(Path(sys.executable).with_name("simile"))


def write_pictures(folder: Path, pictures: NDArray[np.uint8]) -> None:
    """One PNG a picture, named by its row; a folder that is there already stays."""
    if folder.exists():
        return
    folder.mkdir(parents=True)
    for row, picture in enumerate(pictures):
        (folder / f"{row:05d}.png").write_bytes(encode_png(picture))


def simile(*arguments: str | Path, home: Path) -> None:
    """Runs a command as a user does, its output shown, and says how long it took."""
    started = time.monotonic()
    subprocess.run([SIMILE, *map(str, arguments), "--home", str(home)], check=True)
    print(f"simile {arguments[0]}: {time.monotonic() - started:.0f} s\n", flush=True)


@contextmanager
def served(home: Path) -> Iterator[str]:
    """Where `simile serve` answers."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [SIMILE, "serve", "--home", str(home), "--port", str(port)]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz")
                break
            except OSError:
                time.sleep(0.3)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def encoder_of(home: Path) -> TrainedEncoder:
    """The only encoder in a home, on the processor."""
    (description,) = home.glob("encoders/[0-9a-f]*/encoder.json")
    return TrainedEncoder.load(description.parent, "cpu")


def report_of(home: Path) -> dict[str, Any]:
    """report.json of the only encoder in a home."""
    (report,) = home.glob("encoders/[0-9a-f]*/report.json")
    return dict(json.loads(report.read_text(encoding="utf-8")))

"""Copies among 100,000 small pictures, and candidates among a million rows: time and memory.

    python -m benchmarks.dedup.large_dataset --data DIR [--pictures 100000] [--peer V/bin/python] [--sheet FILE] [--work DIR]
    python -m benchmarks.dedup.large_dataset --data DIR --rows 1000000 [--encoder HOME] [--work DIR]

Pictures: Fashion-MNIST and MNIST in an order drawn with the seed, 28 x 28, as PNG; 2,000 of them are altered copies of
others (nine kinds that leave something to see at that size), grey. `simile index`, `simile dedup`; then imagededup's
perceptual hash with its own search on the same files. Right is a copy with its original; any other pair is wrong, also
where it is one of two real pictures that nobody can tell apart. Time of whole commands; memory is the largest sum over
a command and all that it starts.

Rows: drawn from the aggregate posterior of a VAE (synthetic_rows.py); a quarter, half, and all of them, each stored and
built in a home. Only candidates are looked for, at a radius that gives a row about ten neighbours, and written to disk.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.dedup_scoring import Score, Truth, make_truth, read_pairs, recall_by_kind, score
from benchmarks.common.simile_runs import SIMILE
from benchmarks.dedup.candidate_rows import many_rows
from benchmarks.dedup.pair_sheets import draw_pairs, least_sure
from benchmarks.indexing.throughput import Peak
from simile.images.distortions import distort
from simile.images.encoding import encode_png

KINDS = ("jpeg-30", "resize-50", "crop-90", "mirror", "turn-90", "colour", "blur", "noise", "border")
PARTS = "x_train", "x_test"
COPIES = 50  # one picture in so many is one
FURTHEST = 8  # Hamming distance that the peer looks within


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--pictures", type=int, default=0)
    options.add_argument("--rows", type=int, default=0)
    options.add_argument("--minutes", type=float, default=10, help="of training at most")
    options.add_argument("--precision", type=float, default=0.99)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--peer", type=Path, help="the Python of a virtual environment with imagededup")
    options.add_argument("--furthest", type=int, default=FURTHEST, help="Hamming distance the peer looks within")
    options.add_argument("--encoder", type=Path, help="rows: a home whose encoder is taken instead of training one")
    options.add_argument("--sheet", type=Path, help="PNG of wrong pairs, the least sure first")
    options.add_argument("--work", type=Path, help="keeps everything there, and goes on from it")
    given = options.parse_args()
    if not given.pictures and not given.rows:
        options.error("give --pictures or --rows")
    with tempfile.TemporaryDirectory() as scratch:
        work = given.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        if given.pictures:
            many_pictures(given, work)
        if given.rows:
            many_rows(given.data, work, given.rows, given.encoder)


def many_pictures(given: argparse.Namespace, work: Path) -> None:
    folder, home, output = work / "small", work / "home", work / "pairs.csv"
    truth = planted(given.data, folder, given.pictures, given.seed)
    measured("simile index", [SIMILE, "index", folder, "--home", home, "--minutes", given.minutes])
    options = ["--precision", given.precision, "--output", output, "--output", work / "groups.json"]
    measured("simile dedup", [SIMILE, "dedup", "--home", home, *options])
    first, second, lines = read_pairs(output, truth)
    threshold = json.loads((work / "groups.json").read_text("utf-8"))["threshold"]
    found = score(first, second, truth, threshold)
    print(f"\n{'':<22}{'precision':>10}{'recall':>8}{'right':>8}{'wrong':>8}{'threshold':>11}")
    show("simile dedup", found)
    wrong = np.flatnonzero(truth.wrong(first, second))
    if given.peer is not None:
        peer(given.peer, folder, work / "peer.npz", given.furthest, truth)
    print("by kind:", ", ".join(f"{kind} {share:.3f}" for kind, share in recall_by_kind(found, truth).items()))
    real = sum(not truth.kinds[first[at]] and not truth.kinds[second[at]] for at in wrong)
    print(f"{real} of the wrong pairs are of two pictures that nobody altered")
    if given.sheet is not None:
        mistaken = [lines[at] for at in wrong]
        kinds = [" and ".join(truth.kinds[end[at]] or "original" for end in (first, second)) for at in wrong]
        order = least_sure(mistaken)
        draw_pairs([mistaken[at] for at in order], [kinds[at] for at in order], given.sheet)


def peer(python: Path, folder: Path, output: Path, furthest: int, truth: Truth) -> None:
    script = Path(__file__).parents[1] / "peers" / "search.py"
    measured(f"imagededup PHash within {furthest}", [python, script, folder, output, furthest])
    with np.load(output) as found:
        if found["names"].tolist() != truth.names:
            raise SystemExit("the other tool did not read every file")
        for distance in range(0, furthest + 1, 2):
            near = found["distance"] <= distance
            show("imagededup PHash", score(found["first"][near], found["second"][near], truth, distance))


def show(name: str, found: Score) -> None:
    figures = f"{found.precision:>10.4f}{found.recall:>8.4f}{len(found.right):>8,}{found.wrong:>8,}"
    print(f"{name:<22}{figures}{found.threshold:>11.4g}", flush=True)


def measured(name: str, command: list[object]) -> None:
    """Runs a command, its output shown; prints seconds and peak memory."""
    started = time.monotonic()
    with subprocess.Popen(list(map(str, command))) as process:
        peak = Peak(process.pid)
        code = process.wait()
        seconds, (rss, pss) = time.monotonic() - started, peak.stop()
    if code:
        raise SystemExit(f"{name} failed")
    print(f"{name}: {seconds:.0f} s, {rss:.0f} MB RSS, {pss:.0f} MB PSS\n", flush=True)


def planted(data: Path, folder: Path, count: int, seed: int) -> Truth:
    """Writes the pictures, copies among them, unless they are there."""
    told = folder.with_suffix(".json")
    if not told.exists():
        folder.mkdir(parents=True, exist_ok=True)
        told.write_text(json.dumps(write_pictures(data, folder, count, seed)), "utf-8")
    files = json.loads(told.read_text("utf-8"))
    return make_truth({name: (photo, kind) for name, (photo, kind) in files.items()}, {}, [])


def write_pictures(data: Path, folder: Path, count: int, seed: int) -> dict[str, tuple[str, str]]:
    """Name to (name of the original, kind) of each file."""
    random, copies = np.random.default_rng(seed), count // COPIES
    arrays = [np.load(data / f"{name}.npz")[part] for name in ("fashion-mnist", "mnist") for part in PARTS]
    pictures = random.permutation(np.concatenate(arrays))[: count - copies]
    names = [f"{number:06d}.png" for number in random.permutation(count)]
    files = dict[str, tuple[str, str]]()
    for name, pixels in zip(names, pictures, strict=False):
        (folder / name).write_bytes(encode_png(pixels))
        files[name] = name, ""
    for number, row in enumerate(random.permutation(len(pictures))[:copies].tolist()):
        kind, name = KINDS[number % len(KINDS)], names[len(pictures) + number]
        copy = distort(np.repeat(pictures[row][:, :, None], 3, axis=2), kind, np.random.default_rng([seed, row]))
        (folder / name).write_bytes(encode_png(grey(copy)))
        files[name] = names[row], kind
    return files


def grey(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(np.round(pixels @ np.array([0.299, 0.587, 0.114])), np.uint8)


if __name__ == "__main__":
    main()

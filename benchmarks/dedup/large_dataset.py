"""Copies among 100,000 small images, and candidates among a million rows: time and memory.

    python -m benchmarks.dedup.large_dataset --data DIR [--images 100000] [--peer V/bin/python] [--sheet FILE]
    python -m benchmarks.dedup.large_dataset --data DIR --rows 1000000 [--encoder HOME] [--work DIR]

Images: Fashion-MNIST and MNIST in an order drawn with the seed, 28 x 28, as PNG; 2,000 of them are distorted grey
copies of others (nine kinds that keep enough detail at that size). `simile index`, `simile dedup`; then imagededup's
perceptual hash with its own search on the same files. A pair of a copy and its original is right; all other pairs are
wrong, also pairs of two real images that nobody can distinguish. Times are of whole commands; memory is the largest sum
over a command and all its descendants.

Rows: drawn from the aggregate posterior of a VAE (common/synthetic_rows.py); a quarter, half, and all of them, each in
a home with an index. Only the search for candidates is measured, at a radius that gives a row about ten neighbours,
with the pairs written to disk.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.dedup_scoring import Score, Truth, get_recall_by_kind, make_truth, read_pairs, score
from benchmarks.common.memory import run_measured
from benchmarks.common.runs import SIMILE, make_parser, make_training_options, open_work_folder, read_array
from benchmarks.dedup.candidate_rows import measure_candidates
from benchmarks.dedup.pair_sheets import draw_pairs, sort_by_agreement
from simile.images.distortions import distort
from simile.images.encoding import encode_png

KINDS = ("jpeg-30", "resize-50", "crop-90", "mirror", "turn-90", "colour", "blur", "noise", "border")
IMAGES_PER_COPY = 50
PEER_DISTANCE = 8  # largest Hamming distance of the other tool's search


def main() -> None:
    """Measure images, rows, or both."""
    parser = make_parser(__doc__, data=True, work=True)
    parser.add_argument("--images", type=int, default=0)
    parser.add_argument("--rows", type=int, default=0)
    parser.add_argument("--minutes", type=float, help="training time; the shipped encoder otherwise")
    parser.add_argument("--precision", type=float, default=0.99)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peer", type=Path, help="Python of a virtual environment with imagededup")
    parser.add_argument("--furthest", type=int, default=PEER_DISTANCE, help="largest Hamming distance of its search")
    parser.add_argument("--encoder", type=Path, help="rows: a home whose encoder is used instead of a new one")
    parser.add_argument("--sheet", type=Path, help="PNG of wrong pairs, the lowest agreement first")
    options = parser.parse_args()
    if not options.images and not options.rows:
        parser.error("give --images or --rows")
    with open_work_folder(options.work) as work:
        if options.images:
            measure_images(options, work)
        if options.rows:
            measure_candidates(options.data, work, options.rows, options.encoder)


def measure_images(options: argparse.Namespace, work: Path) -> None:
    """Run simile and the other tool on the images, and print their scores."""
    folder, home, pairs, groups = work / "small", work / "home", work / "pairs.csv", work / "groups.json"
    truth = prepare(options.data, folder, options.images, options.seed)
    run_and_report("simile index", [SIMILE, "index", folder, "--home", home, *make_training_options(options.minutes)])
    arguments = ["--precision", options.precision, "--output", pairs, "--output", groups]
    run_and_report("simile dedup", [SIMILE, "dedup", "--home", home, *arguments])
    first, second, lines = read_pairs(pairs, truth)
    result = score(first, second, truth, json.loads(groups.read_text("utf-8"))["threshold"])
    print(f"\n{'':<22}{'precision':>10}{'recall':>8}{'right':>8}{'wrong':>8}{'threshold':>11}")
    print_score("simile dedup", result)
    if options.peer is not None:
        measure_peer(options.peer, folder, work / "peer.npz", options.furthest, truth)
    print("by kind:", ", ".join(f"{kind} {share:.3f}" for kind, share in get_recall_by_kind(result, truth).items()))
    wrong = np.flatnonzero(truth.wrong(first, second)).tolist()
    undistorted = sum(not truth.kinds[first[row]] and not truth.kinds[second[row]] for row in wrong)
    print(f"{undistorted} of the wrong pairs are of two undistorted images")
    if options.sheet is not None:
        wrong_lines = [lines[row] for row in wrong]
        kinds = [" and ".join(truth.kinds[rows[row]] or "original" for rows in (first, second)) for row in wrong]
        order = sort_by_agreement(wrong_lines)
        draw_pairs([wrong_lines[row] for row in order], [kinds[row] for row in order], options.sheet)


def measure_peer(python: Path, folder: Path, output: Path, furthest: int, truth: Truth) -> None:
    """Print the score of imagededup at each second distance."""
    script = Path(__file__).parents[1] / "peers" / "search.py"
    run_and_report(f"imagededup PHash within {furthest}", [python, script, folder, output, furthest])
    with np.load(output) as pairs:
        if pairs["names"].tolist() != truth.names:
            raise SystemExit("imagededup did not read all files")
        for distance in range(0, furthest + 1, 2):
            near = pairs["distance"] <= distance
            print_score("imagededup PHash", score(pairs["first"][near], pairs["second"][near], truth, distance))


def print_score(name: str, result: Score) -> None:
    """Print a row of the table."""
    figures = f"{result.precision:>10.4f}{result.recall:>8.4f}{len(result.right):>8,}{result.wrong:>8,}"
    print(f"{name:<22}{figures}{result.threshold:>11.4g}", flush=True)


def run_and_report(name: str, command: list[object]) -> None:
    """Run a command with its output; print seconds and peak memory."""
    _, seconds, rss, pss = run_measured(command)
    print(f"{name}: {seconds:.0f} s, {rss:.0f} MB RSS, {pss:.0f} MB PSS\n", flush=True)


def prepare(data: Path, folder: Path, count: int, seed: int) -> Truth:
    """Write the images and copies unless an earlier run did."""
    description = folder.with_suffix(".json")
    if not description.exists():
        folder.mkdir(parents=True, exist_ok=True)
        description.write_text(json.dumps(write_files(data, folder, count, seed)), "utf-8")
    files = json.loads(description.read_text("utf-8"))
    return make_truth({name: (photo, kind) for name, (photo, kind) in files.items()}, {}, [])


def write_files(data: Path, folder: Path, count: int, seed: int) -> dict[str, tuple[str, str]]:
    """Write images and copies; return (name of the original, kind) of each file."""
    random, copies = np.random.default_rng(seed), count // IMAGES_PER_COPY
    parts = [(dataset, part) for dataset in ("fashion-mnist", "mnist") for part in ("x_train", "x_test")]
    arrays = [read_array(data, dataset, part) for dataset, part in parts]
    images = random.permutation(np.concatenate(arrays))[: count - copies]
    names = [f"{number:06d}.png" for number in random.permutation(count)]
    files = dict[str, tuple[str, str]]()
    for name, pixels in zip(names, images, strict=False):
        (folder / name).write_bytes(encode_png(pixels))
        files[name] = name, ""
    for number, row in enumerate(random.permutation(len(images))[:copies].tolist()):
        kind, name = KINDS[number % len(KINDS)], names[len(images) + number]
        copy = distort(np.repeat(images[row][:, :, None], 3, axis=2), kind, np.random.default_rng([seed, row]))
        (folder / name).write_bytes(encode_png(convert_to_grey(copy)))
        files[name] = names[row], kind
    return files


def convert_to_grey(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the luma of (h, w, 3), by ITU-R BT.601."""
    return np.asarray(np.round(pixels @ np.array([0.299, 0.587, 0.114])), np.uint8)


if __name__ == "__main__":
    main()

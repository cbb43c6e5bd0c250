"""Words learned from tags: count, held-out AUC, and precision at 100 on images without tags.

    python -m benchmarks.search.words --data DIR [--work DIR] [--quick]

DIR holds fashion-mnist.npz and smiles.tar.gz. The 60,000 training images of Fashion-MNIST are tagged with their class;
the 10,000 test images are not, and a search for a class is limited to them (`--where part=test`). Four fifths of the
faces are tagged as smiling or not, and as bright or dark by the mean of their pixels; queries of two words are measured
on the other fifth. The encoder is the shipped one; nothing is trained. --quick: a tenth of the images.
"""

from __future__ import annotations

import csv
import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from benchmarks.common.runs import iterate_jpegs, make_parser, open_work_folder, simile, write_images
from simile.core.errors import BadSetting
from simile.core.filters.parser import make_filter
from simile.core.settings import load_settings
from simile.images.decoding import decode_image
from simile.images.formats import Limits
from simile.search.searcher import Searcher

CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
TOP = 100
UNTAGGED_SHARE = 5  # one of five faces
UNKNOWN = ("umbrella", "velvet", "red")

Flags = NDArray[np.bool_]


def main() -> None:
    """Parse the options and run the benchmark."""
    parser = make_parser(__doc__, data=True, work=True)
    parser.add_argument("--quick", action="store_true", help="a tenth of the images")
    options = parser.parse_args()
    step = 10 if options.quick else 1
    with open_work_folder(options.work) as work:
        measure_clothes(options.data, work / f"clothes-{step}", step)
        measure_faces(options.data, work / f"faces-{step}", step)


def measure_clothes(data: Path, work: Path, step: int) -> None:
    """Index Fashion-MNIST and print a row for each class."""
    with np.load(data / "fashion-mnist.npz") as stored:
        arrays = {name: stored[name][::step] for name in stored.files}
    rows = []
    for part in ("train", "test"):
        write_images(work / part, arrays[f"x_{part}"])
        paths = sorted((work / part).iterdir())
        for path, label in zip(paths, arrays[f"y_{part}"].tolist(), strict=True):
            rows.append((path, CLASSES[label] if part == "train" else "", part))
    truth = {
        str(path): CLASSES[label]
        for (path, _, part), label in zip(rows, [*arrays["y_train"].tolist(), *arrays["y_test"].tolist()], strict=True)
        if part == "test"
    }
    with open_home(work, ("path", "class", "part"), rows) as searcher:
        for name in CLASSES:
            report(searcher, name, {path: label == name for path, label in truth.items()})
        refuse(searcher)


def measure_faces(data: Path, work: Path, step: int) -> None:
    """Index the faces and print a row for each word and each query of two words."""
    names, contents = zip(*list(iterate_jpegs(data / "smiles.tar.gz"))[::step], strict=True)
    light = np.array([decode_image(content, name="face", limits=Limits()).pixels.mean() for content in contents])
    is_bright = light > np.median(light)
    is_smiling = np.array([Path(name).parent.name == "smiling" for name in names])
    # By content, so that copies are on the same side.
    is_test = np.array([int(hashlib.sha256(content).hexdigest(), 16) % UNTAGGED_SHARE == 0 for content in contents])
    (work / "faces").mkdir(parents=True, exist_ok=True)
    rows = []
    for row, content in enumerate(contents):
        path = work / "faces" / f"{row:05}.jpg"
        path.write_bytes(content)
        tags = f"{'smiling' if is_smiling[row] else 'serious'}; {'bright' if is_bright[row] else 'dark'}"
        rows.append((path, "" if is_test[row] else tags, "test" if is_test[row] else "train"))
    truths = {"smiling": is_smiling, "serious": ~is_smiling, "bright": is_bright, "dark": ~is_bright}
    with open_home(work, ("path", "tags", "part"), rows) as searcher:
        for query in (*truths, "smiling bright", "smiling dark", "serious bright", "serious dark", "smiling -bright"):
            has_all = np.ones(len(rows), bool)
            for word in query.split():
                has_all &= ~truths[word[1:]] if word.startswith("-") else truths[word]
            report(searcher, query, {str(rows[row][0]): bool(has_all[row]) for row in np.flatnonzero(is_test)})
        refuse(searcher)


def open_home(work: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Searcher:
    """Index a manifest with the shipped encoder, learn its words, and print the head of the table."""
    manifest = work / "manifest.csv"
    with manifest.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
    simile("index", manifest, home=work / "home")
    searcher = Searcher(load_settings(home=work / "home"))
    started = time.perf_counter()
    vocabulary = searcher.get_vocabulary()
    print(
        f"\n{searcher.count_images():,} images; {len(vocabulary.words)} words, learned or read in "
        f"{time.perf_counter() - started:.1f} s"
    )
    print(
        f"{'text':<17}{'tagged':>8}{'AUC held out':>14}{'AUC untagged':>14}{'precision@100':>15}"
        f"{'mean score':>12}{'wrong by':>10}{'ms':>7}",
        flush=True,
    )
    return searcher


def report(searcher: Searcher, text: str, truth: dict[str, bool]) -> None:
    """Print a row: what was promised by the tagged images, and what holds for the untagged ones."""
    started = time.perf_counter()
    result = searcher.by_text(text, limit=None, filter=make_filter(where=["part=test"]))
    milliseconds = 1000 * (time.perf_counter() - started)
    scores = np.array([hit.score for hit in result.hits])
    is_true = np.array([truth[hit.path] for hit in result.hits])
    counts, aucs = zip(*((term.word.count, term.word.auc) for term in result.terms), strict=True)
    print(
        f"{text:<17}{min(counts):>8,}{min(aucs):>14.3f}{roc_auc_score(is_true, scores):>14.3f}"
        f"{is_true[:TOP].mean():>15.2f}{scores[:TOP].mean():>12.2f}{measure_error(scores, is_true):>10.3f}"
        f"{milliseconds:>7.0f}",
        flush=True,
    )


def measure_error(scores: NDArray[np.float64], is_true: Flags) -> float:
    """Return the expected calibration error: |mean score - frequency| over ten bins, weighted by their images."""
    bins = np.minimum((scores * 10).astype(int), 9)
    parts = [(scores[bins == part], is_true[bins == part]) for part in range(10) if (bins == part).any()]
    return sum(abs(score.mean() - true.mean()) * len(score) for score, true in parts) / len(scores)


def refuse(searcher: Searcher) -> None:
    """Search for words that no image has."""
    for word in UNKNOWN:
        try:
            searcher.by_text(word)
            print(f"{word}: found, which is wrong")
        except BadSetting as error:
            print(error)


if __name__ == "__main__":
    main()

"""The regressions that confirm copies (models/likeness.py), fitted, and what they get right of pictures left out.

    python benchmarks/confirmation.py --data DIR [--photos 70] [--small 480]

Copies of 36 kinds of clothing photos, and of 19 kinds of digits and small garments, are held against their originals;
every original against the pictures that look most like it and are none, by the edges of their squares, for which no
encoder has to be trained. Five-fold, an original's copies and neighbours in one fold. What is used for photos was
fitted so on the neighbours that an encoder gave; what is used for small pictures is stricter than what is fitted here.
"""

from __future__ import annotations

import argparse
import io
import tarfile
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from models.alignment import compare
from models.alterations import KINDS, UNLISTED_KINDS, altered
from models.likeness import SAME, WITH_KEYPOINTS, WITHOUT_KEYPOINTS, Features
from models.portraits import Pixels, Portrait

# What is left of a picture of 28 x 28 by other kinds, a person would not recognise either.
SMALL_KINDS = (
    *("jpeg-30", "jpeg-8", "resize-50", "crop-90", "mirror", "turn-5", "turn-90", "colour", "blur", "noise", "border"),
    *("sticker", "gamma", "posterise", "flip", "turn-180", "sharpen", "webp-5", "vignette"),
)
NEIGHBOURS = 5

Seen = tuple[str, int, Features | None]  # the kind of copy, or "" for another picture; the original's number


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True, help="clothing-photos.tar, fashion-mnist.npz, mnist.npz")
    options.add_argument("--photos", type=int, default=70, help="that copies are made of")
    options.add_argument("--small", type=int, default=480, help="small pictures that copies are made of")
    given = options.parse_args()
    photos = read_photos(given.data / "clothing-photos.tar")
    seen = examined(photos, KINDS + UNLISTED_KINDS, given.photos, range(len(photos)))
    report("photos, laid on each other by keypoints", [one for one in seen if is_by_keypoints(one)], WITH_KEYPOINTS)
    small = [*read_small(given.data / "fashion-mnist.npz"), *read_small(given.data / "mnist.npz")]
    seen = examined(small, SMALL_KINDS, given.small, ())
    report("small pictures", [one for one in seen if one[2] is not None], WITHOUT_KEYPOINTS)


def examined(pictures: list[Pixels], kinds: Sequence[str], count: int, also: Sequence[int]) -> list[Seen]:
    """Copies of `count` pictures, and the neighbours of these, and of the pictures `also`."""
    near = nearest(pictures)
    chosen = np.random.default_rng(7).permutation(len(pictures))[:count].tolist()
    copying = partial(of_copies, pictures=pictures, kinds=kinds)
    holding = partial(of_others, pictures=pictures, near=near)
    with ProcessPoolExecutor() as pool:
        seen = [*pool.map(copying, chosen), *pool.map(holding, sorted({*chosen, *also}))]
    return [one for part in seen for one in part]


def of_copies(at: int, pictures: list[Pixels], kinds: Sequence[str]) -> list[Seen]:
    original = Portrait(pictures[at])
    copies = [altered(pictures[at], kind, np.random.default_rng([7, at, n])) for n, kind in enumerate(kinds)]
    return [(kind, at, compare(original, Portrait(copy)).features) for kind, copy in zip(kinds, copies, strict=True)]


def of_others(at: int, pictures: list[Pixels], near: NDArray[np.int64]) -> list[Seen]:
    original = Portrait(pictures[at])
    return [("", at, compare(original, Portrait(pictures[other])).features) for other in near[at].tolist()]


def nearest(pictures: list[Pixels]) -> NDArray[np.int64]:
    """(n, NEIGHBOURS) the others whose squares have the most alike edges."""
    squares = np.stack([Portrait(pixels).square for pixels in pictures])
    down, across = np.gradient(squares, axis=(1, 2))
    edges = np.concatenate([down, across], axis=1).reshape(len(squares), -1)
    edges /= np.linalg.norm(edges, axis=1, keepdims=True) + 1e-9
    likeness = edges @ edges.T
    np.fill_diagonal(likeness, -1)
    return np.argsort(-likeness, axis=1)[:, :NEIGHBOURS]


def report(title: str, seen: list[Seen], used: Sequence[float]) -> None:
    terms = np.array([one[2].terms() for one in seen if one[2] is not None])
    right, groups = np.array([bool(kind) for kind, _, _ in seen]), np.array([at for _, at, _ in seen])
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    scores = cross_val_predict(model, terms, right, cv=GroupKFold(5), groups=groups, method="predict_proba")[:, 1]
    model.fit(terms, right)
    factors = model[1].coef_[0] / model[0].scale_
    start = model[1].intercept_[0] - (factors * model[0].mean_).sum()
    print(f"\n{title}: {right.sum():,} copies, {(~right).sum():,} others that could be laid on each other")
    print("fitted", *np.round([*factors, start], 2), "used", *np.round(used, 2))
    fitted, sure = scores >= SAME, np.array([one[2].score >= SAME for one in seen if one[2] is not None])
    for name, confirmed in (("fitted", fitted), ("used", sure)):
        print(f"confirmed as {name}: {confirmed[right].mean():.4f} of copies, {confirmed[~right].sum()} of others")
    missed = defaultdict(list)
    for (kind, _, _), found in zip(seen, sure, strict=True):
        missed[kind].append(not found)
    print("missed:", ", ".join(f"{kind} {np.mean(m):.2f}" for kind, m in missed.items() if kind and np.mean(m) > 0.005))


def is_by_keypoints(one: Seen) -> bool:
    return one[2] is not None and one[2].agreeing > 0


def read_photos(archive: Path) -> list[Pixels]:
    """1,000 photos drawn with a seed."""
    with tarfile.open(archive) as tar:
        members = sorted((m for m in tar.getmembers() if m.name.endswith(".jpg")), key=lambda m: m.name)
        chosen = np.sort(np.random.default_rng(1).permutation(len(members))[:1000])
        files = [tar.extractfile(members[at]) for at in chosen]
        return [np.asarray(Image.open(io.BytesIO(file.read())).convert("RGB")) for file in files if file is not None]


def read_small(path: Path) -> list[Pixels]:
    """4,000 pictures of 28 x 28 drawn with a seed."""
    pictures = np.load(path)["x_train"]
    chosen = pictures[np.random.default_rng(1).permutation(len(pictures))[:4000]]
    return [np.repeat(pixels[:, :, None], 3, axis=2) for pixels in chosen]


if __name__ == "__main__":
    main()

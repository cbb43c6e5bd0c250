"""Crops of query images, or of indexed images: is a part of an image found by it, and it by its part?

    nice python -m benchmarks.search.query_crops --data DIR --encoder FOLDER [--originals 250] [--kind crop-30 …]

DIR holds clothing-photos.tar. Each image has six views: itself, and five crops of 60 % of its sides, in the corners and
in the middle. The distance of two images is the smallest between a view of one and a view of the other; which of them
has crops is compared. Copies are searched for among 1,000 photos as in benchmarks/search/copy_retrieval.py; then, the
other way round, the copies take the places of their originals in the collection, and the originals are searched for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.runs import open_work_folder
from benchmarks.search.copy_retrieval import extract
from benchmarks.search.verified_search import make_copy, parse_copy_options
from simile.core.records import FloatArray
from simile.evaluation.baselines import EncoderMethod
from simile.evaluation.copy_retrieval import MIN_DECODED_SIDE
from simile.images.decoding import DecodedImage, decode_image
from simile.images.formats import Limits, Pixels
from simile.models.inference.encoder import TrainedEncoder

CROP_SIDE = 0.6  # of a side
CUTOFFS = (1, 20)


def main() -> None:
    """Parse the options and run the benchmark."""
    options = parse_copy_options(__doc__)
    method = EncoderMethod(TrainedEncoder.load(options.encoder, "cpu"))
    with open_work_folder(options.work) as work:
        photos = work / f"seed-{options.seed}"
        extract(options.data / "clothing-photos.tar", photos, options.seed)
        run(method, photos / "collection", options.originals, options.kind or ["crop-30"], options.seed)


def run(method: EncoderMethod, folder: Path, originals: int, kinds: Sequence[str], seed: int) -> None:
    """Embed all views and print the table."""
    paths = sorted(map(str, folder.iterdir()))
    rows = np.sort(np.random.default_rng(seed).permutation(len(paths))[:originals])
    base = embed_views(method, (Path(path).read_bytes() for path in paths))
    columns = [f"{name} @{k}" for name in ("no crops", "query crops", "indexed crops") for k in CUTOFFS]
    print(f"{'':<26}" + "".join(f"{column:>18}" for column in columns))
    for number, kind in enumerate(kinds):
        copies = embed_views(method, (make_copy(paths[row], kind, [seed, row, number]) for row in rows.tolist()))
        with_copies = base.copy()
        with_copies[rows] = copies
        print_row(f"query is {kind}", base, copies, rows)
        print_row(f"indexed is {kind}", with_copies, base[rows], rows)


def print_row(name: str, base: FloatArray, queries: FloatArray, rows: NDArray[np.int64]) -> None:
    """Print the recall of the right rows without crops, with crops of the queries, and with crops of the base."""
    pairs = ((base[:, :1], queries[:, :1]), (base[:, :1], queries), (base, queries[:, :1]))
    recalls = [recall for pair in pairs for recall in compute_recalls(*pair, rows)]
    print(f"{name:<26}" + "".join(f"{recall:>18.3f}" for recall in recalls), flush=True)


def compute_recalls(base: FloatArray, queries: FloatArray, rows: NDArray[np.int64]) -> list[float]:
    """Return, for each cutoff, the share of queries (n, views, d) that find their row of `base` (m, views, d)."""
    ranks = []
    for query, row in zip(queries, rows.tolist(), strict=True):
        distances = np.linalg.norm(base[:, :, None] - query[None, None], axis=-1).min((1, 2))
        ranks.append(int((distances < distances[row]).sum()))
    return [float((np.array(ranks) < cutoff).mean()) for cutoff in CUTOFFS]


def embed_views(method: EncoderMethod, images: Iterable[bytes]) -> FloatArray:
    """Embed the views of encoded images, (n, 6, d)."""
    arrays = [[method.preprocessing.to_array(view) for view in make_views(data)] for data in images]
    vectors = method.embed(np.array([array for views in arrays for array in views]))
    return vectors.reshape(len(arrays), -1, vectors.shape[1])


def make_views(data: bytes) -> list[DecodedImage]:
    """Decode an image and return its six views."""
    image = decode_image(data, name="image", limits=Limits(), min_side=MIN_DECODED_SIDE)
    height, width = image.pixels.shape[:2]
    crop_height, crop_width = max(1, round(CROP_SIDE * height)), max(1, round(CROP_SIDE * width))
    down, across = height - crop_height, width - crop_width
    corners = [(0, 0), (0, across), (down, 0), (down, across), (down // 2, across // 2)]
    crops = [image.pixels[top : top + crop_height, left : left + crop_width] for top, left in corners]
    return [image, *(_replace_pixels(image, pixels) for pixels in crops)]


def _replace_pixels(image: DecodedImage, pixels: Pixels) -> DecodedImage:
    return replace(image, pixels=np.ascontiguousarray(pixels), width=pixels.shape[1], height=pixels.shape[0])


if __name__ == "__main__":
    main()

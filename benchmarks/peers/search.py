"""Pairs by imagededup's perceptual hash and its own search, with the Python of a virtual environment that has it.

    V/bin/python benchmarks/peers/search.py FOLDER OUTPUT.npz THRESHOLD

Writes names, and pairs within the Hamming distance: first and second (m,), rows of names, and distance (m,).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from hashes import declare_operators


def main() -> None:
    """Hash, search and write the pairs."""
    folder, output, threshold = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    declare_operators()
    from imagededup.methods import PHash  # noqa: PLC0415

    hasher = PHash(verbose=False)
    hashes = hasher.encode_images(image_dir=folder, recursive=True)
    duplicates = hasher.find_duplicates(encoding_map=hashes, max_distance_threshold=threshold, scores=True)
    names = sorted(hashes)
    row_of = {name: row for row, name in enumerate(names)}
    pairs = [
        (row_of[first], row_of[second], far)
        for first, near in duplicates.items()
        for second, far in near
        if first < second
    ]
    first, second, distance = np.array(pairs, np.int64).reshape(-1, 3).T
    np.savez(output, names=np.array([Path(name).name for name in names]), first=first, second=second, distance=distance)


if __name__ == "__main__":
    main()

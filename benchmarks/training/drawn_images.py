"""How fast drawn images are made, and a sheet of some of them.

python -m benchmarks.training.drawn_images [--count 5120] [--size 128] [--workers 2] [--sheet sheet.png]
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from benchmarks.common.runs import make_parser
from simile.images.drawn.generator import draw_images
from simile.images.loading.worker_pool import WorkerPool
from simile.images.rendering.sheets import draw_image_grid

SHEET_COUNT, SHEET_COLUMNS = 96, 12


def main() -> None:
    """Parse the options and run the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("--count", type=int, default=5120)
    parser.add_argument("--size", type=int, default=128, help="side in pixels")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--sheet", type=Path, help="PNG to write")
    options = parser.parse_args()
    with WorkerPool(options.workers) as workers:
        list(draw_images(64 * options.workers, options.size, 1, workers))  # the processes start
        started = time.perf_counter()
        first = []
        for image in draw_images(options.count, options.size, 0, workers):
            if len(first) < SHEET_COUNT:
                first.append(image)
        seconds = time.perf_counter() - started
    print(f"{options.count:,} images of {options.size} px in {seconds:.1f} s: {options.count / seconds:.0f} a second")
    if options.sheet is not None:
        options.sheet.write_bytes(draw_image_grid(np.stack(first), columns=SHEET_COLUMNS))


if __name__ == "__main__":
    main()

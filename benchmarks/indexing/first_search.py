"""From `simile index` to the first answered search in a fresh home, with the shipped encoder.

    python -m benchmarks.indexing.first_search --data DIR [--counts 50 1000 10000] [--dedup]

DIR holds clothing-photos.tar. Its photos are repeated, shifted by a few pixels, where more are asked for. With --dedup
the time until the report of `simile dedup` is measured, too.
"""

from __future__ import annotations

import io
import time
from pathlib import Path

from PIL import Image, ImageChops

from benchmarks.common.runs import iterate_jpegs, make_parser, measure_seconds, open_work_folder, simile


def main() -> None:
    """Parse the options and run the benchmark."""
    parser = make_parser(__doc__, data=True, work=True)
    parser.add_argument("--counts", type=int, nargs="+", default=[50, 1000, 10_000], help="numbers of photos")
    parser.add_argument("--dedup", action="store_true", help="run `simile dedup` as well")
    options = parser.parse_args()
    lines = []
    with open_work_folder(options.work) as work:
        for count in options.counts:
            folder, home = work / f"photos-{count}", work / f"home-{count}-{time.time_ns()}"
            write_photos(options.data / "clothing-photos.tar", folder, count)
            query = next(folder.iterdir())
            seconds = [
                measure_seconds(lambda: simile("index", folder, home=home)),  # noqa: B023  # called at once
                measure_seconds(lambda: simile("search", query, "-k", 5, home=home)),  # noqa: B023
            ]
            if options.dedup:
                report = ("--output", work / "report.html")
                seconds.append(measure_seconds(lambda: simile("dedup", *report, home=home)))  # noqa: B023
            lines.append(f"{count:>8,}" + "".join(f"{value:>10.1f}" for value in seconds) + f"{sum(seconds):>10.1f}")
    print(f"{'photos':>8}{'index':>10}{'search':>10}{'dedup' if options.dedup else '':>10}{'together':>10}   seconds")
    print("\n".join(lines))


def write_photos(archive: Path, folder: Path, count: int) -> None:
    """Write so many photos; those after the first round are shifted, so that no two files are equal."""
    if folder.exists():
        return
    folder.mkdir(parents=True)
    files = list(iterate_jpegs(archive))
    for number in range(count):
        name, content = files[number % len(files)]
        turn = number // len(files)
        if turn:
            file = io.BytesIO()
            ImageChops.offset(Image.open(io.BytesIO(content)), 7 * turn, 5 * turn).save(file, "JPEG", quality=90)
            content = file.getvalue()
        (folder / f"{turn}-{Path(name).name}").write_bytes(content)


if __name__ == "__main__":
    main()

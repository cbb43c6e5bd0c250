"""A second `simile dedup` after 1 % new files, compared with the first run.

    python -m benchmarks.dedup.second_run --data DIR | --photos DIR [--images 1389]

Indexes 99 % of the photos with the shipped encoder and runs `simile dedup`; then indexes the rest and runs it again.
The limit is 5 % of the time of the first run.
"""

from __future__ import annotations

import resource
import shutil
import subprocess
import time
from pathlib import Path

from benchmarks.common.runs import (
    SIMILE,
    add_photo_options,
    list_photos,
    make_parser,
    open_work_folder,
    parse_photo_options,
)

ARCHIVE = "clothing-photos.tar"


def main() -> None:
    """Parse the options, run both and print a table."""
    parser = make_parser(__doc__, work=True)
    add_photo_options(parser)
    parser.add_argument("--images", type=int, default=1389)
    options = parse_photo_options(parser)
    with open_work_folder(options.work) as work:
        photos = list_photos(options, work, ARCHIVE)[: options.images]
        new_count = max(1, len(photos) // 100)
        seconds = []
        for name, files in (("first", photos[new_count:]), ("second", photos[:new_count])):
            folder = work / name
            folder.mkdir()
            for position, path in enumerate(files):
                shutil.copy(path, folder / f"{position:05}{path.suffix}")
            run("index", folder, home=work / "home")
            seconds.append(run("dedup", home=work / "home"))
            print(
                f"{name}: {len(files):,} new files, {seconds[-1][0]:.1f} s, {seconds[-1][1]:.1f} s of CPU", flush=True
            )
    share, cpu_share = (second / first for first, second in zip(*seconds, strict=True))
    print(f"second / first: {share:.3f} of the time, {cpu_share:.3f} of the CPU time (limit 0.05)")


def run(*arguments: object, home: Path) -> tuple[float, float]:
    """Run a command that must succeed; return wall and CPU seconds."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    command = [SIMILE, *map(str, arguments), "--home", str(home)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - started
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()

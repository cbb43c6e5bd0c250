"""What photo metadata cost: at indexing, and for a home that was indexed without them.

    python -m benchmarks.indexing.photo_metadata --data DIR [--files 2000] [--repeats 5] [--work DIR]

DIR holds clothing-photos.tar and clothing-2695.tar. The photos are indexed in turns with and without reading metadata:
as they are, without metadata; with EXIF that has 4 kB of a maker's notes and a place, XMP with 2 kB of padding, and
IPTC; and a tenth of them with all that, enlarged to 12 megapixels. Then `simile index --metadata` reads the metadata in
one worker process: first all of them are new, then none has changed. CPU time is that of all processes.
"""

from __future__ import annotations

import io
import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from statistics import median
from unittest import mock

import numpy as np
from PIL import Image

from benchmarks.common.runs import iterate_jpegs, make_parser, measure_seconds, open_work_folder
from simile.core.settings import Settings, load_settings
from simile.images.sources.paths import PathPatterns
from simile.indexer.pipeline import job
from simile.indexer.pipeline.metadata import update_photo_metadata
from simile.store.catalogue.catalogue import Catalogue
from simile.store.home import Home
from tests.support.images import SHOT, make_bag, make_exif, make_iptc, make_photoshop_segment, make_xmp

LARGE_SIZE = (3000, 4000)
MAKER_NOTE_TAG, MAKER_NOTE_BYTES, PADDING_BYTES = 37500, 4000, 2000


@dataclass(frozen=True)
class Cost:
    """Seconds of one run: elapsed, and of all cores."""

    elapsed: float
    cpu: float


def main() -> None:
    """Parse the options and measure."""
    parser = make_parser(__doc__, data=True, work=True)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with open_work_folder(options.work) as work:
        plain, described, large = work / "plain", work / "described", work / "large"
        write_photos(options.data, plain, options.files, with_metadata=False)
        write_photos(options.data, described, options.files)
        write_photos(options.data, large, options.files // 10, LARGE_SIZE)
        for folder in (plain, described, large):
            compare_indexing(folder, work, options.repeats)
        measure_backfill(load_settings(home=work / "home", workers=1), described, options.repeats)


def write_photos(
    data: Path, folder: Path, count: int, size: tuple[int, int] | None = None, *, with_metadata: bool = True
) -> None:
    """Write the first photos of the archives, enlarged to a size if one is given."""
    if folder.exists():
        return
    folder.mkdir(parents=True)
    archives = (iterate_jpegs(data / name) for name in ("clothing-photos.tar", "clothing-2695.tar"))
    for number, (_, jpeg) in enumerate(islice(chain.from_iterable(archives), count)):
        image = jpeg if size is None else enlarge(jpeg, size)
        segments = make_segments(number) if with_metadata else ()
        (folder / f"{number:05}.jpg").write_bytes(image[:2] + b"".join(segments) + image[2:])


def enlarge(jpeg: bytes, size: tuple[int, int]) -> bytes:
    """Return a photo of this size."""
    file = io.BytesIO()
    Image.open(io.BytesIO(jpeg)).resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def make_segments(number: int) -> Iterator[bytes]:
    """Yield the segments of a JPEG that hold the metadata."""
    notes = np.random.default_rng(number).bytes(MAKER_NOTE_BYTES)
    taken = f"{2018 + number % 7}:{1 + number % 12:02}:{1 + number % 28:02} 10:{number % 60:02}:00"
    exif = make_exif(shot={**SHOT, 36867: taken, MAKER_NOTE_TAG: notes})
    xmp = make_xmp(f'xmp:Rating="{number % 6}"', make_bag("dc:subject", "clothes", f"batch {number // 200}"))
    for body in (exif, b"http://ns.adobe.com/xap/1.0/\0" + xmp + b" " * PADDING_BYTES):
        yield b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body
    yield make_photoshop_segment(make_iptc((5, b"a title"), (25, b"clothes")))


def compare_indexing(folder: Path, work: Path, repeats: int) -> None:
    """Index a folder in turns with and without reading metadata, and print medians."""
    count = sum(1 for _ in folder.iterdir())
    costs: dict[bool, list[Cost]] = {True: [], False: []}
    for turn in range(repeats):
        for reads in (True, False):
            home = work / f"home-{folder.name}-{turn}-{reads}"
            costs[reads].append(measure(lambda home=home, reads=reads: run_index(home, folder, reads=reads)))
    cpu = {reads: median(cost.cpu for cost in found) / count * 1e6 for reads, found in costs.items()}
    speed = {reads: count / median(cost.elapsed for cost in found) for reads, found in costs.items()}
    print(
        f"{folder.name:9} {count:6,} files   with {speed[True]:6,.0f}/s {cpu[True]:7,.0f} us   without "
        f"{speed[False]:6,.0f}/s {cpu[False]:7,.0f} us   share {cpu[True] / cpu[False] - 1:.3f}",
        flush=True,
    )


def run_index(home: Path, folder: Path, *, reads: bool) -> None:
    """Run `simile index` in this process."""
    settings = load_settings(home=home, device="cpu")
    if reads:
        job.index(settings, [folder], job.IndexRequest())
    else:
        with mock.patch.object(job, "MetadataReader", lambda **_: None):
            job.index(settings, [folder], job.IndexRequest())


def measure_backfill(settings: Settings, folder: Path, repeats: int) -> None:
    """Print how fast `simile index --metadata` is if everything is new, and if nothing is."""
    job.index(settings, [folder], job.IndexRequest())
    speeds: dict[str, list[float]] = {"new": [], "unchanged": []}
    for _ in range(repeats):
        with Catalogue(Home.from_settings(settings)) as catalogue:
            catalogue.photo_metadata.set_for_files(dict.fromkeys(path for _, path in catalogue.files.iterate_paths()))
        for name, found in speeds.items():
            summary = update_photo_metadata(settings, [folder], PathPatterns())
            if summary.updated != (summary.read if name == "new" else 0):
                raise SystemExit(f"unexpected: {summary}")
            found.append(summary.files_per_second)
    for name, found in speeds.items():
        print(f"--metadata, {name:9} {median(found):6,.0f} files/s")


def measure(work: Callable[[], object]) -> Cost:
    """Run a function; processes that it starts must have ended with it."""
    before = read_cpu_seconds()
    elapsed = measure_seconds(work)
    return Cost(elapsed, read_cpu_seconds() - before)


def read_cpu_seconds() -> float:
    """Return the CPU time of this process and of its children that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


if __name__ == "__main__":
    main()

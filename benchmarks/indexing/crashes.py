"""Commands killed with SIGKILL at random moments, alone, two at a time, and on a full disk: is anything lost?

    python -m benchmarks.indexing.crashes --rounds 100 [--seed 0] [--encoder HOME] [--disk FOLDER]

Each round forks a process that does one kind of work on a small home and reports through a pipe what was acknowledged
(the progress of a batch, the id of an upload, a deletion, an active encoder). It is killed at a random moment within
the usual duration of this work. Afterwards `verify` must find no problem, everything acknowledged must exist,
everything that existed before must have the same id, and a search for its own vector must find each row exactly once.
The exit code is 1 otherwise. Rounds on a full disk end with an error that names the cause.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch: a process with threads cannot be forked safely

import resource
import select
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.common.runs import make_parser
from benchmarks.indexing.crash_work import KINDS, LONGEST, PAIRS, Work, World, hash_file, make_world, read_images
from simile.core.errors import HomeNotWritable
from simile.indexer.maintenance.rebuild import compact_index
from simile.indexer.maintenance.verify import find_home_leftovers, verify_home
from simile.indexer.pipeline.job import IndexRequest, index
from simile.store.catalogue.catalogue import Catalogue
from simile.store.home import Home
from simile.store.index.index import Index
from simile.store.index.metric import make_index_vectors

MAX_FLAWS = 50  # that are printed


class Child:
    """A forked process; its acknowledgements come through a pipe, which outlives the process."""

    def __init__(self, work: Work, limit: int | None = None) -> None:
        self.started = time.monotonic()
        self.first_line: float | None = None  # seconds until the first acknowledgement
        self.pipe, output = os.pipe()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.pipe)
            os._exit(_run(work, output, limit))
        os.close(output)
        self.status: int | None = None

    def has_ended_within(self, seconds: float) -> bool:
        """Wait for its end, at most `seconds`; record the time of the first acknowledgement."""
        until, end = time.monotonic() + seconds, os.pidfd_open(self.pid)
        try:
            while True:
                waits_for = [end] if self.first_line is not None else [end, self.pipe]
                ready = select.select(waits_for, [], [], max(0.0, until - time.monotonic()))[0]
                if end in ready or not ready:
                    return end in ready
                self.first_line = time.monotonic() - self.started
        finally:
            os.close(end)

    def finish(self) -> list[list[str]]:
        """Kill it if it still runs; return its acknowledgements as lists of words."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        _, self.status = os.waitpid(self.pid, 0)
        with os.fdopen(self.pipe) as file:
            lines = file.read().split("\n")
        return [line.split() for line in lines[:-1]]  # an incomplete line was not acknowledged


def _run(work: Work, output: int, limit: int | None) -> int:
    def acknowledge(*words: object) -> None:
        os.write(output, (" ".join(map(str, words)) + "\n").encode())

    try:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        work.run(acknowledge)
    except HomeNotWritable:
        return 3
    except BaseException as error:  # any error belongs in the report  # noqa: BLE001
        acknowledge("failed", f"{type(error).__name__}: {error}")
        return 1
    return 0


class CrashRounds:
    """Runs rounds and counts the flaws."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.durations: dict[str, tuple[float, float]] = {}  # seconds until the first acknowledgement and the end
        self.counts: dict[str, Counter[str]] = {}
        self.flaws: list[str] = []

    def kill(self, *names: str) -> None:
        """Run one round: these kinds of work at once, each killed at its own moment."""
        world = self.world
        world.round += 1
        works = []
        for name in names:
            works.append(KINDS[name](world))
            world.round += 1  # two works of one kind use two folders
        before = read_images(world)
        moments = [self._draw_moment(name) for name in names]
        children = [Child(work) for work in works]
        for name, child, moment in zip(names, children, moments, strict=True):
            if child.has_ended_within(moment - (time.monotonic() - child.started)):
                seconds = time.monotonic() - child.started
                self.durations[name] = (child.first_line or 0.0, seconds)
        self._judge(" + ".join(names), before, works, [(child.finish(), child) for child in children])

    def _draw_moment(self, name: str) -> float:
        """Draw the moment of a kill, half of them after the first acknowledgement; the first of a kind may finish."""
        if name not in self.durations:
            return LONGEST
        first_line, end = self.durations[name]
        return float(self.world.random.uniform(0.9 * first_line * self.world.random.integers(2), 1.1 * end))

    def fill(self, name: str, disk: Path | None) -> None:
        """Run one round on a full disk.

        `disk` is a folder on a small disk that contains the home; it is filled except for some hundred kB. Without it
        no file may grow beyond a random size near that of the catalogue.
        """
        world = self.world
        world.round += 1
        work = KINDS[name](world)
        before = read_images(world)
        size = (world.settings.home / "catalogue.sqlite").stat().st_size
        limit = None if disk else int(world.random.uniform(0.1 * size, 1.3 * size))
        with _fill_disk(disk, left=int(world.random.uniform(0, 0.5 * size))):
            child = Child(work, limit)
            if not child.has_ended_within(LONGEST):
                self.flaws.append(f"{name}, full disk: hangs")
            acknowledged = child.finish()
        self._judge(f"{name}, full disk", before, [work], [(acknowledged, child)])

    def _judge(
        self, name: str, before: dict[int, str], works: list[Work], ends: list[tuple[list[list[str]], Child]]
    ) -> None:
        counts = self.counts.setdefault(name, Counter())
        counts["rounds"] += 1
        flaws = list(_find_flaws(self.world, before, works, [lines for lines, _ in ends]))
        for lines, child in ends:
            assert child.status is not None
            counts["killed"] += os.WIFSIGNALED(child.status)
            counts["refused"] += os.WIFEXITED(child.status) and os.WEXITSTATUS(child.status) == 3
            counts["acknowledged"] += len(lines)
            flaws += [" ".join(words) for words in lines if words[0] == "failed"]
        counts["flaws"] += len(flaws)
        self.flaws += [f"round {self.world.round}, {name}: {flaw}" for flaw in flaws]


@contextmanager
def _fill_disk(disk: Path | None, left: int) -> Iterator[None]:
    """Leave `left` bytes free on the disk."""
    if disk is None:
        yield
        return
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, shutil.disk_usage(disk).free - left))
    try:
        yield
    finally:
        ballast.unlink()


def _find_flaws(
    world: World, before: dict[int, str], works: list[Work], acknowledged: list[list[list[str]]]
) -> Iterator[str]:
    after = read_images(world)
    for problem in verify_home(world.settings):
        yield f"verify: {problem.description}"
    removable = set().union(*(work.removable for work in works))
    for image_id in before.keys() - after.keys() - removable:
        yield f"image {image_id} is lost"
    for image_id in before.keys() & after.keys():
        if before[image_id] != after[image_id]:
            yield f"image {image_id} became another image"
    for image_id in after.keys() - before.keys():
        if image_id <= world.highest:
            yield f"id {image_id} was used before"
    world.highest = max([world.highest, *after])
    for work, lines in zip(works, acknowledged, strict=True):
        yield from _find_broken_acknowledgements(world, work, lines, after, removable)
    yield from _find_unsearchable(world, after)


def _find_broken_acknowledgements(
    world: World, work: Work, lines: list[list[str]], after: dict[int, str], removable: set[int]
) -> Iterator[str]:
    """Yield acknowledgements that are not true."""
    with Catalogue(Home(world.settings.home)) as catalogue:
        known, active = catalogue.files.find_under([str(world.photos)]), catalogue.encoders.find_active()
    for kind, *words in lines:
        if kind == "done":
            yield from (f"{path} is lost" for path in work.paths[: int(words[0])] if str(path) not in known)
        elif kind == "stored" and int(words[0]) not in removable and after.get(int(words[0])) != words[1]:
            yield f"upload {words[0]} is lost"
        elif kind == "deleted" and int(words[0]) in after:
            yield f"image {words[0]} is back"
        elif kind == "active" and (active is None or active.fingerprint != words[0]):
            yield f"encoder {words[0]} is not active"


def _find_unsearchable(world: World, after: dict[int, str]) -> Iterator[str]:
    """Yield rows that a search for their own vector does not find exactly once."""
    with Catalogue(Home(world.settings.home)) as catalogue:
        searched_index, active = Index(catalogue), catalogue.encoders.find_active()
        assert active is not None
        if len(searched_index) != len(after):
            yield f"a search compares {len(searched_index)} vectors, but there are {len(after)} images"
        for ids, mu, _ in catalogue.embeddings.iterate_chunks(active.fingerprint):
            vectors = make_index_vectors(mu, active.index_dims, active.metric)
            for image_id, hits in zip(ids.tolist(), searched_index.range(vectors, 1e-5), strict=True):
                times = [hit_id for hit_id, _ in hits].count(image_id)
                if times != 1:
                    yield f"a search finds image {image_id} {times} times"


def finish(world: World) -> list[str]:
    """Index everything; return leftovers, and contents that are missing."""
    index(world.settings, [world.photos], IndexRequest(prune=True))
    compact_index(world.settings)
    flaws = [problem.description for problem in verify_home(world.settings)]
    uploads = world.settings.home / "uploads"
    flaws += [
        leftover.description
        for leftover in find_home_leftovers(world.settings)
        if str(uploads) not in leftover.description
    ]
    existing = set(map(hash_file, world.photos.rglob("*.png")))
    missing = existing - set(read_images(world).values())
    return flaws + [f"{len(missing)} contents of the folder have no row"] * bool(missing)


def run_rounds(rounds: CrashRounds, count: int, disk: Path | None) -> None:
    """Kill the kinds of work in turn; one round of four is followed by a pair, another one by a full disk."""
    kinds = list(KINDS)
    for number in range(count):
        rounds.kill(kinds[number % len(kinds)])
        if number % 4 == 1:
            rounds.kill(*PAIRS[number // 4 % len(PAIRS)])
        if number % 4 == 3:
            rounds.fill(kinds[number // 4 % len(kinds)], disk)


def report(rounds: CrashRounds) -> None:
    """Print the table."""
    print(f"{'work':<22}{'rounds':>7}{'killed':>8}{'refused':>9}{'acknowledged':>14}{'flaws':>7}")
    for name, counts in sorted(rounds.counts.items()):
        figures = [counts[column] for column in ("rounds", "killed", "refused", "acknowledged", "flaws")]
        print("{:<22}{:>7}{:>8}{:>9}{:>14,}{:>7}".format(name, *figures))


def main() -> int:
    """Run the rounds; return the exit code."""
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=64, help="images that one round adds")
    parser.add_argument("--encoder", type=Path, help="a home whose encoder is used instead of a new one")
    parser.add_argument("--disk", type=Path, help="a folder on a disk of 50 to 500 MB, which is filled")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory(dir=options.disk) as home_folder:
        home = Path(home_folder) / "home"
        world = make_world(Path(folder), home, options.encoder, options.seed, options.images)
        rounds = CrashRounds(world)
        run_rounds(rounds, options.rounds, options.disk)
        rounds.flaws += finish(world)
        report(rounds)
        if not rounds.flaws:
            print(f"{len(read_images(world)):,} images at the end, each once; nothing left over")
    for flaw in rounds.flaws[:MAX_FLAWS]:
        print(flaw)
    return 1 if rounds.flaws else 0


if __name__ == "__main__":
    sys.exit(main())

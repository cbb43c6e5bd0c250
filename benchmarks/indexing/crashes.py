"""Commands killed with SIGKILL at random moments, alone, two at a time, and on a disk that is full: is anything lost?

    python -m benchmarks.indexing.crashes --rounds 100 [--seed 0] [--encoder HOME] [--disk FOLDER]

Each round forks a process that does one kind of work on a small home and says through a pipe what was acknowledged to
it (a batch's progress, an upload's id, a deletion, an encoder in use). It is killed at a moment drawn with the seed
from the time that this work takes. Then: `verify` finds nothing, whatever was acknowledged is there, whatever was
there still is under the same id, every row is found exactly once by a search for its own vector. Exit 1 if not.
Rounds on a full disk end by themselves, with an error that says so.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch: a process with threads can't be forked safely

import argparse
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

from benchmarks.indexing.crash_work import KINDS, LONGEST, PAIRS, Work, World, contents, make_world, rows
from simile.core.errors import HomeNotWritable
from simile.indexer.maintenance.rebuild import compact_index
from simile.indexer.maintenance.verify import find_home_leftovers, verify_home
from simile.indexer.pipeline.job import IndexRequest, index
from simile.store.catalogue.catalogue import Catalogue
from simile.store.home import Home
from simile.store.index.index import Index
from simile.store.index.metric import make_index_vectors

SHOWN = 50  # flaws: one is enough to go after


class Child:
    """A forked process at work; what it says comes through a pipe, which outlives it."""

    def __init__(self, work: Work, limit: int | None = None) -> None:
        self.started = time.monotonic()
        self.spoke: float | None = None  # seconds until the first word
        self.pipe, out = os.pipe()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.pipe)
            os._exit(_run(work, out, limit))
        os.close(out)
        self.status: int | None = None

    def ended_within(self, seconds: float) -> bool:
        """Waits until it has ended, at most so long, and notes when it spoke."""
        until, end = time.monotonic() + seconds, os.pidfd_open(self.pid)
        try:
            while True:
                waits_for = [end] if self.spoke is not None else [end, self.pipe]
                ready = select.select(waits_for, [], [], max(0.0, until - time.monotonic()))[0]
                if end in ready or not ready:
                    return end in ready
                self.spoke = time.monotonic() - self.started
        finally:
            os.close(end)

    def finish(self) -> list[list[str]]:
        """Kills it if it is still there; gives what it said, word by word."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        _, self.status = os.waitpid(self.pid, 0)
        with os.fdopen(self.pipe) as file:
            lines = file.read().split("\n")
        return [line.split() for line in lines[:-1]]  # what was cut off in the middle of a line was never said


def _run(work: Work, out: int, limit: int | None) -> int:
    def say(*words: object) -> None:
        os.write(out, (" ".join(map(str, words)) + "\n").encode())

    try:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        work.do(say)
    except HomeNotWritable:
        return 3
    except BaseException as error:  # whatever it is, it belongs into the report  # noqa: BLE001
        say("failed", f"{type(error).__name__}: {error}")
        return 1
    return 0


class Rounds:
    """Runs rounds and counts what went wrong."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.spans: dict[str, tuple[float, float]] = {}  # seconds until the first word, and until the end
        self.counts: dict[str, Counter[str]] = {}
        self.wrong: list[str] = []

    def kill(self, *names: str) -> None:
        """One round: these kinds of work at once, each killed at a moment of its own."""
        world = self.world
        world.round += 1
        works = []
        for name in names:
            works.append(KINDS[name](world))
            world.round += 1  # two of one kind work on two folders
        before = rows(world)
        moments = [self._moment(name) for name in names]
        children = [Child(work) for work in works]
        for name, child, moment in zip(names, children, moments, strict=True):
            if child.ended_within(moment - (time.monotonic() - child.started)):
                seconds = time.monotonic() - child.started
                self.spans[name] = (child.spoke or 0.0, seconds)
        self._judge(" + ".join(names), before, works, [(child.finish(), child) for child in children])

    def _moment(self, name: str) -> float:
        """When to kill: any time, and every other time after the first word. The first of a kind may finish."""
        if name not in self.spans:
            return LONGEST
        spoke, end = self.spans[name]
        return float(self.world.random.uniform(0.9 * spoke * self.world.random.integers(2), 1.1 * end))

    def fill(self, name: str, disk: Path | None) -> None:
        """One round on a disk that is full.

        `disk`: a folder on a small disk that holds the home, filled up but for some hundred kB. Without one no file
        may grow beyond a size drawn around the catalogue's.
        """
        world = self.world
        world.round += 1
        work = KINDS[name](world)
        before = rows(world)
        size = (world.settings.home / "catalogue.sqlite").stat().st_size
        limit = None if disk else int(world.random.uniform(0.1 * size, 1.3 * size))
        with _filled_up(disk, left=int(world.random.uniform(0, 0.5 * size))):
            child = Child(work, limit)
            if not child.ended_within(LONGEST):
                self.wrong.append(f"{name}, full disk: hangs")
            said = child.finish()
        self._judge(f"{name}, full disk", before, [work], [(said, child)])

    def _judge(
        self, name: str, before: dict[int, str], works: list[Work], ends: list[tuple[list[list[str]], Child]]
    ) -> None:
        counts = self.counts.setdefault(name, Counter())
        counts["rounds"] += 1
        wrong = list(_flaws(self.world, before, works, [said for said, _ in ends]))
        for said, child in ends:
            assert child.status is not None
            counts["killed"] += os.WIFSIGNALED(child.status)
            counts["refused"] += os.WIFEXITED(child.status) and os.WEXITSTATUS(child.status) == 3
            counts["acknowledged"] += len(said)
            wrong += [" ".join(words) for words in said if words[0] == "failed"]
        counts["flaws"] += len(wrong)
        self.wrong += [f"round {self.world.round}, {name}: {flaw}" for flaw in wrong]


@contextmanager
def _filled_up(disk: Path | None, left: int) -> Iterator[None]:
    """Within the block `left` bytes are free on the disk."""
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


def _flaws(world: World, before: dict[int, str], works: list[Work], said: list[list[list[str]]]) -> Iterator[str]:
    after = rows(world)
    for problem in verify_home(world.settings):
        yield f"verify: {problem.description}"
    may_go = set().union(*(work.may_go for work in works))
    for image_id in before.keys() - after.keys() - may_go:
        yield f"image {image_id} is lost"
    for image_id in before.keys() & after.keys():
        if before[image_id] != after[image_id]:
            yield f"image {image_id} became another picture"
    for image_id in after.keys() - before.keys():
        if image_id <= world.highest:
            yield f"id {image_id} was used before"
    world.highest = max([world.highest, *after])
    for work, lines in zip(works, said, strict=True):
        yield from _broken_words(world, work, lines, after, may_go)
    yield from _not_found(world, after)


def _broken_words(
    world: World, work: Work, lines: list[list[str]], after: dict[int, str], may_go: set[int]
) -> Iterator[str]:
    """What was acknowledged and is not so."""
    with Catalogue(Home(world.settings.home)) as catalogue:
        known, active = catalogue.files.find_under([str(world.photos)]), catalogue.encoders.find_active()
    for kind, *words in lines:
        if kind == "done":
            yield from (f"{path} is lost" for path in work.paths[: int(words[0])] if str(path) not in known)
        elif kind == "stored" and int(words[0]) not in may_go and after.get(int(words[0])) != words[1]:
            yield f"upload {words[0]} is lost"
        elif kind == "deleted" and int(words[0]) in after:
            yield f"image {words[0]} is back"
        elif kind == "active" and (active is None or active.fingerprint != words[0]):
            yield f"encoder {words[0]} is not in use"


def _not_found(world: World, after: dict[int, str]) -> Iterator[str]:
    """Rows that a search for their own vector does not find exactly once."""
    with Catalogue(Home(world.settings.home)) as catalogue:
        searched, active = Index(catalogue), catalogue.encoders.find_active()
        assert active is not None
        if len(searched) != len(after):
            yield f"a search compares {len(searched)} vectors, but there are {len(after)} images"
        for ids, mu, _ in catalogue.embeddings.iterate_chunks(active.fingerprint):
            vectors = make_index_vectors(mu, active.index_dims, active.metric)
            for image_id, hits in zip(ids.tolist(), searched.range(vectors, 1e-5), strict=True):
                if [found for found, _ in hits].count(image_id) != 1:
                    yield f"a search finds image {image_id} {[found for found, _ in hits].count(image_id)} times"


def finish(world: World) -> list[str]:
    """Runs everything to its end: nothing may be left over, and every content is there once."""
    index(world.settings, [world.photos], IndexRequest(prune=True))
    compact_index(world.settings)
    wrong = [problem.description for problem in verify_home(world.settings)]
    uploads = world.settings.home / "uploads"
    wrong += [left.description for left in find_home_leftovers(world.settings) if str(uploads) not in left.description]
    there = set(map(contents, world.photos.rglob("*.png")))
    missing = there - set(rows(world).values())
    return wrong + [f"{len(missing)} contents of the folder have no row"] * bool(missing)


def play(rounds: Rounds, count: int, disk: Path | None) -> None:
    """So many kills of the kinds in turn; after every fourth a pair, after every other fourth a full disk."""
    kinds = list(KINDS)
    for number in range(count):
        rounds.kill(kinds[number % len(kinds)])
        if number % 4 == 1:
            rounds.kill(*PAIRS[number // 4 % len(PAIRS)])
        if number % 4 == 3:
            rounds.fill(kinds[number // 4 % len(kinds)], disk)


def report(rounds: Rounds) -> None:
    print(f"{'work':<22}{'rounds':>7}{'killed':>8}{'refused':>9}{'acknowledged':>14}{'flaws':>7}")
    for name, counts in sorted(rounds.counts.items()):
        figures = [counts[column] for column in ("rounds", "killed", "refused", "acknowledged", "flaws")]
        print("{:<22}{:>7}{:>8}{:>9}{:>14,}{:>7}".format(name, *figures))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pictures", type=int, default=64, help="that one round adds")
    parser.add_argument("--encoder", type=Path, help="a home to take the encoder from; one is trained without it")
    parser.add_argument("--disk", type=Path, help="a folder on a disk of 50 to 500 MB, to be filled up with the home")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory(dir=arguments.disk) as place:
        home = Path(place) / "home"
        world = make_world(Path(folder), home, arguments.encoder, arguments.seed, arguments.pictures)
        rounds = Rounds(world)
        play(rounds, arguments.rounds, arguments.disk)
        rounds.wrong += finish(world)
        report(rounds)
        if not rounds.wrong:
            print(f"{len(rows(world)):,} images at the end, each once; nothing left over")
    for flaw in rounds.wrong[:SHOWN]:
        print(flaw)
    return 1 if rounds.wrong else 0


if __name__ == "__main__":
    sys.exit(main())

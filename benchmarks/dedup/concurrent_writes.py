"""Somebody else writes to the same files while `simile dedup apply` is at work: is anything of theirs lost?

    python -m benchmarks.dedup.concurrent_writes [--elsewhere /dev/shm]

One apply for every step of every action that changes a file or folder; right before that step another program appends
to the file that goes, or saves a new file at its place, or replaces the kept one. Whatever it wrote must still be
somewhere afterwards, and after `undo`; so must the picture, unless the kept file was replaced when a symbolic link to
it stood already. Exit 1 if not.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.common.dedup_world import World, contents, make_world, tree
from benchmarks.dedup.kills import ACTIONS, apply_world, changes_something, undo_world

WORD = b"somebody else's word"


def append(path: Path, _: Path) -> bool:
    if path.is_symlink() or not path.exists():
        return False
    with path.open("ab") as file:
        file.write(WORD)
    return True


def save(path: Path, _: Path) -> bool:
    """As editors do: a new file under another name, renamed."""
    new = path.with_name("unsaved")
    new.write_bytes(WORD)
    new.replace(path)
    return True


def replace_kept(_: Path, keep: Path) -> bool:
    return save(keep, keep)


MEDDLERS: tuple[Callable[[Path, Path], bool], ...] = (append, save, replace_kept)


class Meddling:
    """One action and one meddler, step by step."""

    def __init__(self, folder: Path, elsewhere: Path) -> None:
        self.folder, self.elsewhere = folder, elsewhere

    def steps(self, action: str, meddler: Callable[[Path, Path], bool]) -> Iterator[list[str]]:
        """What was lost at each step."""
        step = 0
        while True:
            world = self._world()
            line = world.removals[0]
            self._in_child(world, action, meddler, step)
            written = world.folder / "meddled"
            if not written.exists():
                return
            stood = action == "symlink" and Path(line.path).is_symlink()
            wrong = self._lost(world, line.sha256, written.read_text() == "True", stood)
            wrong += [f"left over: {path}" for path in tree(world.photos) if ".simile-" in path]
            undo_world(world)
            wrong += [
                f"{one}, after undo" for one in self._lost(world, line.sha256, written.read_text() == "True", stood)
            ]
            yield [f"{action}, {meddler.__name__}, step {step}: {flaw}" for flaw in wrong]
            step += 1

    def _world(self) -> World:
        for folder in (self.folder, self.elsewhere):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        world = make_world(self.folder, self.elsewhere, 1)
        for other in world.removals[1:]:
            Path(other.path).unlink()
        world.removals = world.removals[:1]
        os.environ["XDG_DATA_HOME"] = str(world.folder / "data")
        return world

    def _in_child(self, world: World, action: str, meddler: Callable[[Path, Path], bool], step: int) -> None:
        sys.stdout.flush()
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            return
        line, seen, busy = world.removals[0], 0, False

        def meddle(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal seen, busy
            if busy or seen > step or not changes_something(event, arguments):
                return
            busy = True
            if seen == step:
                wrote = meddler(Path(line.path), Path(line.keep_path))
                (world.folder / "meddled").write_text(str(wrote))
            seen, busy = seen + 1, False

        sys.addaudithook(meddle)
        apply_world(world, action)
        os._exit(0)

    def _lost(self, world: World, sha256: str, wrote: bool, stood: bool) -> list[str]:
        places = (world.photos, world.moved, world.elsewhere, world.trash)
        files = [Path(path) for place in places for path, facts in tree(place).items() if facts[0] == "file"]
        wrong = []
        if wrote and not any(path.read_bytes().endswith(WORD) for path in files):
            wrong.append("what was written meanwhile")
        is_there = sha256 in contents(*places) or any(_is_appended(path, sha256) for path in files)
        if not is_there and not stood:
            wrong.append("the picture")
        return wrong


def _is_appended(path: Path, sha256: str) -> bool:
    """Whether it is the picture with somebody's word behind it."""
    data = path.read_bytes()
    return data.endswith(WORD) and hashlib.sha256(data[: -len(WORD)]).hexdigest() == sha256


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elsewhere", type=Path, help="a folder on another disk, to move to [default: /dev/shm]")
    arguments = parser.parse_args()
    other = arguments.elsewhere or (Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None)
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory(dir=other) as elsewhere:
        meddling = Meddling(Path(folder) / "world", Path(elsewhere) / "world")
        for action in ACTIONS:
            for meddler in MEDDLERS:
                steps = list(meddling.steps(action, meddler))
                wrong += [flaw for flaws in steps for flaw in flaws]
                print(f"{action:<10}{meddler.__name__:<14}{len(steps):>4} steps{sum(map(bool, steps)):>4} with a loss")
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

"""Another program writes to the same files while `simile dedup apply` runs: are its changes kept?

    python -m benchmarks.dedup.concurrent_writes [--elsewhere /dev/shm]

There is one apply for each step of each action that changes a file or folder. Directly before this step another program
appends to the removed file, saves a new file in its place, or replaces the kept file. Its data must exist afterwards,
and after `undo`; so must the image, unless the kept file was replaced after a symbolic link to it had been made. The
exit code is 1 otherwise.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.common.dedup_world import World, add_elsewhere_option, get_hashes, make_world, open_folders, read_tree
from benchmarks.common.runs import make_parser
from benchmarks.dedup.kills import ACTIONS, apply_world, changes_files, undo_world

WRITTEN = b"data of another program"
Writer = Callable[[Path, Path], bool]  # writes, given the removed and the kept file; True if it did


def append(path: Path, _: Path) -> bool:
    """Append to the removed file if it is still there."""
    if path.is_symlink() or not path.exists():
        return False
    with path.open("ab") as file:
        file.write(WRITTEN)
    return True


def save(path: Path, _: Path) -> bool:
    """Save as editors do: write a new file and rename it."""
    new = path.with_name("unsaved")
    new.write_bytes(WRITTEN)
    new.replace(path)
    return True


def replace_kept(_: Path, keep: Path) -> bool:
    """Replace the kept file."""
    return save(keep, keep)


WRITERS: tuple[Writer, ...] = (append, save, replace_kept)


def run_steps(folder: Path, elsewhere: Path, action: str, writer: Writer) -> Iterator[list[str]]:
    """Yield the flaws at each step of an action, until there are no more steps."""
    step = 0
    while True:
        world = make_small_world(folder, elsewhere)
        removal = world.removals[0]
        apply_in_child(world, action, writer, step)
        report = world.folder / "written"
        if not report.exists():
            return
        wrote = report.read_text() == "True"
        was_linked = action == "symlink" and Path(removal.path).is_symlink()
        flaws = find_lost_data(world, removal.sha256, wrote, was_linked)
        flaws += [f"left over: {path}" for path in read_tree(world.photos) if ".simile-" in path]
        undo_world(world)
        flaws += [f"{flaw}, after undo" for flaw in find_lost_data(world, removal.sha256, wrote, was_linked)]
        yield [f"{action}, {writer.__name__}, step {step}: {flaw}" for flaw in flaws]
        step += 1


def make_small_world(folder: Path, elsewhere: Path) -> World:
    """Make a world with one removal."""
    for path in (folder, elsewhere):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
    world = make_world(folder, elsewhere, 1)
    for other in world.removals[1:]:
        Path(other.path).unlink()
    world.removals = world.removals[:1]
    os.environ["XDG_DATA_HOME"] = str(world.folder / "data")
    return world


def apply_in_child(world: World, action: str, writer: Writer, step: int) -> None:
    """Apply the plan in a child process that calls the writer before a step, and reports it in the file `written`."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    removal, seen, is_writing = world.removals[0], 0, False

    def write_before_step(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen, is_writing
        if is_writing or seen > step or not changes_files(event, arguments):
            return
        is_writing = True  # the writer's own changes are not steps
        if seen == step:
            wrote = writer(Path(removal.path), Path(removal.keep_path))
            (world.folder / "written").write_text(str(wrote))
        seen, is_writing = seen + 1, False

    sys.addaudithook(write_before_step)
    apply_world(world, action)
    os._exit(0)


def find_lost_data(world: World, sha256: str, wrote: bool, was_linked: bool) -> list[str]:
    """Return what no longer exists: the data of the other program, and the image."""
    folders = (world.photos, world.moved, world.elsewhere, world.trash)
    files = [Path(path) for folder in folders for path, state in read_tree(folder).items() if state[0] == "file"]
    flaws = []
    if wrote and not any(path.read_bytes().endswith(WRITTEN) for path in files):
        flaws.append("the data of the other program is lost")
    exists = sha256 in get_hashes(*folders) or any(has_appended_data(path, sha256) for path in files)
    if not exists and not was_linked:
        flaws.append("the image is lost")
    return flaws


def has_appended_data(path: Path, sha256: str) -> bool:
    """Return whether the file is the image with the other program's data appended."""
    data = path.read_bytes()
    return data.endswith(WRITTEN) and hashlib.sha256(data[: -len(WRITTEN)]).hexdigest() == sha256


def main() -> int:
    """Run all actions with all writers; return the exit code."""
    parser = make_parser(__doc__)
    add_elsewhere_option(parser)
    flaws: list[str] = []
    with open_folders(parser.parse_args().elsewhere) as (folder, elsewhere):
        for action in ACTIONS:
            for writer in WRITERS:
                steps = list(run_steps(folder / "world", elsewhere / "world", action, writer))
                flaws += [flaw for step_flaws in steps for flaw in step_flaws]
                print(f"{action:<10}{writer.__name__:<14}{len(steps):>4} steps{sum(map(bool, steps)):>4} with a loss")
    print("\n".join(flaws))
    return 1 if flaws else 0


if __name__ == "__main__":
    sys.exit(main())

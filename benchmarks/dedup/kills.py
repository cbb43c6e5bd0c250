"""`simile dedup apply` and `undo` killed with SIGKILL at any moment; plans that want to destroy the last copy.

    python -m benchmarks.dedup.kills --rounds 60 [--steps] [--seed 0] [--elsewhere /dev/shm]

Each round forks a process that applies one plan (copies of the same bytes, of the same pixels, near ones) by one of the
actions in turn, and kills it at a moment drawn with the seed from the time that this takes; every third round `undo` is
killed too. --steps kills before every single step that changes a file or folder, instead. Then: every content is still
somewhere and a copy of every picture among the photos; the journal can be read and says what is so; after `undo`, or
after `apply` once more and `undo`, the tree is as it was, byte for byte, with every time and mode, and nothing is left
over. Last, plans of more than twenty malicious kinds by every action. Exit 1 if anything was lost.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.common.dedup_world import World, differences, lost, make_world, tree
from benchmarks.dedup.malicious_plans import MALICIOUS
from simile.core.errors import BadSetting, SimileError
from simile.dedup.cleanup.apply import ApplyRequest, ApplyResult, apply_plan
from simile.dedup.cleanup.file_identity import path_exists
from simile.dedup.cleanup.journal import CleanupAction, read_journals
from simile.dedup.cleanup.undo import undo_journal

STEPS = {
    "os.rename", "os.link", "os.symlink", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.chmod", "os.chown",
    "os.utime", "ctypes.dlopen",
}  # fmt: skip  # what Python tells an audit hook before it does it
ACTIONS = ("move", "hardlink", "symlink", "trash", "far")
SHOWN = 50


class Rounds:
    """Runs rounds and counts what went wrong."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.random = np.random.default_rng(seed)
        self.before = tree(world.photos)
        self.spans: dict[str, float] = {}
        self.counts: dict[str, Counter[str]] = {}
        self.wrong: list[str] = []

    def kill_at_random(self, action: str, *, undoing: bool) -> None:
        """One round at a moment of its own; the first of an action runs to its end, and so measures it."""
        self._round(action, self._moment(f"apply {action}"), self._moment(f"undo {action}") if undoing else None, None)

    def kill_at_step(self, action: str, step: int) -> bool:
        """One round before the step with this number; False when there are fewer."""
        return self._round(action, None, None, step)

    def _moment(self, work: str) -> float:
        return float(self.random.uniform(0.02, 1.05)) * self.spans.get(work, 60.0)

    def _round(self, action: str, moment: float | None, undo_moment: float | None, step: int | None) -> bool:
        counts = self.counts.setdefault(action, Counter())
        killed = self._child(f"apply {action}", lambda: apply_world(self.world, action), moment, step)
        counts["rounds"] += 1
        counts["killed"] += killed
        wrong = list(lost(self.world, self.before))
        if self.random.integers(2):  # half of them go on first
            wrong += [f"set aside: {one.path}: {one.reason}" for one in apply_world(self.world, action).set_aside]
            wrong += lost(self.world, self.before)
        if undo_moment is not None or step is not None:
            counts["undo killed"] += self._child(f"undo {action}", lambda: undo_world(self.world), undo_moment, step)
            wrong += lost(self.world, self.before)
        wrong += undo_world(self.world)
        wrong += differences(self.before, tree(self.world.photos))
        wrong += [f"left over: {path}" for place in _places(self.world) for path in tree(place)]
        wrong += _inconsistent(self.world)
        counts["flaws"] += len(wrong)
        number = counts["rounds"] if step is None else step
        self.wrong += [f"{action}, round {number}: {flaw}" for flaw in wrong]
        return killed

    def _child(self, work: str, do: Callable[[], object], moment: float | None, step: int | None) -> bool:
        """Whether it was killed before its end."""
        sys.stdout.flush()
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            _kill_before(step)
            try:
                do()
                os._exit(0)
            except BaseException as error:  # whatever it is, it belongs into the report  # noqa: BLE001
                print(f"{work}: {type(error).__name__}: {error}", file=sys.stderr)
                os._exit(1)
        deadline = started + (60.0 if moment is None else moment)
        while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if time.monotonic() >= deadline:
                os.kill(child, signal.SIGKILL)
                break
            time.sleep(0.0002)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            return True
        self.spans.setdefault(work, time.monotonic() - started)
        if os.WEXITSTATUS(status):
            self.wrong.append(f"{work} failed")
        return False


def changes_something(event: str, arguments: tuple[object, ...]) -> bool:
    """Whether what an audit hook is told of changes a file or a folder."""
    if event == "open":
        return isinstance(arguments[2], int) and bool(arguments[2] & (os.O_CREAT | os.O_APPEND))
    return event in STEPS


def _kill_before(step: int | None) -> None:
    """Ends this process, without any clearing up, before the step with this number that changes something."""
    if step is None:
        return
    seen = 0

    def count(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        seen += changes_something(event, arguments)
        if seen > step and event != "os.kill":
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def apply_world(world: World, action: str) -> ApplyResult:
    """Applies what this action may do of the world's plan; `far` moves to another disk."""
    kinds: dict[str, CleanupAction] = {
        "far": "move",
        "move": "move",
        "hardlink": "hardlink",
        "symlink": "symlink",
        "trash": "trash",
    }
    target = {"far": world.elsewhere / "moved", "move": world.moved}.get(action)
    lines = [one for one in world.removals if one.tier == "bytes" or kinds[action] in ("move", "trash")]
    return apply_plan(world.settings, world.save(lines), ApplyRequest(action=kinds[action], target_folder=target))


def undo_world(world: World) -> list[str]:
    """Everything that can be; gives what was set aside."""
    wrong: list[str] = []
    while True:
        try:
            done = undo_journal(world.settings)
        except BadSetting:  # nothing is left to undo
            return wrong
        wrong += [f"not undone: {one.path}: {one.reason}" for one in done.set_aside]
        if done.set_aside:
            return wrong


def _places(world: World) -> list[Path]:
    return [world.moved, world.elsewhere / "moved", world.trash]


def _inconsistent(world: World) -> list[str]:
    """Journals that do not say that all is as before."""
    return [
        f"journal {journal.name}: operation {number} is {entry.state}"
        for journal in read_journals(world.home)
        for number, entry in journal.entries.items()
        if entry.state not in ("undone", "cancelled")
    ]


def try_malicious(rounds: Rounds, *, quick: bool) -> int:
    """Each plan by each action (or one), twice over. A plan that simile refuses as a whole is well answered too."""
    tried = 0
    for place, (name, make) in enumerate(MALICIOUS.items()):
        every = ("move", "trash", "hardlink", "symlink")
        for action in [every[place % 4]] if quick else every:
            with tempfile.TemporaryDirectory(dir=rounds.world.elsewhere) as elsewhere:
                folder = rounds.world.folder.parent / f"malicious-{tried}"
                folder.mkdir()
                world = make_world(folder, Path(elsewhere), 1)
            world.elsewhere = folder / "elsewhere"
            world.elsewhere.mkdir()
            os.environ["XDG_DATA_HOME"] = str(folder / "data")
            rounds.wrong += [f"{name}, {action}: {flaw}" for flaw in _attempt(world, make, action)]
            tried += 1
    return tried


def _attempt(world: World, make: Callable[[World], list[Path]], action: str) -> list[str]:
    plans = make(world)
    before = tree(world.folder)
    photos = {path: facts for path, facts in before.items() if path.startswith(str(world.photos))}
    target = world.moved if action == "move" else None
    for _ in range(2):
        for plan in plans:
            try:
                apply_plan(world.settings, plan, ApplyRequest(action=action, target_folder=target))  # type: ignore[arg-type]
            except SimileError:
                continue
    wrong = list(lost(world, photos, stays=[] if target else [world.moved]))
    outside = {p: f for p, f in before.items() if not p.startswith((str(world.photos), str(world.settings.home)))}
    wrong += [f"{path} outside the roots was touched" for path in outside if not path_exists(Path(path))]
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60, help="kills at random moments, over all actions")
    parser.add_argument("--steps", action="store_true", help="also kill before every step of every action")
    parser.add_argument("--quick", action="store_true", help="each malicious plan by one action only")
    parser.add_argument("--groups", type=int, default=3, help="of copies, with four files to go in each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--elsewhere", type=Path, help="a folder on another disk, to move to [default: /dev/shm]")
    arguments = parser.parse_args()
    other = arguments.elsewhere or (Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory(dir=other) as elsewhere:
        (Path(folder) / "world").mkdir()
        world = make_world(Path(folder) / "world", Path(elsewhere), arguments.groups)
        os.environ["XDG_DATA_HOME"] = str(world.folder / "data")
        rounds = Rounds(world, arguments.seed)
        for number in range(arguments.rounds):
            rounds.kill_at_random(ACTIONS[number % len(ACTIONS)], undoing=number % 3 == 2)
        for action in ACTIONS if arguments.steps else []:
            step = 0
            while rounds.kill_at_step(action, step):
                step += 1
        tried = try_malicious(rounds, quick=arguments.quick)
    print(f"{'action':<10}{'rounds':>8}{'killed':>8}{'undo killed':>13}{'flaws':>7}")
    for name, counts in rounds.counts.items():
        print(f"{name:<10}{counts['rounds']:>8}{counts['killed']:>8}{counts['undo killed']:>13}{counts['flaws']:>7}")
    print(
        f"{len(MALICIOUS)} kinds of malicious plans, {tried} tries: {'see below' if rounds.wrong else 'nothing lost'}"
    )
    print("\n".join(rounds.wrong[:SHOWN]))
    return 1 if rounds.wrong else 0


if __name__ == "__main__":
    sys.exit(main())

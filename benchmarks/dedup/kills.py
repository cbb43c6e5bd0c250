"""`simile dedup apply` and `undo` killed with SIGKILL at any moment, and malicious plans: is an image ever lost?

    python -m benchmarks.dedup.kills --rounds 60 [--steps] [--seed 0] [--elsewhere /dev/shm]

Each round forks a process that applies one plan (byte copies, pixel copies, near copies; with sidecars, raw files and
films that go along, and values for sidecars of kept files) with one of the actions in turn, and kills it at a random
moment within its usual duration; each third round kills `undo` too. --steps also kills before each single step that
changes a file or folder. Afterwards each content must exist, and the photos must contain a copy of each image; the
journal must be readable and true; after `undo`, or after another `apply` and `undo`, the tree must be unchanged, with
every byte, time and mode, and without additional files. Last, plans of more than twenty
malicious kinds are applied with each action. The exit code is 1 if anything was lost.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.common.dedup_world import (
    World,
    add_elsewhere_option,
    find_differences,
    find_lost,
    make_world,
    open_folders,
    read_tree,
)
from benchmarks.common.runs import make_parser
from benchmarks.dedup.malicious_plans import MALICIOUS
from simile.core.errors import BadSetting, SimileError
from simile.dedup.cleanup.apply import ApplyRequest, ApplyResult, apply_plan
from simile.dedup.cleanup.file_ops import path_exists
from simile.dedup.cleanup.journal import CleanupAction, read_journals
from simile.dedup.cleanup.undo import undo_journal

STEPS = {
    "os.rename", "os.link", "os.symlink", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.chmod", "os.chown",
    "os.utime", "ctypes.dlopen",
}  # fmt: skip  # audit events of Python before it changes something
PLAN_ACTIONS: tuple[CleanupAction, ...] = ("move", "trash", "hardlink", "symlink")
ACTIONS = ("move", "hardlink", "symlink", "trash", "far")  # far: move to another disk
MAX_SECONDS = 60.0  # of a process before its duration is known
MAX_FLAWS = 50  # that are printed


class KillRounds:
    """Runs rounds and counts the flaws."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.random = np.random.default_rng(seed)
        self.before = read_tree(world.photos)
        self.durations: dict[str, float] = {}
        self.counts: dict[str, Counter[str]] = {}
        self.flaws: list[str] = []

    def kill_at_random(self, action: str, *, undo: bool) -> None:
        """Run one round with a random moment; the first round of an action is not killed and measures its duration."""
        undo_moment = self._draw_moment(f"undo {action}") if undo else None
        self._run_round(action, self._draw_moment(f"apply {action}"), undo_moment, None)

    def kill_at_step(self, action: str, step: int) -> bool:
        """Run one round that kills before the step with this number; return False if there are fewer steps."""
        return self._run_round(action, None, None, step)

    def _draw_moment(self, work: str) -> float:
        return float(self.random.uniform(0.02, 1.05)) * self.durations.get(work, MAX_SECONDS)

    def _run_round(self, action: str, moment: float | None, undo_moment: float | None, step: int | None) -> bool:
        counts = self.counts.setdefault(action, Counter())
        killed = self._run_child(f"apply {action}", lambda: apply_world(self.world, action), moment, step)
        counts["rounds"] += 1
        counts["killed"] += killed
        flaws = list(find_lost(self.world, self.before))
        if self.random.integers(2):  # half of the rounds apply the plan again
            result = apply_world(self.world, action)
            flaws += [f"set aside: {item.path}: {item.reason}" for item in result.set_aside]
            flaws += find_lost(self.world, self.before)
        if undo_moment is not None or step is not None:
            work = f"undo {action}"
            counts["undo killed"] += self._run_child(work, lambda: undo_world(self.world), undo_moment, step)
            flaws += find_lost(self.world, self.before)
        # After the undo everything must be as before.
        flaws += undo_world(self.world)
        flaws += find_differences(self.before, read_tree(self.world.photos))
        targets = [self.world.moved, self.world.elsewhere / "moved", self.world.trash]
        flaws += [f"left over: {path}" for target in targets for path in read_tree(target)]
        flaws += find_open_operations(self.world)
        counts["flaws"] += len(flaws)
        number = counts["rounds"] if step is None else step
        self.flaws += [f"{action}, round {number}: {flaw}" for flaw in flaws]
        return killed

    def _run_child(self, work: str, run: Callable[[], object], moment: float | None, step: int | None) -> bool:
        """Run in a forked process; return whether it was killed before its end."""
        sys.stdout.flush()
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            kill_before(step)
            try:
                run()
                os._exit(0)
            except BaseException as error:  # any error belongs in the report  # noqa: BLE001
                print(f"{work}: {type(error).__name__}: {error}", file=sys.stderr)
                os._exit(1)
        deadline = started + (MAX_SECONDS if moment is None else moment)
        while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if time.monotonic() >= deadline:
                os.kill(child, signal.SIGKILL)
                break
            time.sleep(0.0002)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            return True
        self.durations.setdefault(work, time.monotonic() - started)
        if os.WEXITSTATUS(status):
            self.flaws.append(f"{work} failed")
        return False


def changes_files(event: str, arguments: tuple[object, ...]) -> bool:
    """Return whether the operation of an audit event changes a file or a folder."""
    if event == "open":
        return isinstance(arguments[2], int) and bool(arguments[2] & (os.O_CREAT | os.O_APPEND))
    return event in STEPS


def kill_before(step: int | None) -> None:
    """Make this process kill itself before the change with this number, without any cleanup."""
    if step is None:
        return
    seen = 0

    def count(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        seen += changes_files(event, arguments)
        if seen > step and event != "os.kill":
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def apply_world(world: World, action: str) -> ApplyResult:
    """Apply the part of the plan that the action allows: links replace byte copies only."""
    plan_action: CleanupAction = "move" if action == "far" else action  # type: ignore[assignment]
    target = {"far": world.elsewhere / "moved", "move": world.moved}.get(action)
    removals = [removal for removal in world.removals if removal.tier == "bytes" or plan_action in ("move", "trash")]
    return apply_plan(world.settings, world.save(removals), ApplyRequest(action=plan_action, target_folder=target))


def undo_world(world: World) -> list[str]:
    """Undo all journals; return what could not be undone."""
    flaws: list[str] = []
    while True:
        try:
            result = undo_journal(world.settings)
        except BadSetting:  # no journal is left
            return flaws
        flaws += [f"not undone: {item.path}: {item.reason}" for item in result.set_aside]
        if result.set_aside:
            return flaws


def find_open_operations(world: World) -> list[str]:
    """Return operations that a journal does not describe as undone or cancelled."""
    return [
        f"journal {journal.name}: operation {number} is {entry.state}"
        for journal in read_journals(world.home)
        for number, entry in journal.entries.items()
        if entry.state not in ("undone", "cancelled")
    ]


def try_malicious(rounds: KillRounds, *, quick: bool) -> int:
    """Apply each plan twice with each action, or with one action if `quick`; return the number of tries.

    simile may also refuse a whole plan.
    """
    tries = 0
    for number, (name, make) in enumerate(MALICIOUS.items()):
        for action in [PLAN_ACTIONS[number % len(PLAN_ACTIONS)]] if quick else PLAN_ACTIONS:
            folder = rounds.world.folder.parent / f"malicious-{tries}"
            folder.mkdir()
            with tempfile.TemporaryDirectory(dir=rounds.world.elsewhere) as elsewhere:
                world = make_world(folder, Path(elsewhere), 1)
            world.elsewhere = folder / "elsewhere"
            world.elsewhere.mkdir()
            os.environ["XDG_DATA_HOME"] = str(folder / "data")
            rounds.flaws += [f"{name}, {action}: {flaw}" for flaw in try_plans(world, make(world), action)]
            tries += 1
    return tries


def try_plans(world: World, plans: list[Path], action: CleanupAction) -> list[str]:
    """Apply the plans twice; return what was lost, and what was changed outside the indexed folders."""
    before = read_tree(world.folder)
    photos = {path: state for path, state in before.items() if path.startswith(str(world.photos))}
    target = world.moved if action == "move" else None
    for plan in plans * 2:
        try:
            apply_plan(world.settings, plan, ApplyRequest(action=action, target_folder=target))
        except SimileError:
            continue
    flaws = list(find_lost(world, photos, more_photos=[] if target else [world.moved]))
    inside = (str(world.photos), str(world.settings.home))
    outside = [path for path in before if not path.startswith(inside)]
    return flaws + [f"{path} outside the roots was removed" for path in outside if not path_exists(Path(path))]


def main() -> int:
    """Run the rounds and the malicious plans; return the exit code."""
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=60, help="kills at random moments, over all actions")
    parser.add_argument("--steps", action="store_true", help="also kill before each step of each action")
    parser.add_argument("--quick", action="store_true", help="try each malicious plan with one action only")
    parser.add_argument("--groups", type=int, default=3, help="groups of copies, each with four removals")
    parser.add_argument("--seed", type=int, default=0)
    add_elsewhere_option(parser)
    options = parser.parse_args()
    with open_folders(options.elsewhere) as (folder, elsewhere):
        (folder / "world").mkdir()
        world = make_world(folder / "world", elsewhere, options.groups)
        os.environ["XDG_DATA_HOME"] = str(world.folder / "data")
        rounds = KillRounds(world, options.seed)
        for number in range(options.rounds):
            rounds.kill_at_random(ACTIONS[number % len(ACTIONS)], undo=number % 3 == 2)
        for action in ACTIONS if options.steps else []:
            step = 0
            while rounds.kill_at_step(action, step):
                step += 1
        tries = try_malicious(rounds, quick=options.quick)
    print(f"{'action':<10}{'rounds':>8}{'killed':>8}{'undo killed':>13}{'flaws':>7}")
    for name, counts in rounds.counts.items():
        print(f"{name:<10}{counts['rounds']:>8}{counts['killed']:>8}{counts['undo killed']:>13}{counts['flaws']:>7}")
    outcome = "see below" if rounds.flaws else "nothing lost"
    print(f"{len(MALICIOUS)} kinds of malicious plans, {tries} tries: {outcome}")
    print("\n".join(rounds.flaws[:MAX_FLAWS]))
    return 1 if rounds.flaws else 0


if __name__ == "__main__":
    sys.exit(main())

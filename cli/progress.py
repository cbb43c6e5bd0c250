"""Progress on stderr: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
import time
from json import dumps
from types import TracebackType
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from simile.cli import output

if TYPE_CHECKING:
    from simile.core.records import IndexSummary
    from simile.models.training.loop import Progress as TrainingProgress

SECONDS_BETWEEN_LINES = 10.0
SECONDS_BETWEEN_EVENTS = 1.0


class Reporter:
    """`with Reporter("what Ctrl-C leaves behind") as reporter: job(on_progress=reporter.indexed)`

    With `json`: one object in a line on stderr, {"event": "progress", "stage", "done", "total", "per_second",
    "seconds_left", …}, at most one a second, and the last.
    """

    def __init__(self, when_interrupted: str, *, json: bool = False) -> None:
        self._when_interrupted = when_interrupted
        self._json = json
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%  {task.fields[words]}"),
            console=Console(stderr=True),
            disable=json or not sys.stderr.isatty(),
            transient=True,
        )
        self._tasks = {
            name: self.bar.add_task(name, total=None, words="", visible=False) for name in ("training", "indexing")
        }
        self._begun: dict[str, float] = {}
        self._next_line = time.monotonic() + (0 if json else SECONDS_BETWEEN_LINES)

    def __enter__(self) -> Reporter:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()
        if kind is KeyboardInterrupt:
            output.note(f"Interrupted. {self._when_interrupted}")
            raise typer.Exit(130) from None

    def trained(self, progress: TrainingProgress) -> None:
        """One training step: the parts of the loss, speed, time left."""
        if self._json:
            more = {"epoch": progress.epoch, **progress.parts}
            self._event("training", progress.step, progress.total_steps, progress.images_per_second,
                        progress.seconds_left, more)  # fmt: skip
            return
        speed = f"{progress.images_per_second:,.0f} images/s"
        words = f"epoch {progress.epoch}  {figures(progress.parts)}  {speed}  {_duration(progress.seconds_left)}"
        self._show("training", progress.step, progress.total_steps, words)

    def indexed(self, summary: IndexSummary, total: int) -> None:
        """One stored batch."""
        speed = summary.done / summary.seconds if summary.seconds else 0.0
        left = (total - summary.done) / speed if speed else None
        bad = len(summary.failures)
        if self._json:
            self._event("indexing", summary.done, total, speed, left, {"run_id": summary.run_id, "failures": bad})
            return
        words = f"{summary.done:,} of {total:,}  {speed:,.0f} images/s  bad {bad}  {_duration(left)}"
        self._show("indexing", summary.done, total, words)

    def measured(self, stage: str, done: int, total: int) -> None:
        """`done` of `total` parts of a stage, whatever it is: each stage has a bar of its own, until it is done."""
        begun = self._begun.setdefault(stage, time.monotonic())
        if self._json:
            speed = done / max(1e-3, time.monotonic() - begun)
            self._event(stage, done, total, speed, (total - done) / speed if speed else None, {})
            return
        if stage not in self._tasks:
            self._tasks[stage] = self.bar.add_task(stage, total=total, words="", visible=False)
        self._show(stage, done, total, f"{done:,} of {total:,}")
        if done == total:
            self.bar.update(self._tasks[stage], visible=False)

    def _event(
        self, stage: str, done: int, total: int | None, speed: float, left: float | None, more: dict[str, Any]
    ) -> None:
        if time.monotonic() < self._next_line and done != total:
            return
        rounded = {"per_second": round(speed, 1), "seconds_left": None if left is None else round(left, 1)}
        event = {"event": "progress", "stage": stage, "done": done, "total": total, **rounded, **more}
        sys.stderr.write(dumps(event) + "\n")
        self._next_line = time.monotonic() + SECONDS_BETWEEN_EVENTS

    def _show(self, name: str, done: int, total: int | None, words: str) -> None:
        self.bar.update(self._tasks[name], completed=done, total=total, words=words, visible=True)
        if self.bar.disable and time.monotonic() >= self._next_line:
            share = f"{100 * done / total:.0f}%" if total else f"step {done}"
            sys.stderr.write(f"{name} {share}  {words}\n")
            self._next_line = time.monotonic() + SECONDS_BETWEEN_LINES


def figures(parts: dict[str, float]) -> str:
    """Named figures in one line."""
    return ", ".join(f"{name.replace('_', ' ')} {_figure(part)}" for name, part in parts.items())


def _figure(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.4g}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "…"
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    return f"{minutes}:{rest:02d} left"

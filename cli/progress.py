"""Progress on stderr: a bar on a terminal, else a line from time to time."""

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
    from simile.models.training.loop import TrainingProgress

LINE_INTERVAL_SECONDS = 10.0
EVENT_INTERVAL_SECONDS = 1.0
RESUME_HINT = "Progress is saved; rerun to resume."
RESTART_HINT = "Nothing was saved; rerun to start again."


class ProgressReporter:
    """Reports the progress of a command, and ends it with exit code 130 on Ctrl-C.

    With `json`, each report is one JSON object in a line on stderr: {"event": "progress", "stage", "done", "total",
    "per_second", "seconds_left", …}; at most one a second, and the last one.
    """

    def __init__(self, interrupt_hint: str, *, json: bool = False) -> None:
        """Create it; `interrupt_hint` is what Ctrl-C shows."""
        self._interrupt_hint = interrupt_hint
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
        self._started_at: dict[str, float] = {}
        self._next_line_at = time.monotonic() + (0 if json else LINE_INTERVAL_SECONDS)

    def __enter__(self) -> ProgressReporter:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()
        if kind is KeyboardInterrupt:
            output.note(f"Interrupted. {self._interrupt_hint}")
            raise typer.Exit(130) from None

    def on_training(self, progress: TrainingProgress) -> None:
        """Report a training step: the parts of the loss, the speed and the remaining time."""
        if self._json:
            fields = {"epoch": progress.epoch, **progress.parts}
            step, total = progress.step, progress.total_steps
            self._write_event("training", step, total, progress.images_per_second, progress.seconds_left, fields)
            return
        speed = f"{progress.images_per_second:,.0f} images/s"
        left = _format_time_left(progress.seconds_left)
        text = f"epoch {progress.epoch}  {format_figures(progress.parts)}  {speed}  {left}"
        self._update_bar("training", progress.step, progress.total_steps, text)

    def on_indexing(self, summary: IndexSummary, total: int) -> None:
        """Report a stored batch of images."""
        speed = summary.done / summary.seconds if summary.seconds else 0.0
        left = (total - summary.done) / speed if speed else None
        bad = len(summary.failures)
        if self._json:
            self._write_event("indexing", summary.done, total, speed, left, {"run_id": summary.run_id, "failures": bad})
            return
        text = f"{summary.done:,} of {total:,}  {speed:,.0f} images/s  skipped {bad}  {_format_time_left(left)}"
        self._update_bar("indexing", summary.done, total, text)

    def on_stage(self, stage: str, done: int, total: int) -> None:
        """Report that `done` of `total` parts of a stage are done; each stage has its own bar until it is done."""
        started_at = self._started_at.setdefault(stage, time.monotonic())
        if self._json:
            speed = done / max(1e-3, time.monotonic() - started_at)
            self._write_event(stage, done, total, speed, (total - done) / speed if speed else None, {})
            return
        if stage not in self._tasks:
            self._tasks[stage] = self.bar.add_task(stage, total=total, words="", visible=False)
        self._update_bar(stage, done, total, f"{done:,} of {total:,}")
        if done == total:
            self.bar.update(self._tasks[stage], visible=False)

    def _write_event(
        self,
        stage: str,
        done: int,
        total: int | None,
        speed: float,
        seconds_left: float | None,
        extra_fields: dict[str, Any],
    ) -> None:
        if time.monotonic() < self._next_line_at and done != total:
            return
        rounded = {
            "per_second": round(speed, 1),
            "seconds_left": None if seconds_left is None else round(seconds_left, 1),
        }
        event = {"event": "progress", "stage": stage, "done": done, "total": total, **rounded, **extra_fields}
        sys.stderr.write(dumps(event) + "\n")
        self._next_line_at = time.monotonic() + EVENT_INTERVAL_SECONDS

    def _update_bar(self, name: str, done: int, total: int | None, text: str) -> None:
        self.bar.update(self._tasks[name], completed=done, total=total, words=text, visible=True)
        if self.bar.disable and time.monotonic() >= self._next_line_at:
            share = f"{100 * done / total:.0f}%" if total else f"step {done}"
            sys.stderr.write(f"{name} {share}  {text}\n")
            self._next_line_at = time.monotonic() + LINE_INTERVAL_SECONDS


def format_figures(values: dict[str, float]) -> str:
    """Format named numbers in one line."""
    return ", ".join(f"{name.replace('_', ' ')} {_format_figure(part)}" for name, part in values.items())


def _format_figure(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.4g}"


def _format_time_left(seconds: float | None) -> str:
    if seconds is None:
        return "…"
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    return f"{minutes}:{rest:02d} left"

"""Progress on stderr: a bar on a terminal, else a line from time to time."""

from __future__ import annotations

import sys
import time
from json import dumps
from types import TracebackType
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from simile.cli import output
from simile.core.logs import escape_controls

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
        self._tasks: dict[str, TaskID] = {}
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
        speed, left = progress.images_per_second, progress.seconds_left
        text = f"epoch {progress.epoch}  {format_figures(progress.parts)}  {speed:,.0f} images/s  {_format_left(left)}"
        fields = {"epoch": progress.epoch, **progress.parts}
        self._report("training", progress.step, progress.total_steps, text, speed, left, fields)

    def on_indexing(self, summary: IndexSummary, total: int) -> None:
        """Report a stored batch of images."""
        known_speed, left = summary.get_speed(total)
        speed, bad = known_speed or 0.0, len(summary.failures)
        text = f"{summary.done:,} of {total:,}  {speed:,.0f} images/s  skipped {bad}  {_format_left(left)}"
        fields = {"run_id": summary.run_id, "failures": bad}
        self._report("indexing", summary.done, total, text, speed, left, fields)

    def on_stage(self, stage: str, done: int, total: int) -> None:
        """Report that `done` of `total` parts of a stage are done; each stage has its own bar until it is done."""
        started_at = self._started_at.setdefault(stage, time.monotonic())
        speed = done / max(1e-3, time.monotonic() - started_at)
        left = (total - done) / speed if speed else None
        self._report(stage, done, total, f"{done:,} of {total:,}", speed, left, {})
        if done == total and stage in self._tasks:
            self.bar.update(self._tasks[stage], visible=False)

    def _report(
        self,
        stage: str,
        done: int,
        total: int | None,
        text: str,
        speed: float,
        seconds_left: float | None,
        fields: dict[str, Any],
    ) -> None:
        """Write a JSON event with these fields, or update the bar with this text."""
        now, stage, text = time.monotonic(), escape_controls(stage), escape_controls(text)
        if self._json:
            if now >= self._next_line_at or done == total:
                left = None if seconds_left is None else round(seconds_left, 1)
                event = {"event": "progress", "stage": stage, "done": done, "total": total}
                output.note(dumps({**event, "per_second": round(speed, 1), "seconds_left": left, **fields}))
                self._next_line_at = now + EVENT_INTERVAL_SECONDS
            return
        if stage not in self._tasks:
            self._tasks[stage] = self.bar.add_task(stage, total=total, words="")
        self.bar.update(self._tasks[stage], completed=done, total=total, words=text, visible=True)
        if self.bar.disable and now >= self._next_line_at:
            output.note(f"{stage} {f'{100 * done / total:.0f}%' if total else f'step {done}'}  {text}")
            self._next_line_at = now + LINE_INTERVAL_SECONDS


def format_figures(values: dict[str, float]) -> str:
    """Format named numbers in one line."""
    return ", ".join(f"{name.replace('_', ' ')} {_format_figure(part)}" for name, part in values.items())


def _format_figure(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.4g}"


def _format_left(seconds: float | None) -> str:
    if seconds is None:
        return "…"
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    return f"{minutes}:{rest:02d} left"

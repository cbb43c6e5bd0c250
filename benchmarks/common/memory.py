"""Memory of processes, from /proc."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple


class MeasuredRun(NamedTuple):
    """Output of a command, its duration, and the peak memory in MB of the process and all its descendants."""

    output: bytes
    seconds: float
    rss: float  # counts shared pages once for each process
    pss: float  # counts shared pages once


def run_measured(
    command: Sequence[object], environment: Mapping[str, str] | None = None, *, capture: bool = False
) -> MeasuredRun:
    """Run a command. `capture`: return its output and hide its log instead of showing both.

    Raises:
        SystemExit: The command failed.
    """
    output, log = (subprocess.PIPE, subprocess.DEVNULL) if capture else (None, None)
    started = time.perf_counter()
    with subprocess.Popen(list(map(str, command)), stdout=output, stderr=log, env=environment) as process:
        peak = PeakMemory(process.pid)
        printed, _ = process.communicate()
        seconds = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(f"{command} ended with exit code {process.returncode}")
    return MeasuredRun(printed or b"", seconds, *peak.stop())


class PeakMemory(threading.Thread):
    """Samples the memory of a process and all its descendants, ten times a second."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.peak, self.ended = pid, (0.0, 0.0), threading.Event()
        self.start()

    def run(self) -> None:
        """Update the peak until `stop` is called."""
        ended = False
        while not ended:  # at least once
            ended = self.ended.wait(0.1)
            sizes = [read_rss_and_pss(pid) for pid in list_descendants(self.pid)]
            rss, pss = (sum(size[column] for size in sizes) for column in (0, 1))
            self.peak = max(self.peak[0], rss), max(self.peak[1], pss)

    def stop(self) -> tuple[float, float]:
        """Stop sampling; return the peaks of RSS and PSS in MB."""
        self.ended.set()
        self.join()
        return self.peak


def list_descendants(pid: int) -> list[int]:
    """Return the ids of a process and of all its descendants."""
    found, waiting = [], [pid]
    while waiting:
        found.append(waiting.pop())
        with suppress(OSError):
            for thread in Path(f"/proc/{found[-1]}/task").iterdir():  # each has the children that it started
                waiting += map(int, (thread / "children").read_text().split())
    return found


def read_rss_and_pss(pid: int) -> tuple[float, float]:
    """Return both in MB; zeros if the process has ended."""
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        sizes = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines[1:]}
        return sizes["Rss"], sizes["Pss"]
    return 0.0, 0.0


def read_status(field: str, pid: int | str = "self") -> float:
    """Return a field of /proc/<pid>/status, such as VmRSS, in MB."""
    found = re.search(rf"{field}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1e3 if found else 0.0

"""Start of the command line: CPU and wall time of commands on a warm disk cache, medians of several turns.

    python -m benchmarks.service.start_up [--home HOME --query FILE] [--repeats 9]

Without --home: the interpreter alone, `import simile` and `simile --help`. HOME adds `simile status`, and FILE
`simile search FILE` and the import of torch, which is the largest part of that command. The limits are those that the
project has set itself for two quiet cores.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.common.runs import SIMILE, make_parser


def main() -> None:
    """Parse the options, measure the commands in turns and print a table."""
    parser = make_parser(__doc__)
    parser.add_argument("--home", type=Path, help="a home with an index")
    parser.add_argument("--query", type=Path, help="an image file")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    if options.query is not None and options.home is None:
        parser.error("--query needs --home")
    commands: dict[str, tuple[list[object], str]] = {
        "python": ([sys.executable, "-c", "pass"], ""),
        "import simile": ([sys.executable, "-c", "import simile"], "0.05 s of CPU beside python"),
        "simile --help": ([SIMILE, "--help"], "0.15 s of CPU"),
    }
    if options.home is not None:
        commands["simile status"] = ([SIMILE, "status", "--home", options.home], "0.3 s of CPU")
    if options.query is not None:
        search = [SIMILE, "search", options.query, "--home", options.home, "--json"]
        commands["import torch"] = ([sys.executable, "-c", "import torch"], "")
        commands["simile search FILE"] = (search, "0.9 s")
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for turn in range(options.repeats + 1):
        for name, (command, _) in commands.items():
            measured = measure(command)
            if turn:  # the first turn fills the disk cache
                runs[name].append(measured)
    print(f"{'command':<20} {'CPU s':>6} {'wall s':>6}  limit")
    for name, (_, limit) in commands.items():
        cpu, wall = (median(times) for times in zip(*runs[name], strict=True))
        print(f"{name:<20} {cpu:6.2f} {wall:6.2f}  {limit}".rstrip())


def measure(command: Sequence[object]) -> tuple[float, float]:
    """Run a command that must succeed; return its CPU time and its wall time in seconds."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
    after, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - started
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, seconds


if __name__ == "__main__":
    main()

"""What uploads cost at most: hostile and large files of every format, decoded as the service decodes them.

    python -m benchmarks.service.upload_cost [--only NAME]

Each file is made by tests/attacks/hostile_files.py and decoded in a worker process with the default limits of the
service. The exit code is 1 if a file took more CPU time or memory than SIMILE_UPLOAD_CPU_SECONDS and
SIMILE_UPLOAD_MEMORY allow.
"""

from __future__ import annotations

import sys
import time
from functools import partial

from benchmarks.common.memory import PeakMemory, list_descendants, read_rss_and_pss
from benchmarks.common.runs import make_parser
from simile.core.errors import UnreadableImage
from simile.core.settings import load_settings
from simile.images.formats import Limits
from simile.images.loading.fork_server import WorkCost
from simile.images.loading.loader import prepare_image
from simile.images.loading.sandbox import REQUEST_BUDGET, DecodeBudget, DecodeSandbox
from simile.images.transforms import Preprocessing
from tests.attacks.hostile_files import HOSTILE_FILES, save

MUCH = 49_000_000  # bytes: close to the limit of 50 MB
CPU_TOLERANCE = 0.2  # seconds: the system counts CPU time in ticks, and a killed worker has to end


def main() -> int:
    """Decode all files and print the table; return the exit code."""
    parser = make_parser(__doc__)
    parser.add_argument("--only", help="a part of the names of the files")
    options = parser.parse_args()
    settings, failures = load_settings(), 0
    limits = Limits.from_settings(settings)
    cost = WorkCost(settings.decode_seconds, settings.upload_memory, settings.upload_cpu_seconds)
    decode = partial(prepare_image, preprocessing=Preprocessing(image_size=64, channels=3), limits=limits)
    sandbox = DecodeSandbox(1, cost, limits)
    sandbox.run(decode, save("PNG", 64), "warm")
    server = sandbox.start().pid
    idle = sum(read_rss_and_pss(pid)[1] for pid in list_descendants(server))
    print(f"{'file':<34}{'sent':>12}{'CPU':>8}{'wall':>8}{'memory':>9}  answer")
    for name, make in HOSTILE_FILES.items():
        if options.only and options.only not in name:
            continue
        data, budget = make(MUCH), DecodeBudget(settings.upload_cpu_seconds)
        REQUEST_BUDGET.set(budget)
        memory, started = PeakMemory(server), time.monotonic()
        try:
            sandbox.run(decode, data, "file")
            answer = "decoded"
        except UnreadableImage as error:
            answer = error.reason
        seconds, peak = time.monotonic() - started, max(0.0, memory.stop()[1] - idle) * 1.048576
        used = settings.upload_cpu_seconds - budget.cpu_seconds
        is_over = used > cost.cpu_seconds + CPU_TOLERANCE or peak * 1e6 > cost.memory
        failures += is_over
        over = "OVER: " if is_over else ""
        print(f"{name:<34}{len(data):>12,}{used:>7.2f}s{seconds:>7.2f}s{peak:>6.0f} MB  {over}{answer}", flush=True)
    sandbox.close()
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

"""The server gives memory back after a burst."""

from __future__ import annotations

import subprocess
import sys

# Large blocks between small ones that stay, as responses and what they leave behind. Prints MB that stay.
BURST = """
import re
from pathlib import Path
from simile.core.malloc import return_freed_memory

def read_mb():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1000

if {given}:
    return_freed_memory()
del [bytearray(30 << 20)][0]  # by default glibc takes smaller blocks from the heap after this
before, left = read_mb(), []
for _ in range(3):
    large = []
    for number in range(40):
        large.append(bytearray(b"x" * (2 << 20)))
        left.append(bytearray(b"x" * 100_000))
    del large
print(read_mb() - before)
"""


def test_what_a_burst_took_is_given_back() -> None:
    outputs = [
        subprocess.run([sys.executable, "-c", BURST.format(given=given)], capture_output=True, text=True, check=True)
        for given in (False, True)
    ]
    usual, returned = (int(output.stdout) for output in outputs)
    assert returned < 25 < usual  # 12 MB are still in use

"""What memory a process takes, for benchmarks."""

from __future__ import annotations

import re
from pathlib import Path


def peak() -> float:
    """Returns the most memory that this process has held, in MiB."""
    # Not getrusage: a new process inherits its parent's peak there.
    (line,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(line) / 1024

"""How many CPU cores there are for this process."""

from __future__ import annotations

import os
from pathlib import Path

QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds, or "max", and the period that they are for


def usable_cores(quota: Path = QUOTA) -> int:
    """The cores that this process is bound to, or its container's share of them if that is less; one at least."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        share, period = quota.read_text().split()
        return min(bound, max(1, int(share) // int(period)))
    except (OSError, ValueError, ZeroDivisionError):  # there is no such limit
        return bound

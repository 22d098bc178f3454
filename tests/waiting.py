"""Waiting for what other threads and servers do."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(holds: Callable[[], object], patience: float = 60) -> float:
    """Polls until `holds()`, for `patience` seconds at most; how many it took."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() < began + patience, "it did not happen"
        time.sleep(0.01)
    return time.monotonic() - began

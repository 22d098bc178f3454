"""Waiting for what other threads and servers do."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(holds: Callable[[], object]) -> None:
    """Polls until `holds()`, for a minute at most."""
    give_up = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.01)

"""Processes of their own that tell what memory they took: nobody else's is counted, and no allocator's leftovers."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path


def run(code: str, *arguments: object) -> list[float]:
    """The numbers that `code` prints last, in a process with one thread to compute with. It may import this module."""
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1200)
    assert result.returncode == 0, result.stderr[-2000:]
    return [float(word) for word in result.stdout.splitlines()[-1].split()]


class Watch:
    """Looks all the while at how much memory this process has of its own (Linux)."""

    def __init__(self) -> None:
        self.begin()
        looked = threading.Event()
        threading.Thread(target=self._look, args=(looked,), daemon=True).start()
        looked.wait()  # its stack and arena are there before anything is measured

    def begin(self) -> None:
        """Counts from here."""
        self._before = self._highest = _anonymous()

    def peak(self) -> int:
        """Bytes at the height of it, beyond those at the beginning."""
        self._highest = max(self._highest, _anonymous())  # on a busy machine the watcher may have slept
        return self._highest - self._before

    def _look(self, looked: threading.Event) -> None:
        while True:
            self._highest = max(self._highest, _anonymous())
            looked.set()
            time.sleep(0.0005)


def _anonymous() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024

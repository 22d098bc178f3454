"""How far a download has come, for a terminal and for a page.

Owns the words. Knows neither repositories nor files but by the name it is told. One thread downloads into several
files at a time; whoever shows it asks for `line` from any other.
"""

from __future__ import annotations

import io
import sys
import threading
import time
from typing import Any, TextIO

from tqdm import tqdm

PATIENCE = 10.0  # seconds between two lines where a line cannot be written over, as in a log


class FetchProgress:
    """Bytes `done` of a `total`, both zero while nothing is fetched. Written to `terminal`, sys.stderr if None."""

    def __init__(self, terminal: TextIO | None = None) -> None:
        self._terminal = terminal
        self._lock = threading.Lock()
        self.done = self.total = 0
        self._before = 0  # bytes of the repositories that are complete
        self._name = ""
        self._told = 0.0
        self._writing = False  # there is an unfinished line on the terminal

    @property
    def line(self) -> str:
        """What goes on in a few words, such as "Fetching KlingTeam/ShotStream: 3.2 of 5.7 GB"; "" if nothing does."""
        with self._lock:
            return self._line()

    def _line(self) -> str:
        if not self._name:
            return ""
        if not self.total:
            return f"Fetching {self._name}"
        unit, name = (1e9, "GB") if self.total >= 1e9 else (1e6, "MB")
        return f"Fetching {self._name}: {self.done / unit:.1f} of {self.total / unit:.1f} {name}"

    def expect(self, total: int) -> None:
        """So many bytes are to come altogether."""
        with self._lock:
            self.done, self._before, self.total = 0, 0, total

    def begin(self, name: str) -> None:
        """The next repository."""
        with self._lock:
            self._name, self._before = name, self.done
            self._tell(at_once=True)

    def reach(self, done: int) -> None:
        """`done` bytes of this repository are here."""
        with self._lock:
            self.done = self._before + done
            # a part that an interrupted download left counts as done, and not to what is to come
            self.total = max(self.total, self.done)
            self._tell()

    def end(self) -> None:
        """Nothing more comes."""
        with self._lock:
            if self._name:
                self._tell(at_once=True)
            if self._writing:
                print(file=self._terminal or sys.stderr)
            self._name, self._writing = "", False

    def _tell(self, at_once: bool = False) -> None:
        terminal = self._terminal or sys.stderr
        over = terminal.isatty()
        now = time.monotonic()
        if not at_once and now - self._told < (0.2 if over else PATIENCE):
            return
        self._told, self._writing = now, over
        print(f"\r\x1b[K{self._line()}" if over else self._line(), end="" if over else "\n", file=terminal, flush=True)


def bar_for(progress: FetchProgress | None) -> type[tqdm]:
    """A class of progress bars for the Hub's library that shows nothing itself and tells `progress`, if there is one,
    how many bytes there are."""

    class SilentBar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            self._bytes = options.get("unit") == "B" and "econstruct" in str(options.get("desc"))
            super().__init__(*args, **(options | {"file": io.StringIO()}))

        def update(self, n: float | None = 1) -> bool | None:
            shown = super().update(n)
            if self._bytes and progress is not None:
                progress.reach(int(self.n))
            return shown

    return SilentBar

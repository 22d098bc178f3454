"""Turns at something that only one can use at a time, and how long they may take to come.

First come, first served, one turn each: whoever was served goes to the end of the line for another, so that those who
share a camera shot by shot have it in rounds. A plain lock would let the busiest jump the line. Knows nothing of shots.
"""

from __future__ import annotations

import math
import threading
import time
from contextlib import suppress

WEIGHT = 0.3  # of the latest turn, among all that are remembered of how long turns take


class Turns:
    """A line. Its first has its turn."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._line: list[Turn] = []
        self._usual: float | None = None  # seconds a turn

    def __len__(self) -> int:
        """How many are in the line, the one that has its turn included."""
        return len(self._line)

    def next(self, brief: bool = False) -> Turn:
        """A place in the line, given up when its `with` block ends: at the end of it, or, for what is done in a moment,
        before all that is not `brief`."""
        turn = Turn(self, brief)
        with self._lock:
            place = len(self._line)
            if brief:
                place = next((n for n, other in enumerate(self._line) if n and not other.brief), place)
            self._line.insert(place, turn)
            self._line[0].come()
        return turn

    def leave(self, turn: Turn) -> None:
        with self._lock, suppress(ValueError):
            self._line.remove(turn)
            if turn.began is not None and not turn.brief:
                took = time.monotonic() - turn.began
                self._usual = took if self._usual is None else self._usual + WEIGHT * (took - self._usual)
            if self._line:
                self._line[0].come()

    def place(self, turn: Turn) -> int:
        """How many are before it."""
        with self._lock, suppress(ValueError):
            return self._line.index(turn)
        return 0

    def seconds_until(self, turn: Turn) -> int | None:
        """How long it may take until its turn comes, in round numbers; None as long as nobody can know."""
        with self._lock:
            if turn not in self._line or self._usual is None:
                return None
            before = self._line[: self._line.index(turn)]
            seconds = sum(self._usual for other in before if not other.brief)
            if before and before[0].began is not None and not before[0].brief:
                seconds -= min(self._usual, time.monotonic() - before[0].began)
        return rounded(seconds)


class Turn:
    """A place in the line of `Turns`; `began` is when its turn came."""

    def __init__(self, turns: Turns, brief: bool) -> None:
        self._turns = turns
        self._mine = threading.Event()
        self.brief = brief
        self.began: float | None = None

    def come(self) -> None:
        if not self._mine.is_set():
            self.began = time.monotonic()
            self._mine.set()

    def wait(self, timeout: float) -> bool:
        """Waits for the turn to come; False if `timeout` seconds passed."""
        return self._mine.wait(timeout)

    @property
    def place(self) -> int:
        return self._turns.place(self)

    @property
    def seconds(self) -> int | None:
        return self._turns.seconds_until(self)

    def __enter__(self) -> Turn:
        return self

    def __exit__(self, *_: object) -> None:
        self._turns.leave(self)


def rounded(seconds: float) -> int:
    """Whole seconds, and beyond ten of them steps of five: what is told of a wait should not flicker."""
    return math.ceil(seconds) if seconds <= 10 else 5 * math.ceil(seconds / 5)

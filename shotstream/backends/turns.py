"""Turns at something that only one can use at a time, and how long they may take to come.

First come, first served, one turn each: whoever was served goes to the end of the line for another, so that those who
share a camera shot by shot have it in rounds. A plain lock would let the busiest jump the line. Knows nothing of shots.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from shotstream.backends.usual import averaged, rounded


class Turns:
    """A line, whose first has its turn. It is timed by `clock`, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._lock = threading.Lock()
        self._line: list[Turn] = []
        self._usual: float | None = None  # seconds a turn

    def __len__(self) -> int:
        """How many are in the line, the one that has its turn included."""
        return len(self._line)

    def next(self, urgent: bool = False) -> Turn:
        """A turn to come, given up when its `with` block ends: at the end of the line, or, for what is `urgent` and
        done in a moment, before all that is not."""
        turn = Turn(self, urgent)
        with self._lock:
            place = len(self._line)
            if urgent:
                place = next((n for n, other in enumerate(self._line) if n and not other.urgent), place)
            self._line.insert(place, turn)
            self._line[0].come()
        return turn

    def leave(self, turn: Turn, done: bool) -> None:
        """Only a turn that was `done` tells how long one takes, and an urgent one tells nothing of the others."""
        with self._lock, suppress(ValueError):
            self._line.remove(turn)
            if done and turn.began is not None and not turn.urgent:
                self._usual = averaged(self._usual, self.clock() - turn.began)
            if self._line:
                self._line[0].come()

    def place(self, turn: Turn) -> int:
        with self._lock, suppress(ValueError):
            return self._line.index(turn)
        return 0

    def seconds_until(self, turn: Turn) -> int | None:
        with self._lock:
            if turn not in self._line or self._usual is None:
                return None
            before = self._line[: self._line.index(turn)]
            seconds = sum(self._usual for other in before if not other.urgent)
            if before and before[0].began is not None and not before[0].urgent:
                seconds -= min(self._usual, self.clock() - before[0].began)
        return rounded(seconds)


class Turn:
    """A place in the line of `Turns`; `began` is when its turn came."""

    def __init__(self, turns: Turns, urgent: bool) -> None:
        self._turns = turns
        self._mine = threading.Event()
        self.urgent = urgent
        self.began: float | None = None

    def come(self) -> None:
        if not self._mine.is_set():
            self.began = self._turns.clock()
            self._mine.set()

    def wait(self, timeout: float) -> bool:
        """Waits for the turn to come; False if `timeout` seconds passed."""
        return self._mine.wait(timeout)

    @property
    def place(self) -> int:
        """How many are before it; 0 when it is its turn, or in no line."""
        return self._turns.place(self)

    @property
    def seconds(self) -> int | None:
        """How long it may take until its turn comes, in round numbers; None as long as nobody can know."""
        return self._turns.seconds_until(self)

    def __enter__(self) -> Turn:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._turns.leave(self, done=kind is None)

"""Turns at several servers, of which nobody knows which is free: who waits for one, and who may ask for one now.

Owns the order (first come, first served, except for what is urgent) and how long it may take. Knows no server.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from shotstream.backends.usual import averaged, rounded


class Line:
    """Who is in it waits until served. They ask for a server in order, and as many as there are servers may wait for
    what they asked for: so none of them is idle, and all others can still be put in order here.

    Whoever comes back for more joins at the end, so that those who share the servers have them in rounds. Serving is
    timed by `clock`, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.servers = 1
        self.clock = clock
        self._changed = threading.Condition()
        self._turns: list[Turn] = []
        self._usual: float | None = None  # seconds that serving takes

    def __len__(self) -> int:
        """How many wait."""
        return len(self._turns)

    def next(self, urgent: bool = False) -> Turn:
        """A turn to come, given up when its `with` block ends: at the end of the line, or, if it is `urgent`, before
        all that were not handed over yet."""
        turn = Turn(self, urgent)
        with self._changed:
            place = len(self._turns)
            while urgent and place and not self._turns[place - 1].is_handed_over:
                place -= 1
            self._turns.insert(place, turn)
        return turn

    def hand_over(self, turn: Turn, accepted: bool) -> None:
        with self._changed:
            turn.is_handed_over = accepted
            self._changed.notify_all()

    def leave(self, turn: Turn) -> None:
        with self._changed:
            if turn in self._turns:
                self._turns.remove(turn)
                self._changed.notify_all()

    def took(self, seconds: float) -> None:
        """Something that was not urgent was served to its end, in so many seconds."""
        with self._changed:
            self._usual = averaged(self._usual, seconds)

    def place(self, turn: Turn) -> int:
        with self._changed:
            return self._turns.index(turn) + 1 if turn in self._turns else 0

    def seconds_until(self, turn: Turn) -> int | None:
        return None if self._usual is None else rounded(self.place(turn) * self._usual / self.servers)

    def is_next(self, turn: Turn) -> bool:
        with self._changed:
            asking = [other for other in self._turns if not other.is_handed_over]
            return asking[:1] == [turn] and len(self._turns) - len(asking) < self.servers

    def wait(self, timeout: float) -> None:
        with self._changed:
            self._changed.wait(timeout)


class Turn:
    """A place in a `Line`; `began` is when it was first served."""

    def __init__(self, line: Line, urgent: bool) -> None:
        self._line = line
        self.urgent = urgent
        self.began: float | None = None
        self.is_handed_over = False

    @property
    def place(self) -> int:
        """How many are before it, if all servers are busy; 0 when it is its turn, or in no line."""
        return self._line.place(self)

    @property
    def seconds(self) -> int | None:
        """How long that may take, in round numbers; None as long as nobody can know."""
        return self._line.seconds_until(self)

    def is_next(self) -> bool:
        """Is it this one that may ask for a server now?"""
        return self._line.is_next(self)

    def handed_over(self) -> None:
        """A server was asked: whoever comes behind may ask too."""
        self._line.hand_over(self, True)

    def turned_away(self) -> None:
        """No server takes more at present: it is the next to ask again."""
        self._line.hand_over(self, False)

    def served(self) -> None:
        """Its turn has come. May be called again."""
        if self.began is None:
            self.began = self._line.clock()
            self._line.leave(self)

    def done(self) -> None:
        """It was served to the end: only then it tells how long that takes, and an urgent one tells nothing of the
        others."""
        if not self.urgent:
            self._line.took(self._line.clock() - self.began)

    def wait(self, timeout: float) -> None:
        """Until something changed in the line, or `timeout` seconds passed."""
        self._line.wait(timeout)

    def __enter__(self) -> Turn:
        return self

    def __exit__(self, *_: object) -> None:
        self._line.leave(self)

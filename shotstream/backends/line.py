"""A line with places that can be seen: who waits for one of several servers, and who may ask for one now.

Owns the order (first come, first served, except for what is urgent) and how long it may take. Knows no server.
"""

from __future__ import annotations

import threading
import time

from shotstream.backends.turns import WEIGHT, rounded


class Line:
    """Who is in it waits until served. Places ask for a server in order, and as many as there are servers may wait for
    what they asked for: so none of them is idle, and all others can still be put in order here.

    Whoever comes back for more joins at the end, so that those who share the servers have them in rounds."""

    def __init__(self) -> None:
        self.servers = 1
        self._changed = threading.Condition()
        self._places: list[Place] = []
        self._usual: float | None = None  # seconds that serving takes

    def __len__(self) -> int:
        """How many wait."""
        return len(self._places)

    def join(self, urgent: bool = False) -> Place:
        """A place at the end, or, if it is urgent, before all that were not handed over yet; given up when its `with`
        block ends."""
        place = Place(self)
        with self._changed:
            at = len(self._places)
            while urgent and at and not self._places[at - 1].is_handed_over:
                at -= 1
            self._places.insert(at, place)
        return place

    def hand_over(self, place: Place, accepted: bool) -> None:
        with self._changed:
            place.is_handed_over = accepted
            self._changed.notify_all()

    def leave(self, place: Place) -> None:
        with self._changed:
            if place in self._places:
                self._places.remove(place)
                self._changed.notify_all()

    def took(self, seconds: float) -> None:
        """Something was served to its end, in so many seconds."""
        with self._changed:
            self._usual = seconds if self._usual is None else self._usual + WEIGHT * (seconds - self._usual)

    def number(self, place: Place) -> int:
        with self._changed:
            return self._places.index(place) + 1 if place in self._places else 0

    def seconds_until(self, place: Place) -> int | None:
        number = self.number(place)
        return None if self._usual is None else rounded(number * self._usual / self.servers)

    def is_next(self, place: Place) -> bool:
        with self._changed:
            asking = [other for other in self._places if not other.is_handed_over]
            return asking[:1] == [place] and len(self._places) - len(asking) < self.servers

    def wait(self, timeout: float) -> None:
        with self._changed:
            self._changed.wait(timeout)


class Place:
    """A place in a `Line`."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._served: float | None = None  # since when
        self.is_handed_over = False

    @property
    def number(self) -> int:
        """How many others must have been served before it is its turn, if all servers are busy; 0 when it is."""
        return self._line.number(self)

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
        if self._served is None:
            self._served = time.monotonic()
            self._line.leave(self)

    def done(self) -> None:
        """It was served to the end, what is only then known to last as long as it usually does."""
        self._line.took(time.monotonic() - self._served)

    def wait(self, timeout: float) -> None:
        """Until something changed in the line, or `timeout` seconds passed."""
        self._line.wait(timeout)

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        self._line.leave(self)

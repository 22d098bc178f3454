"""A queue with places that can be seen: who waits for one of many servers, and who may ask for one now.

Owns the order, first come, first served, except for who was sent back through no fault of his own. Knows no server.
"""

from __future__ import annotations

import threading


class Line:
    """Places stay in the line until they are served or given up. They are handed over in order: a place is next when
    all before it were handed over."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._places: list[Place] = []

    def join(self, urgent: bool = False) -> Place:
        """A place at the end, or, if it is urgent, before all that were not handed over yet; given up when its `with`
        block ends."""
        place = Place(self)
        with self._changed:
            handed_over = [other.is_handed_over for other in self._places]
            self._places.insert(
                handed_over.index(False) if urgent and False in handed_over else len(handed_over), place
            )
        return place

    def leave(self, place: Place) -> None:
        """It was served, or waits no longer. May be called twice."""
        with self._changed:
            if place in self._places:
                self._places.remove(place)
                self._changed.notify_all()

    def hand_over(self, place: Place, accepted: bool) -> None:
        with self._changed:
            place.is_handed_over = accepted
            self._changed.notify_all()

    def number(self, place: Place) -> int:
        with self._changed:
            return self._places.index(place) + 1 if place in self._places else 0

    def is_next(self, place: Place) -> bool:
        with self._changed:
            return next((other for other in self._places if not other.is_handed_over), None) is place

    def wait(self, timeout: float) -> None:
        with self._changed:
            self._changed.wait(timeout)


class Place:
    """A place in a `Line`."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self.is_handed_over = False

    @property
    def number(self) -> int:
        """1 is served next; 0 for one who left."""
        return self._line.number(self)

    def is_next(self) -> bool:
        """Is it this one that may ask for a server now?"""
        return self._line.is_next(self)

    def handed_over(self) -> None:
        """A server was asked: whoever comes behind may ask too."""
        self._line.hand_over(self, True)

    def turned_away(self) -> None:
        """No server wants more work at present: it is the next to ask again."""
        self._line.hand_over(self, False)

    def wait(self, timeout: float) -> None:
        """Until something changed in the line, or `timeout` seconds passed."""
        self._line.wait(timeout)

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        self._line.leave(self)

"""A session's footage as films: the tree of takes, where in it the film ends, what of it was seen.

Owns what is kept and what is dropped. Knows neither prompts that wait nor why the film goes elsewhere; footage lies on
a `Reel`, takes are made in `Shooting`. All of it is called under the lock.

What was shown is the film: what a cut, a stop or a jump to another take catches unshown is dropped as if it had never
been made, so that film, memory and timeline always agree with what was seen. What somebody goes back to, or wants
another take of, counts as seen. A take that another film went on from never changes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

from shotstream.backends.backend import Camera
from shotstream.errors import UserError
from shotstream.reel import Reel
from shotstream.shooting import Shooting
from shotstream.takes import Piece, Prompt, Take, path_to

MAX_TAKES = 200


class Can(Shooting):
    """What is in the can."""

    def __init__(self, backend: Camera, reel: Reel, on_change: Callable[[], None]) -> None:
        super().__init__(backend, reel, on_change)
        self._again: deque[Piece] = deque()  # to be shown once more

    def _film(self) -> list[Take]:
        return path_to(self._head)

    def _find(self, key: int) -> Take:
        if key not in self._takes:
            raise UserError("This take is gone.")
        return self._takes[key]

    def _kept(self, key: int) -> Take:
        """A take that stays, whatever is dropped: whoever goes back to it, or wants another, has seen enough of it and
        of what came before. Raises UserError if nothing of it was made yet."""
        take = self._find(key)
        if not take.footage and not take.memory:
            raise UserError("Nothing of this shot was made yet: wait for it.")
        for shot in path_to(take):
            for piece in shot.footage:
                piece.shown = True
        return take

    def _went_on(self, take: Take, besides: Sequence[Take] = ()) -> bool:
        """Is there a film that goes on from this take, `besides` these takes? It remembers the take as it is, which may
        then not change."""
        return any(other.parent is take and other not in besides for other in self._takes.values())

    def _check_takes(self) -> None:
        if len(self._takes) >= MAX_TAKES:
            raise UserError(f"There are {MAX_TAKES} takes already: download your film and start a new one.")

    def _pieces(self) -> Iterator[Piece]:
        return (piece for take in self._film() for piece in take.footage)

    def _unshown(self) -> Piece | None:
        return next((piece for piece in self._pieces() if not piece.shown), None)

    def _drop_unshown(self, keep_first: bool = False) -> list[Prompt]:
        """Ends all that is being made and drops what nobody saw; the prompts of shots that thereby never were.

        With `keep_first` the first shot that was not shown to its end keeps at least one chunk, or goes on to make it.
        """
        self._interrupt()
        self._again.clear()
        take, undone = self._being_shown()
        if take is not None:
            shown = sum(piece.shown for piece in take.footage)
            if shown or keep_first:
                self._shorten(take, max(1, shown))
            else:
                undone = [take, *undone]
        for take in undone:
            self._remove(take)
        return [take.prompt for take in undone]

    def _being_shown(self) -> tuple[Take | None, list[Take]]:
        """The first shot of the film that was not shown to its end, if there is one, and those after it: also a picture
        that was cast after unseen footage."""
        film = self._film()
        for place, take in enumerate(film):
            if take.unfinished or not all(piece.shown for piece in take.footage):
                return take, film[place + 1 :]
        return None, []

    def _shorten(self, take: Take, chunks: int) -> None:
        self._reel.drop(take.footage[chunks:])
        take.stopped |= take.wanted is None or take.wanted > chunks
        del take.footage[chunks:]
        take.steers = [steer for steer in take.steers if steer.chunk < chunks]
        take.wanted, take.memory, take.attention = chunks, None, None

    def _forget(self) -> None:
        """Ends all that is being made; no film has anything any more."""
        self._interrupt()
        for take in self._takes.values():
            self._reel.drop(take.footage)
        self._takes.clear()
        self._again.clear()
        self._head = self.message = self.timing = None

    def _remove(self, take: Take) -> None:
        """A take that never was; the film ends before it."""
        self._reel.drop(take.footage)
        self._takes.pop(take.key, None)
        if take in self._film():
            self._head = take.parent

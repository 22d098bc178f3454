"""What the next shot of a film looks back at: the policy, and the frames that a director pinned or dropped.

Owns these choices, by the keys of takes; how they become frames is in `context`. Knows no queue and no page.
"""

from __future__ import annotations

from collections.abc import Callable

from shotstream.backends.backend import Camera
from shotstream.can import Can
from shotstream.context import DIRECTED, MAX_CONTEXT_FRAMES, MAX_PINS, Pick, look_back, nearest
from shotstream.errors import UserError
from shotstream.keeping import numbered
from shotstream.memory import Memory
from shotstream.reel import Reel
from shotstream.takes import Take, path_to, remembered


class Remembering(Can):
    """What a film remembers, and what of it counts."""

    def __init__(self, backend: Camera, reel: Reel, on_change: Callable[[], None]) -> None:
        super().__init__(backend, reel, on_change)
        self._policy = "recent"
        self._pinned: set[Pick] = set()  # (key of a take, frame) each
        self._dropped: set[Pick] = set()

    @property
    def memory(self) -> Memory:
        """What the film remembers: that of its last closed take."""
        with self._condition:
            return remembered(self._head)

    def remember_by(self, policy: str) -> None:
        """Chooses how the frames are chosen that the next shot looks back at."""
        if policy not in DIRECTED:
            raise UserError(f"A film remembers by {', '.join(DIRECTED)}, not by {policy[:40]!r}.")
        with self._changing():
            self._policy = policy

    def pin(self, key: int, frame: int, on: bool = True) -> None:
        """From now on every shot of the films with this take looks back at this frame of it. Raises UserError if so
        many frames of such a film are pinned already that no shot can look back at one more."""
        with self._changing():
            mark = self._kept_frame(key, frame)
            if on and not self._can_pin(mark):
                raise UserError(
                    f"A shot looks back at {MAX_CONTEXT_FRAMES} pictures, of which {MAX_PINS} can be pinned: unpin one "
                    "of this film first."
                )
            self._pinned -= {mark}
            if on:
                self._pinned.add(mark)
                self._dropped.discard(mark)

    def drop(self, key: int, frame: int, on: bool = True) -> None:
        """From now on no shot looks back at this frame, pinned or not. Raises UserError if it is the last one."""
        with self._changing():
            mark = self._kept_frame(key, frame)
            kept = {(t.key, o) for t in self._film() if t.memory for o in t.memory.shots[-1].offsets}
            if on and mark in kept and kept <= self._dropped | {mark}:
                raise UserError("This is the last frame that the next shot can look back at: keep it.")
            self._dropped -= {mark}
            if on:
                self._dropped.add(mark)
                self._pinned.discard(mark)

    def _kept_frame(self, key: int, frame: int) -> Pick:
        """The mark of a frame that is remembered. Raises UserError."""
        take = self._find(key)
        if take.memory is None or frame not in take.memory.shots[-1].offsets:
            raise UserError("The film does not remember this frame.")
        return key, frame

    def _can_pin(self, mark: Pick) -> bool:
        """Is there room for this pin in every film that its take is in?"""
        for take in self._takes.values():
            film = {shot.key for shot in path_to(take)}
            if mark[0] in film and len({mark} | {pin for pin in self._pinned if pin[0] in film}) > MAX_PINS:
                return False
        return True

    def weigh_attention(self, on: bool) -> None:
        """Whether shots tell how much attention the frames that they looked back at got."""
        with self._changing():
            self._weighs = on

    def _picks(self, head: Take | None, caption: str) -> tuple[Pick, ...] | None:
        """What a shot after `head` looks back at, None for a first shot."""
        closed = [take for take in path_to(head) if take.memory]
        if not closed:
            return None
        pinned, dropped = numbered(self._pinned, closed), numbered(self._dropped, closed)
        shots = closed[-1].memory.shots
        if len(dropped) == sum(len(shot.offsets) for shot in shots):
            dropped = ()  # all that this film has was dropped in a longer one
        return look_back(shots, caption, self._policy, pinned, dropped)

    def _forget(self) -> None:
        super()._forget()
        self._pinned.clear()
        self._dropped.clear()

    def _remember(self, take: Take, memory: Memory) -> None:
        """A shot that has become longer or shorter is remembered by other frames: a pin holds the nearest."""
        take.memory, offsets = memory, memory.shots[-1].offsets
        for key, frame in [mark for mark in self._pinned | self._dropped if mark[0] == take.key]:
            if (key, frame) in self._pinned and frame not in offsets:
                self._pinned -= {(key, frame)}
                self._pinned |= {(key, nearest(offsets, frame))}
            if frame not in offsets:
                self._dropped.discard((key, frame))

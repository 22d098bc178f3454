"""What is seen of a session's films: a view of everything, pictures, and the stream of segments.

Owns how far the stream has come. Knows no page and no clock: whoever shows segments decides when to take the next.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable

import numpy as np

from shotstream.backends.backend import Camera
from shotstream.media import Segment
from shotstream.queueing import Queueing
from shotstream.reel import Reel
from shotstream.takes import Piece, Take, path_to
from shotstream.views import FilmView, FrameView, choice_views, frame_views, queued_views, take_views, tree_views


class Screening(Queueing):
    """Everything that can be looked at."""

    def __init__(self, backend: Camera, reel: Reel, on_change: Callable[[], None]) -> None:
        super().__init__(backend, reel, on_change)
        self._num_shown = 0  # frames, in all films of this session: the stream goes on through all of them
        self._player_began = 0  # how many of them the present player has not got
        self._shown: list[tuple[int, Piece]] = []  # what was shown of the films that there are, by its first frame

    def view(self) -> FilmView:
        """Everything as it is now."""
        with self._condition:
            film, takes = self._film(), list(self._takes.values())
            tree = tree_views(takes, self._head)
            doing = self._doing
            timing = self.timing
            return FilmView(
                takes=take_views(film, takes, self._making),
                waiting=queued_views(self._waiting),
                tree=tree,
                frames=self._frame_views(film),
                choices=choice_views(self._offered(), {shot.key for shot in (*film, *self._waiting)}),
                stage=doing.stage,
                chunk=doing.chunk,
                num_chunks=doing.num_chunks,
                place=doing.place,
                wait=doing.wait,
                fps=timing and timing.fps,
                first_chunk=timing and timing.first_chunk,
                seconds=dict(timing.seconds) if timing else {},
                message=self.message,
                held=self._held,
                broken=bool(self._held and self._head and self._head.broken),
                rolls_on=self._may_roll(self._head),
                told=self._told(film),
                playing=self._making is not None or self._unshown() is not None,
                policy=self._policy,
                unsaid=self._policy == "retrieval" and not self._waiting and not self._typed,
                weighing=self._weighs,
                branched=any(node.lane for node in tree),
                size=self._size,
            )

    def _told(self, film: list[Take]) -> str:
        """What the segment was told that is on the screen, or will be in a moment."""
        _, latest = self._shown[-1] if self._shown else (0, None)
        for take in reversed(film):
            if latest in take.footage:
                return take.caption_at(take.footage.index(latest))
        return ""

    def _frame_views(self, film: list[Take]) -> tuple[FrameView, ...]:
        """The memory of `film` as the next shot looks back at it, or of the film that the next shot goes on from."""
        following = self._waiting[0] if self._waiting else None
        if following and following.after is not None:
            film = path_to(self._takes.get(following.after))
        picks = self._picks(film[-1] if film else None, following.caption if following else self._typed)
        return frame_views(film, picks, self._pinned, self._dropped, self._backend.fps) if picks else ()

    def _forget(self) -> None:
        super()._forget()
        self._shown.clear()

    def still(self, key: int) -> bytes | None:
        """A small picture (PNG) of the take with that key; None if there is none."""
        with self._condition:
            take = self._takes.get(key)
            return take.still if take and take.still else None

    def remembered_frame(self, key: int, frame: int) -> np.ndarray | None:
        """A small picture [H, W, 3] uint8 of a frame that the film remembers; None if it does not."""
        with self._condition:
            take = self._takes.get(key)
            shot = take.memory.shots[-1] if take and take.memory else None
            return shot.thumbnails[shot.offsets.index(frame)] if shot and frame in shot.offsets else None

    def last_picture(self) -> np.ndarray | None:
        """[H, W, 3] uint8: what the film ends with, at its own size; None if it was not made or cast here."""
        with self._condition:
            take = self._head
            if take and (take.footage or take.prompt.picture is not None):
                return self._last_picture(take)
            return None

    def begin_player(self) -> None:
        """What is shown from now on goes to another player, whose time begins at zero."""
        with self._condition:
            self._player_began = self._num_shown

    def picture_at(self, seconds: float) -> np.ndarray | None:
        """[H, W, 3] uint8: what the player shows at this time of its own, at the film's own size; None if it shows
        nothing, or a film that is gone. Beyond the end it is the last picture."""
        with self._condition:
            if not self._shown:
                return None
            frame = self._player_began + math.floor(seconds * self._backend.fps + 0.01)  # a time may be rounded down
            frame = min(frame, self._num_shown - 1)
            place = bisect_right(self._shown, frame, key=lambda shown: shown[0]) - 1
            if place < 0:
                return None
            first, piece = self._shown[place]
            return self._reel.picture(piece, min(frame - first, piece.num_frames - 1))

    def has_unshown(self) -> bool:
        with self._condition:
            return bool(self._again) or self._unshown() is not None

    def next_segment(self) -> Segment | None:
        """The next segment to be shown, from now on counted as shown, with timestamps that go on from the one before;
        None if there is none yet."""
        with self._condition:
            piece = self._again.popleft() if self._again else self._unshown()
            if piece is None:
                return None
            segment = self._reel.load(piece, self._num_shown)
            self._shown.append((self._num_shown, piece))
            self._num_shown += segment.num_frames
            piece.shown = True
            self._condition.notify_all()
            return segment

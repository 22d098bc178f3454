"""How a director's takes are made: from a take to requests, from events to footage, latents and memory.

Owns the run of one piece of work and its interruption. Which work is next, and what the film is, is the `Director`'s.

Every run has a ticket; who interrupts it takes the ticket away, and from that moment on nothing that the run still
brings is kept.
"""

from __future__ import annotations

import logging
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

import numpy as np

from shotstream.backends.backend import Camera
from shotstream.errors import UserError
from shotstream.events import Chunk, Event, Progress, ShotDone, ShotRequest
from shotstream.media import dissolve, still
from shotstream.memory import Memory
from shotstream.progress import Doing, Timing
from shotstream.reel import Reel
from shotstream.story import compose_caption
from shotstream.takes import Take

log = logging.getLogger(__name__)


class Shooting:
    """The making of takes, one at a time, in the thread that calls `_continue`, `_close` or `_cast`."""

    def __init__(self, backend: Camera, reel: Reel, on_change: Callable[[], None]) -> None:
        self._backend, self._reel, self._on_change = backend, reel, on_change
        self._condition = threading.Condition()
        self._takes: dict[int, Take] = {}
        self._head: Take | None = None  # the film's last take
        self._making: Take | None = None
        self._ticket = object()
        self._doing = Doing()
        self._usual = 1  # chunks in a shot, as far as is known
        self._size: tuple[int, int] | None = None  # width, height of the pictures; None the model's own
        self._weighs = False  # shots tell how much attention their context frames got
        self.timing: Timing | None = None
        self.message: str | None = None  # one sentence about what went wrong last

    @abstractmethod
    def _failed(self, take: Take) -> None:
        """Called, under the lock, after the making of a take went wrong."""

    @abstractmethod
    def _remember(self, take: Take, memory: Memory) -> None:
        """Called, under the lock, when a take is closed, with what the film remembers after it."""

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Something is directed: under the lock, and everybody hears of it."""
        with self._condition:
            yield
            self._condition.notify_all()
        self._on_change()

    def _interrupt(self) -> None:
        """Takes the running work its ticket away."""
        self._ticket = object()
        self._making = None
        self._doing = Doing()

    def _start(self, take: Take) -> object | None:
        """The ticket of a new run for `take`; None if the film has gone elsewhere meanwhile."""
        if take is not self._head:
            return None
        self._making, self._ticket = take, object()
        self._doing = Doing("turn")
        return self._ticket

    def _request(self, take: Take) -> ShotRequest:
        """What to ask the camera for; reads what there is of the take from the disk, which nobody has to wait for."""
        with self._condition:
            memory, footage = take.memory_before, tuple(take.footage)
            words = take.caption_at(take.num_chunks if take.unfinished else take.num_chunks - 1)
            request = ShotRequest(
                caption=compose_caption(take.prompt.global_caption, len(memory.shots), words),
                memory=memory,
                seed=take.seed,
                num_chunks=take.wanted or take.prompt.num_chunks,
                width=self._size and self._size[0],
                height=self._size and self._size[1],
                picks=take.picks,
                attention=self._weighs,
            )
        return replace(request, prefix=self._reel.latents(footage))

    def _continue(self, take: Take) -> None:
        """Makes the chunks of a take that are still to come, and closes it."""
        with self._condition:
            if not take.unfinished and take.prompt.picture is None:
                return
            ticket = self._start(take)
            if ticket is None:
                return
            timing = Timing()
        self._on_change()
        with self._telling(take, ticket):
            if take.prompt.picture is not None:
                self._cast(take, ticket)
            else:
                while self._run(take, ticket, self._request(take), timing):
                    pass

    def _close(self, take: Take) -> None:
        """Has the engine close a take after the chunks that it has, so that later shots remember those."""
        if take.prompt.picture is not None:
            return self._continue(take)
        with self._condition:
            if take is not self._head or not take.footage or take.unfinished:
                return None
            ticket, take.broken = self._ticket, None
            take.steers = list(take.steered)
        try:
            done = None
            for event in self._events(self._request(take), ticket):
                done = event if isinstance(event, ShotDone) else None
        except Exception as error:
            self._lose(take, ticket, error)
            return None
        with self._changing():
            if done is not None and ticket is self._ticket:
                take.attention = done.attention or ()
                self._remember(take, done.memory)
        return None

    def _lose(self, take: Take, ticket: object, error: Exception) -> None:
        """A take could not be closed: the film goes on without it, if it did not go elsewhere meanwhile."""
        with self._changing():
            if ticket is not self._ticket:
                return
            if not isinstance(error, UserError):
                log.error("a shot could not be closed", exc_info=error)
            take.lost = True
            self.message = f"The film cannot remember its last shot ({_reason(error)}): later shots go without it."

    def _events(self, request: ShotRequest, ticket: object) -> Iterator[Event]:
        """What the camera says, for as long as the run has its ticket."""
        if ticket is not self._ticket:  # taken away before there was anything to be cancelled
            return
        with closing(self._backend.shoot(request)) as events:
            for event in events:
                yield event
                if ticket is not self._ticket:
                    return

    def _cast(self, take: Take, ticket: object) -> None:
        memory = take.memory_before
        caption = compose_caption(take.prompt.global_caption, len(memory.shots), take.prompt.caption)
        shot = self._backend.cast(take.prompt.picture, caption)
        with self._condition:
            if ticket is not self._ticket:
                return
            self._remember(take, Memory((*memory.shots, shot)))
            take.still = still(take.prompt.picture)
            self._end()
        self._on_change()

    def _run(self, take: Take, ticket: object, request: ShotRequest, timing: Timing) -> bool:
        """Shoots until the take is done, or as far as it is to be told something else; whether it is."""
        with closing(self._events(request, ticket)) as events:
            for event in events:
                match event:
                    case Progress(stage="load" | "turn"):
                        timing.waited()
                        self._report(ticket, Doing(event.stage, 0, take.wanted or 0, event.place, event.wait))
                    case Progress():
                        chunk = take.num_chunks + (event.stage != "remember")
                        self._report(ticket, Doing(event.stage, chunk, take.wanted or 0))
                    case Chunk():
                        self._file(take, ticket, event, timing)
                    case ShotDone():
                        self._finish(take, ticket, event, timing, request)
                turn = isinstance(event, Chunk) and any(steer.chunk == take.num_chunks for steer in take.steers)
                if turn and ticket is self._ticket:
                    return True
        return False

    def _file(self, take: Take, ticket: object, chunk: Chunk, timing: Timing) -> None:
        """Encodes a chunk and adds it to the take, unless that was interrupted meanwhile."""
        started = time.monotonic()
        frames = self._faded_in(take, chunk)
        segment = self._reel.encode(frames, self._backend.fps)
        picture = take.still or still(chunk.frames[-1])
        with self._condition:
            if ticket is not self._ticket:
                return
            take.footage.append(self._reel.keep(segment, chunk.latents, chunk.frames[-1]))
            if take.prompt.num_chunks is None and not take.wanted:
                self._usual = chunk.num_chunks
            take.wanted = take.wanted or chunk.num_chunks
            take.still = picture
            timing.chunk_encoded(segment.num_frames, time.monotonic() - started)
            self.timing = timing
            self._doing = Doing("denoise", min(take.num_chunks + 1, take.wanted), take.wanted)
            self._condition.notify_all()
        self._on_change()

    def _faded_in(self, take: Take, chunk: Chunk) -> np.ndarray:
        """The chunk's frames; those of a dissolve come out of the picture before them."""
        if not take.prompt.dissolve or chunk.index or not take.parent:
            return chunk.frames
        before = self._last_picture(take.parent)
        fits = before is not None and before.shape == chunk.frames.shape[1:]
        return dissolve(before, chunk.frames) if fits else chunk.frames

    def _last_picture(self, take: Take) -> np.ndarray | None:
        """[H, W, 3] uint8: what was to be seen when a take ended, as far as it is known."""
        if take.footage:
            return self._reel.last_picture(take.footage[-1])
        if take.prompt.picture is not None:
            return take.prompt.picture
        return take.memory.shots[-1].thumbnails[-1] if take.memory else None

    def _report(self, ticket: object, doing: Doing) -> None:
        with self._condition:
            if ticket is not self._ticket or self._doing == doing:
                return
            self._doing = doing
        self._on_change()

    def _finish(self, take: Take, ticket: object, done: ShotDone, timing: Timing, request: ShotRequest) -> None:
        with self._condition:
            if ticket is not self._ticket:
                return
            self._remember(take, done.memory)
            take.attention = (done.attention or ()) if request.attention else None
            for part, seconds in done.seconds.items():
                timing.add(part, seconds)
            self._end()
        self._on_change()

    def _end(self) -> None:
        """The run has done its work."""
        self._making = None
        self._doing = Doing()
        self._condition.notify_all()

    @contextmanager
    def _telling(self, take: Take, ticket: object) -> Iterator[None]:
        """What goes wrong inside becomes the film's message: it costs one shot, not the session."""
        try:
            yield
        except Exception as error:
            with self._condition:
                if ticket is not self._ticket:  # nobody waits for it, and what it was made from may be gone
                    log.debug("an interrupted shot failed", exc_info=True)
                    return
                if not isinstance(error, UserError):
                    log.exception("a shot failed")
                self._end()
                self.message = str(error) if isinstance(error, UserError) else _unexpected(error)
                take.broken = take.wanted if take.footage else None
                take.stopped, take.wanted = True, max(1, take.num_chunks)
                self._failed(take)
            self._on_change()


def _unexpected(error: Exception) -> str:
    return f"The shot failed ({type(error).__name__}): try it again, the film so far is kept."


def _reason(error: Exception) -> str:
    return str(error).rstrip(".") if isinstance(error, UserError) else type(error).__name__

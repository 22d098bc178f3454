"""A session's film: which shot is made next, what is in the can, what the film remembers.

Owns the queue of prompts, the takes and the memory; their footage lies on a `Reel`. Knows no page, no clock and no
weights: shots come from a backend, segments leave through `next_segment`, and whoever shows them decides when. One
thread makes shots (`shoot_next`); any other may queue, stop, read or export at any time.

What was shown is the film. Footage runs ahead of the viewer by at most one shot; what a stop catches unshown is dropped
as if it had never been made, so that film, memory and timeline always agree with what was seen.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch

from shotstream.errors import UserError
from shotstream.events import Chunk, Event, Progress, ShotDone, ShotRequest
from shotstream.media import FilmShot, Segment, still, write_film
from shotstream.memory import Memory
from shotstream.reel import Reel
from shotstream.story import clean_prompt, compose_caption
from shotstream.takes import FilmView, Prompt, Take, look_at

log = logging.getLogger(__name__)

MAX_WAITING = 20  # prompts
MAX_FILM_SECONDS = 600


class Backend(Protocol):
    """Where shots come from; see `backends`. `fps` need only be known once a shot was made."""

    @property
    def fps(self) -> int: ...

    def shoot(self, request: ShotRequest) -> Iterator[Event]: ...


class Director:
    """A session's film. `on_change` is called, from any thread, whenever a `view` would differ.

    Its footage is on the disk until `close`. Making one raises UserError if there is no room for that.
    """

    def __init__(self, backend: Backend, on_change: Callable[[], None] = lambda: None) -> None:
        self._backend = backend
        self._on_change = on_change
        self._condition = threading.Condition()
        self._reel = Reel()
        self._closed = False
        self._waiting: deque[Prompt] = deque()
        self._takes: list[Take] = []
        self._making: Take | None = None
        self._progress: tuple[str, int, int] = ("", 0, 0)
        self._rate: float | None = None
        self._message: str | None = None
        self._past_frames = 0  # shown in earlier films of this session: the stream goes on through all of them
        self._num_takes = 0

    # What people do

    def queue_shot(self, global_caption: str, caption: str) -> None:
        """Puts a shot at the end of the queue. Raises UserError for a prompt or a queue that is too long, or blank."""
        prompt = Prompt(
            clean_prompt(global_caption, "The story") if global_caption.strip() else "",
            clean_prompt(caption, "The next shot"),
        )
        with self._condition:
            if len(self._waiting) >= MAX_WAITING:
                raise UserError(f"{MAX_WAITING} shots are waiting already: let some of them play first.")
            if self._seconds() >= MAX_FILM_SECONDS:
                raise UserError(f"This film is {MAX_FILM_SECONDS // 60} minutes long: download it and start a new one.")
            self._waiting.append(prompt)
            self._message = None
            self._condition.notify_all()
        self._on_change()

    def stop(self) -> None:
        """Empties the queue, ends the running shot at the chunk that was shown last, drops footage nobody saw."""
        with self._condition:
            self._waiting.clear()
            self._message = None
            for take in list(self._takes):
                unshown = [piece for piece in take.footage if not piece.shown]
                take.footage = [piece for piece in take.footage if piece.shown]
                self._reel.drop(unshown)
                take.stopped |= bool(unshown) or take is self._making
                if not take.footage:
                    self._takes.remove(take)
            self._making = None
            self._progress = ("", 0, 0)
            self._condition.notify_all()
        self._on_change()

    def new_film(self) -> None:
        """Forgets everything: an empty film with an empty memory."""
        with self._condition:
            self.stop()
            self._past_frames += sum(take.num_frames for take in self._takes)
            for take in self._takes:
                self._reel.drop(take.footage)
            self._takes.clear()
            self._rate = None
        self._on_change()

    def close(self) -> None:
        """Ends the film for good: `shoot_next` returns, the footage is deleted. May be called twice."""
        with self._condition:
            self.stop()
            self._closed = True
            self._takes.clear()
            self._reel.close()
            self._condition.notify_all()
        self._on_change()

    # What is seen

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def memory(self) -> Memory:
        """What the film remembers: that of its last finished take."""
        with self._condition:
            return next((take.memory for take in reversed(self._takes) if take.memory), Memory())

    def view(self) -> FilmView:
        """The film as it is now."""
        with self._condition:
            waiting = tuple(prompt.caption for prompt in self._waiting)
            return look_at(self._takes, self._making, waiting, self._progress, self._rate, self._message)

    def still(self, key: int) -> bytes | None:
        """A small picture (PNG) of the take with that key; None if there is none."""
        with self._condition:
            return next((take.still for take in self._takes if take.key == key and take.still), None)

    def has_unshown(self) -> bool:
        with self._condition:
            return any(not piece.shown for take in self._takes for piece in take.footage)

    def next_segment(self) -> Segment | None:
        """The next segment of the film, from now on counted as shown; None if there is none yet."""
        with self._condition:
            for piece in (piece for take in self._takes for piece in take.footage if not piece.shown):
                segment = self._reel.load(piece)
                piece.shown = True
                self._condition.notify_all()
                return segment
        return None

    def export(self, path: Path) -> int:
        """Writes the film so far as an MP4 whose chapters are the shots; the number of frames. Raises UserError."""
        with self._condition:
            shots = [
                FilmShot(take.prompt.caption, [self._reel.load(piece).data for piece in take.footage])
                for take in self._takes
            ]
        return write_film(path, shots, self._backend.fps if shots else 1)

    # What makes it

    def shoot_next(self) -> bool:
        """Waits for a prompt (and for the viewer, if footage lies unshown) and makes its shot; False when closed.

        What goes wrong with a shot becomes the film's message, and the queue behind it is dropped: those shots would
        not mean what was meant. The film so far stays.
        """
        with self._condition:
            self._condition.wait_for(lambda: self._closed or (self._waiting and not self._unshown_shots()))
            if self._closed:
                return False
            self._num_takes += 1
            take = Take(self._num_takes, self._waiting.popleft(), secrets.randbits(31))
            request = self._request(take)
            self._takes.append(take)
            self._making = take
            self._progress = ("turn", 0, 0)
        self._on_change()
        try:
            self._make(take, request)
        except UserError as error:
            self._fail(take, str(error))
        except Exception as error:  # a bug, or no memory: it costs one shot, not the session
            log.exception("a shot failed")
            self._fail(take, f"The shot failed ({type(error).__name__}): try it again, the film so far is kept.")
        return True

    def _request(self, take: Take) -> ShotRequest:
        memory = self.memory
        caption = compose_caption(take.prompt.global_caption, len(memory.shots), take.prompt.caption)
        return ShotRequest(caption=caption, memory=memory, seed=take.seed)

    def _make(self, take: Take, request: ShotRequest) -> None:
        started = time.monotonic()
        latents: list[torch.Tensor] = []
        with closing(self._backend.shoot(request)) as events:
            for event in events:
                if self._making is not take:
                    break
                match event:
                    case Progress(stage="load" | "turn"):
                        started = time.monotonic()
                        self._report(take, event.stage, 0, take.num_chunks)
                    case Progress():
                        self._report(take, event.stage, event.chunk + 1, take.num_chunks)
                    case Chunk():
                        latents.append(event.latents)
                        self._file(take, event, started)
                    case ShotDone() if self._finish(take, event.memory, started):
                        return
        self._remember_stopped(take, request, latents)

    def _remember_stopped(self, take: Take, request: ShotRequest, latents: list[torch.Tensor]) -> None:
        """Has the engine close a stopped shot after the chunks that were shown, so that later shots remember those."""
        with self._condition:
            num_chunks = len(take.footage) if take in self._takes else 0
        if not num_chunks:
            return
        short = replace(request, prefix=torch.cat(latents[:num_chunks]), num_chunks=num_chunks)
        with closing(self._backend.shoot(short)) as events:
            for event in events:
                if isinstance(event, ShotDone):
                    with self._condition:
                        take.memory = event.memory

    def _file(self, take: Take, chunk: Chunk, started: float) -> None:
        """Encodes a chunk and adds it to the take, unless it was stopped meanwhile."""
        with self._condition:
            # a stop may have dropped footage: the timeline goes on where the kept film ends
            first_frame = self._past_frames + sum(other.num_frames for other in self._takes)
        segment = self._reel.encode(chunk.frames, self._backend.fps, first_frame)
        with self._condition:
            if self._making is not take:
                return
            take.footage.append(self._reel.keep(segment))
            take.num_chunks = chunk.num_chunks
            if not take.still:
                take.still = still(chunk.frames[-1])
            self._rate = take.num_frames / max(time.monotonic() - started, 1e-6)
            self._progress = ("denoise", min(chunk.index + 2, chunk.num_chunks), chunk.num_chunks)
        self._on_change()

    def _report(self, take: Take, stage: str, chunk: int, num_chunks: int) -> None:
        with self._condition:
            if self._making is not take or self._progress == (stage, chunk, num_chunks):
                return
            self._progress = (stage, chunk, num_chunks)
        self._on_change()

    def _finish(self, take: Take, memory: Memory, started: float) -> bool:
        """Closes a take, unless it was stopped at the last moment."""
        with self._condition:
            if self._making is not take:
                return False
            take.memory = memory
            self._rate = take.num_frames / max(time.monotonic() - started, 1e-6)
            self._making = None
            self._progress = ("", 0, 0)
        self._on_change()
        return True

    def _fail(self, take: Take, message: str) -> None:
        with self._condition:
            if self._making is not take:
                return  # stopped: nobody waits for it
            self._waiting.clear()
            self._message = message
            take.stopped = True
            self._making = None
            self._progress = ("", 0, 0)
            if not take.footage:
                self._takes.remove(take)
        self._on_change()

    def _seconds(self) -> float:
        return sum(take.seconds for take in self._takes)

    def _unshown_shots(self) -> bool:
        """Is a whole shot ahead of the viewer? Then the next one can wait, and a stop wastes less."""
        return bool(self._takes) and bool(self._takes[-1].footage) and not self._takes[-1].footage[0].shown

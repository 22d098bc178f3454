"""A session's way to the camera: whose shots they are, whether anybody looks on, and what is logged of them.

Owns the visitor's context, in which every shot is asked for (on ZeroGPU it says whose GPU time is used), and the sign
of life of the viewer: a session without one loses its place in the line, and asks for another when somebody is back.
Knows no film and no layout.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shotstream.backends.backend import Camera
from shotstream.errors import OutOfGpuTime
from shotstream.events import Chunk, Event, Progress, ShotDone, ShotRequest
from shotstream.logs import number, tell, words
from shotstream.ui.allowance import Allowance

if TYPE_CHECKING:
    import numpy as np

    from shotstream.backends.backend import ModelFacts
    from shotstream.memory import ShotMemory

UNSEEN = 120.0  # seconds that a session is looked at by somebody of whom nothing but one request was heard
ABSENT = 90.0  # seconds without a sign of a page that gives some, after which nobody is there (hidden pages are slow)
FORSAKEN = 300.0  # seconds without a screen, after which nobody will come back
PATIENCE = 0.1  # seconds between two looks whether somebody is back


class Seat:
    """A `Camera` for one session. `allowance` is its visitor's GPU time, if that is counted."""

    def __init__(self, camera: Camera, session: str = "", allowance: Allowance | None = None) -> None:
        self._camera, self._session = camera, number(session)
        self._context = copy_context()
        self._lock = threading.Lock()
        self._screens = 0
        self._seen = time.monotonic()  # when somebody was last heard of
        self._pulse = False  # the page gives signs
        self.allowance = allowance or Allowance()

    def visit(self, context: Context | None = None, pulse: bool = False) -> None:
        """Somebody is here: for all shots from now on, `context` is that of their request. With `pulse` the page said
        so by itself, and is expected to say it again and again."""
        with self._lock:
            self._seen = time.monotonic()
            self._pulse |= pulse
            self._context = context or self._context

    @contextmanager
    def screen(self) -> Iterator[None]:
        """Somebody looks on for as long as this lasts."""
        with self._lock:
            self._screens += 1
        try:
            yield
        finally:
            with self._lock:
                self._screens -= 1
                self._seen = time.monotonic()

    @property
    def watched(self) -> bool:
        """Is there a viewer?"""
        with self._lock:
            silence = time.monotonic() - self._seen
            return silence < ABSENT if self._screens and self._pulse else bool(self._screens) or silence < UNSEEN

    @property
    def forsaken(self) -> bool:
        """Is it long since anybody looked on?"""
        with self._lock:
            return not self._screens and time.monotonic() - self._seen > FORSAKEN

    @property
    def fps(self) -> int:
        return self._camera.fps

    @property
    def model_name(self) -> str:
        return self._camera.model_name

    @property
    def model(self) -> ModelFacts | None:
        return self._camera.model

    def foresee(self, caption: str) -> None:
        """As the camera's own."""
        self._camera.foresee(caption)

    def shoot(self, request: ShotRequest) -> Iterator[Event]:
        """As the camera's own, for a viewer. Without one it waits, in no line."""
        report = Report(self._session, request)
        with report:
            while True:
                while not self.watched:
                    yield Progress("turn", 0, 0)
                    time.sleep(PATIENCE)
                with closing(self._events(request)) as events:
                    for event in events:
                        report.note(event)
                        yield event
                        if isinstance(event, Progress) and event.stage == "turn" and not self.watched:
                            break
                    else:
                        return
                tell("turn lost", session=self._session)

    def cast(self, picture: np.ndarray, caption: str) -> ShotMemory:
        """As the camera's own."""
        return self._visitor().run(self._camera.cast, picture, caption)

    def _visitor(self) -> Context:
        with self._lock:
            return self._context.copy()  # one that is in use cannot be entered

    def _events(self, request: ShotRequest) -> Iterator[Event]:
        context = self._visitor()
        with closing(context.run(self._camera.shoot, request)) as events:
            while (event := context.run(self._next, events)) is not None:
                if isinstance(event, Progress) and event.asked:
                    self.allowance.ask(event.asked)
                yield event

    def _next(self, events: Iterator[Event]) -> Event | None:
        try:
            return next(events, None)
        except OutOfGpuTime as error:
            self.allowance.refuse(error.left)
            raise


@dataclass
class Report:
    """One line of the log for a shot."""

    session: str
    request: ShotRequest
    chunks: int = 0
    frames: int = 0
    began: float | None = None  # the work, after all waiting
    first: float | None = None
    done: bool = False

    def note(self, event: Event) -> None:
        now = time.monotonic()
        if isinstance(event, Progress) and event.stage in ("load", "turn"):
            return
        self.began = self.began or now
        if isinstance(event, Chunk):
            self.chunks, self.frames = self.chunks + 1, self.frames + len(event.frames)
            self.first = self.first or now
        self.done |= isinstance(event, ShotDone)

    def __enter__(self) -> Report:
        self.asked = time.monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        end = time.monotonic()
        failed = kind is not None and issubclass(kind, Exception)
        tell(
            "shot failed" if failed else "shot done" if self.done else "shot cancelled",
            session=self.session,
            shot=len(self.request.memory.shots) + 1,
            chunks=self.chunks,
            frames=self.frames,
            waited=(self.began or end) - self.asked,
            first=self.first and self.first - self.began,
            seconds=self.began and end - self.began,
            reason=str(error) if failed else None,
            caption=words(self.request.caption),
        )

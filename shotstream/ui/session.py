"""One browser tab's film: its director, the thread that shoots, and the pace at which footage goes to the screen.

Owns when a segment is shown and when a session ends. Knows no layout: `screen` yields what to show, `page` shows it.

A player that got its segments too early would be late for a stop or a new prompt, one that gets them too late stands
still. So segments leave `LEAD` seconds before the viewer, by the wall clock, needs them; earlier over a slow network.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress

from anyio import CapacityLimiter, to_thread

from shotstream.backends.backend import Backend
from shotstream.director import Director
from shotstream.errors import UserError
from shotstream.logs import number, tell
from shotstream.media import Segment
from shotstream.ui.allowance import Allowance, Allowances
from shotstream.ui.limits import Limits
from shotstream.ui.seat import Seat
from shotstream.views import FilmView

log = logging.getLogger(__name__)

LEAD, MOST_LEAD = 1.2, 3.0  # seconds
USUAL_WAY = 0.6  # seconds from leaving to being asked for, for which `LEAD` is enough
FRESH_AFTER = 20 * 60  # seconds, then a stream may end: its playlist, which the browser reads again and again, grows
AFTER_BUG = 1.0  # seconds until the camera goes on after an error that nobody foresaw, which may come again at once
STILL = 3  # seconds without anything to be shown, before it does


class Session:
    """A tab. `screen` runs on the event loop and looks at the film in threads, shots are made in one of its own."""

    def __init__(self, backend: Backend, name: str = "", visitor: str = "", allowance: Allowance | None = None) -> None:
        self.name, self.visitor = name, visitor
        self.seat = Seat(backend, name, allowance)
        self.director = Director(self.seat, self._changed)
        self.notice = ""  # one sentence beside the film, such as how much of a long prompt is read
        self._ways: deque[float] = deque([0.0], maxlen=8)  # seconds, of the latest segments
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news = asyncio.Event()
        threading.Thread(target=self._shoot, name="shoot", daemon=True).start()

    def tell(self, notice: str) -> None:
        """Shows a sentence, or none."""
        self.notice = notice
        self._changed()

    @property
    def lead(self) -> float:
        """Seconds by which segments leave before the viewer needs them: more where their way is long."""
        return min(MOST_LEAD, LEAD + max(0.0, max(self._ways) - USUAL_WAY))

    def late(self, seconds: float) -> None:
        """A segment was asked for that long after it had left."""
        self._ways.append(seconds)

    async def screen(self) -> AsyncIterator[tuple[FilmView, str, Segment | None]]:
        """The film as it is to be shown: a view and a notice whenever they change, and segments when they are due.

        One stream through idle times and new films alike, until the session is closed; or until, after `FRESH_AFTER`,
        nothing plays and nothing is to come: then the last picture stays, and the next shot begins another stream.
        """
        with self.seat.screen():
            async for shown in self._screen():
                yield shown

    async def _screen(self) -> AsyncIterator[tuple[FilmView, str, Segment | None]]:
        self._loop = asyncio.get_running_loop()
        own = CapacityLimiter(1)  # a thread that no other tab's work can keep
        await to_thread.run_sync(self.director.begin_player, limiter=own)
        fresh_at = time.monotonic() + FRESH_AFTER
        seen, ends_at = None, 0.0  # the wall-clock time at which the viewer will have seen everything that was sent
        while not self.director.closed:
            self._news.clear()
            due = ends_at - time.monotonic() <= self.lead
            view, segment, more = await to_thread.run_sync(self._look, due, limiter=own)
            notice, now = " ".join(filter(None, (self.notice, self.seat.allowance.sentence))), time.monotonic()
            if segment:
                ends_at = max(ends_at, now) + segment.duration
            if segment or (view, notice) != seen:
                seen = view, notice
                yield view, notice, segment
                continue
            patience = ends_at - now - self.lead if more else None
            if ends_at and not (view.playing or view.waiting or view.stage or more):
                patience = max(fresh_at, ends_at + STILL) - now
                if patience <= 0:
                    return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), patience)

    def _look(self, due: bool) -> tuple[FilmView, Segment | None, bool]:
        """The film, its next segment if one is `due`, and whether there are more: from the disk, and under a lock in
        whose keeping others write to it. All other tabs would wait for it on the event loop."""
        view, segment = self.director.view(), self.director.next_segment() if due else None
        return view, segment, self.director.has_unshown()

    def close(self) -> None:
        """Ends the film and frees what it holds; a running shot is cancelled at the engine's next sign of life."""
        self.director.close()

    def _shoot(self) -> None:
        """Whatever goes wrong, the tab has a camera for as long as it is open."""
        while True:
            try:
                if not self.director.shoot_next():
                    return
            except Exception as error:  # what goes wrong with a shot is the film's message, so this is a bug
                log.exception("the camera stumbled")
                self.tell(f"Something went wrong ({type(error).__name__}): try it again, the film so far is kept.")
                time.sleep(AFTER_BUG)

    def _changed(self) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # the server is shutting down
                self._loop.call_soon_threadsafe(self._news.set)


class Sessions:
    """The open tabs of a page, by Gradio's session hash (a new one for every page load)."""

    def __init__(self, backend: Backend, limits: Limits | None = None) -> None:
        self._backend, self.limits = backend, limits or Limits()
        self._allowances = Allowances()
        self._open: dict[str, Session] = {}
        self._closed: deque[str] = deque(maxlen=1000)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._open)

    def open(self, name: str, visitor: str = "") -> Session:
        """The session of that name, begun if need be: a prompt may be faster than the screen. Raises UserError when
        there are too many, in all or of one `visitor`, or when it was closed (a stray request must not begin what
        nobody would end)."""
        if name not in self._open:
            self._clear()
        with self._lock:
            if name in self._closed:
                raise UserError("This page was closed: reload it.")
            if name not in self._open:
                self._check_room(visitor)
                self._open[name] = Session(self._backend, name, visitor, self._allowances.of(visitor))
                tell("session opened", session=number(name), open=len(self._open))
            return self._open[name]

    def _clear(self) -> None:
        """Nobody ends a session that a stray request began and nobody ever looked at."""
        for name, session in list(self._open.items()):
            if session.seat.forsaken:
                self.close(name)

    def _check_room(self, visitor: str) -> None:
        most, own = self.limits.sessions, self.limits.per_visitor
        if len(self._open) >= most:
            raise UserError(f"All {most} seats are taken: try again in a few minutes.")
        if visitor and own and sum(session.visitor == visitor for session in self._open.values()) >= own:
            raise UserError(f"{own} pages are open from your address already: close one of them and reload this one.")

    def find(self, name: str) -> Session | None:
        return self._open.get(name)

    def late(self, name: str, seconds: float) -> None:
        """A tab asked for a segment that long after it had left."""
        if session := self.find(name):
            session.late(seconds)

    def close(self, name: str) -> None:
        """Ends the session of that name, if there is one. May have to wait for a disk, but lets nobody wait for it."""
        with self._lock:
            session = self._open.pop(name, None)
            self._closed.append(name)
        if session:
            session.close()
            tell("session closed", session=number(name), open=len(self._open))

    def close_all(self) -> None:
        """Ends every session."""
        for name in list(self._open):
            self.close(name)

"""Shots made in this process: one model, one engine, sessions taking turns shot by shot, first come first served.

Owns loading (in the background, so that the page can say so) and the turns. Knows no session, no page and no film; it
passes on what the engine says.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

from shotstream.errors import UserError
from shotstream.events import Event, Progress, ShotRequest

if TYPE_CHECKING:  # torch and diffusers are imported by whoever loads, not by whoever waits
    import numpy as np

    from shotstream.engine import Engine
    from shotstream.memory import ShotMemory
    from shotstream.models.weights import Model

PATIENCE = 0.1  # seconds between two signs of life while a shot waits, and so the slowest reaction to a cancellation


class InProcessBackend:
    """An engine shared by all sessions of this process.

    `load` makes the model; it is called once, by `start`. Until it has returned, shots wait; if it raises, every shot
    raises the same `UserError`. `engine` is there for whoever waits, however many: on an event loop, without a thread.
    """

    def __init__(self, load: Callable[[], Model]) -> None:
        self._load = load
        self.engine: Future[Engine] = Future()
        self.engine.set_running_or_notify_cancel()  # nobody who gives up waiting can cancel it for the others
        self._turns = Turns()
        self._beside = ThreadPoolExecutor(1, "foresee")

    def start(self) -> None:
        """Loads the model in the background."""
        threading.Thread(target=self._run_load, name="load-model", daemon=True).start()

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until the model is loaded or has failed to; raises the failure. False if `timeout` seconds passed."""
        try:
            self.engine.result(timeout)
        except TimeoutError:
            return False
        return True

    @property
    def model(self) -> Model | None:
        """The model, once it is loaded."""
        loaded = self.engine.done() and self.engine.exception() is None
        return self.engine.result().model if loaded else None

    @property
    def fps(self) -> int:
        """Frames a second of the model, which must be loaded."""
        return self.engine.result().model.fps

    @property
    def model_name(self) -> str:
        """The name of the model, which must be loaded."""
        return self.engine.result().model.name

    def shoot(self, request: ShotRequest) -> Iterator[Event]:
        """Makes one shot when its turn comes. While it waits it says so, with a `Progress` that can be cancelled at.

        Raises the `UserError` that loading or the engine raises.
        """
        while not self.wait(PATIENCE):
            yield Progress("load", 0, 0)
        with self._turns.next() as turn:
            while not turn.wait(PATIENCE):
                yield Progress("turn", 0, 0)
            yield from self.engine.result().shoot(request)

    def cast(self, picture: np.ndarray, caption: str) -> ShotMemory:
        """A picture as what the camera already saw, see `Engine.cast`; waits for the model and for a turn."""
        self.wait()
        with self._turns.next() as turn:
            while not turn.wait(PATIENCE):
                pass
            return self.engine.result().cast(picture, caption)

    def foresee(self, caption: str) -> None:
        """A shot with this caption will probably be asked for: it is encoded while it waits."""
        if self.model is not None:
            self._beside.submit(self.engine.result().foresee, caption)

    def _run_load(self) -> None:
        try:
            from shotstream.engine import Engine

            self.engine.set_result(Engine(self._load()))
        except UserError as error:
            self.engine.set_exception(error)
        except Exception as error:
            failure = UserError(f"The model cannot be loaded ({type(error).__name__}); the log says more.")
            failure.__cause__ = error
            self.engine.set_exception(failure)
            raise


class Turns:
    """First come, first served; a plain lock would let the busiest session jump the queue."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Turn] = deque()  # the first one has its turn

    def next(self) -> Turn:
        """A place at the end of the queue, given up when its `with` block ends."""
        turn = Turn(self)
        with self._lock:
            self._waiting.append(turn)
            self._waiting[0].come()
        return turn

    def leave(self, turn: Turn) -> None:
        with self._lock, suppress(ValueError):
            self._waiting.remove(turn)
            if self._waiting:
                self._waiting[0].come()


class Turn:
    """A place in the queue of `Turns`."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._mine = threading.Event()

    def come(self) -> None:
        self._mine.set()

    def wait(self, timeout: float) -> bool:
        return self._mine.wait(timeout)

    def __enter__(self) -> Turn:
        return self

    def __exit__(self, *_: object) -> None:
        self._turns.leave(self)

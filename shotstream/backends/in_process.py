"""Shots made in this process: one model, one engine, sessions taking turns shot by shot.

Owns loading (in the background, so that the page can say so) and the turns. Knows no session, no page and no film; it
passes on what the engine says.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from shotstream.backends.turns import Turns
from shotstream.errors import UserError
from shotstream.events import Event, Progress, ShotRequest
from shotstream.logs import tell

if TYPE_CHECKING:  # torch and diffusers are imported by whoever loads, not by whoever waits
    import numpy as np

    from shotstream.engine import Engine
    from shotstream.memory import ShotMemory
    from shotstream.models.model import Model

PATIENCE = 0.1  # seconds between two signs of life while a shot waits, and so the slowest reaction to a cancellation


class InProcessBackend:
    """An engine shared by all sessions of this process.

    `load` makes the model; it is called once, by `start`. Until it has returned, shots wait; if it raises, every shot
    raises the same `UserError`. `ready` is there for whoever waits, however many: on an event loop, without a thread.
    """

    name = "this process"

    def __init__(self, load: Callable[[], Model]) -> None:
        self._load = load
        self._engine: Engine | None = None
        self.ready: Future[Model] = Future()
        self.ready.set_running_or_notify_cancel()  # nobody who gives up waiting can cancel it for the others
        self.turns = Turns()
        self._beside = ThreadPoolExecutor(1, "foresee")

    def start(self) -> None:
        """Loads the model in the background."""
        threading.Thread(target=self._run_load, name="load-model", daemon=True).start()

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until the model is loaded or has failed to; raises the failure. False if `timeout` seconds passed."""
        try:
            self.ready.result(timeout)
        except TimeoutError:
            return False
        return True

    @property
    def model(self) -> Model | None:
        """The model, once it is loaded."""
        loaded = self.ready.done() and self.ready.exception() is None
        return self.ready.result() if loaded else None

    @property
    def fps(self) -> int:
        """Frames a second of the model, which must be loaded."""
        return self.ready.result().fps

    @property
    def model_name(self) -> str:
        """The name of the model, which must be loaded."""
        return self.ready.result().name

    def shoot(self, request: ShotRequest) -> Iterator[Event]:
        """Makes one shot when its turn comes. While it waits it says so, with a `Progress` that can be cancelled at.

        Raises the `UserError` that loading or the engine raises.
        """
        while not self.wait(PATIENCE):
            yield Progress("load", 0, 0)
        with self.turns.next(brief=self._closes(request)) as turn:
            while not turn.wait(PATIENCE):
                yield Progress("turn", 0, 0, place=turn.place, wait=turn.seconds)
            yield from self._engine.shoot(request)

    def cast(self, picture: np.ndarray, caption: str) -> ShotMemory:
        """A picture as what the camera already saw, see `Engine.cast`; waits for the model and for a turn."""
        self.wait()
        with self.turns.next(brief=True) as turn:
            while not turn.wait(PATIENCE):
                pass
            return self._engine.cast(picture, caption)

    def _closes(self, request: ShotRequest) -> bool:
        """Is there nothing to be made but the memory of what was? Whoever had one turn for a shot that was cut should
        not have to wait for a second before the next shot."""
        chunks = len(request.prefix) // self.model.schedule.chunk_frames if request.prefix is not None else 0
        return bool(chunks) and request.num_chunks == chunks

    def foresee(self, caption: str) -> None:
        """A shot with this caption will probably be asked for: it is encoded while it waits."""
        if self.model is not None:
            self._beside.submit(self._engine.foresee, caption)

    def _run_load(self) -> None:
        tell("model loading")
        try:
            from shotstream.engine import Engine

            model = self._load()
            self._engine = Engine(model)
        except Exception as error:
            self.ready.set_exception(unready(error))
            tell("model failed", reason=self.ready.exception())
            if not isinstance(error, UserError):
                raise
        else:
            tell("model ready", model=model.name, device=model.device)
            self.ready.set_result(model)


def unready(error: Exception) -> UserError:
    """Why there will be no shots, in one sentence."""
    if isinstance(error, UserError):
        return error
    failure = UserError(f"The model cannot be loaded ({type(error).__name__}); the log says more.")
    failure.__cause__ = error
    return failure

"""Shots made in this process: one model, one engine, sessions taking turns shot by shot.

Owns loading (in the background, so that the page can say so) and the turns. Knows no session, no page and no film; it
passes on what the engine says.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from shotstream.backends.loading import PATIENCE, Promise
from shotstream.backends.turns import Turns
from shotstream.errors import UserError
from shotstream.events import Event, Progress, ShotRequest
from shotstream.logs import tell

if TYPE_CHECKING:  # torch and diffusers are imported by whoever loads, not by whoever waits
    import numpy as np

    from shotstream.engine import Engine
    from shotstream.memory import ShotMemory
    from shotstream.models.model import Model


class InProcessBackend(Promise):
    """An engine shared by all sessions of this process.

    `load` makes the model; it is called once, by `start`. Until it has returned, shots wait; if it raises, every shot
    raises the same `UserError`.
    """

    name = "this process"

    def __init__(self, load: Callable[[], Model]) -> None:
        super().__init__()
        self._load = load
        self._engine: Engine | None = None
        self.turns = Turns()
        self._beside = ThreadPoolExecutor(1, "foresee")

    def start(self) -> None:
        """Loads the model in the background."""
        threading.Thread(target=self._run_load, name="load-model", daemon=True).start()

    def shoot(self, request: ShotRequest) -> Iterator[Event]:
        """Makes one shot when its turn comes. While it waits it says so, with a `Progress` that can be cancelled at.

        Raises the `UserError` that loading or the engine raises.
        """
        while not self.wait(PATIENCE):
            yield Progress("load", 0, 0)
        with self.turns.next(urgent=request.only_closes(self.model.schedule.chunk_frames)) as turn:
            while not turn.wait(PATIENCE):
                yield Progress("turn", 0, 0, place=turn.place, wait=turn.seconds)
            yield from self._engine.shoot(request)

    def cast(self, picture: np.ndarray, caption: str) -> ShotMemory:
        """A picture as what the camera already saw, see `Engine.cast`; waits for the model and for a turn."""
        self.wait()
        with self.turns.next(urgent=True) as turn:
            while not turn.wait(PATIENCE):
                pass
            return self._engine.cast(picture, caption)

    def foresee(self, caption: str) -> None:
        """A shot with this caption will probably be asked for: it is encoded while it waits."""
        if self.model is not None:
            self._beside.submit(self._engine.foresee, caption)

    def _run_load(self) -> None:
        tell("model loading", home=self.name)
        try:
            from shotstream.engine import Engine

            model = self._load()
            self._engine = Engine(model)
        except Exception as error:
            self._break(error)
            if not isinstance(error, UserError):
                raise
        else:
            self._keep(model)

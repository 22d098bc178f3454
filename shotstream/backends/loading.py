"""What all homes say of their model before it is there, and after.

Owns the promise of a model. Knows neither how it is loaded nor who makes shots with it.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING

from shotstream.errors import UserError
from shotstream.logs import tell

if TYPE_CHECKING:
    from shotstream.backends.backend import ModelFacts

PATIENCE = 0.1  # seconds between two signs of life while a shot waits, and so the slowest reaction to a cancellation


class Promise:
    """`ready` is there for whoever waits, however many: on an event loop, without a thread. See `backend.Backend`."""

    def __init__(self) -> None:
        self.ready: Future[ModelFacts] = Future()
        self.ready.set_running_or_notify_cancel()  # nobody who gives up waiting can cancel it for the others

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until the model is loaded or has failed to; raises the failure. False if `timeout` seconds passed."""
        try:
            self.loaded(timeout)
        except TimeoutError:
            return False
        return True

    def loaded(self, timeout: float | None = None) -> ModelFacts:
        """The model, once it is loaded. Raises its failure, a new exception each time (one that is raised again and
        again keeps every shot that it was raised for), and `TimeoutError` if `timeout` seconds passed."""
        failure = self.ready.exception(timeout)
        if failure is not None:
            raise UserError(str(failure))
        return self.ready.result()

    @property
    def model(self) -> ModelFacts | None:
        """The model, once it is loaded."""
        loaded = self.ready.done() and self.ready.exception() is None
        return self.ready.result() if loaded else None

    @property
    def fps(self) -> int:
        """Frames a second of the model, which must be loaded."""
        return self.loaded().fps

    @property
    def model_name(self) -> str:
        """The name of the model, which must be loaded."""
        return self.loaded().name

    def foresee(self, caption: str) -> None:
        """Nothing, where what will probably be asked for cannot be prepared."""

    def _keep(self, model: ModelFacts) -> None:
        tell("model ready", model=model.name, device=model.device)
        self.ready.set_result(model)

    def _break(self, error: Exception) -> None:
        failure = error
        if not isinstance(error, UserError):
            failure = UserError(f"The model cannot be loaded ({type(error).__name__}); the log says more.")
            failure.__cause__ = error
        tell("model failed", reason=failure)
        self.ready.set_exception(failure)

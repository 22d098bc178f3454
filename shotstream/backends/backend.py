"""What every home of the engine offers: one request for a shot in, events out.

A home is where shots are made: this process (`in_process`), a ZeroGPU worker (`zero_gpu`), replicas on other machines
(`ray_serve`). Whoever asks for shots knows only what is written here; a shot is cancelled by closing its iterator, and
whatever goes wrong is a `UserError`. Owns no code.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # a page is up before torch is there
    import numpy as np

    from shotstream.events import Event, ShotRequest
    from shotstream.memory import ShotMemory
    from shotstream.models.shapes import Shapes
    from shotstream.models.text import TextEncoder
    from shotstream.prompting import Prompting
    from shotstream.sampler import Guidance, Schedule


class Camera(Protocol):
    """What a director needs. `fps` and `model_name` need only be known once a shot was made, `model` only once it is
    loaded."""

    @property
    def fps(self) -> int: ...

    @property
    def model_name(self) -> str: ...

    @property
    def model(self) -> ModelFacts | None:
        """What the model is, once it is known."""
        ...

    def foresee(self, caption: str) -> None:
        """A shot with this composed caption will probably be asked for: the time in which it waits may be used. Returns
        at once and raises nothing."""
        ...

    def shoot(self, request: ShotRequest) -> Iterator[Event]:
        """Makes one shot: signs of life (`Progress`, at least one per denoising step, and several a second while it
        waits), each `Chunk` as soon as it has pixels, and last `ShotDone`. Arrays and tensors are on the CPU. Closing
        the iterator cancels the shot by the next sign of life. Raises `UserError`.
        """
        ...

    def cast(self, picture: np.ndarray, caption: str) -> ShotMemory:
        """A picture [H, W, 3] uint8 as what the camera already saw, see `Engine.cast`. Raises `UserError`."""
        ...


class Backend(Camera, Protocol):
    """A home, which any number of threads may ask for shots at a time.

    `ready` tells what the model is once shots can be made, or raises the `UserError` for which there will be none; it
    can be waited for without a thread. `name` says where shots are made, in a word or two.
    """

    name: str
    ready: Future[ModelFacts]

    def start(self) -> None:
        """Begins to load the model, or to look for who has it; called once, by the main thread, before the page opens.
        What goes wrong is told by `ready`."""
        ...

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until `ready`; raises the failure. False if `timeout` seconds passed."""
        ...


class ModelFacts(Protocol):
    """What the page and the director may know of a model, wherever its weights lie; a loaded `Model` is one.

    Sizes are pixels, `shapes` the (width, height) that it makes by name, lengths are chunks. Of `text` only
    `count_tokens` and, if there is one, `tokenizer` are asked for.
    """

    name: str
    device: object
    width: int
    height: int
    fps: int
    schedule: Schedule
    shapes: Shapes
    prompting: Prompting
    text: TextEncoder
    guidance: Guidance | None

    @property
    def max_chunks(self) -> int: ...

    @property
    def default_chunks(self) -> int: ...

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(C, h, w) of a latent frame of a picture of so many pixels."""
        ...

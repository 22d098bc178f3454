"""One of many: an engine in a process of its own, that makes shots for a page elsewhere.

Owns the loading, the one thread that calls the model, and what becomes of a shot that is cancelled or goes wrong. Knows
neither the page nor who carries its events: `ray_serve` makes replicas of this class. All that comes in and goes out
can be pickled, and tensors are on the CPU.
"""

from __future__ import annotations

import asyncio
import logging
import os
from argparse import Namespace
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from shotstream.errors import UserError
from shotstream.events import Event, ShotDone, ShotRequest
from shotstream.memory import Memory, ShotMemory

if TYPE_CHECKING:
    import numpy as np
    import torch

    from shotstream.models.facts import RemoteModel

log = logging.getLogger(__name__)
_END = object()


@dataclass(frozen=True)
class Refusal:
    """A `UserError` on its way to the page: what is raised on another machine arrives as a page of traceback."""

    sentence: str


class Replica:
    """An engine behind asynchronous generators, one shot at a time.

    `load_options` are the arguments that `arguments.load_model` reads; raises its `UserError`.
    """

    def __init__(self, load_options: Namespace) -> None:
        from shotstream.arguments import load_model
        from shotstream.engine import Engine

        self._thread = ThreadPoolExecutor(1, "model")  # the event loop stays free to hear of a cancellation
        self._engine = Engine(load_model(load_options))

    async def facts(self) -> RemoteModel:
        """What the page has to know about the model."""
        from shotstream.models.facts import facts_of

        return facts_of(self._engine.model)

    async def shoot(self, request: ShotRequest) -> AsyncIterator[Event | Refusal]:
        """The events of one shot; the memory of the last one is left out, whoever asked has all of it but `shot`.

        Cancelling takes effect after the running denoising step, and only then is the replica free again.
        """
        async with aclosing(self._run(lambda: self._engine.shoot(request))) as events:
            async for event in events:
                yield replace(event, memory=Memory()) if isinstance(event, ShotDone) else event

    async def cast(self, picture: np.ndarray, caption: str) -> AsyncIterator[ShotMemory | Refusal]:
        """One picture as what the camera already saw, see `Engine.cast`."""
        async with aclosing(self._run(lambda: iter([self._engine.cast(picture, caption)]))) as answers:
            async for shot in answers:
                yield shot

    async def _run(self, begin: Callable[[], Iterator]) -> AsyncGenerator:
        loop = asyncio.get_running_loop()
        work = _work(begin)
        try:
            while (event := await loop.run_in_executor(self._thread, next, work, _END)) is not _END:
                yield event
        except UserError as error:
            yield Refusal(str(error))
        except Exception:
            log.exception("a shot failed")
            leave_if_broken(self._engine.model.device)
            raise
        finally:
            await loop.run_in_executor(self._thread, work.close)  # waits for the step that runs


def _work(begin: Callable[[], Iterator]) -> Iterator:
    """Begins only when it is asked for the first event, in the thread that asks."""
    yield from begin()


def leave_if_broken(device: torch.device) -> None:
    """Ends this process if its GPU has become unusable: no later shot would succeed here. The shot goes elsewhere, a
    new replica comes."""
    import torch

    if device.type == "cpu":
        return
    try:
        torch.accelerator.synchronize(device)
    except Exception:
        log.exception("the GPU does not answer any more: this replica ends")
        os._exit(1)

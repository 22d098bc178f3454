"""Shots made in workers that Hugging Face's ZeroGPU lends a card to, for the length of one call.

Owns the one decorated generator: text, denoising and decoding of one shot happen inside it, values go in and out, and
each of its yields is a place where a shot can be cancelled. And how long a shot asks for a card, whose GPU time that is
(the visitor's whose request is in the context of whoever calls `shoot`), and what a refusal means in plain words.

`spaces` must have been imported before torch touched CUDA, the model be loaded before the page is launched: what was
put on "cuda" by then is packed, and unpacked on the card in every worker. Nothing in a worker outlasts a call for sure.
"""

from __future__ import annotations

import contextvars
import os
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import spaces

from shotstream.arguments import switched_on
from shotstream.backends.gpu_time import Course, GpuTime, LostWorker, refusal
from shotstream.backends.loading import PATIENCE, Promise
from shotstream.backends.wire import pack, unpack
from shotstream.engine import Engine
from shotstream.errors import UserError
from shotstream.events import Chunk, Event, Progress, ShotRequest
from shotstream.logs import tell
from shotstream.models.attention import AUTO, use_attention
from shotstream.plan import plan_shot

if TYPE_CHECKING:
    import numpy as np

    from shotstream.memory import ShotMemory
    from shotstream.models.model import Model

OVERDUE = 120.0  # seconds without a word, beyond those asked for, that mean that nobody works any more
COMPILING = 600  # seconds that a worker has to compile blocks ahead of time
GRACE = 1.0  # seconds in which `spaces` notices by itself that a worker ended


class ZeroGpuBackend(Promise):
    """`load` makes the model, on the device that a worker will have. With the `attention` "auto" every worker chooses
    anew: where the model is loaded there is no card yet, only something that pretends to be one.

    Nothing is foreseen: what a worker encoded is gone with its call, and another call costs its visitor GPU time."""

    name = "ZeroGPU"

    def __init__(self, load: Callable[[], Model], attention: str = AUTO) -> None:
        super().__init__()
        self._load = load
        self._attention = attention
        self._model: Model | None = None  # workers find it here: a lock of `ready` may have been held when they forked
        self._engine: Engine | None = None  # a worker's
        self._blocks: tempfile.TemporaryDirectory | None = None
        self.gpu_time = GpuTime()

        def work_on_gpu(job: bytes, seconds: int) -> Iterator[bytes]:
            yield from self._work(job)

        self._call = spaces.GPU(duration=lambda job, seconds: seconds)(work_on_gpu)

    def start(self) -> None:
        """Loads the model, in this thread: a page may only be launched once it is there."""
        tell("model loading", home=self.name)
        try:
            self._model = self._load()
            if switched_on("SHOTSTREAM_AOT"):
                self._compile(self._model)
            self._keep(self._model)
        except Exception as error:
            self._break(error)
            if not isinstance(error, UserError):
                raise

    def _compile(self, model: Model) -> None:
        """Has a worker compile the model's blocks ahead of time, if that works; tells in a line what came of it."""
        from shotstream.models.packaged import package_blocks, use_package

        self._blocks = tempfile.TemporaryDirectory(prefix="shotstream-blocks-")  # workers read it: gone with the page
        folder = Path(self._blocks.name)
        began = time.monotonic()

        def compile_on_gpu() -> None:  # without arguments, which would be pickled
            package_blocks(model, folder)

        try:
            spaces.GPU(duration=COMPILING)(compile_on_gpu)()
            use_package(model, folder)
        except Exception as error:  # of a compiler, of what it is given, or no GPU to be had
            reason = str(error).strip().splitlines() or [type(error).__name__]
            tell("blocks not compiled", home=self.name, why=reason[0][:200])
        else:
            tell("blocks compiled", home=self.name, seconds=round(time.monotonic() - began, 1))

    def shoot(self, request: ShotRequest) -> Iterator[Event]:
        """Makes one shot in a worker. Says that it waits as long as there is none, and can be cancelled then, too.

        Raises `UserError`: at once for a request that cannot be made, and for everything that a GPU can be refused for.
        """
        model = self.loaded()
        plan = plan_shot(request, model)
        area = plan.latent_size[0] * plan.latent_size[1] * model.vae.spatial_factor**2
        course = Course(plan.num_chunks - plan.prefix_chunks, plan.prefix_chunks, area / (model.width * model.height))
        yield from self._events(pack(request), course)

    def cast(self, picture: np.ndarray, caption: str) -> ShotMemory:
        """A picture as what the camera already saw, see `Engine.cast`."""
        self.wait()
        *_, shot = self._events(pack((picture, caption)), Course())
        return shot

    def _events(self, job: bytes, course: Course) -> Iterator[Event | ShotMemory]:
        """What a worker makes of a job, for which it has a GPU for as long as that may take."""
        seconds = self.gpu_time.seconds(course)
        call = _Call(lambda: self._call(job, seconds))
        began = heard = time.monotonic()
        event = Progress("turn", 0, 0)
        worker = None
        try:
            yield event
            while True:
                try:
                    news = call.news.get(timeout=PATIENCE)
                except queue.Empty:
                    silence = time.monotonic() - heard
                    if silence > OVERDUE + seconds or (worker and silence > GRACE and not _is_alive(worker)):
                        self._raise(LostWorker(), course, seconds, heard - began)
                    if isinstance(event, Progress):
                        yield event
                    continue
                heard = time.monotonic()
                if news is None and not isinstance(event, Progress | Chunk):
                    return
                if news is None:
                    news = LostWorker()
                if isinstance(news, Exception):
                    self._raise(news, course, seconds, heard - began)
                event = unpack(news)
                if isinstance(event, UserError):
                    raise event
                if isinstance(event, int):
                    worker, began = event, heard
                    event = Progress("turn", 0, 0, asked=self.gpu_time.counted(seconds))
                course.note(event, heard)
                yield event
        finally:
            call.cancelled.set()
            self.gpu_time.learn(course)

    def _raise(self, error: Exception, course: Course, seconds: int, elapsed: float) -> NoReturn:
        self.gpu_time.lose(course, error, seconds, elapsed)
        raise refusal(error, seconds, elapsed) from error

    def _work(self, job: bytes) -> Iterator[bytes]:
        """In a worker: says which process it is, and makes a shot, or encodes a picture. What a person may be told of a
        failure comes as a value, of other exceptions only their names get through."""
        yield pack(os.getpid())
        try:
            if self._engine is None:  # caches are allocated here: a worker may be a fresh one at every call
                if self._attention == AUTO:  # blocks that were compiled ahead of time keep what they were compiled with
                    self._choose_attention(self._model)
                self._engine = Engine(self._model)
            asked = unpack(job)
            if not isinstance(asked, ShotRequest):
                yield pack(self._engine.cast(*asked))
                return
            with closing(self._engine.shoot(asked)) as events:
                for event in events:
                    yield pack(event)
        except UserError as error:
            yield pack(error)

    @staticmethod
    def _choose_attention(model: Model) -> None:
        model.attention = use_attention(model.transformer, AUTO, model.device, model.dtype)
        tell("attention chosen", worker=os.getpid(), attention=model.attention)


def _is_alive(worker: int) -> bool:
    try:
        os.kill(worker, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


class _Call:
    """A call of the decorated generator in a thread of its own: it may wait for a GPU for a minute, in which a visitor
    may want something else. What it gives, and last None or what it raises, comes as `news`."""

    def __init__(self, call: Callable[[], Iterator[bytes]]) -> None:
        self.news: queue.SimpleQueue[bytes | Exception | None] = queue.SimpleQueue()
        self.cancelled = threading.Event()
        self._call = call
        context = contextvars.copy_context()  # by which `spaces` finds the visitor
        threading.Thread(target=context.run, args=(self._run,), name="zero-gpu-call", daemon=True).start()

    def _run(self) -> None:
        try:
            with closing(self._call()) as given:
                for value in given:
                    if self.cancelled.is_set():  # leaving closes the generator, and the worker stops at its next yield
                        return
                    self.news.put(value)
        except Exception as error:
            self.news.put(error)
        else:
            self.news.put(None)

"""Shots made by many processes, on one machine or many: N replicas of the engine under Ray Serve, a GPU each.

Owns the way of a request to a replica and of its events back: the line, cancelling, and what happens when a replica is
lost. Knows no session, no page and no film; where the model is, only the `replica`s know. Starting them is `cluster`'s.
This process needs no GPU.

Ray Serve gives every replica one shot at a time and holds as many more as there are replicas; what comes beyond that it
turns away, and it waits here, where everybody sees how many come before. A shot whose replica is lost goes first, to
another one, and goes on behind the chunks that are there.
"""

from __future__ import annotations

import atexit
import logging
import queue
import threading
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from shotstream.backends import cluster
from shotstream.backends.line import Line, Turn
from shotstream.backends.loading import PATIENCE, Promise
from shotstream.backends.replica import Refusal
from shotstream.errors import UserError
from shotstream.events import Chunk, Event, Progress, ShotDone, ShotRequest
from shotstream.logs import tell
from shotstream.memory import Memory, ShotMemory

if TYPE_CHECKING:
    import numpy as np
    from ray.serve.handle import DeploymentHandle

log = logging.getLogger(__name__)
ATTEMPTS = 3  # replicas that one shot may lose: a shot that ends every process it meets must not end all of them


class ReplicaLost(Exception):
    """The replica ended while it worked for us."""


class RayServeBackend(Promise):
    """The replicas, shared by all sessions of this process. See `backend.Backend`.

    `load_options` are the arguments that `arguments.load_model` reads, on every replica. `num_replicas` None means one
    for every GPU of the cluster, and one where there is none. Nothing is foreseen: a replica takes one call at a time,
    and which of them will make a shot is known when it begins.
    """

    name = "Ray Serve"

    def __init__(self, load_options: Namespace, num_replicas: int | None = None) -> None:
        super().__init__()
        self._options, self._num_replicas = load_options, num_replicas
        self.line = Line()
        self._replicas: DeploymentHandle | None = None
        self._ours = False  # the deployment, to be ended by `close`
        self._closed = False

    def start(self) -> None:
        """Starts Ray if it does not run here, and the replicas in the background."""
        try:
            # In the calling thread: Ray's processes end with the thread that started them.
            num_replicas = cluster.connect(self._options, self._num_replicas)
        except UserError as error:
            self._break(error)
        else:
            self._ours = True
            atexit.register(self.close)
            self._find(lambda: cluster.run_replicas(self._options, num_replicas), num_replicas)

    def join(self, num_replicas: int) -> None:
        """Uses the replicas that were deployed together with the page, from inside that deployment."""
        self._find(cluster.find_replicas, num_replicas)

    def shoot(self, request: ShotRequest) -> Iterator[Event]:
        """Makes one shot on the first replica that is free. While it waits it says so, with its place in the line.
        Closing the iterator cancels it wherever it is.

        If the replica is lost, another one goes on behind the last chunk with the same seed: nothing comes twice.
        Raises the `UserError` of loading or of the engine, or one that says that too many replicas were lost.
        """
        while not self.wait(PATIENCE):
            yield Progress("load", 0, 0)
        made = [] if request.prefix is None else [request.prefix]
        closes = request.only_closes(self.model.schedule.chunk_frames)
        for attempt in range(ATTEMPTS):
            events = self._ask("shoot", _behind(request, made), urgent=closes or attempt > 0)
            with suppress(ReplicaLost), closing(events):
                for event in events:
                    if isinstance(event, ShotDone):
                        event = replace(event, memory=Memory((*request.memory.shots, event.shot)))
                    yield event
                    if isinstance(event, ShotDone):  # what becomes of the replica now is nothing to us
                        return
                    if isinstance(event, Chunk):
                        made.append(event.latents)
                return
            tell("replica lost", attempt=attempt + 1)
        raise UserError(f"This shot was lost with its replica {ATTEMPTS} times: try it again, the film so far is kept.")

    def cast(self, picture: np.ndarray, caption: str) -> ShotMemory:
        """A picture as what the camera already saw, see `Engine.cast`; waits for the replicas and for a turn."""
        self.wait()
        for _ in range(ATTEMPTS):
            with suppress(ReplicaLost), closing(self._ask("cast", picture, caption, urgent=True)) as answers:
                return next(answer for answer in answers if isinstance(answer, ShotMemory))
            tell("replica lost")
        raise UserError(f"This picture was lost with its replica {ATTEMPTS} times: cast it again.")

    def close(self) -> None:
        """Ends the replicas that `start` started. May be called twice."""
        self._closed = True
        if self._ours:
            self._ours = False
            cluster.end()

    def _ask(self, method: str, *arguments: object, urgent: bool) -> Iterator[Any]:
        """What a replica answers, one by one, and `Progress` while there is nothing else to tell. Raises `ReplicaLost`
        and `UserError`."""
        from ray.serve.exceptions import BackPressureError

        with self.line.next(urgent) as turn:
            while True:
                while not turn.is_next():
                    turn.wait(PATIENCE)
                    yield _waiting(turn)
                turn.handed_over()
                try:
                    yield from self._call(turn, method, arguments)
                    return
                except BackPressureError:
                    turn.turned_away()
                    turn.wait(PATIENCE)
                    yield _waiting(turn)

    def _call(self, turn: Turn, method: str, arguments: tuple[object, ...]) -> Iterator[Any]:
        sign_of_life = None
        with closing(Call(self._replicas, method, arguments)) as call:
            while (answer := call.next(PATIENCE)) is not Call.END:
                if answer is not None:
                    turn.served()
                if isinstance(answer, Progress):
                    sign_of_life = answer
                if isinstance(answer, ShotDone):
                    turn.done()
                yield answer or sign_of_life or _waiting(turn)

    def _find(self, find: Callable[[], DeploymentHandle], num_replicas: int) -> None:
        self.line.servers = num_replicas
        self.name = f"Ray Serve, {num_replicas} replica{'s' * (num_replicas > 1)}"
        tell("model loading", home=self.name)
        threading.Thread(target=self._run_find, args=[find], name="find-replicas", daemon=True).start()

    def _run_find(self, find: Callable[[], DeploymentHandle]) -> None:
        try:
            self._replicas = find()
            facts = self._replicas.options(method_name="facts").remote().result()
        except Exception:
            if self._closed:
                error = UserError("The replicas were ended before they were there.")
            self._break(error)
            if not isinstance(error, UserError):
                raise
        else:
            self._keep(replace(facts, device=f"{self.line.servers} x {facts.device}"))


class Call:
    """One call of a replica's generator. A thread waits for what it answers, since nothing but cancelling ends that
    waiting; so whoever is here can wait for a moment only."""

    END = object()

    def __init__(self, replicas: DeploymentHandle, method: str, arguments: tuple[object, ...]) -> None:
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._response = replicas.options(stream=True, method_name=method).remote(*arguments)
        threading.Thread(target=self._listen, name="listen", daemon=True).start()

    def next(self, timeout: float) -> Any:
        """The next answer, `END` after the last one, None if `timeout` seconds passed without one.

        Raises `ReplicaLost`, `BackPressureError`, and a `UserError` for whatever else goes wrong.
        """
        from ray.exceptions import ObjectLostError, RayActorError, RayTaskError, WorkerCrashedError
        from ray.serve.exceptions import BackPressureError

        try:
            answer = self._answers.get(timeout=timeout)
        except queue.Empty:
            return None
        match answer:
            case Refusal(sentence):
                raise UserError(sentence)
            case RayActorError() | ObjectLostError() | WorkerCrashedError():
                raise ReplicaLost from answer
            case BackPressureError():
                raise answer
            case RayTaskError(cause=error) | (BaseException() as error):
                name = type(error).__name__
                log.error("a shot failed", exc_info=answer)
                raise UserError(f"The shot failed ({name}): try it again, the film so far is kept.") from answer
        return answer

    def close(self) -> None:
        """Cancels it, wherever it is; nothing happens if it has ended."""
        self._response.cancel()

    def _listen(self) -> None:
        try:
            for answer in self._response:
                self._answers.put(answer)
            self._answers.put(self.END)
        except BaseException as error:  # cancelled ones too: they are for nobody then
            self._answers.put(error)


def _waiting(turn: Turn) -> Progress:
    return Progress("turn", 0, 0, place=turn.place, wait=turn.seconds)


def _behind(request: ShotRequest, made: list) -> ShotRequest:
    """The rest of a shot of which `made` is there."""
    import torch

    return replace(request, prefix=torch.cat(made)) if made else request

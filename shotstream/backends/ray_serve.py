"""Shots made by many processes, on one machine or many: N replicas of the engine under Ray Serve, a GPU each.

Owns the way of a request to a replica and of its events back: the queue, cancelling, and what happens when a replica is
lost. Knows no session, no page and no film, and no model: those are with the `replica`s. The page's process needs no
GPU.

Ray Serve gives every replica one shot at a time and holds as many more as there are replicas; whatever else comes is
turned away by it and waits here, where everybody sees the own place in the queue. A shot whose replica is lost goes
first, to another one, and goes on behind the chunks that are there.
"""

from __future__ import annotations

import atexit
import logging
import os
import queue
import re
import threading
from argparse import Namespace
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from shotstream.backends.line import Line
from shotstream.backends.replica import Refusal, Replica
from shotstream.errors import UserError
from shotstream.events import Chunk, Event, Progress, ShotDone, ShotRequest
from shotstream.memory import Memory, ShotMemory

if TYPE_CHECKING:
    import numpy as np
    from ray.serve import Application
    from ray.serve.handle import DeploymentHandle

    from shotstream.models.facts import ModelFacts

log = logging.getLogger(__name__)
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody unless the host wants it

APP, REPLICA = "shotstream", "Replica"  # names in Ray Serve
PATIENCE = 0.1  # seconds between two signs of life while a shot waits, and between two attempts to hand it over
ATTEMPTS = 3  # replicas that one shot may lose: a shot that ends every process it meets must not end all of them


class ReplicaLost(Exception):
    """The replica ended while it worked for us."""


@dataclass(frozen=True)
class Cameras:
    """The replicas, once they are there, and what they know about the model that all of them have."""

    replicas: DeploymentHandle
    model: ModelFacts


class RayServeBackend:
    """The replicas shared by all sessions of this process. Speaks as `InProcessBackend` does.

    `load_options` are the arguments that `arguments.load_model` reads, on every replica. `num_replicas` None means one
    for every GPU of the cluster, and one where there is none.
    """

    def __init__(self, load_options: Namespace, num_replicas: int | None = None) -> None:
        import_ray()
        self._options, self._num_replicas = load_options, num_replicas
        self.engine: Future[Cameras] = Future()
        self.engine.set_running_or_notify_cancel()  # nobody who gives up waiting can cancel it for the others
        self._line = Line()
        self._ours = False  # the deployment, to be ended by `close`

    def start(self) -> None:
        """Starts Ray if it does not run here, and the replicas in the background. Raises `UserError` if the cluster
        cannot be had, or has no room for them."""
        # In the calling thread: Ray's processes end with the thread that started them.
        num_replicas = connect(self._options, self._num_replicas)
        atexit.register(self.close)
        self._start(lambda: self._deploy(num_replicas))

    def join(self) -> None:
        """Uses the replicas that were deployed together with the page, from inside that deployment."""
        from ray import serve

        self._start(lambda: serve.get_deployment_handle(REPLICA, APP))

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until the replicas are there or have failed; raises the failure. False if `timeout` seconds passed."""
        try:
            self.engine.result(timeout)
        except TimeoutError:
            return False
        return True

    @property
    def model(self) -> ModelFacts | None:
        """What is known of the model, once it is loaded."""
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
        """Makes one shot on the first replica that is free. While it waits it says so, with its place in the queue
        (`Progress("turn", place, 0)`, 1 is next). Closing the iterator cancels it wherever it is.

        If the replica is lost, another one goes on behind the last chunk with the same seed: nothing comes twice.
        Raises the `UserError` of loading or of the engine, or one that says that too many replicas were lost.
        """
        while not self.wait(PATIENCE):
            yield Progress("load", 0, 0)
        made = [] if request.prefix is None else [request.prefix]
        for attempt in range(ATTEMPTS):
            with (
                suppress(ReplicaLost),
                closing(self._ask("shoot", _behind(request, made), urgent=attempt > 0)) as events,
            ):
                for event in events:
                    if isinstance(event, ShotDone):
                        event = replace(event, memory=Memory((*request.memory.shots, event.shot)))
                    yield event
                    if isinstance(event, Chunk):
                        made.append(event.latents)
                return
            log.warning("a replica was lost in the middle of a shot (attempt %d of %d)", attempt + 1, ATTEMPTS)
        raise UserError(f"This shot was lost with its replica {ATTEMPTS} times: try it again, the film so far is kept.")

    def cast(self, picture: np.ndarray, caption: str) -> ShotMemory:
        """A picture as what the camera already saw, see `Engine.cast`; waits for the replicas and for a turn."""
        self.wait()
        for attempt in range(ATTEMPTS):
            with suppress(ReplicaLost), closing(self._ask("cast", picture, caption, urgent=attempt > 0)) as answers:
                return next(answer for answer in answers if isinstance(answer, ShotMemory))
        raise UserError(f"This picture was lost with its replica {ATTEMPTS} times: cast it again.")

    def close(self) -> None:
        """Ends the replicas that `start` started. May be called twice."""
        import ray
        from ray import serve

        if self._ours and ray.is_initialized():
            self._ours = False
            serve.delete(APP)

    def _ask(self, method: str, *arguments: object, urgent: bool) -> Iterator[Any]:
        """What a replica answers, one by one, and `Progress` while there is nothing else to tell. Raises `ReplicaLost`
        and what the replica raises."""
        from ray.serve.exceptions import BackPressureError

        with self._line.join(urgent) as place:
            while True:
                while not place.is_next():
                    yield Progress("turn", place.number, 0)
                    place.wait(PATIENCE)
                call = Call(self.engine.result().replicas, method, arguments)
                place.handed_over()
                try:
                    sign_of_life = None
                    while (answer := call.next(PATIENCE)) is not Call.END:
                        if answer is not None:
                            self._line.leave(place)
                        if isinstance(answer, Progress):
                            sign_of_life = answer
                        yield answer or sign_of_life or Progress("turn", place.number, 0)
                    return
                except BackPressureError:
                    place.turned_away()
                    yield Progress("turn", place.number, 0)
                    place.wait(PATIENCE)
                finally:
                    call.cancel()

    def _start(self, find: Callable[[], DeploymentHandle]) -> None:
        threading.Thread(target=self._run_start, args=[find], name="start-replicas", daemon=True).start()

    def _run_start(self, find: Callable[[], DeploymentHandle]) -> None:
        try:
            handle = find()
            facts = handle.options(method_name="facts").remote().result()
            self.engine.set_result(Cameras(handle, facts))
        except UserError as error:
            self.engine.set_exception(error)
        except Exception as error:
            failure = UserError(told_by_replicas(str(error)))
            failure.__cause__ = error
            self.engine.set_exception(failure)
            raise

    def _deploy(self, num_replicas: int) -> DeploymentHandle:
        from ray import serve

        serve.start(proxy_location="Disabled")  # the page is served by this process, replicas are spoken to directly
        self._ours = True
        return serve.run(replicas(self._options, num_replicas), name=APP, route_prefix=None)


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

        Raises `ReplicaLost`, `BackPressureError`, and what the replica raised.
        """
        from ray.exceptions import ObjectLostError, RayActorError, RayTaskError, WorkerCrashedError

        try:
            answer = self._answers.get(timeout=timeout)
        except queue.Empty:
            return None
        match answer:
            case Refusal(sentence):
                raise UserError(sentence)
            case RayActorError() | ObjectLostError() | WorkerCrashedError():
                raise ReplicaLost from answer
            case RayTaskError(cause=Exception() as cause):
                raise cause from answer
            case BaseException():
                raise answer
        return answer

    def cancel(self) -> None:
        """Ends it, wherever it is; nothing happens if it has ended."""
        self._response.cancel()

    def _listen(self) -> None:
        try:
            for answer in self._response:
                self._answers.put(answer)
            self._answers.put(self.END)
        except BaseException as error:  # cancelled ones too: they are for nobody then
            self._answers.put(error)


def replicas(load_options: Namespace, num_replicas: int) -> Application:
    """The replicas as something that Ray Serve can run: with a GPU each where the cluster has any."""
    import ray
    from ray import serve
    from ray.serve.config import RequestRouterConfig

    on_gpu = load_options.device != "cpu" and ray.cluster_resources().get("GPU", 0) > 0
    return serve.deployment(
        Replica,
        name=REPLICA,
        num_replicas=num_replicas,
        max_ongoing_requests=1,
        max_queued_requests=num_replicas,  # so that no replica waits for work while shots wait in the page's queue
        ray_actor_options={"num_cpus": 1, "num_gpus": int(on_gpu)},
        request_router_config=RequestRouterConfig(max_backoff_s=PATIENCE),  # how long a free replica may go unnoticed
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=5,
    ).bind(load_options)


def connect(load_options: Namespace, num_replicas: int | None) -> int:
    """Joins the Ray cluster that runs here or that $RAY_ADDRESS names, or starts one on this machine; how many replicas
    there are to be. Raises `UserError` if the cluster has no room for them."""
    import ray

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    if not ray.is_initialized():
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        try:
            ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), **quiet)
        except ConnectionError as error:
            if "RAY_ADDRESS" in os.environ:
                raise UserError(f"No Ray cluster answers at {os.environ['RAY_ADDRESS'][:80]!r}: start it.") from error
            cpus = max(os.cpu_count() or 1, (num_replicas or 1) + 1)  # processes, not cores, are what is counted here
            ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)
    there = ray.cluster_resources()
    num_gpus = 0 if load_options.device == "cpu" else int(there.get("GPU", 0))
    if num_gpus and (num_replicas or 0) > num_gpus:
        raise UserError(f"There are {num_gpus} GPUs for {num_replicas} replicas: a replica needs one of its own.")
    if num_replicas and num_replicas > there.get("CPU", 0):
        raise UserError(f"The cluster has {there.get('CPU', 0):.0f} CPUs for {num_replicas} replicas: ask for fewer.")
    return num_replicas or num_gpus or 1


def told_by_replicas(message: str) -> str:
    """One sentence out of what Ray Serve says when replicas do not start: the replica's own, if it had one."""
    told = re.findall(r"UserError[^:\n]*: (.+)", message)
    return told[-1].strip() if told else "The replicas cannot be started: the log of Ray Serve says more."


def import_ray() -> None:
    """Raises `UserError` where Ray Serve is not installed."""
    try:
        from ray import serve  # noqa: F401
    except ImportError as error:
        raise UserError("Ray Serve is not installed: pip install 'shotstream[ray]'.") from error


def _behind(request: ShotRequest, made: list) -> ShotRequest:
    """The rest of a shot of which `made` is there."""
    import torch

    return replace(request, prefix=torch.cat(made)) if made else request

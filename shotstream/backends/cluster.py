"""Ray and the replicas in it: joined or started, and ended again.

Owns how many replicas there are and what each may use. Knows no shot.
"""

from __future__ import annotations

import logging
import os
import re
from argparse import Namespace
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shotstream.cores import usable_cores
from shotstream.errors import UserError

if TYPE_CHECKING:
    from ray.serve import Application
    from ray.serve.handle import DeploymentHandle

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody unless the host wants it

APP, REPLICA = "shotstream", "Replica"  # their names in Ray Serve
PLACES = ("SHOTSTREAM_MODEL", "SHOTSTREAM_PREVIEW", "SHOTSTREAM_BLOCKED_WORDS")  # may name a file of this machine
NOTICED = 0.1  # seconds at most until a replica that has become free gets a shot that Ray Serve holds


def connect(load_options: Namespace, num_replicas: int | None) -> int:
    """Joins the Ray cluster that $RAY_ADDRESS names or that runs here, or starts one on this machine, for as long as
    the calling thread lives; how many replicas there are to be.

    Raises `UserError` if there is no Ray, no cluster, no room in it, or if a certain GPU is asked for.
    """
    if load_options.device not in (None, "cpu", "cuda", "mps"):
        raise UserError("Ray chooses the GPU of every replica: give --device cpu or cuda, or leave it out.")
    try:
        import ray
        from ray import serve  # noqa: F401
    except ImportError as error:
        raise UserError("Ray Serve is not installed: pip install -e '.[ray]'.") from error

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    if not ray.is_initialized():
        _init(num_replicas or 1)
    there = ray.cluster_resources()
    num_gpus = wanted_gpus(load_options)
    if num_gpus and (num_replicas or 0) > num_gpus:
        raise UserError(f"{num_replicas} replicas need a GPU each, and there are {num_gpus}: ask for fewer.")
    if (num_replicas or num_gpus) > there.get("CPU", 0):
        raise UserError(
            f"{num_replicas or num_gpus} replicas need a CPU each, and the Ray cluster has {there.get('CPU', 0):.0f}: "
            "ask for fewer."
        )
    return num_replicas or num_gpus or 1


def _init(num_replicas: int) -> None:
    import ray

    address = os.environ.get("RAY_ADDRESS") or "auto"
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address != "local":
        try:
            ray.init(address=address, **quiet)
            return
        except (ConnectionError, OSError, ValueError, RuntimeError) as error:
            if address != "auto":
                raise UserError(f"No Ray cluster answers at {address[:80]!r}: start it.") from error
    os.environ.setdefault("RAY_worker_niceness", "0")  # at Ray's 15, replicas on CPUs get what the page leaves over
    num_cpus = max(usable_cores(), num_replicas)  # counted, not used: one a replica
    try:
        ray.init(address="local", num_cpus=num_cpus, include_dashboard=False, **quiet)
    except Exception as error:  # Ray has no kind of its own for what a machine may refuse: ports, files, memory
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:200]
        raise UserError(
            f"Ray cannot be started on this machine ({reason}): mend that, or name a cluster in RAY_ADDRESS."
        ) from error


def wanted_gpus(load_options: Namespace) -> int:
    """The cluster's GPUs; none if replicas are to run on CPUs."""
    import ray

    return 0 if load_options.device == "cpu" else int(ray.cluster_resources().get("GPU", 0))


def source(load_options: Namespace) -> str | Path:
    """What the replicas load, as it is known where there may be no GPU, once the cluster was joined."""
    import torch

    from shotstream.models.weights import default_source

    return load_options.model or default_source(torch.device("cuda" if wanted_gpus(load_options) else "cpu"))


def replicas(load_options: Namespace, num_replicas: int) -> Application:
    """The replicas as something that Ray Serve can run: with a GPU each where the cluster has any."""
    from ray import serve
    from ray.serve.config import RequestRouterConfig

    from shotstream.backends.replica import Replica  # brings torch, for which nobody should wait who only asks for help

    return serve.deployment(
        Replica,
        name=REPLICA,
        num_replicas=num_replicas,
        max_ongoing_requests=1,
        max_queued_requests=num_replicas,  # so that none is idle while shots wait for their turn to be handed over
        ray_actor_options={"num_cpus": 1, "num_gpus": int(wanted_gpus(load_options) > 0)} | surroundings(),
        request_router_config=RequestRouterConfig(max_backoff_s=NOTICED),
        max_constructor_retry_count=2,  # a missing model is missing the second time too
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=5,
    ).bind(anywhere(load_options))


def anywhere(load_options: Namespace) -> Namespace:
    """The same options for processes with another working directory."""
    places = {"model": load_options.model, "preview": load_options.preview}
    return Namespace(**vars(load_options) | {name: _absolute(place) for name, place in places.items()})


def _absolute(place: str | None) -> str | None:
    """A file or folder of this machine wherever one looks from; a Hub id as it is."""
    return os.path.abspath(place) if place and os.path.exists(place) else place


def surroundings() -> dict[str, Any]:
    """What the host set for us, for processes that a cluster starts in an environment of its own and elsewhere."""
    ours = {name: value for name, value in os.environ.items() if name.startswith("SHOTSTREAM_")}
    ours |= {name: _absolute(ours[name]) for name in PLACES if name in ours}
    return {"runtime_env": {"env_vars": ours}} if ours else {}


def run_replicas(load_options: Namespace, num_replicas: int) -> DeploymentHandle:
    """Deploys them for a page that is served elsewhere, and waits until they are there. Raises `UserError`."""
    from ray import serve

    serve.start(proxy_location="Disabled")
    return _run(replicas(load_options, num_replicas), None)


def run_application(application: Application, host: str, port: int) -> None:
    """Deploys an application with a page, to be found at this address of this machine, and waits until it is there.
    Raises `UserError`."""
    from ray import serve

    serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": port})
    _run(application, "/")


def _run(application: Application, route: str | None) -> DeploymentHandle:
    from ray import serve

    try:
        return serve.run(application, name=APP, route_prefix=route)
    except RuntimeError as error:
        status = serve.status().applications.get(APP)
        messages = [deployment.message for deployment in status.deployments.values()] if status else []
        raise UserError(told_by_replicas("\n".join(messages))) from error


def told_by_replicas(message: str) -> str:
    """One sentence out of what Ray Serve says when replicas do not start: the replica's own, if it had one."""
    told = re.findall(r"^shotstream\.errors\.UserError: (.+)$", message, re.MULTILINE)
    return told[-1].strip() if told else "The replicas cannot be started: the log of Ray Serve says more."


def find_replicas() -> DeploymentHandle:
    """Those that are deployed, or being deployed, in the same application."""
    from ray import serve

    return serve.get_deployment_handle(REPLICA, APP)


def end() -> None:
    """Ends what runs under our name, and the cluster if this process started it."""
    import ray
    from ray import serve

    if ray.is_initialized():
        with suppress(Exception):  # it ended before us
            serve.delete(APP)
        ray.shutdown()

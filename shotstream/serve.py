"""`serve`: the page and its replicas as one application of Ray Serve, on this machine or on a cluster.

Owns what is deployed and at which address: one ingress with the page, which needs no GPU, and the replicas that make
its shots. There is exactly one ingress, since sessions live in its process. How shots get from one to the other is
`backends.ray_serve`'s.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

from shotstream import logs
from shotstream.arguments import add_model_arguments, whole_number
from shotstream.backends import cluster
from shotstream.ui.launch import about, add_address_arguments, check_address, options
from shotstream.ui.limits import read_limits

if TYPE_CHECKING:
    from fastapi import FastAPI
    from ray.serve import Application

MAX_REPLICAS = 1000
TABS = 10_000  # streams that the ingress keeps open; who may have a seat is the page's to say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    add_address_arguments(parser)
    parser.add_argument(
        "--replicas",
        type=whole_number(1, MAX_REPLICAS),
        help="processes with the model, a GPU each (default: one for every GPU of the cluster, else one)",
    )


def run(args: argparse.Namespace) -> int:
    """Serves until interrupted. Raises `UserError` for what is known to be wrong when the replicas have started."""
    check_address(args.host, args.port)
    from shotstream.backends.safety import read_rules  # brings torch, for which nobody waits who only asks for help

    read_rules()  # what the host set wrong is told here, not in the ingress
    num_replicas = cluster.connect(args, args.replicas)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C
    try:
        cluster.run_application(application(args, num_replicas), args.host, args.port)
        print(f"ShotStream is playing at http://{args.host}:{args.port} (Ctrl-C ends it).", flush=True)
        threading.Event().wait()
    except KeyboardInterrupt:
        pass
    finally:
        cluster.end()
    return 0


def application(args: argparse.Namespace, num_replicas: int) -> Application:
    """The ingress and the replicas behind it."""
    from ray import serve

    args = cluster.anywhere(args)

    def build() -> FastAPI:  # in the ingress: a page cannot be sent there
        return page_app(args, num_replicas)

    ingress = serve.deployment(
        serve.ingress(build)(),
        name="Page",
        num_replicas=1,
        max_ongoing_requests=TABS,
        ray_actor_options={"num_cpus": 0, "num_gpus": 0} | cluster.surroundings(),
    )
    return ingress.bind(cluster.replicas(args, num_replicas))


def page_app(args: argparse.Namespace, num_replicas: int) -> FastAPI:
    """The page, making its shots with the replicas that were deployed with it."""
    import gradio as gr
    from fastapi import FastAPI

    from shotstream.backends.ray_serve import RayServeBackend
    from shotstream.backends.safety import GuardedBackend, read_rules
    from shotstream.ui.page import Page

    backend = RayServeBackend(args, num_replicas)
    backend.join(num_replicas)
    logs.configure()
    card, rules = about(Path(cluster.source(args))), read_rules()
    page = Page(GuardedBackend(backend, rules) if rules.any else backend, card, limits=read_limits())

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        page.sessions.close_all()

    app = FastAPI(lifespan=lifespan, openapi_url=None)
    return gr.mount_gradio_app(app, page.blocks, "/", **options(page))

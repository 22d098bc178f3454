"""Starts the page: command-line arguments in, a running server out.

Owns which arguments there are and how a mistake is told. A small model in a folder is loaded before the page opens, so
that a bad one is told where it was named; a large one is only looked over by then. One from the Hub is fetched, and
replicas start, while the page already says so.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shotstream import logs
from shotstream.arguments import Parser, add_model_arguments, resolve_device, whole_number
from shotstream.backends.choice import RAY, build, choose_home, prepare
from shotstream.errors import UserError
from shotstream.ui.limits import read_limits

if TYPE_CHECKING:
    from shotstream.ui.page import Page

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
DEFAULT_PORT = 7860
MAX_CARD_BYTES = 20_000


def main(argv: list[str] | None = None) -> int:
    """Serves the page until interrupted; 2 for bad input."""
    parser = Parser(prog="app.py", description="Direct a film while it plays.")
    add_model_arguments(parser)
    add_address_arguments(parser)
    args = parser.parse_args(argv)
    try:
        serve(args)
    except UserError as error:
        print(f"app.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        pass
    return 0


def add_address_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --host and --port."""
    parser.add_argument(
        "--host", default=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"), help="(default: 127.0.0.1)"
    )
    port = os.environ.get("GRADIO_SERVER_PORT", str(DEFAULT_PORT))
    parser.add_argument("--port", type=whole_number(1, 65535), default=port, help=f"(default: {DEFAULT_PORT})")


def serve(args: argparse.Namespace) -> None:
    """Raises `UserError` for what can be known to be wrong before the page opens."""
    home, limits = choose_home(), read_limits()
    prepare(home)
    check_address(args.host, args.port)
    by_replicas = home.home == RAY  # on machines of their own, with a GPU or without
    device = None if by_replicas else resolve_device(args.device)

    from shotstream.backends.safety import GuardedBackend, read_rules
    from shotstream.models.fetching import FetchProgress
    from shotstream.models.weights import default_source
    from shotstream.ui.page import Page

    progress = FetchProgress()
    source = None if by_replicas else args.model or default_source(device)
    rules = read_rules()
    backend = build(home, args, progress)
    page_first = by_replicas or opens_first(source)
    if page_first:
        logs.configure()
    backend.start()  # after which a signal is ours again
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C: films in progress are deleted
    if by_replicas:
        from shotstream.backends import cluster

        backend.wait(0)  # that there is no cluster, or no room in it, is known by now
        source = cluster.source(args)
    page = Page(GuardedBackend(backend, rules) if rules.any else backend, about(Path(source)), progress, limits)
    if not page_first:
        backend.wait()  # what is wrong with a folder is told as any other mistake, in one line
        logs.configure()
    print(home, flush=True)
    page.blocks.launch(
        server_name=args.host,
        server_port=args.port,
        share=False,
        inbrowser=False,
        quiet=True,
        prevent_thread_lock=True,
        **options(page),
        _frontend=False,  # skips a self-check that gives a busy machine three seconds and then refuses to start
    )
    if page.blocks.mcp_error:  # a package that is not there, for one; told to be quiet, Gradio does not tell it
        print(f"The page is no tool for assistants. {page.blocks.mcp_error}", file=sys.stderr)
    print(f"ShotStream is playing at {page.blocks.local_url} (Ctrl-C ends it).", flush=True)
    try:
        page.blocks.block_thread()
    finally:
        page.sessions.close_all()


def opens_first(source: str | Path) -> bool:
    """Does the page open before its model is loaded? Raises `UserError` for a large model on this disk that is known to
    be wrong."""
    from shotstream.errors import telling_refused_files
    from shotstream.models.hub import is_hub_id
    from shotstream.models.weights import is_large, look_over

    path = Path(source)
    with telling_refused_files():
        if not path.exists():
            return is_hub_id(str(source))
        if large := is_large(path):
            look_over(path)
    return large


def options(page: Page) -> dict[str, Any]:
    """How the page is served, whoever serves it."""
    from starlette.middleware import Middleware

    from shotstream.ui.player import Transport
    from shotstream.ui.theme import CSS, FAVICON, SCRIPTS, theme

    return {
        "theme": theme(),
        "css_paths": [CSS],
        "head": "".join(f"<script>{script.read_text()}</script>" for script in SCRIPTS),
        "favicon_path": FAVICON,
        "footer_links": [],
        "run_history": False,
        "ssr_mode": False,
        "show_error": True,
        "app_kwargs": {
            "routes": page.routes,
            "middleware": [Middleware(Transport, blocks=page.blocks, late=page.sessions.late)],
        },
        "mcp_server": True,  # what is public of the page is a tool for assistants too
    }


def about(folder: Path) -> str:
    """What a model folder's card says first about the model, up to the end of the sentence; nothing without a card."""
    try:
        with open(folder / "README.md", encoding="utf-8", errors="replace") as card:
            text = card.read(MAX_CARD_BYTES)
    except OSError:
        return ""
    if text.startswith("---"):  # front matter
        text = text.partition("\n---")[2].lstrip("-")
    paragraphs = (" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
    prose = next((paragraph for paragraph in paragraphs if paragraph and paragraph[0] not in "#!<|-`"), "")
    return re.sub(r"[*_`]", "", re.split(r"(?<=\w)[.:] |\.$", prose)[0])[:160]


def check_address(host: str, port: int) -> None:
    """Raises `UserError` if nothing can listen there."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "not an address"
        raise UserError(
            f"Cannot listen on {host} port {port} ({reason}): choose another with --host and --port."
        ) from error

"""Where the time to a shot's first picture goes, from the request to the other end of a connection.

Owns the parts of that time and their measuring, with nobody else in the queue and no network but this machine's own.
"""

from __future__ import annotations

import statistics
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

from shotstream.backends.turns import Turns
from shotstream.engine import Engine
from shotstream.evaluation.measured_shot import WORLD, shoot
from shotstream.events import ShotRequest
from shotstream.memory import Memory
from shotstream.story import compose_caption

SHOTS = 5
PARTS = {
    "queue": "a turn, with nobody before",
    "text": "the caption; none if it waited",
    "context_pass": "what the shot looks back at",
    "denoise": "all steps of the first chunk",
    "decode": "VAE",
    "h264": "H.264",
    "transport": "HTTP on this machine",
    "between": "Python, and what overlaps",
}


def measure(engine: Engine, memory: Memory, height: int | None, width: int | None) -> dict[str, float]:
    """Median seconds by part, over a few shots of one chunk that go on from `memory`."""
    found = []
    with _served() as (address, content):
        for number in range(SHOTS):
            caption = compose_caption(WORLD, len(memory.shots), f"It waits {number}.")  # none is known yet
            request = ShotRequest(caption, memory, number, 1, None, height, width)
            started = time.perf_counter()
            with Turns().next() as turn:
                turn.wait(1.0)
                queued = time.perf_counter() - started
                shot = shoot(engine, request)
            content["segment"] = shot.first_data
            asked = time.perf_counter()
            with urllib.request.urlopen(address, timeout=10) as answer:
                answer.read()
            parts = {name: shot.stages.get(name, 0.0) for name in PARTS} | {
                "queue": queued,
                "transport": time.perf_counter() - asked,
            }
            parts["between"] = 0.0
            whole = queued + shot.first_segment + parts["transport"]
            found.append(parts | {"between": max(0.0, whole - sum(parts.values()))})
    return {name: statistics.median(parts[name] for parts in found) for name in PARTS}


@contextmanager
def _served() -> Iterator[tuple[str, dict[str, bytes]]]:
    """An address of this machine, and what is to be had there under "segment"."""
    content: dict[str, bytes] = {"segment": b""}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content["segment"])))
            self.end_headers()
            self.wfile.write(content["segment"])

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", content
        finally:
            server.shutdown()
            thread.join()


def lines(parts: Mapping[str, float]) -> list[str]:
    """For people: the time to the first picture and its parts."""
    whole = sum(parts.values())
    told = [f"{'first picture':<28}{1000 * whole:10.2f} ms  from the request to the other end; shots of one chunk"]
    return told + [
        f"  {name.replace('_', ' '):<26}{1000 * seconds:10.2f} ms  {seconds / whole:6.1%}  {PARTS[name]}"
        for name, seconds in parts.items()
    ]

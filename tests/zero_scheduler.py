"""A small stand-in for ZeroGPU's scheduler: it says yes at once, or what it is told to say.

POST /schedule         200 and a token for the worker; 429 with {"left", "wait"} where `refuse` says so
POST /allow /release   a worker begins (its process is noted), or ends
POST /startup-report   the page was launched
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit


@dataclass
class Scheduler:
    """`calls` are (path, its parameters, when)."""

    calls: list[tuple[str, dict[str, str], float]] = field(default_factory=list)
    refuse: dict | None = None
    delay: float = 0.0  # seconds until there is a GPU
    workers: list[int] = field(default_factory=list)
    url: str = ""

    def __enter__(self) -> Scheduler:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def of(self, path: str) -> list[dict[str, str]]:
        return [parameters for called, parameters, _ in self.calls if called == path]

    def answer(self, path: str, parameters: dict[str, str]) -> tuple[int, dict]:
        if path == "/schedule":
            time.sleep(self.delay)
        if path == "/schedule" and self.refuse is not None:
            return 429, self.refuse
        if path == "/schedule":
            token = f"token {len(self.of('/schedule'))}"
            return 200, {"idle": True, "nvidiaIndex": 0, "nvidiaUUID": "GPU-0", "allowToken": token}
        if path == "/allow":
            self.workers.append(int(parameters["pid"]))
        return 200, {}

    def kill(self) -> None:
        """Ends the newest worker, as the platform does."""
        with suppress(ProcessLookupError):
            os.kill(self.workers[-1], signal.SIGKILL)

    def kill_all(self) -> None:
        while self.workers:
            self.kill()
            self.workers.pop()

    def _handler(scheduler) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - two selves
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:  # noqa: N802 - the library's name
                address = urlsplit(self.path)
                parameters = dict(parse_qsl(address.query))
                scheduler.calls.append((address.path, parameters, time.monotonic()))
                code, body = scheduler.answer(address.path, parameters)
                text = json.dumps(body).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                pass

        return Handler

"""How the tests talk to the page and to the browser."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
WATCHED = "(v => v.buffered.end(v.buffered.length - 1) - v.currentTime < 0.35)(document.querySelector('#film video'))"
PATIENCE = 240  # seconds, for a machine that trains a model meanwhile; what is promised is measured elsewhere


@dataclass
class App:
    """A page of its own process; `temporary` is where it may leave files. `code` is run before it starts."""

    port: int
    temporary: Path
    model: Path
    code: str = ""
    process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns when the page is there and its model loaded."""
        program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); {self.code}; from shotstream.ui.launch import main; "
        program += "sys.exit(main())"
        run = ["-c", program] if self.code else [str(ROOT / "app.py")]
        command = [sys.executable, *run, "--port", str(self.port), "--model", str(self.model)]
        environment = os.environ | {"TMPDIR": str(self.temporary), "HF_HUB_OFFLINE": "1"}
        log = self.temporary / "log"
        with open(log, "ab") as file:
            self.process = subprocess.Popen(
                command, cwd=self.temporary, env=environment, stdout=file, stderr=subprocess.STDOUT
            )
        try:
            wait_for(lambda: answers(self), PATIENCE, lambda: f"no page: {log.read_text()}")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)

    def num_reels(self) -> int:
        """Folders of footage on the disk: one a session."""
        return sum(path.is_dir() for path in self.temporary.glob("shotstream-*"))

    def health(self) -> dict:
        with urllib.request.urlopen(f"{self.url}/health", timeout=10) as answer:
            return json.load(answer)


def running(app: App) -> Iterator[App]:
    """For fixtures: the page, which ends with them."""
    app.start()
    try:
        yield app
    finally:
        app.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(app: App) -> bool:
    """Is the page up, with its model loaded?"""
    assert app.process.poll() is None, "the app ended"
    try:
        return app.health()["model"]
    except OSError:
        return False


def wait_for(
    condition: Callable[[], bool], seconds: float, complaint: Callable[[], str] = lambda: "it did not happen"
) -> None:
    """Polls until `condition()` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, complaint()
        time.sleep(0.05)


@dataclass
class Tab:
    """A browser tab on the page, with everything that a visitor's console would complain about."""

    page: object
    complaints: list[str] = field(default_factory=list)
    _protocol: object = None

    def protocol(self) -> object:
        """Chrome's DevTools Protocol; what one connection set, only that one takes back."""
        self._protocol = self._protocol or self.page.context.new_cdp_session(self.page)
        return self._protocol

    def watch(self, url: str) -> None:
        page = self.page
        page.on("console", lambda m: self.complaints.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("response", lambda r: self.complaints.append(f"{r.status} {r.url}") if r.status >= 400 else None)
        page.on(
            "request", lambda r: None if r.url.startswith((url, "data:", "blob:")) else self.complaints.append(r.url)
        )

    def direct(self, caption: str) -> None:
        """Types a prompt and presses Enter."""
        self.page.fill("#next-shot textarea", caption)
        self.page.press("#next-shot textarea", "Enter")

    def choose_length(self, length: str) -> None:
        """Of the shots to come."""
        self.page.click("#length input")
        self.page.click(f"[role=option]:has-text('{length}')")

    def wait_until(self, expression: str, seconds: float = 120) -> None:
        # by the clock: headless Chromium now and then stops giving animation frames, which is the default to wait for
        self.page.wait_for_function(expression, polling=50, timeout=seconds * 1000)

    def num_frames_seen(self) -> int:
        return self.page.evaluate(
            "document.querySelector('#film video')?.getVideoPlaybackQuality().totalVideoFrames ?? 0"
        )

    def picture(self) -> bytes:
        return self.page.locator("#film video").screenshot()

    def pixels(self, selector: str) -> np.ndarray:
        """Of a picture on the page, [32, 48, 4], reduced to the size that films are made in."""
        values = self.page.evaluate(
            """(selector) => {
                const canvas = new OffscreenCanvas(48, 32).getContext('2d');
                canvas.drawImage(document.querySelector(selector), 0, 0, 48, 32);
                return [...canvas.getImageData(0, 0, 48, 32).data];
            }""",
            selector,
        )
        return np.array(values, dtype=float).reshape(32, 48, 4)

    def cast_shown(self, seconds: float) -> tuple[np.ndarray, np.ndarray]:
        """Casts what the player shows at a time of its own; what it shows, and what was cast, as `pixels`."""
        shots = self.page.locator(".strip .made").count()
        self.page.evaluate(f"(v => (v.pause(), v.currentTime = {seconds}))(document.querySelector('#film video'))")
        self.wait_until("!document.querySelector('#film video').seeking")
        if not self.page.is_visible("#cast .who"):
            self.page.click("#cast button >> nth=0")
        self.page.fill("#cast .who", "The hero.")
        self.page.click("[data-cast=shown]")
        self.wait_until(f"document.querySelectorAll('.strip .made img').length === {shots + 1}")
        self.wait_until("[...document.querySelectorAll('.strip .made img')].at(-1).complete")
        return self.pixels("#film video"), self.pixels(".strip .made:last-child img")

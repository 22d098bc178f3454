"""How the tests talk to the page and to the browser."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass
class App:
    """A running page; `temporary` is where it may leave files."""

    url: str
    process: subprocess.Popen
    temporary: Path

    def num_reels(self) -> int:
        """Folders of footage on the disk: one a session."""
        return sum(path.is_dir() for path in self.temporary.glob("shotstream-*"))

    def health(self) -> dict:
        with urllib.request.urlopen(f"{self.url}/health", timeout=10) as answer:
            return json.load(answer)


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

    def wait_until(self, expression: str, seconds: float = 120) -> None:
        # by the clock: headless Chromium now and then stops giving animation frames, which is the default to wait for
        self.page.wait_for_function(expression, polling=50, timeout=seconds * 1000)

    def num_frames_seen(self) -> int:
        return self.page.evaluate(
            "document.querySelector('#film video')?.getVideoPlaybackQuality().totalVideoFrames ?? 0"
        )

    def picture(self) -> bytes:
        return self.page.locator("#film video").screenshot()

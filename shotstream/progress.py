"""How far the making of a shot has come, and how fast it was: what a page says while one waits.

Plain values. Seconds of waiting for a turn or a model are nobody's work and are not counted.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass
class Timing:
    """How fast the latest shot came: frames, and seconds from the end of waiting to the first and to the latest encoded
    chunk, and by part of the work."""

    started: float = field(default_factory=time.monotonic)
    frames: int = 0
    first_chunk: float | None = None
    elapsed: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def fps(self) -> float | None:
        return self.frames / self.elapsed if self.elapsed else None

    def waited(self) -> None:
        """Begins to count only now, or goes on counting: what was waited for is nobody's work."""
        self.started = time.monotonic() - self.elapsed

    def chunk_encoded(self, frames: int, encoding: float) -> None:
        self.elapsed = max(time.monotonic() - self.started, 1e-6)
        self.first_chunk = self.first_chunk or self.elapsed
        self.frames += frames
        self.add("encode", encoding)

    def add(self, part: str, seconds: float) -> None:
        self.seconds[part] = self.seconds.get(part, 0.0) + seconds


@dataclass(frozen=True)
class Doing:
    """What the running work is at, as a `FilmView` tells it."""

    stage: str = ""
    chunk: int = 0
    num_chunks: int = 0
    place: int = 0
    wait: int | None = None

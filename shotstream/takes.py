"""What a session's film consists of, and what a page may know of it: plain values, no behaviour.

A `Prompt` becomes a `Take`, whose footage is `Piece`s on disk; `FilmView` is a picture of it all at one moment.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from shotstream.memory import Memory


@dataclass(frozen=True)
class Prompt:
    """What was asked for."""

    global_caption: str
    caption: str


@dataclass
class Piece:
    """A segment on disk; `duration` in seconds."""

    path: Path
    duration: float
    num_frames: int
    shown: bool = False


@dataclass
class Take:
    """One shot of the film: being made, or made. `memory` is the film's memory after it, None until it is made; `key`
    is its own among all takes of the session."""

    key: int
    prompt: Prompt
    seed: int
    footage: list[Piece] = field(default_factory=list)
    num_chunks: int = 0  # that it will have; 0 until the first is made
    still: bytes = b""  # PNG
    memory: Memory | None = None
    stopped: bool = False

    @property
    def num_frames(self) -> int:
        return sum(piece.num_frames for piece in self.footage)

    @property
    def seconds(self) -> float:
        return sum(piece.duration for piece in self.footage)


@dataclass(frozen=True)
class TakeView:
    """What a page shows of a take. `caption` is as typed: escape it. `key` finds the picture, see `Director.still`."""

    number: int  # from 1
    key: int
    caption: str
    has_still: bool
    seconds: float
    finished: bool
    stopped: bool


@dataclass(frozen=True)
class FilmView:
    """A consistent look at the film. `stage` is "" when nothing is being made, else that of the last `Progress`."""

    takes: tuple[TakeView, ...]
    waiting: tuple[str, ...]
    stage: str
    chunk: int  # being made, from 1; 0 before the first
    num_chunks: int  # of the shot being made; 0 until known
    fps: float | None  # frames a second of the latest shot, from the end of waiting to its last encoded frame
    message: str | None  # one sentence about what went wrong last


def look_at(
    takes: list[Take],
    making: Take | None,
    waiting: tuple[str, ...],
    progress: tuple[str, int, int],
    fps: float | None,
    message: str | None,
) -> FilmView:
    """The view of these takes, of which `making` is not finished; `progress` is (stage, chunk, num_chunks)."""
    views = (
        TakeView(
            number=number,
            key=take.key,
            caption=take.prompt.caption,
            has_still=bool(take.still),
            seconds=take.seconds,
            finished=take is not making,
            stopped=take.stopped,
        )
        for number, take in enumerate(takes, start=1)
    )
    return FilmView(tuple(views), waiting, *progress, fps, message)

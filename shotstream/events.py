"""The words that the director and the engine exchange: one request per shot, a stream of events back.

Plain values only, so that the engine may live in this process, in a forked GPU worker or on another machine.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from shotstream.context import Pick
from shotstream.memory import Memory, ShotMemory


@dataclass(frozen=True)
class ShotRequest:
    """Everything that the engine needs to make one shot.

    `caption` is the composed caption (`story.compose_caption`). `num_chunks` counts the whole shot, prefix included.
    `prefix` [f, C, h, w] holds clean latents of the shot so far (whole chunks); None starts a new shot.
    `height` and `width` are pixels, None for the model's own size. `picks` are the six context frames, see `context`;
    None leaves them to the engine. With `attention` the end of the shot tells where it looked.
    """

    caption: str
    memory: Memory = field(default_factory=Memory)
    seed: int = 0
    num_chunks: int | None = None
    prefix: torch.Tensor | None = None
    height: int | None = None
    width: int | None = None
    picks: tuple[Pick, ...] | None = None
    attention: bool = False

    def only_closes(self, chunk_frames: int) -> bool:
        """Whether nothing is asked for but the memory of what was made, in chunks of so many latent frames: whoever had
        a turn for a shot that was cut should not have to wait for a second one before the next shot."""
        chunks = 0 if self.prefix is None else len(self.prefix) // chunk_frames
        return bool(chunks) and self.num_chunks == chunks


@dataclass(frozen=True)
class Progress:
    """A sign of life between chunks, at least one per denoising step: a place where a shot can be cancelled.

    Before the engine begins, a home may say that it has to wait: for the model ("load") or for a turn ("turn"), with
    the `place` in the line (how many are before it, 0 if that is not known) and the expected `wait` in seconds. Where
    GPU time is limited, the last of these tells how many seconds of the visitor's were `asked` for.
    """

    stage: str  # "load" | "turn" | "text" | "context" | "denoise" | "remember"
    chunk: int
    step: int
    place: int = 0
    wait: int | None = None
    asked: int = 0


@dataclass(frozen=True)
class Chunk:
    """`frames` [t, H, W, 3] uint8 pixels (9 for the first chunk of a shot, 12 for others at 4x time compression) and
    the clean `latents` [f, C, h, w] (CPU) they were decoded from."""

    index: int
    num_chunks: int
    frames: np.ndarray
    latents: torch.Tensor


@dataclass(frozen=True)
class ShotDone:
    """The shot is complete. `memory` is the request's memory with `shot` appended; `seconds` per stage
    ("text", "context_encode", "context_pass", "denoise", "cache_pass", "decode", "attention"). `attention`, if it was
    asked for: the share of the last chunk's attention that each of the six context frames got."""

    memory: Memory
    shot: ShotMemory
    seconds: dict[str, float]
    attention: tuple[float, ...] | None = None


Event = Progress | Chunk | ShotDone

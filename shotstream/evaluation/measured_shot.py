"""One shot made by the ordinary engine and encoded as the page does, with what it took."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from shotstream.engine import Engine
from shotstream.events import Chunk, ShotDone, ShotRequest
from shotstream.media import SegmentEncoder, enlargement
from shotstream.memory import Memory

WORLD = "A small red robot with round eyes, in a city at dusk, drawn in flat colours. "


@dataclass
class MeasuredShot:
    """Seconds: by stage, from the request to the end, to the first frames, to their encoding."""

    chunks: int
    frames: int
    size: tuple[int, int]  # height, width in pixels
    latent_size: tuple[int, int, int]  # frames of a chunk, rows, columns
    stages: dict[str, float]
    total: float
    first_pixels: float
    first_segment: float
    memory: Memory
    latents: list[torch.Tensor]
    first_data: bytes  # the first chunk's segment


def shoot(engine: Engine, request: ShotRequest, clock: Callable[[], float] = time.perf_counter) -> MeasuredShot:
    """Makes one shot, encoding every chunk as it comes."""
    encoder, first_pixels, first_segment, h264, frames = None, 0.0, 0.0, 0.0, 0
    latents, first_data = [], b""
    started = clock()
    for event in engine.shoot(request):
        now = clock()
        if isinstance(event, Chunk):
            height, width = event.frames.shape[1:3]
            encoder = encoder or SegmentEncoder(width, height, engine.model.fps, enlargement(width, height))
            data = encoder.encode(event.frames).data
            first_data = first_data or data
            h264 += clock() - now
            frames += len(event.frames)
            latents.append(event.latents)
            if event.index == 0:
                first_pixels, first_segment = now - started, clock() - started
            chunk = event
        elif isinstance(event, ShotDone):
            done = event
    return MeasuredShot(
        chunks=chunk.num_chunks,
        frames=frames,
        size=(height, width),
        latent_size=(chunk.latents.shape[0], *chunk.latents.shape[2:]),
        stages=done.seconds | {"h264": h264},
        total=clock() - started,
        first_pixels=first_pixels,
        first_segment=first_segment,
        memory=done.memory,
        latents=latents,
        first_data=first_data,
    )

"""From latents to pixels, and to what later shots may look back at.

Owns a shot's decoder state and the few frames that are kept of it. Knows neither steps nor caches.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F

from shotstream.context import stored_offsets
from shotstream.memory import ShotMemory
from shotstream.models.model import Model
from shotstream.plan import Plan
from shotstream.streams import on_stream, side_stream, to_host, wait_for

THUMBNAIL_SIZE = (48, 192)  # height, width at most


class ShotPixels:
    """Decodes a shot as it comes and keeps the few frames that later shots may look back at."""

    def __init__(self, model: Model, plan: Plan) -> None:
        self.model, self.plan = model, plan
        self.num_frames = model.shot_frames(plan.num_chunks)
        self.offsets = stored_offsets(plan.request.memory.num_frames, self.num_frames)
        self.shown = model.preview or model.vae  # whose pictures
        self.state = self.shown.start_decoding()
        self.decoded = 0
        self.stream = side_stream(model.device)
        self.clean: list[torch.Tensor] = []  # a preview's latents, for the VAE to decode when nobody waits
        self.kept: list[torch.Tensor] = []  # [3, H, W] each: the VAE's clamped floats, not rounded to 8 bits

    @contextmanager
    def after(self, ready: torch.cuda.Event | None) -> Iterator[None]:
        """Work done inside begins when `ready` has come, beside what the device does otherwise."""
        with on_stream(self.stream, ready):
            yield

    def decode(self, clean: torch.Tensor) -> tuple[np.ndarray, torch.Tensor]:
        """The next latent frames [f, C, h, w] -> [t, H, W, 3] uint8, and the latents themselves on the CPU."""
        frames, self.state = self.shown.decode_step(clean, self.state)
        if self.shown is self.model.vae:
            self._keep(frames)
        else:
            self.clean.append(clean)
        pixels, latents = to_host(as_uint8(frames)), to_host(clean)
        wait_for(self.stream)
        return pixels.numpy(), latents

    def _keep(self, frames: torch.Tensor) -> None:
        """Of the shot's next frames [t, 3, H, W] those that are kept."""
        start, self.decoded = self.decoded, self.decoded + len(frames)
        self.kept += [frames[offset - start].clone() for offset in self.offsets if start <= offset < self.decoded]

    def remember(self) -> ShotMemory:
        request = self.plan.request
        state = self.model.vae.start_decoding()
        for clean in self.clean:
            frames, state = self.model.vae.decode_step(clean, state)
            self._keep(frames)
        latents = self.model.vae.encode_frames(torch.stack(self.kept)).to(self.model.dtype).cpu()
        thumbnails = np.stack([thumbnail(frame) for frame in self.kept])
        return ShotMemory(request.caption, request.seed, self.num_frames, self.offsets, latents, thumbnails)


def as_uint8(frames: torch.Tensor) -> torch.Tensor:
    """[t, 3, H, W] in [-1, 1] -> [t, H, W, 3] uint8, where they are."""
    pixels = frames.float() * 127.5  # a tensor of its own: what follows may be in place
    return pixels.add_(127.5).round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def to_uint8(frames: torch.Tensor) -> np.ndarray:
    """[t, 3, H, W] in [-1, 1] -> [t, H, W, 3] uint8."""
    return as_uint8(frames).cpu().numpy()


def thumbnail(frame: torch.Tensor) -> np.ndarray:
    """[3, H, W] in [-1, 1] -> [h, w, 3] uint8 within `THUMBNAIL_SIZE`; small pictures stay as they are."""
    shrink = min(1.0, *(most / side for most, side in zip(THUMBNAIL_SIZE, frame.shape[-2:], strict=True)))
    if shrink < 1.0:
        size = tuple(max(1, round(side * shrink)) for side in frame.shape[-2:])
        frame = F.interpolate(frame[None].float(), size, mode="area")[0]
    return to_uint8(frame[None])[0]

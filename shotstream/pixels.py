"""From latents to pixels, and to what later shots may look back at.

Owns a shot's decoder states and the frames that are kept of it. Knows neither steps nor caches.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from shotstream.context import stored_offsets
from shotstream.memory import ShotMemory
from shotstream.models.model import Model
from shotstream.models.preview import PreviewDecoder
from shotstream.models.vae import VAE
from shotstream.plan import LONGEST_SHOT, Plan
from shotstream.streams import on_stream, to_host, wait_for

THUMBNAIL_SIZE = (48, 192)  # height, width at most
MARK = 4  # after every so many chunks a decoder's state is kept
MARKS = 2  # of them, the latest, besides the state after the last chunk


def states_kept(num_chunks: int) -> int:
    """Of a decoder, at most, while a shot of so many chunks is decoded."""
    return min(MARKS, (num_chunks - 1) // MARK) + 1


class Decoding:
    """A shot on its way through one decoder, whose state is known after the latest chunk and after a few before: who
    steers or cuts a shot goes back to what was shown last."""

    def __init__(self, decoder: VAE | PreviewDecoder) -> None:
        self.decoder = decoder
        self.chunks = 0
        self._states: dict[int, Any] = {0: decoder.start_decoding()}  # by how many chunks came before

    def step(self, clean: torch.Tensor) -> torch.Tensor:
        """The next chunk's latent frames [f, C, h, w] -> [t, 3, H, W]."""
        frames, state = self.decoder.decode_step(clean, self._states[self.chunks])
        marks = [chunks for chunks in self._states if chunks and chunks % MARK == 0][-MARKS:]
        self._states = {chunks: self._states[chunks] for chunks in (0, *marks)}
        self.chunks += 1
        self._states[self.chunks] = state
        return frames

    def back_to(self, chunks: int) -> None:
        """Forgets what came after so many chunks, and of those before as many as lie behind the latest known state."""
        self._states = {place: state for place, state in self._states.items() if place <= chunks}
        self.chunks = max(self._states)


class ShotPixels:
    """Decodes a shot as it comes and keeps the frames that later shots may look back at. What it has stays, for a
    request that goes on with the same chunks."""

    def __init__(self, model: Model, plan: Plan, stream: torch.cuda.Stream | None) -> None:
        """What is decoded is decoded on `stream`, see `streams`."""
        self.model, self.plan, self._stream = model, plan, stream
        self._shown = Decoding(model.preview or model.vae)  # whose pictures
        self._seen = Decoding(model.vae) if model.preview else self._shown  # the VAE's are remembered
        self._clean: list[torch.Tensor] = []  # latents of the chunks decoded, on the CPU
        first = plan.request.memory.num_frames
        lengths = (model.shot_frames(chunks) for chunks in range(1, LONGEST_SHOT + 1))
        # a shot may still become longer or shorter, and is then remembered by other frames
        self._asked = frozenset[int]().union(*(stored_offsets(first, length) for length in lengths))
        self._kept: dict[int, torch.Tensor] = {}  # [3, H, W] on the CPU: the VAE's clamped floats, not rounded

    @property
    def decoded(self) -> int:
        """How many chunks of the shot, from the first on, need not be decoded: if nothing comes after those that were,
        all of them."""
        return self.plan.num_chunks if len(self._clean) == self.plan.num_chunks else self._shown.chunks

    def turn_to(self, plan: Plan) -> int:
        """Goes on with the shot of another request, forgetting all that is not in its prefix: how many of its chunks
        are known from before."""
        known, same_place = 0, plan.request.memory.num_frames == self.plan.request.memory.num_frames
        if plan.request.prefix is not None and same_place:
            theirs = plan.request.prefix.cpu().split(self.model.schedule.chunk_frames)
            pairs = zip(self._clean, theirs, strict=False)
            known = sum(1 for _ in takewhile(lambda pair: _same(*pair), pairs))
        self.plan = plan
        del self._clean[known:]
        shot_frames = self.model.shot_frames(known)
        self._kept = {offset: frame for offset, frame in self._kept.items() if offset < shot_frames}
        for decoding in {self._shown, self._seen}:
            decoding.back_to(known)
        return known

    @contextmanager
    def after(self, ready: torch.cuda.Event | None) -> Iterator[None]:
        """Work done inside begins when `ready` has come, beside what the device does otherwise."""
        with on_stream(self._stream, ready):
            yield

    def decode(self, clean: torch.Tensor) -> tuple[np.ndarray, torch.Tensor]:
        """The next latent frames [f, C, h, w] -> [t, H, W, 3] uint8, and the latents themselves on the CPU."""
        frames = self._shown.step(clean)
        if self._seen is self._shown:
            self._keep(frames)
        pixels, latents = to_host(as_uint8(frames)), to_host(clean)
        wait_for(self._stream)
        self._clean[self._shown.chunks - 1 :] = [latents]
        return pixels.numpy(), latents

    def _keep(self, frames: torch.Tensor) -> None:
        """Of the latest chunk's frames [t, 3, H, W] those that may be asked for."""
        start = self.model.shot_frames(self._seen.chunks) - len(frames)
        places = [place for place in range(len(frames)) if start + place in self._asked]
        for place, frame in zip(places, frames[places].cpu(), strict=True):
            self._kept[start + place] = frame

    def unseen(self) -> range:
        """The chunks that the VAE has yet to `see` before the shot can be remembered: what was shown was a preview."""
        known = self._kept.keys() >= set(self._offsets())
        return range(0) if known else range(self._seen.chunks, len(self._clean))

    def see(self, index: int) -> None:
        """Lets the VAE decode chunk `index`, which follows those that it saw."""
        self._keep(self._seen.step(self._clean[index].to(self.model.device)))

    def remember(self) -> ShotMemory:
        """What later shots may look back at, once nothing is `unseen`."""
        model, request = self.model, self.plan.request
        num_frames, offsets = model.shot_frames(self.plan.num_chunks), self._offsets()
        frames = torch.stack([self._kept[offset] for offset in offsets]).to(model.device)
        latents = model.vae.encode_frames(frames).to(model.dtype).cpu()
        thumbnails = np.stack([thumbnail(frame) for frame in frames])
        return ShotMemory(request.caption, request.seed, num_frames, offsets, latents, thumbnails)

    def _offsets(self) -> tuple[int, ...]:
        """Places in the shot of the frames to be remembered."""
        return stored_offsets(self.plan.request.memory.num_frames, self.model.shot_frames(self.plan.num_chunks))


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


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

"""Keys and values that outlive a transformer call: the global context cache and the local context cache.

One pair of tensors holds both, context frames first, so that a chunk's attention reads one contiguous stretch. Written
in place; who writes when is the engine's business. Knows neither shots nor captions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from shotstream.context import MAX_CONTEXT_FRAMES
from shotstream.models.rope import rotate, shift_phases

if TYPE_CHECKING:
    from shotstream.models.transformer import ShotTransformer

WATCHED_QUERIES = 128  # of a chunk: enough for a mean


@dataclass(frozen=True)
class LayerWindow:
    """One layer's part of a call: where its new keys and values go, and all that its queries may attend to."""

    keys: torch.Tensor  # [B, read tokens, heads, head_dim]: a view
    values: torch.Tensor
    place: int | None = None  # of the first of this call's own tokens; None: they are the last

    def put(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Write this call's `keys` and `values` [B, tokens, heads, head_dim] in their place, in the cache's dtype;
        return everything readable."""
        place = self.keys.shape[1] - keys.shape[1] if self.place is None else self.place
        own = slice(place, place + keys.shape[1])
        self.keys[:, own].copy_(keys)
        self.values[:, own].copy_(values)
        return self.keys, self.values

    def look(self, queries: torch.Tensor, keys: torch.Tensor) -> None:
        """What a call is about to compare; nobody asks."""


@dataclass(frozen=True)
class WatchedWindow(LayerWindow):
    """A `LayerWindow` that notes in `shares` how much attention each frame gets."""

    frame_tokens: int = 1
    shares: list[torch.Tensor] = field(default_factory=list)  # [frames] each, summing to one; one entry a layer

    def look(self, queries: torch.Tensor, keys: torch.Tensor) -> None:
        """Mean over items, heads and some of the queries [B, tokens, heads, head_dim]."""
        some = queries[:, :: max(1, queries.shape[1] // WATCHED_QUERIES)].float().transpose(1, 2)  # B heads queries dim
        scores = some @ keys.float().permute(0, 2, 3, 1) / queries.shape[-1] ** 0.5
        shares = scores.softmax(-1).mean(dim=(0, 1, 2))
        self.shares.append(shares.view(-1, self.frame_tokens).sum(1))


@dataclass(frozen=True)
class JoiningWindow:
    """A `LayerWindow` for calls that carry a gradient: what was written before is joined with the new, nothing is
    written, as writing in place would break the backward pass of earlier calls."""

    keys: torch.Tensor  # [B, tokens so far, heads, head_dim]
    values: torch.Tensor

    def put(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = keys.to(self.keys.dtype), values.to(self.values.dtype)
        return torch.cat([self.keys, keys], dim=1), torch.cat([self.values, values], dim=1)

    def look(self, queries: torch.Tensor, keys: torch.Tensor) -> None:
        """As that of a `LayerWindow`."""


@dataclass(frozen=True)
class ShotCache:
    """Both caches of `batch` shots in the making: [layers, batch, (context + local frames) * frame tokens, heads,
    head_dim]."""

    keys: torch.Tensor
    values: torch.Tensor
    context_frames: int
    frame_tokens: int

    @classmethod
    def allocate(
        cls,
        transformer: ShotTransformer,
        latent_size: tuple[int, int],
        local_frames: int,
        device: torch.device,
        dtype: torch.dtype,
        batch: int = 1,
    ) -> ShotCache:
        """For calls of `transformer` on latent frames of `latent_size`, rows and columns."""
        config, frame_tokens = transformer.config, math.prod(transformer.patch_grid(*latent_size))
        tokens = (MAX_CONTEXT_FRAMES + local_frames) * frame_tokens
        shape = (config.num_layers, batch, tokens, config.num_heads, transformer.head_dim)
        # written once: memory is really ours from here on, and lack of it shows now and not in the middle of a shot
        keys, values = (torch.empty(shape, device=device, dtype=dtype).zero_() for _ in range(2))
        return cls(keys, values, MAX_CONTEXT_FRAMES, frame_tokens)

    def _window(self, layer: int, stop_frame: int, own_frame: int | None = None) -> LayerWindow:
        stop = stop_frame * self.frame_tokens
        place = None if own_frame is None else own_frame * self.frame_tokens
        return LayerWindow(self.keys[layer, :, :stop], self.values[layer, :, :stop], place)

    def context_windows(self) -> list[LayerWindow]:
        """Per layer: context frames write and attend to each other alone."""
        return [self._window(layer, self.context_frames) for layer in range(len(self.keys))]

    def chunk_windows(self, stop: int, own: int | None = None) -> list[LayerWindow]:
        """Per layer: a chunk attends to all context and to the local cache before latent frame `stop`, of which its own
        frames begin at `own`, or are the last. Repeated calls overwrite the chunk's own place; the last one before the
        next chunk is what stays."""
        own = None if own is None else self.context_frames + own
        return [self._window(layer, self.context_frames + stop, own) for layer in range(len(self.keys))]

    def watched_windows(self, stop: int, own: int | None = None) -> list[WatchedWindow]:
        """As `chunk_windows`, all noting what they see in one list, layer by layer."""
        shares: list[torch.Tensor] = []
        windows = self.chunk_windows(stop, own)
        return [WatchedWindow(w.keys, w.values, w.place, self.frame_tokens, shares) for w in windows]

    def move(self, start: int, place: int, frames: int) -> None:
        """Local frames from `start` on come to lie from `place` on, in time as well: their keys are turned to what they
        would be if they had been made there. What was there is forgotten."""
        phases = shift_phases(place - start, self.keys.shape[-1], self.keys.device)
        first, tokens = self.context_frames, self.frame_tokens
        old, new = (slice((first + at) * tokens, (first + at + frames) * tokens) for at in (start, place))
        keys = self.keys[:, :, old]
        self.keys[:, :, new] = rotate(keys.flatten(0, 1), phases).view_as(keys)
        self.values[:, :, new] = self.values[:, :, old].clone()  # the two may overlap

    def joining_windows(self, start: int) -> list[JoiningWindow]:
        """Per layer, for a gradient: a chunk beginning at latent frame `start` attends to what it would in
        `chunk_windows`, and leaves nothing behind."""
        stop = (self.context_frames + start) * self.frame_tokens
        return [
            JoiningWindow(keys[:, :stop], values[:, :stop]) for keys, values in zip(self.keys, self.values, strict=True)
        ]

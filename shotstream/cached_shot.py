"""The causal network's way to a shot, call by call: context pass, denoising calls, cache passes, and where in the
caches each of them reads and writes.

Owns one shot's caption, phases and timesteps, and what its part of the caches holds. In which order it is called, and
what becomes of the latents, is the engine's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from shotstream.context import MAX_CONTEXT_FRAMES
from shotstream.events import Progress
from shotstream.models.cache import LayerWindow, ShotCache
from shotstream.models.model import Model
from shotstream.models.rope import Phases
from shotstream.plan import Plan
from shotstream.timing import Stopwatch


class CachedShot:
    """One shot in the making, in caches that are its own for so long."""

    def __init__(self, model: Model, plan: Plan, embeds: torch.Tensor, cache: ShotCache) -> None:
        """`embeds` [captions, tokens, dim] are those of the plan's captions, the shot's own last."""
        self._model, self._schedule, self._cache = model, model.schedule, cache
        if model.device.type == "cpu":  # a GPU's norms would copy what lies side by side
            model.transformer.join()
        self._captions = model.transformer.embed_captions(embeds.to(model.device, model.dtype))
        self._caption = self._captions.last()
        self._phases = _phases(model, plan)
        timesteps = [0.0, *self._schedule.timesteps.tolist()]
        times = model.transformer.times(torch.tensor(timesteps)[:, None])
        # what each timestep does to the transformer's layers: worked out once a shot, not once a call
        self._times = {timestep: times.at(place) for place, timestep in enumerate(timesteps)}

    def see(self, context: torch.Tensor, routes: Sequence[int]) -> None:
        """Fills the global context cache: clean `context` frames [6, C, h, w] at timestep 0, each with the caption that
        its route names."""
        self._model.transformer.forward_cached(
            context[None],
            torch.zeros(1, 1),
            self._captions.routed(torch.tensor(routes, device=self._model.device)),
            self._phases.frames(0, MAX_CONTEXT_FRAMES, self._cache.frame_tokens),
            self._cache.context_windows(),
        )

    def refill(self, prefix: Sequence[torch.Tensor], watch: Stopwatch) -> Iterator[Progress]:
        """Fills the local cache from the clean chunks of the shot so far, under the caption it has now: as many as it
        holds in one pass under the chunk-wise causal mask, those beyond one by one. Of these only as many as can be
        told in what the next chunk attends to: in each layer a chunk knows of those right before it what they were a
        layer earlier."""
        schedule = self._schedule
        together = prefix[: schedule.near_chunks or schedule.max_chunks]
        frames = len(together) * schedule.chunk_frames
        chunk = torch.arange(frames, device=self._model.device) // schedule.chunk_frames
        sees_context = torch.ones(frames, MAX_CONTEXT_FRAMES, dtype=torch.bool, device=self._model.device)
        mask = torch.cat([sees_context, chunk[:, None] >= chunk], dim=1) if len(together) > 1 else None
        with watch("cache_pass"):
            self._call(torch.cat(list(together)), 0.0, 0, self._cache.chunk_windows(frames), mask)
        yield Progress("context", len(together) - 1, 0)
        told = len(self._model.transformer.blocks) * schedule.latest
        for index in range(max(len(together), len(prefix) - told), len(prefix)):
            with watch("cache_pass"):
                self.make_room(index)
                self.predict(prefix[index], 0.0, index)
            yield Progress("context", index, 0)

    def make_room(self, index: int) -> None:
        """Before chunk `index`: where more came before than it attends to, the last chunk comes to lie right before its
        own place. The shot's first stays where it is."""
        schedule, size = self._schedule, self._schedule.chunk_frames
        place = schedule.remembered(index) - 1
        if index >= schedule.max_chunks and place and not schedule.near_chunks:
            self._cache.move((schedule.remembered(index - 1) - 1) * size, (place - 1) * size, size)

    def predict(self, latents: torch.Tensor, timestep: float, index: int) -> torch.Tensor:
        """Flow [f, C, h, w] of chunk `index`, whose keys and values stay in the local cache until the next call."""
        start, stop, own = self._schedule.places(index)
        return self._call(latents, timestep, start, self._cache.chunk_windows(stop, own))

    def attention(self, clean: torch.Tensor, index: int) -> torch.Tensor:
        """[6] shares of the attention of chunk `index` that context frames get, mean over layers and heads."""
        start, stop, own = self._schedule.places(index)
        windows = self._cache.watched_windows(stop, own)
        self._call(clean, 0.0, start, windows)
        return torch.stack(windows[0].shares).mean(0)[:MAX_CONTEXT_FRAMES].cpu()

    def _call(
        self,
        latents: torch.Tensor,
        timestep: float,
        start: int,
        windows: Sequence[LayerWindow],
        frame_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Flow [f, C, h, w] of frames that are the shot's, as far as it is remembered, from frame `start` on."""
        first = MAX_CONTEXT_FRAMES + start
        return self._model.transformer.forward_cached(
            latents[None].to(self._model.dtype),
            self._times[timestep],
            self._caption,
            self._phases.frames(first, first + len(latents), self._cache.frame_tokens),
            windows,
            frame_mask,
        )[0]


def _phases(model: Model, plan: Plan) -> Phases:
    """RoPE phases of the six context frames and all frames of the shot that are in the cache at a time, for all its
    layers and steps."""
    schedule = model.schedule
    most = plan.num_chunks if schedule.near_chunks else schedule.max_chunks  # else places are used again
    local = min(plan.num_chunks, most) * schedule.chunk_frames
    shots = torch.tensor([*plan.context_shots, *[plan.rope_shot] * local])
    return model.transformer.phases(torch.arange(len(shots)), shots, plan.latent_size, model.device)

"""One request in, one shot out: the only place that knows the order of model calls.

What a shot needs comes in its `ShotRequest`, what is worth keeping leaves in `ShotDone`. The memory for the caches is
kept to be overwritten, and until another shot is begun what the latest one left is warm: a request that goes on with
the very same chunks is spared decoding and caching them once more, and any other engine comes to the same without.
Knows no files, no screens, and neither which model it drives.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch

from shotstream.ahead import pays, run_ahead
from shotstream.context import MAX_CONTEXT_FRAMES
from shotstream.errors import telling_lack_of_memory
from shotstream.events import Chunk, Event, Progress, ShotDone, ShotRequest
from shotstream.memory import Memory, ShotMemory
from shotstream.models.cache import LayerWindow, ShotCache
from shotstream.models.model import Model
from shotstream.models.rope import Phases
from shotstream.models.transformer import Captions, Times
from shotstream.pixels import ShotPixels, thumbnail
from shotstream.plan import Plan, plan_shot
from shotstream.sampler import NoiseSource, denoise, euler, guided, seeded_noise
from shotstream.streams import marked, on_stream, side_stream, to_device, wait_for
from shotstream.timing import Stopwatch


class Engine:
    """Makes shots with one model. Shots may be made turn by turn or from several threads: none sees another's."""

    def __init__(
        self,
        model: Model,
        routing: bool = True,
        policy: str = "recent",
        rebased: bool = False,
        overlap: bool | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Without `routing` context frames attend to the new shot's caption instead of their own (paper, ablation);
        `policy` is one of `context.CONTEXT_POLICIES`; `rebased` counts the shots of the discontinuity indicator anew
        from the oldest that is looked back at (the paper counts on). With `overlap` a chunk's pixels are decoded, and
        used by whoever asked for them, while the next chunk is made in a thread of its own; None: where that pays. On a
        CPU stages are timed by `clock`."""
        self.model = model
        self.routing = routing
        self.policy = policy
        self.rebased = rebased
        self.clock = clock
        self.overlap = pays(model.device) if overlap is None else overlap
        self._lock = threading.Lock()
        self._idle: ShotCache | None = self._allocate(*self._latent_size(model.height, model.width))
        self._warm: _Warm | None = None

    def shoot(self, request: ShotRequest, noise: NoiseSource | None = None) -> Iterator[Event]:
        """Make one shot: at least one `Progress` per denoising step, each `Chunk` as soon as it has pixels, and last
        `ShotDone`. Closing the iterator cancels the shot and leaves nothing behind.

        `noise` replaces what the request's seed draws. Raises `UserError` at once for a request that cannot be made,
        and in the middle of a shot for lack of memory.
        """
        return self._shoot(
            plan_shot(request, self.model, self.policy, self.rebased), noise or seeded_noise(request.seed)
        )

    def foresee(self, caption: str) -> None:
        """Encodes a caption that a shot will probably have, so that it need not wait for it; best in a thread."""
        stream = side_stream(self.model.device)
        with on_stream(stream, None):
            self.model.text.encode(caption)
        wait_for(stream)

    @torch.no_grad()
    def cast(self, picture: np.ndarray, caption: str) -> ShotMemory:
        """A picture [H, W, 3] uint8 as what the camera already saw: a shot of one frame, to be looked back at.

        Raises `UserError` for a picture of a size that no shot could have, or a blank caption.
        """
        height, width = picture.shape[:2]
        plan_shot(ShotRequest(caption, height=height, width=width), self.model)
        frame = torch.from_numpy(picture.copy()).permute(2, 0, 1).to(self.model.device, torch.float32) / 127.5 - 1
        latents = self.model.vae.encode_frames(frame[None].to(self.model.dtype)).to(self.model.dtype).cpu()
        return ShotMemory(caption, 0, 1, (0,), latents, thumbnail(frame)[None])

    @torch.no_grad()
    def _shoot(self, plan: Plan, noise: NoiseSource) -> Iterator[Event]:
        cache, warm = self._take(plan)
        try:
            with telling_lack_of_memory(f"on {self.model.device} to go on with this shot"):
                yield from self._show(plan, noise, cache, warm)
        except Exception:
            warm = None  # it may take the memory that lacked
            raise
        finally:
            self._give(cache, warm)

    def _show(self, plan: Plan, noise: NoiseSource, cache: ShotCache, warm: _Warm) -> Iterator[Event]:
        """Pixels of what is made, while the next chunk is being made."""
        watch, pixels = Stopwatch(self.model.device, self.clock), warm.pixels
        made, attention = self._make_shot(plan, noise, cache, warm, watch), None
        if self.overlap:
            made = run_ahead(made, lambda item: isinstance(item, _Clean))
        with closing(made):
            for item in made:
                match item:
                    case _Clean(index) if index < pixels.decoded:
                        pass
                    case _Clean(index, latents, ready):
                        with pixels.after(ready), watch("decode"):
                            frames, kept = pixels.decode(latents)
                        if index < plan.prefix_chunks:
                            yield Progress("context", index, 0)
                        else:
                            yield Chunk(index, plan.num_chunks, frames, kept)
                    case _Looked(shares):
                        attention = tuple(shares.tolist())
                    case _:
                        yield item
        with pixels.after(None), watch("context_encode"):  # nobody waits for it: the last pixels are out
            memory = pixels.remember()
        yield ShotDone(Memory((*plan.request.memory.shots, memory)), memory, watch.seconds(), attention)

    @torch.no_grad()
    def _make_shot(
        self, plan: Plan, noise: NoiseSource, cache: ShotCache, warm: _Warm, watch: Stopwatch
    ) -> Iterator[_Made]:
        """Everything but pixels. Nothing inside a chunk waits for the device, and nothing of a chunk's size but what
        the network needs is allocated."""
        model, schedule = self.model, self.model.schedule
        filled, warm.filled = warm.filled is not None, None

        with watch("text"):
            embeds = torch.stack([model.text.encode(caption) for caption in plan.captions])
        yield Progress("text", 0, 0)
        if model.guidance is not None and not plan.prefix_chunks:
            yield from self._make_whole_shot(plan, noise, embeds.to(model.device, model.dtype), watch)
            return

        with watch("context_pass"):
            if model.device.type == "cpu":  # a GPU's norms would copy what lies side by side
                model.transformer.join()
            captions = model.transformer.embed_captions(embeds.to(model.device, model.dtype))
            phases = self._phases(plan)
            if not filled:
                self._context_pass(plan, captions, phases, cache)
            shot = _ShotInProgress(captions.last(), phases, cache, self._times())
        yield Progress("context", 0, 0)

        prefix = [] if plan.request.prefix is None else plan.request.prefix.split(schedule.chunk_frames)
        prefix = [clean.to(model.device, model.dtype) for clean in prefix]
        for index, clean in enumerate(prefix):
            yield _Clean(index, clean, marked(model.device))
        if prefix and filled and plan.prefix_chunks < plan.num_chunks:
            with watch("cache_pass"):  # that its last chunk was spared
                self._predict(shot, prefix[-1], 0.0, plan.prefix_chunks - 1)
        elif prefix and not filled and (plan.prefix_chunks < plan.num_chunks or plan.request.attention):
            yield from self._refill(shot, prefix, watch)
            filled = True

        clean = prefix[-1] if prefix else None
        ready = None
        shape = (schedule.chunk_frames, model.vae.latent_channels, *plan.latent_size)
        for index in range(plan.prefix_chunks, plan.num_chunks):
            if ready is not None:
                ready.synchronize()  # the device is busy with the cache pass, and no more than a chunk behind
            self._make_room(shot, index)
            estimates = denoise(
                lambda noisy, timestep, index=index: self._predict(shot, noisy, timestep, index),
                lambda step, index=index: to_device(noise(index, step, shape).float(), model.device),
                schedule,
            )
            for step in range(len(schedule.steps)):
                with watch("denoise"):
                    latents = next(estimates)
                yield Progress("denoise", index, step)
            clean = latents.to(model.dtype)
            ready = marked(model.device)
            yield _Clean(index, clean, ready)
            if index + 1 < plan.num_chunks:  # nobody reads what the last chunk would leave behind
                with watch("cache_pass"):
                    self._predict(shot, clean, 0.0, index)

        if plan.request.attention and plan.context_latents is not None:
            with watch("attention"):
                shares = self._attention(shot, clean, plan.num_chunks - 1)
            yield _Looked(shares)
        if filled or not prefix:
            warm.filled = plan

    def _make_whole_shot(
        self, plan: Plan, noise: NoiseSource, embeds: torch.Tensor, watch: Stopwatch
    ) -> Iterator[_Made]:
        """The teacher's way: all chunks at once, everything seeing everything, with guidance; no caches."""
        model, schedule, guidance = self.model, self.model.schedule, self.model.guidance
        place = {"device": model.device, "dtype": model.dtype}
        negative = model.text.encode(guidance.negative_prompt).to(**place) if guidance.negative_prompt else None
        negative = torch.zeros_like(embeds[0]) if negative is None else negative
        context = self._context(plan)
        frames = plan.num_chunks * schedule.chunk_frames
        routes = torch.tensor([[*self._routes(plan), *[len(plan.captions) - 1] * frames]], device=model.device)
        shots = torch.tensor([[*plan.context_shots, *[plan.rope_shot] * frames]], device=model.device)
        positions = torch.arange(shots.shape[1], device=model.device)

        def flow(x: torch.Tensor, timestep: float) -> torch.Tensor:
            sequence = torch.cat([context, x.to(model.dtype)])[None]
            time = torch.full((1, 1), timestep, device=model.device)
            told, untold = (
                model.transformer(sequence, time, captions, route, positions, shots)[0, MAX_CONTEXT_FRAMES:]
                for captions, route in ((embeds[None], routes), (negative[None, None], torch.zeros_like(routes)))
            )
            return guided(told, untold, guidance.scale, untold)

        shape = (schedule.chunk_frames, model.vae.latent_channels, *plan.latent_size)
        latents = torch.cat([noise(index, 0, shape) for index in range(plan.num_chunks)]).to(model.device)
        path = euler(flow, latents, schedule.shift, guidance.steps)
        for step in range(guidance.steps):
            with watch("denoise"):
                latents = next(path)
            yield Progress("denoise", 0, step)
        for index, clean in enumerate(latents.to(model.dtype).split(schedule.chunk_frames)):
            yield _Clean(index, clean, marked(model.device))

    def _times(self) -> dict[float, Times]:
        """What each timestep of a shot does to the transformer's layers: worked out once a shot, not once a call."""
        timesteps = [0.0, *self.model.schedule.timesteps.tolist()]
        times = self.model.transformer.times(torch.tensor(timesteps)[:, None])
        return {timestep: times.at(place) for place, timestep in enumerate(timesteps)}

    def _context(self, plan: Plan) -> torch.Tensor:
        """[6, C, h, w] of clean context frames; exact zeros before the first shot."""
        model = self.model
        if plan.context_latents is not None:
            return plan.context_latents.to(model.device, model.dtype)
        shape = (MAX_CONTEXT_FRAMES, model.vae.latent_channels, *plan.latent_size)
        return torch.zeros(shape, device=model.device, dtype=model.dtype)

    def _routes(self, plan: Plan) -> Sequence[int]:
        """Which of the plan's captions each context frame attends to."""
        return plan.context_captions if self.routing else [len(plan.captions) - 1] * MAX_CONTEXT_FRAMES

    def _phases(self, plan: Plan) -> Phases:
        """RoPE phases of the six context frames and all frames of the shot that are in the cache at a time, for all its
        layers and steps."""
        schedule = self.model.schedule
        most = plan.num_chunks if schedule.near_chunks else schedule.max_chunks  # else places are used again
        local = min(plan.num_chunks, most) * schedule.chunk_frames
        shots = torch.tensor([*plan.context_shots, *[plan.rope_shot] * local])
        return self.model.transformer.phases(torch.arange(len(shots)), shots, plan.latent_size, self.model.device)

    def _context_pass(self, plan: Plan, captions: Captions, phases: Phases, cache: ShotCache) -> None:
        """Fill the global context cache: clean context frames at timestep 0, each with its own shot's caption."""
        self.model.transformer.forward_cached(
            self._context(plan)[None],
            torch.zeros(1, 1),
            captions.routed(torch.tensor(self._routes(plan), device=self.model.device)),
            phases.frames(0, MAX_CONTEXT_FRAMES, cache.frame_tokens),
            cache.context_windows(),
        )

    def _refill(self, shot: _ShotInProgress, prefix: Sequence[torch.Tensor], watch: Stopwatch) -> Iterator[Progress]:
        """Fill the local cache from the clean chunks of the shot so far, under the caption it has now: as many as it
        holds in one pass under the chunk-wise causal mask, those beyond one by one. Of these only as many as can be
        told in what the next chunk attends to: in each layer a chunk knows of those right before it what they were a
        layer earlier."""
        schedule = self.model.schedule
        together = prefix[: schedule.near_chunks or schedule.max_chunks]
        frames = len(together) * schedule.chunk_frames
        chunk = torch.arange(frames, device=self.model.device) // schedule.chunk_frames
        sees_context = torch.ones(frames, MAX_CONTEXT_FRAMES, dtype=torch.bool, device=self.model.device)
        mask = torch.cat([sees_context, chunk[:, None] >= chunk], dim=1) if len(together) > 1 else None
        with watch("cache_pass"):
            self._call(shot, torch.cat(list(together)), 0.0, 0, shot.cache.chunk_windows(frames), mask)
        yield Progress("context", len(together) - 1, 0)
        told = len(self.model.transformer.blocks) * schedule.latest
        for index in range(max(len(together), len(prefix) - told), len(prefix)):
            with watch("cache_pass"):
                self._make_room(shot, index)
                self._predict(shot, prefix[index], 0.0, index)
            yield Progress("context", index, 0)

    def _make_room(self, shot: _ShotInProgress, index: int) -> None:
        """Before chunk `index`: where more came before than it attends to, the last chunk comes to lie right before its
        own place. The shot's first stays where it is."""
        schedule, size = self.model.schedule, self.model.schedule.chunk_frames
        place = schedule.remembered(index) - 1
        if index >= schedule.max_chunks and place and not schedule.near_chunks:
            shot.cache.move((schedule.remembered(index - 1) - 1) * size, (place - 1) * size, size)

    def _predict(self, shot: _ShotInProgress, latents: torch.Tensor, timestep: float, index: int) -> torch.Tensor:
        """Flow [f, C, h, w] of chunk `index`, whose keys and values stay in the local cache until the next call."""
        start, stop, own = self._places(index)
        return self._call(shot, latents, timestep, start, shot.cache.chunk_windows(stop, own))

    def _attention(self, shot: _ShotInProgress, clean: torch.Tensor, index: int) -> torch.Tensor:
        """[6] shares of the attention of chunk `index` that context frames get, mean over layers and heads."""
        start, stop, own = self._places(index)
        windows = shot.cache.watched_windows(stop, own)
        self._call(shot, clean, 0.0, start, windows)
        return torch.stack(windows[0].shares).mean(0)[:MAX_CONTEXT_FRAMES].cpu()

    def _places(self, index: int) -> tuple[int, int, int]:
        """In latent frames: where chunk `index` is in time, up to where the local cache is read, and where in it the
        chunk's own place is. Attention does not care in which order the cache holds what is near."""
        schedule = self.model.schedule
        size, near, attended = schedule.chunk_frames, schedule.near_chunks, schedule.remembered(index)
        if not near:
            return (attended - 1) * size, attended * size, (attended - 1) * size
        own = index if index < near else 1 + (index - 1) % (near - 1)
        return index * size, attended * size, own * size

    def _call(
        self,
        shot: _ShotInProgress,
        latents: torch.Tensor,
        timestep: float,
        start: int,
        windows: Sequence[LayerWindow],
        frame_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Flow [f, C, h, w] of frames that are the shot's, as far as it is remembered, from frame `start` on."""
        first = MAX_CONTEXT_FRAMES + start
        return self.model.transformer.forward_cached(
            latents[None].to(self.model.dtype),
            shot.times[timestep],
            shot.caption,
            shot.phases.frames(first, first + len(latents), shot.cache.frame_tokens),
            windows,
            frame_mask,
        )[0]

    def _latent_size(self, height: int, width: int) -> tuple[int, int]:
        return height // self.model.vae.spatial_factor, width // self.model.vae.spatial_factor

    def _allocate(self, height: int, width: int) -> ShotCache:
        transformer, schedule = self.model.transformer, self.model.schedule
        rows, columns = transformer.patch_grid(height, width)
        with telling_lack_of_memory(f"on {self.model.device} for the caches of a shot of {rows}x{columns} patches"):
            return ShotCache.allocate(
                layers=transformer.config.num_layers,
                heads=transformer.config.num_heads,
                head_dim=transformer.head_dim,
                context_frames=MAX_CONTEXT_FRAMES,
                local_frames=schedule.max_chunks * schedule.chunk_frames,
                frame_tokens=rows * columns,
                device=self.model.device,
                dtype=self.model.dtype,
            )

    def _take(self, plan: Plan) -> tuple[ShotCache, _Warm]:
        """A place for the caches of a shot, and what is known of it already."""
        rows, columns = self.model.transformer.patch_grid(*plan.latent_size)
        with self._lock:
            cache, self._idle = self._idle, None
            warm, self._warm = self._warm, None
        known = warm.pixels.turn_to(plan) if warm else 0
        if not known:
            warm = None
        if cache is None or cache.frame_tokens != rows * columns:
            del cache  # of another size: let it go before a new one is asked for
            cache, warm = self._allocate(*plan.latent_size), None
        if warm is None:
            return cache, _Warm(ShotPixels(self.model, plan))
        if not (warm.filled and known == plan.prefix_chunks == warm.filled.num_chunks and _same(warm.filled, plan)):
            warm.filled = None
        return cache, warm

    def _give(self, cache: ShotCache, warm: _Warm | None) -> None:
        """Keep one for the next shot; those that simultaneous shots had besides are freed."""
        with self._lock:
            self._idle, self._warm = cache, warm


@dataclass
class _Warm:
    """What a shot left, as far as it came. `filled` is the plan whose chunks, all, are in the caches, the last one as
    it was before it was clean."""

    pixels: ShotPixels
    filled: Plan | None = None


def _same(one: Plan, other: Plan) -> bool:
    """Do two shots have the same caption and look back at the same?"""
    a, b = one.context_latents, other.context_latents
    same_latents = a is b or (a is not None and b is not None and a.dtype == b.dtype and torch.equal(a, b))
    return same_latents and all(
        getattr(one, name) == getattr(other, name)
        for name in ("latent_size", "captions", "context_shots", "context_captions", "rope_shot")
    )


@dataclass(frozen=True)
class _ShotInProgress:
    caption: Captions  # of the shot itself
    phases: Phases
    cache: ShotCache
    times: dict[float, Times]


@dataclass(frozen=True)
class _Clean:
    """A chunk's clean `latents` [f, C, h, w] on the device, which has them once `ready` has come."""

    index: int
    latents: torch.Tensor
    ready: torch.cuda.Event | None


@dataclass(frozen=True)
class _Looked:
    shares: torch.Tensor  # [6], see `ShotDone.attention`


_Made = Progress | _Clean | _Looked

"""One request in, one shot out: the only place that knows the order of model calls.

What a shot needs comes in its `ShotRequest`, what is worth keeping leaves in `ShotDone`. The memory for the caches is
kept to be overwritten, and until another shot is begun what the latest one left is warm: a request that goes on with
the very same chunks is spared decoding and caching them once more, and any other engine comes to the same without.
Knows no files, no screens, and neither which model it drives.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch

from shotstream.ahead import Overlap, run_ahead, what_pays
from shotstream.cached_shot import CachedShot
from shotstream.context import MAX_CONTEXT_FRAMES
from shotstream.errors import telling_lack_of_memory
from shotstream.events import Chunk, Event, Progress, ShotDone, ShotRequest
from shotstream.memory import Memory, ShotMemory
from shotstream.models.cache import ShotCache
from shotstream.models.model import Model
from shotstream.pixels import ShotPixels, thumbnail
from shotstream.plan import Plan, plan_shot
from shotstream.sampler import NoiseSource, denoise, seeded_noise
from shotstream.streams import marked, on_stream, side_stream, to_device, wait_for
from shotstream.timing import Stopwatch
from shotstream.whole_shot import denoised


class Engine:
    """Makes shots with one model. Shots may be made turn by turn or from several threads: none sees another's."""

    def __init__(
        self,
        model: Model,
        routing: bool = True,
        policy: str = "recent",
        rebased: bool = False,
        overlap: Overlap | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Without `routing` context frames attend to the new shot's caption instead of their own (paper, ablation);
        `policy` is one of `context.CONTEXT_POLICIES`; `rebased` counts the shots of the discontinuity indicator anew
        from the oldest that is looked back at (the paper counts on). `overlap` is what happens to a chunk while the
        next one is made, None: what pays here. On a CPU stages are timed by `clock`."""
        self.model = model
        self.routing = routing
        self.policy = policy
        self.rebased = rebased
        self.clock = clock
        self.overlap = what_pays(model.device) if overlap is None else overlap
        # one of each for good: memory that was used in one stream is not there for another
        self._pixel_stream, self._text_stream = side_stream(model.device), side_stream(model.device)
        self._lock = threading.Lock()
        self._idle: ShotCache | None = self._allocate(model.latent_size(model.height, model.width))
        self._warm: _Warm | None = None

    def shoot(self, request: ShotRequest, noise: NoiseSource | None = None) -> Iterator[Event]:
        """Make one shot: at least one `Progress` per denoising step, each `Chunk` as soon as it has pixels, and last
        `ShotDone`. Closing the iterator cancels the shot and leaves nothing behind.

        `noise` replaces what the request's seed draws. Raises `UserError` at once for a request that cannot be made,
        and in the middle of a shot for lack of memory.
        """
        plan = plan_shot(request, self.model, self.policy, self.rebased)
        events = self._shoot(plan, noise or seeded_noise(request.seed))
        return run_ahead(events, lambda event: isinstance(event, Chunk)) if self.overlap is Overlap.USE else events

    def foresee(self, caption: str) -> None:
        """Encodes a caption that a shot will probably have, so that it need not wait for it; best in a thread. Not on a
        small card: beside a shot there is no room for a block of the text encoder."""
        if self.model.text.streamed:
            return
        with on_stream(self._text_stream, None):
            self.model.text.encode(caption)
        wait_for(self._text_stream)

    @torch.no_grad()
    def cast(self, picture: np.ndarray, caption: str) -> ShotMemory:
        """A picture [H, W, 3] uint8 as what the camera already saw: a shot of one frame, to be looked back at.

        Raises `UserError` for a picture of a size that no shot could have, a blank caption, or lack of memory.
        """
        height, width = picture.shape[:2]
        plan_shot(ShotRequest(caption, height=height, width=width), self.model)
        with telling_lack_of_memory(f"on {self.model.device} to look at this picture"):
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
        if self.overlap is Overlap.PIXELS:
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
        for index in pixels.unseen():  # nobody waits for it: the last pixels are out
            with pixels.after(None), watch("context_encode"):
                pixels.see(index)
            yield Progress("remember", index, 0)
        with pixels.after(None), watch("context_encode"):
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
        context = self._context(plan)
        routes = plan.context_captions if self.routing else [len(plan.captions) - 1] * MAX_CONTEXT_FRAMES
        if model.guidance is not None and not plan.prefix_chunks:
            path = denoised(model, plan, embeds, context, routes, noise)
            for step in range(model.guidance.steps):
                with watch("denoise"):
                    latents = next(path)
                yield Progress("denoise", 0, step)
            for index, clean in enumerate(latents.to(model.dtype).split(schedule.chunk_frames)):
                yield _Clean(index, clean, marked(model.device))
            return

        with watch("context_pass"):
            shot = CachedShot(model, plan, embeds, cache)
            if not filled:
                shot.see(context, routes)
        yield Progress("context", 0, 0)

        prefix = [] if plan.request.prefix is None else plan.request.prefix.split(schedule.chunk_frames)
        prefix = [clean.to(model.device, model.dtype) for clean in prefix]
        for index, clean in enumerate(prefix):
            yield _Clean(index, clean, marked(model.device))
        if prefix and filled and plan.prefix_chunks < plan.num_chunks:
            with watch("cache_pass"):  # that its last chunk was spared
                shot.predict(prefix[-1], 0.0, plan.prefix_chunks - 1)
        elif prefix and not filled and (plan.prefix_chunks < plan.num_chunks or plan.request.attention):
            yield from shot.refill(prefix, watch)
            filled = True

        clean = prefix[-1] if prefix else None
        ready = None
        shape = (schedule.chunk_frames, model.vae.latent_channels, *plan.latent_size)
        for index in range(plan.prefix_chunks, plan.num_chunks):
            if ready is not None:
                ready.synchronize()  # the device is busy with the cache pass, and no more than a chunk behind
            shot.make_room(index)
            estimates = denoise(
                lambda noisy, timestep, index=index: shot.predict(noisy, timestep, index),
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
                    shot.predict(clean, 0.0, index)

        if plan.request.attention and plan.context_latents is not None:
            with watch("attention"):
                shares = shot.attention(clean, plan.num_chunks - 1)
            yield _Looked(shares)
        if filled or not prefix:
            warm.filled = plan

    def _context(self, plan: Plan) -> torch.Tensor:
        """[6, C, h, w] of clean context frames; exact zeros before the first shot."""
        model = self.model
        if plan.context_latents is not None:
            return plan.context_latents.to(model.device, model.dtype)
        shape = (MAX_CONTEXT_FRAMES, model.vae.latent_channels, *plan.latent_size)
        return torch.zeros(shape, device=model.device, dtype=model.dtype)

    def _allocate(self, latent_size: tuple[int, int]) -> ShotCache:
        transformer, schedule = self.model.transformer, self.model.schedule
        rows, columns = transformer.patch_grid(*latent_size)
        with telling_lack_of_memory(f"on {self.model.device} for the caches of a shot of {rows}x{columns} patches"):
            frames = schedule.max_chunks * schedule.chunk_frames
            return ShotCache.allocate(transformer, latent_size, frames, self.model.device, self.model.dtype)

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
            cache, warm = self._allocate(plan.latent_size), None
        if warm is None:
            return cache, _Warm(ShotPixels(self.model, plan, self._pixel_stream))
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
class _Clean:
    """A chunk's clean `latents` [f, C, h, w] on the device, which has them once `ready` has come."""

    index: int
    latents: torch.Tensor
    ready: torch.cuda.Event | None


@dataclass(frozen=True)
class _Looked:
    shares: torch.Tensor  # [6], see `ShotDone.attention`


_Made = Progress | _Clean | _Looked

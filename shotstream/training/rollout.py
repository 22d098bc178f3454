"""The student's own rollout: a batch of shots made chunk by chunk through the engine's caches, with a gradient.

The same transformer calls, caches and denoising loop as in `engine`, for many shots at once. A gradient flows through
one denoising step, the same for all chunks; all passes that fill caches are without (paper section 3.4). Knows no
losses and no data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor

from shotstream.context import MAX_CONTEXT_FRAMES
from shotstream.models.cache import ShotCache
from shotstream.models.transformer import ShotTransformer
from shotstream.sampler import Schedule, denoise
from shotstream.training.batches import ShotBatch

Noise = Callable[[int, int], Tensor]
"""(chunk, step) -> float32 [B, f, C, h, w]."""


def roll_out(
    transformer: ShotTransformer,
    batch: ShotBatch,
    embeds: Tensor,  # [N, text_len, text_dim] of the batch's captions
    schedule: Schedule,
    noise: Noise,
    last_step: int | None = None,
) -> Tensor:
    """Clean latents [B, F, C, h, w] of the batch's shots, as the engine would make them.

    Every chunk is denoised up to step `last_step` (the schedule's last by default) and taken as it then is; with
    gradients enabled they flow through that step alone. Where a caption changes in mid-shot the local cache is filled
    anew under the new one, as by the engine. The batch's target gives only the shape.
    """
    last_step = len(schedule.steps) - 1 if last_step is None else last_step
    target = batch.target
    latent_size = (target.shape[-2], target.shape[-1])
    cache = ShotCache.allocate(transformer, latent_size, target.shape[1], target.device, target.dtype, len(target))
    phases = batch.phases(transformer)
    tokens, size = cache.frame_tokens, schedule.chunk_frames
    wants_gradient = torch.is_grad_enabled()
    with torch.no_grad():
        captions = transformer.embed_captions(embeds)
        transformer.forward_cached(
            batch.context,
            torch.zeros(1, 1),
            captions.routed(batch.context_caption.flatten()),
            phases.frames(0, MAX_CONTEXT_FRAMES, tokens),
            cache.context_windows(),
        )
    # caption keys and values are the transformer's own work, so a step with a gradient computes them once more
    live = transformer.embed_captions(embeds) if wants_gradient else captions

    def predict(noisy: Tensor, timestep: float, chunk: int, gradient: bool, told: int | None = None) -> Tensor:
        """The flow of `chunk` under its own caption, or that of the chunk `told`."""
        start = chunk * size
        frame = start if told is None else told * size
        windows = cache.joining_windows(start) if gradient else cache.chunk_windows(start + size)
        with torch.set_grad_enabled(gradient):
            return transformer.forward_cached(
                noisy,
                torch.full((1, 1), timestep),
                (live if gradient else captions).routed(batch.caption[:, frame]),
                phases.frames(MAX_CONTEXT_FRAMES + start, MAX_CONTEXT_FRAMES + start + size, tokens),
                windows,
            )

    num_chunks = batch.target.shape[1] // size
    last_timestep = schedule.timesteps.tolist()[last_step]
    chunks = []
    for chunk in range(num_chunks):
        if chunk and not torch.equal(batch.caption[:, chunk * size], batch.caption[:, (chunk - 1) * size]):
            if wants_gradient:  # blocks that are run again in the backward pass must find what earlier chunks read
                cache = replace(cache, keys=cache.keys.clone(), values=cache.values.clone())
            for earlier, clean in enumerate(chunks):
                predict(clean.detach(), 0.0, earlier, gradient=False, told=chunk)
        estimates = denoise(
            lambda noisy, t, c=chunk: predict(noisy, t, c, gradient=wants_gradient and t == last_timestep),
            lambda step, c=chunk: noise(c, step),
            schedule,
        )
        clean = next(islice(estimates, last_step, None))
        chunks.append(clean)
        if chunk + 1 < num_chunks:
            predict(clean.detach(), 0.0, chunk, gradient=False)
    return torch.cat(chunks, dim=1)


def drawn_noise(batch: ShotBatch, chunk_frames: int) -> Noise:
    """Fresh noise from torch's own generator."""
    shape = (len(batch.target), chunk_frames, *batch.target.shape[2:])
    return lambda chunk, step: torch.randn(shape, device=batch.target.device)

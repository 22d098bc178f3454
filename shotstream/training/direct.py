"""The short way to a causal student: flow matching on real shots under the mask of cached inference, no teacher.

One masked forward per shot stands for the engine's calls: six context frames, the shot's clean chunks, and the same
chunks again, noisy, each with a noise level of its own. Half of the noise levels are the sampler's own few, which is
where the model will be asked. The text encoder is trained jointly.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import Module

from shotstream.context import MAX_CONTEXT_FRAMES
from shotstream.sampler import Schedule, add_noise
from shotstream.training.batches import ShotBatch, ShotDealer
from shotstream.training.dmd import flow_loss
from shotstream.training.learner import Learner
from shotstream.training.loop import run_stage
from shotstream.training.recipe import DirectRecipe
from shotstream.training.teacher import character_weight
from shotstream.training.trainee import Trainee, embed, embed_frozen, hide_words


def train(
    student: Trainee,
    dealer: ShotDealer,
    schedule: Schedule,
    recipe: DirectRecipe,
    folder: Path,
    accelerator: Accelerator,
    look: Callable[[Trainee, int], str] | None = None,
) -> Trainee:
    """Train or resume in `folder`; returns the student with averaged weights."""
    learner = Learner(accelerator, student, recipe.course)

    def take_step(step: int, rng: random.Random) -> dict[str, float]:
        batch = dealer.deal(recipe.course, step, rng, accelerator)
        return {"flow": learner.update(learner.module(loss_of, batch, schedule, recipe), step)}

    seen = look and partial(learner.look, look)
    run_stage("direct", folder, recipe.course, accelerator, {"student": learner}, take_step, seen)
    return learner.finish()


def loss_of(
    student: Trainee, batch: ShotBatch, schedule: Schedule, recipe: DirectRecipe, frozen_text: Module | None = None
) -> Tensor:
    """Flow-matching loss, one noise level per chunk, the character's latent pixels weighed up. Captions are embedded by
    the student's own text encoder, or by `frozen_text`.

    Where a caption changes in mid-shot the engine fills its local cache anew under the new one, so there a pass learns
    from the frames of one caption, and what they look back at is told that caption, too."""
    size, frames = batch.target.shape[:2]
    chunk_frames = schedule.chunk_frames
    sigma = draw_sigmas((size, frames // chunk_frames), schedule, recipe.sampler_levels)
    sigma = sigma.repeat_interleave(chunk_frames, dim=1).to(batch.target.device)  # B F
    noise = torch.randn_like(batch.target)
    noisy = add_noise(batch.target, noise, sigma[..., None, None, None])
    tokens = hide_words(batch.tokens, recipe.unknown_words)
    embeds = embed_frozen(frozen_text, tokens) if frozen_text else embed(student.text_encoder, tokens)
    told = batch.caption.gather(1, torch.randint(frames, (size, 1)).to(batch.caption.device))
    flow = teacher_forced_flow(student, batch, noisy, 1000.0 * sigma, embeds, told, recipe.history_noise, chunk_frames)
    weight = character_weight(batch, recipe.character_weight) * (batch.caption == told)[..., None, None, None]
    return flow_loss(flow, batch.target, noise, weight / weight.mean())


def teacher_forced_flow(
    student: Trainee,
    batch: ShotBatch,
    noisy: Tensor,
    timestep: Tensor,
    embeds: Tensor,
    told: Tensor,
    history_noise: float,
    chunk_frames: int,
) -> Tensor:
    """Flow [B, F, C, h, w] of all chunks at once, each looking back at clean chunks instead of noisy ones, which are
    told the captions `told` [B, 1].

    Context and clean chunks get a little noise of random deviation up to `history_noise`, against drift.
    """
    clean_frames = batch.target.shape[1] - chunk_frames
    history = torch.cat([batch.context, batch.target[:, :clean_frames]], dim=1)
    deviation = history_noise * torch.rand(len(history), 1, 1, 1, 1, device=history.device)
    fresh = deviation * torch.randn_like(history)
    history = torch.where(history == 0, history, history + fresh)  # a first shot looks back at exact zeros
    past = history.shape[1]
    positions, mask = teacher_forced_layout(clean_frames + chunk_frames, chunk_frames)
    out = student.transformer(
        torch.cat([history, noisy], dim=1),
        torch.cat([timestep.new_zeros(len(timestep), past), timestep], dim=1),
        embeds[None],
        torch.cat([batch.context_caption, told.expand(-1, clean_frames), batch.caption], dim=1),
        positions.to(noisy.device),
        torch.cat([batch.context_shot, batch.shot[:, None].expand(-1, 2 * clean_frames + chunk_frames)], dim=1),
        mask.to(noisy.device),
    )
    return out[:, past:]


def teacher_forced_layout(frames: int, chunk_frames: int) -> tuple[Tensor, Tensor]:
    """Positions [n] and mask [n, n] of [6 context frames | clean chunks but the last | noisy chunks].

    Context sees context; a chunk sees the context, the clean chunks before it and itself, so that a noisy chunk sees
    exactly what it would read from the caches.
    """
    clean = frames - chunk_frames
    parts = [torch.arange(MAX_CONTEXT_FRAMES), *(MAX_CONTEXT_FRAMES + torch.arange(n) for n in (clean, frames))]
    positions = torch.cat(parts)
    kind = torch.tensor([0] * MAX_CONTEXT_FRAMES + [1] * clean + [2] * frames)
    chunk = (positions - MAX_CONTEXT_FRAMES).div(chunk_frames, rounding_mode="floor")
    query, key = chunk[:, None], chunk[None, :]
    is_context, is_clean, is_noisy = (kind[None, :] == k for k in range(3))
    mask = is_context.expand(len(kind), -1).clone()
    mask |= (kind[:, None] == 1) & is_clean & (key <= query)
    mask |= (kind[:, None] == 2) & is_clean & (key < query)
    mask |= (kind[:, None] == 2) & is_noisy & (key == query)
    return positions, mask


def draw_sigmas(shape: tuple[int, int], schedule: Schedule, sampler_levels: float) -> Tensor:
    """Noise levels [B, K]: the sampler's own for a share `sampler_levels`, else logit-normal ones on the shifted
    scale."""
    levels = schedule.sigma(schedule.timesteps)
    own = levels[torch.randint(len(levels), shape)]
    u = torch.randn(shape).sigmoid()
    free = schedule.shift * u / (1 + (schedule.shift - 1) * u)
    return torch.where(torch.rand(shape) < sampler_levels, own, free)

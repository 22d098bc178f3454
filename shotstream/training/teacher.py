"""Stage 1: the bidirectional next-shot teacher (paper section 3.2, spec sections 7 and 8).

Flow matching on whole shots that see their six context frames, one noise level for all tokens, captions routed to
the frames they describe; context and text are dropped now and then. Ends with the teacher's own sampler.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from shotstream.models.transformer import ShotTransformer
from shotstream.sampler import Schedule, add_noise, euler, guided
from shotstream.training.batches import ShotBatch, ShotDealer
from shotstream.training.dmd import flow_loss
from shotstream.training.flows import bidirectional_flow
from shotstream.training.learner import Learner
from shotstream.training.loop import run_stage
from shotstream.training.recipe import TeacherRecipe
from shotstream.training.trainee import Trainee, embed, embed_frozen, hide_words


def train(
    teacher: Trainee,
    frozen_text,
    dealer: ShotDealer,
    schedule: Schedule,
    recipe: TeacherRecipe,
    folder: Path,
    accelerator: Accelerator,
    look: Callable[[Trainee, int], str] | None = None,
) -> Trainee:
    """Train or resume in `folder`; returns the teacher with averaged weights. `frozen_text` embeds captions unless
    the teacher has a text encoder of its own, which then is trained with it."""
    if recipe.trained == "self_attention":
        teacher.requires_grad_(False)
        for block in teacher.transformer.blocks:
            block.self_attn.requires_grad_(True)
    learner = Learner(accelerator, teacher, recipe.course)

    def take_step(step: int, rng: random.Random) -> dict[str, float]:
        batch = dealer.deal(recipe.course, step, rng, accelerator)
        embeds = None if frozen_text is None else embed_frozen(frozen_text, batch.tokens)
        return {"flow": learner.update(learner.module(loss_of, batch, embeds, schedule, recipe), step)}

    seen = look and partial(learner.look, look)
    run_stage("teacher", folder, recipe.course, accelerator, {"teacher": learner}, take_step, seen)
    return learner.finish()


def timestep_weights(schedule: Schedule) -> Tensor:
    """[1000] weight of each entry of the shifted grid: a bell around timestep 500 less its least value, mean one."""
    bell = torch.exp(-2 * ((1000 * schedule.sigmas - 500) / 1000) ** 2)
    bell = bell - bell.min()
    return bell / bell.mean()


def loss_of(
    teacher: Trainee,
    batch: ShotBatch,
    embeds: Tensor | None,
    schedule: Schedule,
    recipe: TeacherRecipe,
) -> Tensor:
    """Flow-matching loss of one batch; `embeds` of its captions, or None to embed them with the trained encoder."""
    size, device = len(batch.target), batch.target.device
    if embeds is None:
        embeds = embed(teacher.text_encoder, hide_words(batch.tokens, recipe.unknown_words))
    batch = without_captions(batch, torch.rand(size, device=device) < recipe.drop_text, len(embeds))
    embeds = torch.cat([embeds, torch.zeros_like(embeds[:1])])
    first = (batch.context_shot == 0).all(1) & (batch.context == 0).flatten(1).all(1)
    deviation = recipe.context_noise * torch.rand(size, 1, 1, 1, 1, device=device)
    noise = deviation * torch.randn_like(batch.context)
    batch = replace(batch, context=batch.context + noise.masked_fill(first[:, None, None, None, None], 0.0))
    batch = batch.without_context(torch.rand(size, device=device) < recipe.drop_context)

    index = torch.randint(len(schedule.sigmas), (size,))
    weights = timestep_weights(schedule) if recipe.bell else torch.ones_like(schedule.sigmas)
    sigma, level_weight = (table[index].to(device) for table in (schedule.sigmas, weights))
    noise = torch.randn_like(batch.target)
    noisy = add_noise(batch.target, noise, sigma.view(-1, 1, 1, 1, 1))
    flow = bidirectional_flow(teacher.transformer, batch, noisy, 1000.0 * sigma, embeds)
    weight = level_weight.view(-1, 1, 1, 1, 1) * character_weight(batch, recipe.character_weight)
    return flow_loss(flow, batch.target, noise, weight)


def without_captions(batch: ShotBatch, which: Tensor, blank: int) -> ShotBatch:
    """The batch with all captions of the shots `which` [B] replaced by row `blank`."""
    return replace(
        batch,
        caption=batch.caption.masked_fill(which[:, None], blank),
        context_caption=batch.context_caption.masked_fill(which[:, None], blank),
    )


def character_weight(batch: ShotBatch, weight: float) -> Tensor:
    """[B, F, 1, h, w]: `weight` where a character is and one elsewhere, mean one."""
    weights = 1.0 + (weight - 1.0) * batch.weight.float().unsqueeze(2)
    return weights / weights.mean()


def guided_flow(
    transformer: ShotTransformer, batch: ShotBatch, embeds: Tensor, negative: Tensor, scale: float, distilling: bool
) -> Callable[[Tensor, Tensor], Tensor]:
    """(noisy, timestep [B]) -> flow with guidance: from the unconditional flow when sampling, from the conditional one
    when `distilling` (spec sections 7 and 8). `negative` [text_len, text_dim] stands for every caption."""
    blank = torch.ones(len(batch.target), dtype=torch.bool, device=batch.target.device)
    blanked, blank_embeds = without_captions(batch, blank, 0), negative[None]

    def predict(noisy: Tensor, timestep: Tensor) -> Tensor:
        conditional = bidirectional_flow(transformer, batch, noisy, timestep, embeds)
        unconditional = bidirectional_flow(transformer, blanked, noisy, timestep, blank_embeds)
        return guided(conditional, unconditional, scale, conditional if distilling else unconditional)

    return predict


@torch.no_grad()
def trajectory(
    transformer: ShotTransformer,
    batch: ShotBatch,
    embeds: Tensor,
    negative: Tensor,
    schedule: Schedule,
    recipe: TeacherRecipe,
) -> Iterator[Tensor]:
    """Where the teacher's sampler is: its noise [B, F, C, h, w], then after each of its steps."""
    noise = torch.randn(batch.target.shape, device=batch.target.device)
    yield noise
    flow = guided_flow(transformer, batch, embeds, negative, recipe.guidance, distilling=False)
    yield from euler(
        lambda x, timestep: flow(x, x.new_full((len(x),), timestep)), noise, schedule.shift, recipe.sample_steps
    )

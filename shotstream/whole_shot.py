"""The teacher's way to a shot: all chunks at once, everything seeing everything, with guidance; no caches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from shotstream.context import MAX_CONTEXT_FRAMES
from shotstream.models.model import Model
from shotstream.plan import Plan
from shotstream.sampler import NoiseSource, euler, guided


def denoised(
    model: Model, plan: Plan, embeds: torch.Tensor, context: torch.Tensor, routes: Sequence[int], noise: NoiseSource
) -> Iterator[torch.Tensor]:
    """The shot's latents [F, C, h, w] after each of the teacher's steps.

    `embeds` [captions, tokens, dim] are those of the plan's captions; each clean frame of `context` [6, C, h, w]
    attends to the one that its route names.
    """
    schedule, guidance = model.schedule, model.guidance
    place = {"device": model.device, "dtype": model.dtype}
    embeds = embeds.to(**place)
    negative = model.text.encode(guidance.negative_prompt).to(**place) if guidance.negative_prompt else None
    negative = torch.zeros_like(embeds[0]) if negative is None else negative
    frames = plan.num_chunks * schedule.chunk_frames
    own_routes = torch.tensor([[*routes, *[len(plan.captions) - 1] * frames]], device=model.device)
    shots = torch.tensor([[*plan.context_shots, *[plan.rope_shot] * frames]], device=model.device)
    positions = torch.arange(shots.shape[1], device=model.device)

    def flow(x: torch.Tensor, timestep: float) -> torch.Tensor:
        sequence = torch.cat([context, x.to(model.dtype)])[None]
        time = torch.full((1, 1), timestep, device=model.device)
        told, untold = (
            model.transformer(sequence, time, captions, route, positions, shots)[0, MAX_CONTEXT_FRAMES:]
            for captions, route in ((embeds[None], own_routes), (negative[None, None], torch.zeros_like(own_routes)))
        )
        return guided(told, untold, guidance.scale, untold)

    shape = (schedule.chunk_frames, model.vae.latent_channels, *plan.latent_size)
    latents = torch.cat([noise(index, 0, shape) for index in range(plan.num_chunks)]).to(model.device)
    yield from euler(flow, latents, schedule.shift, guidance.steps)

"""Distribution matching distillation: the gradient that two scores give a sample, and the critic's own loss.

Pure functions on tensors (paper section 3.4, spec section 8). Knows no rollout and no optimiser.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from shotstream.sampler import Schedule, add_noise, clean_estimate

CLAMP = (20.0, 980.0)  # timesteps at which a sample is judged: the ends tell nothing

Flow = Callable[[Tensor, Tensor], Tensor]
"""(noisy [B, F, C, h, w], timestep [B]) -> flow like noisy."""


def draw_timesteps(size: int, schedule: Schedule) -> Tensor:
    """[size] timesteps, one a sample, from the shifted grid, clamped."""
    grid = 1000.0 * schedule.sigmas
    return grid[torch.randint(len(grid), (size,))].clamp(*CLAMP)


def noised(clean: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
    """`clean` [B, F, C, h, w] at `timestep` [B], and the noise that was used."""
    noise = torch.randn_like(clean)
    return add_noise(clean, noise, _per_sample(timestep)), noise


@torch.no_grad()
def dmd_gradient(clean: Tensor, noisy: Tensor, timestep: Tensor, real: Flow, fake: Flow) -> Tensor:
    """Where the student's sample `clean` [B, F, C, h, w], seen as `noisy` at `timestep` [B], should not go: the
    critic's clean estimate minus the teacher's, over the sample's mean distance from the teacher's."""
    sigma = _per_sample(timestep)
    real_clean = clean_estimate(noisy, real(noisy, timestep), sigma)
    fake_clean = clean_estimate(noisy, fake(noisy, timestep), sigma)
    distance = (clean - real_clean).abs().mean(dim=(1, 2, 3, 4), keepdim=True)
    return (fake_clean - real_clean) / distance.clamp_min(1e-6)


def dmd_loss(clean: Tensor, gradient: Tensor) -> Tensor:
    """A loss whose gradient with respect to `clean` is `gradient` over the number of elements."""
    return 0.5 * torch.nn.functional.mse_loss(clean, (clean - gradient).detach())


def flow_loss(flow: Tensor, clean: Tensor, noise: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean squared error of a predicted `flow` against noise - clean, all [B, F, C, h, w]; `weight` broadcasts over
    them and is normalised to mean one by its giver."""
    error = (flow - (noise - clean)).square()
    return error.mean() if weight is None else (error * weight).mean()


def _per_sample(timestep: Tensor) -> Tensor:
    """[B] timesteps to sigmas [B, 1, 1, 1, 1]; off the grid too, as timestep = 1000 sigma."""
    return (timestep / 1000.0).view(-1, 1, 1, 1, 1)

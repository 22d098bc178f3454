"""The few-step flow-matching sampler: the warped sigma grid, clean estimates and re-noising.

Pure functions on tensors plus the schedule's numbers. Knows no network and draws no noise of its own except by the
seeded source at the end, which every device shares.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

GRID_STEPS = 1000

NoiseSource = Callable[[int, int, tuple[int, ...]], torch.Tensor]
"""(chunk index, step index, shape [f, C, h, w]) -> float32 CPU noise. Step 0 is the chunk's starting point; step s > 0
is the fresh noise that carries the estimate of step s - 1 to step s."""


def sigma_grid(shift: float) -> torch.Tensor:
    """[1000] float32 sigmas from 1 downwards, timestep = 1000 sigma."""
    s = torch.linspace(1, 0, GRID_STEPS + 1)[:-1]
    return shift * s / (1 + (shift - 1) * s)


# Beyond what a model was trained for a chunk attends to the shot's first chunk, the last one and itself. All the latest
# ones would be the model's own mistakes: with seven of them 47 of 100 shapes are wrong after 28 chunks, so 27.
FAR_CHUNKS = 3


@dataclass(frozen=True)
class Schedule:
    """A model's way through noise and time: grid `shift`, nominal `steps` (1000 = pure noise, descending), latent
    frames per chunk, chunks a shot when nobody asks, and the most it was trained for. With `near_chunks` a chunk
    attends to so many of its shot at most: the first, the latest and itself."""

    shift: float = 8.0
    steps: tuple[int, ...] = (1000, 740, 500, 260)
    chunk_frames: int = 3
    default_chunks: int = 7
    max_chunks: int = 7
    near_chunks: int | None = None
    sigmas: torch.Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigmas", sigma_grid(self.shift))

    def remembered(self, index: int) -> int:
        """How many chunks of its shot chunk `index` attends to, itself included: all, as long as the model was trained
        for so many."""
        if self.near_chunks:
            return min(index + 1, self.near_chunks)
        return index + 1 if index < self.max_chunks else min(FAR_CHUNKS, self.max_chunks)

    def places(self, index: int) -> tuple[int, int, int]:
        """In latent frames: where chunk `index` is in time, up to where the local cache is read, and where in it the
        chunk's own place is. Attention does not care in which order the cache holds what is near."""
        size, near, attended = self.chunk_frames, self.near_chunks, self.remembered(index)
        if not near:
            return (attended - 1) * size, attended * size, (attended - 1) * size
        own = index if index < near else 1 + (index - 1) % (near - 1)
        return index * size, attended * size, own * size

    @property
    def latest(self) -> int:
        """How many of the chunks right before it a chunk attends to that does not attend to all."""
        return self.near_chunks - 2 if self.near_chunks else 1

    @property
    def timesteps(self) -> torch.Tensor:
        """[len(steps)] float32: the nominal steps warped through the grid."""
        grid = torch.cat([self.sigmas * 1000.0, torch.zeros(1)])
        return grid[GRID_STEPS - torch.tensor(self.steps)]

    def sigma(self, timestep: torch.Tensor) -> torch.Tensor:
        """Sigma of the grid entry nearest to each `timestep` (any shape, CPU)."""
        distance = (self.sigmas * 1000.0 - timestep.float().unsqueeze(-1)).abs()
        return self.sigmas[distance.argmin(-1)]


def clean_estimate(noisy: torch.Tensor, flow: torch.Tensor, sigma: float) -> torch.Tensor:
    """x0 = x_t - sigma v. Latents stay float32 between the steps whatever the network computes in."""
    return noisy - sigma * flow.to(noisy.dtype)


def add_noise(clean: torch.Tensor, noise: torch.Tensor, sigma: float) -> torch.Tensor:
    """x_t = (1 - sigma) x0 + sigma noise."""
    return (1 - sigma) * clean + sigma * noise


@dataclass(frozen=True)
class Guidance:
    """The bidirectional teacher's way through noise: Euler steps over a whole shot, away from `negative_prompt` (zero
    embeddings where there is none) by `scale` (spec of the paper's teacher: 50 steps, 6.0)."""

    steps: int = 50
    scale: float = 6.0
    negative_prompt: str = ""


def denoise(
    predict: Callable[[torch.Tensor, float], torch.Tensor], noise: Callable[[int], torch.Tensor], schedule: Schedule
) -> Iterator[torch.Tensor]:
    """The clean estimate after every step: `predict(noisy, timestep)` is the flow, `noise(step)` float32 noise of the
    chunk's shape; each estimate is noised afresh to the next step (paper section 3.1)."""
    clean = None
    timesteps = schedule.timesteps
    for step, (timestep, sigma) in enumerate(zip(timesteps.tolist(), schedule.sigma(timesteps).tolist(), strict=True)):
        noisy = noise(step) if clean is None else add_noise(clean, noise(step), sigma)
        clean = clean_estimate(noisy, predict(noisy, timestep), sigma)
        yield clean


def euler(
    predict: Callable[[torch.Tensor, float], torch.Tensor], noise: torch.Tensor, shift: float, steps: int
) -> Iterator[torch.Tensor]:
    """The teacher's sampler: follows the flow from `noise` in `steps` steps of the shifted grid; yields where it is
    after each, at last the clean sample."""
    s = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    sigmas = (shift * s / (1 + (shift - 1) * s)).tolist()
    x = noise
    for sigma, following in zip(sigmas, sigmas[1:], strict=False):
        x = x + (following - sigma) * predict(x, 1000.0 * sigma).to(x.dtype)
        yield x


def guided(conditional: torch.Tensor, unconditional: torch.Tensor, scale: float, base: torch.Tensor) -> torch.Tensor:
    """`base` + scale (cond - uncond): the teacher samples from `base` = unconditional, the score of distillation from
    `base` = conditional."""
    return base + scale * (conditional - unconditional)


def seeded_noise(seed: int) -> NoiseSource:
    """Noise that depends only on (seed, chunk, step), so that a shot resumed or retried draws the same on any device.

    The three numbers go through a hash: neighbouring seeds share nothing, and no running stream is kept.
    """

    def draw(chunk: int, step: int, shape: tuple[int, ...]) -> torch.Tensor:
        digest = hashlib.blake2b(f"{seed}/{chunk}/{step}".encode(), digest_size=8).digest()
        generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest, "little") >> 1)
        return torch.randn(shape, generator=generator)

    return draw

"""Self-forcing, what both of its stages share: the student rolls shots out, a critic learns how such shots are
distributed, and the student moves towards the teacher (paper section 3.4, spec section 8).

Owns the three networks and their updates. Which shots are rolled out, and what these look back at, is the stage's
(`intra_shot`, `inter_shot`).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from shotstream.models.transformer import ShotTransformer
from shotstream.sampler import Schedule
from shotstream.training.batches import ShotBatch
from shotstream.training.dmd import dmd_gradient, dmd_loss, draw_timesteps, flow_loss, noised
from shotstream.training.flows import bidirectional_flow
from shotstream.training.learner import Learner
from shotstream.training.rollout import drawn_noise, roll_out
from shotstream.training.teacher import guided_flow
from shotstream.training.trainee import Trainee, embed_frozen


@dataclass(frozen=True)
class SelfForcing:
    """The student and the critic as learners, the frozen teacher and text encoder, and the recipe's numbers."""

    student: Learner
    critic: Learner
    teacher: ShotTransformer
    text_encoder: object
    negative: Tensor  # [text_len, text_dim]: the unconditional branch's caption
    schedule: Schedule
    guidance: float

    @property
    def learners(self) -> dict[str, Learner]:
        return {"student": self.student, "critic": self.critic}

    def embed(self, batch: ShotBatch) -> Tensor:
        return embed_frozen(self.text_encoder, batch.tokens)

    def rolled_out(self, batch: ShotBatch, embeds: Tensor, last_step: int | None) -> Tensor:
        """The student's shots [B, F, C, h, w], without a gradient."""
        with torch.no_grad():
            return self.student.module(_roll_out, batch, embeds, self.schedule, last_step)

    def teach_critic(self, batch: ShotBatch, embeds: Tensor, clean: Tensor, step: int) -> float:
        """One update of the critic on the student's shots `clean`; its loss."""
        timestep = draw_timesteps(len(clean), self.schedule).to(clean.device)
        noisy, noise = noised(clean, timestep)
        return self.critic.update(self.critic.module(_critic_loss, batch, embeds, clean, noisy, noise, timestep), step)

    def teach_student(self, batch: ShotBatch, embeds: Tensor, last_step: int, step: int) -> tuple[float, Tensor]:
        """One update of the student; its loss, and the shots it was judged by."""
        clean = self.student.module(_roll_out, batch, embeds, self.schedule, last_step)
        timestep = draw_timesteps(len(clean), self.schedule).to(clean.device)
        noisy, _ = noised(clean.detach(), timestep)
        real = guided_flow(self.teacher, batch, embeds, self.negative, self.guidance, distilling=True)

        def fake(x: Tensor, t: Tensor) -> Tensor:
            return self.critic.module(_critic_flow, batch, embeds, x, t)

        with self.student.accelerator.autocast():  # the teacher is no learner, which would see to it itself
            gradient = dmd_gradient(clean.detach(), noisy, timestep, real, fake)
        return self.student.update(dmd_loss(clean, gradient), step), clean.detach()

    def random_step(self, rng: random.Random) -> int:
        """The denoising step that a rollout ends at and a gradient flows through."""
        return rng.randrange(len(self.schedule.steps))


def _roll_out(student: Trainee, batch: ShotBatch, embeds: Tensor, schedule: Schedule, last_step: int | None) -> Tensor:
    noise = drawn_noise(batch, schedule.chunk_frames)
    return roll_out(student.transformer, batch, embeds, schedule, noise, last_step)


def _critic_flow(critic: Trainee, batch: ShotBatch, embeds: Tensor, noisy: Tensor, timestep: Tensor) -> Tensor:
    return bidirectional_flow(critic.transformer, batch, noisy, timestep, embeds)


def _critic_loss(
    critic: Trainee, batch: ShotBatch, embeds: Tensor, clean: Tensor, noisy: Tensor, noise: Tensor, timestep: Tensor
) -> Tensor:
    return flow_loss(_critic_flow(critic, batch, embeds, noisy, timestep), clean, noise)

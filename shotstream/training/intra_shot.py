"""Stage 2.2.1: intra-shot self-forcing. The student rolls out one shot at a time by its own caches, while what it
looks back at comes from real earlier shots (paper section 3.4).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

from accelerate import Accelerator

from shotstream.training.batches import ShotDealer
from shotstream.training.loop import run_stage
from shotstream.training.recipe import SelfForcingRecipe
from shotstream.training.self_forcing import SelfForcing
from shotstream.training.trainee import Trainee


def train(
    networks: SelfForcing,
    dealer: ShotDealer,
    recipe: SelfForcingRecipe,
    folder: Path,
    accelerator: Accelerator,
    look: Callable[[Trainee, int], str] | None = None,
) -> Trainee:
    """Train or resume in `folder`; returns the student with averaged weights.

    A step is `critic_steps` updates of the critic, each on shots of its own, and one of the student.
    """
    course = recipe.course

    def take_step(step: int, rng: random.Random) -> dict[str, float]:
        losses = []
        for _ in range(recipe.critic_steps):
            batch = dealer.deal(course, step, rng, accelerator)
            embeds = networks.embed(batch)
            clean = networks.rolled_out(batch, embeds, networks.random_step(rng))
            losses.append(networks.teach_critic(batch, embeds, clean, step))
        batch = dealer.deal(course, step, rng, accelerator)
        loss, _ = networks.teach_student(batch, networks.embed(batch), networks.random_step(rng), step)
        return {"student": loss, "critic": sum(losses) / len(losses)} if losses else {"student": loss}

    seen = look and partial(networks.student.look, look)
    run_stage("intra_shot", folder, course, accelerator, networks.learners, take_step, seen)
    return networks.student.finish()

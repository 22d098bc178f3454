"""Stage 2.2.2: inter-shot self-forcing. Whole stories are rolled out, every shot looking back at what the student
itself has shot: caches are filled anew at each cut. Only low-rank updates are trained (paper section 3.4).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from peft import LoraConfig
from peft.tuners.lora import LoraModel
from torch import Tensor

from shotstream.context import look_back, stored_offsets
from shotstream.memory import Memory, ShotMemory
from shotstream.models.transformer import ShotTransformer
from shotstream.models.vae import VAE
from shotstream.training.batches import ShotBatch, ShotDealer
from shotstream.training.loop import run_stage, share_of
from shotstream.training.recipe import SelfForcingRecipe
from shotstream.training.self_forcing import SelfForcing
from shotstream.training.trainee import Trainee

ADAPTED = r"blocks\.\d+\.(self_attn|cross_attn)\.[qkvo]|blocks\.\d+\.ffn\.[02]"


class Adapted:
    """A transformer whose weights rest while low-rank updates beside them are trained."""

    def __init__(self, transformer: ShotTransformer, rank: int, alpha: int) -> None:
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=ADAPTED)
        self._adapted = LoraModel(transformer, config, "inter_shot")  # works on the transformer itself

    def merged(self) -> ShotTransformer:
        """The transformer with the updates added to its weights."""
        return self._adapted.merge_and_unload()


def train(
    networks: SelfForcing,
    dealer: ShotDealer,
    vae: VAE,
    recipe: SelfForcingRecipe,
    folder: Path,
    accelerator: Accelerator,
    look: Callable[[Trainee, int], str] | None = None,
) -> Trainee:
    """Train or resume in `folder`; returns the student with averaged weights, its updates not yet merged.

    A step rolls stories out up to a random shot. The student learns once, from the newest; the `critic_steps` updates
    of the critic are shared out over the shots.
    """
    course = recipe.course

    def take_step(step: int, rng: random.Random) -> dict[str, float]:
        phase = course.phase(step)
        size = share_of(phase.batch, accelerator)
        alike = random.Random(f"{course.seed}/{step}")  # all processes must make as many updates
        num_shots, num_chunks = alike.randint(1, recipe.shots), alike.choice(phase.chunks)
        stories = dealer.choose_stories(rng, size, num_shots, num_chunks)
        memories = [Memory()] * size
        losses: list[float] = []
        loss = 0.0
        updates = shared_out(recipe.critic_steps, len(stories[0]))
        for index, critic_steps in enumerate(updates):
            newest = index + 1 == len(stories[0])
            batch = dealer.collate([(story, index) for story in stories], num_chunks)
            batch = looking_back(batch, memories).to(accelerator.device)
            embeds = networks.embed(batch)
            if newest:
                loss, clean = networks.teach_student(batch, embeds, networks.random_step(rng), step)
            else:
                clean = networks.rolled_out(batch, embeds, None)
            losses += [networks.teach_critic(batch, embeds, clean, step) for _ in range(critic_steps)]
            if not newest:
                memories = [remember(vae, memory, latents) for memory, latents in zip(memories, clean, strict=True)]
        return {"student": loss, "critic": sum(losses) / len(losses)}

    seen = look and partial(networks.student.look, look)
    run_stage("inter_shot", folder, course, accelerator, networks.learners, take_step, seen)
    return networks.student.finish()


def shared_out(total: int, shots: int) -> list[int]:
    """`total` updates over `shots`, as even as can be, more for the newest."""
    each, rest = divmod(total, shots)
    return [each + (shot >= shots - rest) for shot in range(shots)]


def looking_back(batch: ShotBatch, memories: list[Memory]) -> ShotBatch:
    """The batch, its context exchanged for what the `memories` of its stories hold; unchanged before a second shot.

    How many frames each shot gives does not depend on lengths, so shots and captions of the context stay as they are.
    """
    if not memories[0].shots:
        return batch
    context = torch.stack([memory.latents_at(look_back(memory.shots)) for memory in memories])
    return replace(batch, context=context.to(batch.context))


@torch.no_grad()
def remember(vae: VAE, memory: Memory, latents: Tensor) -> Memory:
    """The memory after a shot of clean `latents` [F, C, h, w]: as the engine does it, from decoded pixels."""
    frames, _ = vae.decode_step(latents, vae.start_decoding())
    offsets = stored_offsets(memory.num_frames, len(frames))
    kept = vae.encode_frames(frames[list(offsets)]).cpu()
    shot = ShotMemory("", 0, len(frames), offsets, kept, np.zeros((len(offsets), 1, 1, 3), dtype=np.uint8))
    return Memory((*memory.shots, shot))

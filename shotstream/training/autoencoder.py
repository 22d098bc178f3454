"""Stage 0: the pixel-art autoencoder, trained from scratch on frames of random scenes of the toy world.

Cross-entropy over the palette, the character's pixels weighed up (few, and what people look at), a little noise on
the latents so that the decoder forgives the denoiser. Ends by measuring the latents' mean and deviation.
"""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor

from shotstream.models.pixel_autoencoder import PixelAutoencoder
from shotstream.toyworld import world
from shotstream.toyworld.stories import random_story
from shotstream.toyworld.takes import render_take
from shotstream.training.data import GROUP
from shotstream.training.learner import Learner, Unit
from shotstream.training.loop import run_stage, share_of
from shotstream.training.recipe import AutoencoderRecipe
from shotstream.training.sheets import SCALE, rows_of, save_sheet


def random_groups(rng: random.Random, n: int, length: int) -> np.ndarray:
    """Palette indices [n, length, H, W] of short runs of frames from random stories, two of each shot."""
    groups: list[np.ndarray] = []
    while len(groups) < n:
        for shot in random_story(rng).shots:
            frames = render_take(shot)
            for _ in range(2):
                start = rng.randrange(len(frames)) if length == 1 else 1 + GROUP * rng.randrange(len(frames) // GROUP)
                groups.append(frames[start : start + length])
    return np.stack(groups[:n])


def palette_tensor() -> Tensor:
    """The world's palette as floats [colours, 3] in [-1, 1]."""
    return torch.from_numpy(world.PALETTE.astype(np.float32) / 127.5 - 1.0)


def new_autoencoder(**sizes: int) -> PixelAutoencoder:
    """An untrained autoencoder for the world's palette; `sizes` are its configuration."""
    model = PixelAutoencoder(palette_size=len(world.PALETTE), **sizes)
    model.palette.copy_(palette_tensor())
    return model


def character_colours() -> Tensor:
    """Bool [colours]: does this palette entry belong to characters?"""
    names = {"ink", "white", "mouth"}
    indices = [world.colour_index(name) for name in names]
    indices += [world.colour_index(part, colour) for part in ("body", "shade") for colour in world.COLOURS]
    mask = torch.zeros(len(world.PALETTE), dtype=torch.bool)
    mask[indices] = True
    return mask


def loss_of(unit: Unit, indices: Tensor, pixel_weight: Tensor, latent_noise: float, prior_weight: float) -> Tensor:
    """Weighted cross-entropy of one batch of groups [n, t, H, W] plus a weak unit-variance prior on the latents."""
    model = unit.network
    frames = model.palette[indices].permute(0, 1, 4, 2, 3)  # n t 3 H W
    raw = model.encode_raw(frames)
    noisy = raw + latent_noise * torch.randn_like(raw)
    logits = model.logits(noisy, first=indices.shape[1] == 1).flatten(0, 1)
    target = indices.flatten()
    # classes last: a quarter of a step's time goes when the softmax runs over strided memory
    loss = F.cross_entropy(logits.permute(0, 2, 3, 1).flatten(0, 2), target, reduction="none")
    weight = pixel_weight[target]
    # single frames and groups each leave a layer out, whose gradient several processes would wait for
    unused = 0.0 * sum(parameter.sum() for parameter in unit.parameters() if parameter.requires_grad)
    return (loss * weight).sum() / weight.sum() + prior_weight * raw.square().mean() + unused


@torch.no_grad()
def quality(model: PixelAutoencoder, rng: random.Random, sheet: Path | None = None, n: int = 64) -> dict[str, float]:
    """Pixel accuracy and PSNR (dB, over all pixels of the sample) of 4-frame groups, decoded to palette colours; some
    of them as a `sheet`, a PNG."""
    indices = torch.from_numpy(random_groups(rng, n, 4)).long().to(model.device)
    guess = torch.cat(
        [
            model.logits(model.encode_raw(model.palette[part].permute(0, 1, 4, 2, 3)), first=False).argmax(2)
            for part in indices.split(16)
        ]
    )
    if sheet:
        save_sheet(rows_of(*([*world.PALETTE[part[:, -1].cpu().numpy()]] for part in (indices, guess))), sheet, SCALE)
    error = (model.palette[indices] - model.palette[guess]).square().mean() / 4  # of a range of 1
    character = character_colours().to(model.device)[indices]
    return {
        "psnr": float(-10 * torch.log10(error.clamp_min(1e-9))),
        "accuracy": float((guess == indices).float().mean()),
        "character_accuracy": float((guess == indices)[character].float().mean()),
    }


@torch.no_grad()
def measure_latents(model: PixelAutoencoder, rng: random.Random, n: int = 512) -> None:
    """Fill `latents_mean` and `latents_std` from random groups."""
    raw = torch.cat(
        [
            model.encode_raw(model.palette[torch.from_numpy(random_groups(rng, 32, 4)).long()].permute(0, 1, 4, 2, 3))
            for _ in range(n // 32)
        ]
    )
    model.latents_mean.copy_(raw.mean(dim=(0, 2, 3)))
    model.latents_std.copy_(raw.std(dim=(0, 2, 3)))


def train(
    model: PixelAutoencoder,
    recipe: AutoencoderRecipe,
    folder: Path,
    accelerator: Accelerator,
    decoder_only: bool = False,
) -> PixelAutoencoder:
    """Train or resume in `folder`; returns the model with averaged weights.

    With `decoder_only` its latents, and what was trained on them, stay as they are.
    """
    course, noise = recipe.course, recipe.latent_noise
    if decoder_only:
        course, noise = recipe.decoder, recipe.decoder_noise
        for part in (model.embed_frame, model.embed_group, model.encoder, model.to_latent):
            part.requires_grad_(False)
    learner = Learner(accelerator, Unit(model.to(memory_format=torch.channels_last)), course)
    weight = 1.0 + (recipe.character_weight - 1.0) * character_colours().float().to(accelerator.device)

    def take_step(step: int, rng: random.Random) -> dict[str, float]:
        length = 1 if rng.random() < 0.25 else 4
        size = share_of(course.phase(step).batch, accelerator)
        indices = torch.from_numpy(random_groups(rng, size * 2 if length == 1 else size, length)).long()
        loss = learner.module(loss_of, indices.to(accelerator.device), weight, noise, recipe.prior_weight)
        return {"cross-entropy": learner.update(loss, step)}

    def look(unit: Unit, step: int) -> str:
        figures = quality(unit.network, random.Random(10_000 + step), folder / "sheets" / f"{step:06}.png")
        return " ".join(f"{name} {value:.4f}" for name, value in figures.items())

    stage = "decoder" if decoder_only else "autoencoder"
    run_stage(stage, folder, course, accelerator, {"autoencoder": learner}, take_step, partial(learner.look, look))
    learner.finish()
    if not decoder_only:
        measure_latents(model, random.Random(77))
    return model

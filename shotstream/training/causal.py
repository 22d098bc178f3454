"""Stage 2.1: the causal student's start, regressed from the teacher's trajectories (paper section 3.4).

First the teacher's path from noise to a shot is stored at the student's noise levels, then the student, under the
chunk-wise causal mask and with one noise level per chunk, learns to name the path's end. A small student may first
learn to do without the future on real shots.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from shotstream.errors import UserError
from shotstream.models.transformer import ShotTransformer
from shotstream.sampler import Schedule, clean_estimate
from shotstream.training import direct
from shotstream.training.batches import ShotBatch, ShotDealer
from shotstream.training.flows import causal_flow
from shotstream.training.learner import Learner
from shotstream.training.loop import run_stage, seed_step, share_of
from shotstream.training.recipe import CausalRecipe, DirectRecipe, TeacherRecipe
from shotstream.training.teacher import trajectory
from shotstream.training.trainee import Trainee, embed_frozen


def stored_steps(schedule: Schedule, sample_steps: int) -> list[int]:
    """After how many of the teacher's steps its path is stored: where the student's noise levels are, and the end.

    The published 1000, 740, 500, 260 of 50 steps are 0, 13, 25, 37 and 50. Raises `UserError` if the teacher's steps
    do not come by there.
    """
    exact = [sample_steps * (1 - step / 1000) for step in schedule.steps]
    if any(abs(step - round(step)) > 1e-6 for step in exact):
        raise UserError(f"Among {sample_steps} steps of the teacher are none at the student's levels {schedule.steps}.")
    return [*map(round, exact), sample_steps]


def store_pairs(
    teacher: ShotTransformer,
    text_encoder,
    negative: Tensor,
    dealer: ShotDealer,
    schedule: Schedule,
    recipe: CausalRecipe,
    sampling: TeacherRecipe,
    folder: Path,
    accelerator: Accelerator,
) -> None:
    """Store `recipe.pairs` trajectories in `folder`, a file for each batch; files that are there are kept.

    Raises `UserError` if these were made by another teacher, of other stories, or for other noise levels.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = stored_steps(schedule, sampling.sample_steps)
    maker = maker_of(teacher, text_encoder, negative, dealer, schedule, sampling)
    numbers = range(accelerator.process_index, -(-recipe.pairs // recipe.per_file), accelerator.num_processes)
    for number in tqdm(numbers, desc="pairs", unit="file", disable=not accelerator.is_main_process):
        path = pair_path(folder, number)
        if (made_by := _maker_of_file(path)) is not None:
            if made_by != maker:
                raise UserError(f"{path} was made by another teacher or sampler: remove {folder} to begin anew.")
            continue
        rng = seed_step(recipe.course.seed + 1, number, 0)
        chunks = rng.choice(recipe.chunks)
        shots = dealer.choose(rng, recipe.per_file, chunks)
        batch = dealer.collate([dealer.items[shot] for shot in shots], chunks).to(accelerator.device)
        embeds = embed_frozen(text_encoder, batch.tokens)
        with accelerator.autocast():
            path_points = trajectory(teacher, batch, embeds, negative, schedule, sampling)
            states = [state for step, state in enumerate(path_points) if step in wanted]
        partial = path.with_suffix(".partial")
        about = {"items": json.dumps(shots), "chunks": str(chunks), "maker": maker}
        save_file({"states": torch.stack(states, dim=1).half().cpu().contiguous()}, partial, about)
        os.replace(partial, path)


def maker_of(
    teacher: ShotTransformer,
    text_encoder,
    negative: Tensor,
    dealer: ShotDealer,
    schedule: Schedule,
    sampling: TeacherRecipe,
) -> str:
    """What a stored trajectory came from, to tell it from those of other weights, stories or samplers."""
    digest = hashlib.blake2b(json.dumps(list(dealer.row)).encode(), digest_size=16)
    tensors = [dealer.latents, negative, *teacher.state_dict().values(), *text_encoder.state_dict().values()]
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    steps = stored_steps(schedule, sampling.sample_steps)
    return json.dumps([steps, schedule.shift, sampling.guidance, digest.hexdigest()])


def _maker_of_file(path: Path) -> str | None:
    """What a file of trajectories says that it came from; None if it is not there, or damaged: it is made anew."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("maker", "")
    except (OSError, SafetensorError):
        return None


def pair_path(folder: Path, number: int) -> Path:
    return folder / f"{number:05}.safetensors"


def load_pair(path: Path, dealer: ShotDealer, levels: int, maker: str) -> tuple[ShotBatch, Tensor]:
    """The shots of one file as a batch, and their stored states [B, levels + 1, F, C, h, w].

    Raises `UserError` for a file that is missing, damaged or not by `maker`.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about, states = file.metadata() or {}, file.get_tensor("states").float()
        if about.get("maker") != maker:
            raise UserError(f"{path} is of another teacher, sampler or data: remove the folder, run stage pairs again.")
        items = [dealer.items[number] for number in json.loads(about["items"])]
        batch = dealer.collate(items, int(about["chunks"]))
    except (OSError, SafetensorError, KeyError, IndexError, ValueError) as error:
        raise UserError(
            f"The trajectories in {path} are missing, damaged or of other data: run stage pairs."
        ) from error
    if states.shape[1:] != (levels + 1, *batch.target.shape[1:]):
        raise UserError(f"The trajectories in {path} do not fit the data or the student's steps: remove the folder.")
    return batch, states


def train(
    student: Trainee,
    text_encoder,
    dealer: ShotDealer,
    schedule: Schedule,
    recipe: CausalRecipe,
    true_shots: DirectRecipe | None,
    pairs: Path,
    maker: str,
    folder: Path,
    accelerator: Accelerator,
    look: Callable[[Trainee, int], str] | None = None,
) -> Trainee:
    """Train or resume in `folder`, first on real shots by the numbers of `true_shots`, then on the files of `pairs` by
    `maker`; returns the student with averaged weights."""
    files = -(-recipe.pairs // recipe.per_file)
    learner = Learner(accelerator, student, recipe.course)

    def learn_true_shots(step: int, rng: random.Random) -> dict[str, float]:
        batch = dealer.deal(recipe.course, step, rng, accelerator)
        loss = learner.module(direct.loss_of, batch, schedule, true_shots, text_encoder)
        return {"flow": learner.update(loss, step)}

    def take_step(step: int, rng: random.Random) -> dict[str, float]:
        if step < recipe.true_steps:
            return learn_true_shots(step, rng)
        parts, rest = divmod(share_of(recipe.course.phase(step).batch, accelerator), recipe.per_file)
        if rest:
            raise UserError(f"A process's share of a batch must be whole files of {recipe.per_file} trajectories.")

        def loss_of_a_file() -> Tensor:
            batch, states = load_pair(pair_path(pairs, rng.randrange(files)), dealer, len(schedule.steps), maker)
            batch, states = batch.to(accelerator.device), states.to(accelerator.device)
            embeds = embed_frozen(text_encoder, batch.tokens)
            return learner.module(loss_of, batch, states, embeds, schedule) / parts

        return {"regression": learner.update((loss_of_a_file() for _ in range(parts)), step)}

    seen = look and partial(learner.look, look)
    run_stage("causal", folder, recipe.course, accelerator, {"student": learner}, take_step, seen)
    return learner.finish()


def loss_of(student: Trainee, batch: ShotBatch, states: Tensor, embeds: Tensor, schedule: Schedule) -> Tensor:
    """Squared distance of the student's clean estimate from the path's end, from a random stored point per chunk."""
    size, stored, frames = states.shape[:3]
    levels = stored - 1
    choice = torch.randint(levels, (size, frames // schedule.chunk_frames))
    choice = choice.repeat_interleave(schedule.chunk_frames, dim=1).to(states.device)  # B F
    noisy = states.gather(1, choice[:, None, :, None, None, None].expand(-1, 1, -1, *states.shape[3:]))[:, 0]
    timesteps = schedule.timesteps.to(states.device)
    sigmas = schedule.sigma(schedule.timesteps).to(states.device)
    flow = causal_flow(student.transformer, batch, noisy, timesteps[choice], embeds, schedule.chunk_frames)
    clean = clean_estimate(noisy, flow, sigmas[choice][..., None, None, None])
    return (clean - states[:, -1]).square().mean()

"""A recording of the published procedure, replayed through the ordinary engine, and how far apart the two end up.

Owns what is compared. How large a difference may be is the caller's business.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from shotstream.context import MAX_CONTEXT_FRAMES, look_back
from shotstream.engine import Engine
from shotstream.errors import UserError
from shotstream.events import Chunk, ShotDone, ShotRequest
from shotstream.memory import Memory
from shotstream.models.cache import ShotCache
from shotstream.models.model import Model
from shotstream.recording import Recording, load_tensors


@dataclass(frozen=True)
class Difference:
    """`largest` absolute difference between ours and the recording's, and the root mean square of all `relative` to
    that of the recording; of a whole replay or of one `single_call`."""

    what: str
    largest: float
    relative: float
    single_call: bool = False


def differences(recording: Recording, model: Model, teacher: Path | None = None) -> Iterator[Difference]:
    """Context and result latents of every shot in story order, then the single calls, at last the `teacher`'s if that
    is recorded in a file; by `model`, which is the recording's (see `recorded_model`). Raises `UserError` for files of
    another layout."""
    engine, memory = Engine(model), Memory()
    for shot, caption in enumerate(recording.captions):
        request = ShotRequest(caption, memory, num_chunks=recording.num_chunks(shot))
        if memory.shots:
            picks = look_back(memory.shots)
            context, shot_index = memory.latents_at(picks), tuple(shot for shot, _ in picks)
        else:
            context, shot_index = torch.zeros(()), (0,) * MAX_CONTEXT_FRAMES
        recorded_index = recording.tensor(f"shot{shot}.context_shot_index").flatten().tolist()
        if list(shot_index) != recorded_index:
            raise UserError(
                f"{model.name}: shot {shot} looks back at the shots {recorded_index}, not {list(shot_index)}."
            )
        expected = recording.tensor(f"shot{shot}.context_latents")[0]
        yield _difference(f"shot {shot} context latents", context, expected)
        latents = []
        for event in engine.shoot(request, recording.noise(shot)):
            if isinstance(event, Chunk):
                latents.append(event.latents)
            elif isinstance(event, ShotDone):
                memory = event.memory
        expected = recording.tensor(f"shot{shot}.latents")[0]
        yield _difference(f"shot {shot} latents", torch.cat(latents), expected)
    yield from _single_calls(recording, model)
    if teacher is not None:
        yield _teacher_call(load_tensors(teacher), model)


@torch.no_grad()
def _single_calls(recording: Recording, model: Model) -> Iterator[Difference]:
    """The last shot's first transformer calls, each fed with its recorded input, in their order: chunk after chunk,
    the sampler's steps and then the pass that fills the local cache."""
    shot = len(recording.captions) - 1
    transformer, schedule = model.transformer, model.schedule
    calls = recording.single_calls
    per_chunk = len(schedule.steps) + 1
    chunks = math.ceil(calls / per_chunk)
    context_shots = recording.tensor(f"shot{shot}.context_shot_index").long().flatten()
    local = chunks * schedule.chunk_frames
    shots = torch.cat([context_shots, torch.full((local,), max(shot, 1))])
    phases = transformer.phases(torch.arange(len(shots)), shots, recording.latent_size, model.device)
    embeds = torch.stack([model.text.encode(caption) for caption in recording.captions])
    captions = transformer.embed_captions(embeds.to(model.device, model.dtype))
    cache = ShotCache.allocate(transformer, recording.latent_size, local, model.device, model.dtype)
    tokens = cache.frame_tokens
    transformer.forward_cached(
        recording.tensor(f"shot{shot}.context_latents").to(model.device, model.dtype),
        torch.zeros(1, 1),
        captions.routed(context_shots.to(model.device)),
        phases.frames(0, MAX_CONTEXT_FRAMES, tokens),
        cache.context_windows(),
    )
    for call in range(calls):
        start = call // per_chunk * schedule.chunk_frames
        stop = start + schedule.chunk_frames
        flow = transformer.forward_cached(
            recording.tensor(f"lastshot.call{call}.input").to(model.device, model.dtype),
            recording.tensor(f"lastshot.call{call}.timestep"),
            captions.last(),
            phases.frames(MAX_CONTEXT_FRAMES + start, MAX_CONTEXT_FRAMES + stop, tokens),
            cache.chunk_windows(stop),
        )
        expected = recording.tensor(f"lastshot.call{call}.flow")
        yield _difference(f"call {call} flow", flow, expected, single_call=True)


@torch.no_grad()
def _teacher_call(teacher: Mapping[str, torch.Tensor], model: Model) -> Difference:
    """One bidirectional forward of the same weights: every frame attends to every other, at one timestep."""
    dimensions = {"input": 5, "flow": 5, "shot_index": 1, "prompt_embeds": 3, "timestep": 1}
    for name, count in dimensions.items():
        if name not in teacher or teacher[name].ndim != count:
            raise UserError(f"The teacher's recording has no tensor {name} of {count} dimensions.")
    config, shots = model.transformer.config, teacher["shot_index"].long()[None]
    frames, embeds = teacher["input"].shape, teacher["prompt_embeds"].shape
    size = math.prod(model.transformer.patch_grid(*frames[3:])) * math.prod(config.patch_size)
    sound = (
        frames[:3] == (1, shots.shape[1], config.in_dim)
        and size == math.prod(frames[3:])
        and teacher["flow"].shape == frames
        and embeds[2] == config.text_dim
        and 0 <= int(shots.min()) <= int(shots.max()) < embeds[0]
        and teacher["timestep"].numel() == 1
    )
    if not sound:
        raise UserError("The teacher's recording has tensors that do not fit each other or these weights.")
    flow = model.transformer(
        teacher["input"].to(model.device, model.dtype),
        teacher["timestep"].view(1, 1),
        teacher["prompt_embeds"][None].to(model.device, model.dtype),
        shots.to(model.device),
        torch.arange(shots.shape[1]),
        shots,
    )
    return _difference("teacher flow", flow, teacher["flow"], single_call=True)


def _difference(what: str, ours: torch.Tensor, theirs: torch.Tensor, single_call: bool = False) -> Difference:
    theirs = theirs.float()
    apart = ours.float().cpu() - theirs
    size, off = theirs.norm().item(), apart.norm().item()
    relative = off / size if size else (math.inf if off else 0.0)
    return Difference(what, apart.abs().max().item(), relative, single_call)

"""What a request asks for, checked, and what follows from it before any model call.

Every absurd number, foreign memory or unfit prefix ends here as a `UserError`. Runs no model, it only asks for its
numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from shotstream.context import MAX_CONTEXT_FRAMES, look_back
from shotstream.errors import UserError
from shotstream.events import ShotRequest
from shotstream.memory import ShotMemory
from shotstream.models.model import Model
from shotstream.models.shapes import check_size
from shotstream.note import MAX_SEED

LONGEST_SHOT = 80  # chunks, a minute: then everything that the caches held has been exchanged many times


@dataclass(frozen=True)
class Plan:
    """A checked request and what follows from it before any model call."""

    request: ShotRequest
    num_chunks: int
    latent_size: tuple[int, int]
    prefix_chunks: int
    captions: tuple[str, ...]  # of the shots looked back at, each once, then the shot's own
    context_latents: torch.Tensor | None  # [6, C, h, w]; None before the first shot
    context_shots: tuple[int, ...]  # which shot each context frame is from
    context_captions: tuple[int, ...]  # and where in `captions` its caption is
    rope_shot: int  # discontinuity indicator of the shot itself


def plan_shot(request: ShotRequest, model: Model, policy: str = "recent", rebased: bool = False) -> Plan:
    """What the request asks for, or a `UserError` that says what is wrong with it.

    `policy` chooses the context frames of a request that leaves them open. A shot that is longer than the model was
    trained on rolls its local cache; one of a model that makes whole shots cannot be. The discontinuity indicator
    counts shots through the whole film as in the paper, unless some are skipped between those that are looked back at
    and the new one, or `rebased` is set: then it counts those that are seen, as models only know numbers without gaps.
    """
    _check_whole(request.seed, 0, MAX_SEED, "The seed")
    num_chunks = model.default_chunks if request.num_chunks is None else request.num_chunks
    longest = LONGEST_SHOT if model.guidance is None else model.max_chunks
    _check_whole(num_chunks, 1, longest, f"The number of chunks a shot for {model.name}")
    if not isinstance(request.caption, str) or not request.caption.strip():
        raise UserError("The caption is blank: describe what is to be seen.")
    latent_size = _checked_size(request, model)
    shape = (model.vae.latent_channels, *latent_size)
    prefix_chunks = 0 if request.prefix is None else _checked_prefix(request.prefix, shape, num_chunks, model)
    if model.guidance is not None and 0 < prefix_chunks < num_chunks:
        raise UserError(f"{model.name} makes whole shots: it cannot continue one.")

    shots = request.memory.shots
    for index, shot in enumerate(shots):
        if tuple(shot.latents.shape[1:]) != shape:
            raise UserError(
                f"Shot {index} of the film so far was made with another model or picture size "
                f"(latents {tuple(shot.latents.shape[1:])}, not {shape}): continue it as it was begun."
            )
    if request.picks is not None:
        _check_picks(request.picks, shots)
    if not shots:  # nothing to look back at: six empty frames with the first caption, and the shot counts as cut once
        own = (0,) * MAX_CONTEXT_FRAMES
        return Plan(request, num_chunks, latent_size, prefix_chunks, (request.caption,), None, own, own, 1)
    picks = request.picks or look_back(shots, request.caption, policy)
    latents, context_shots = request.memory.latents_at(picks), tuple(shot for shot, _ in picks)
    seen = sorted(set(context_shots))
    routes = tuple(seen.index(shot) for shot in context_shots)
    rebased = rebased or len(seen) < len(shots) - seen[0]
    return Plan(
        request,
        num_chunks,
        latent_size,
        prefix_chunks,
        (*(shots[shot].caption for shot in seen), request.caption),
        latents,
        routes if rebased else context_shots,
        routes,
        len(seen) if rebased else len(shots),
    )


def _check_whole(value: object, low: int, high: int, name: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise UserError(f"{name} must be a whole number from {low} to {high}, not {str(value)[:40]}.")


def _check_picks(picks: object, shots: Sequence[ShotMemory]) -> None:
    """They must be six kept frames in story order."""
    sound = (
        isinstance(picks, tuple)
        and len(picks) == MAX_CONTEXT_FRAMES
        and all(isinstance(pick, tuple) and len(pick) == 2 and all(type(n) is int for n in pick) for pick in picks)
        and all(0 <= shot < len(shots) and frame in shots[shot].offsets for shot, frame in picks)
        and list(picks) == sorted(picks)
    )
    if not sound:
        raise UserError(f"A shot looks back at {MAX_CONTEXT_FRAMES} frames that the film remembers, in story order.")


def _checked_size(request: ShotRequest, model: Model) -> tuple[int, int]:
    """Height and width in latents."""
    height = model.height if request.height is None else request.height
    width = model.width if request.width is None else request.width
    check_size("The picture", (width, height), (model.width, model.height), model.size_steps)
    return model.latent_size(height, width)


def _checked_prefix(prefix: torch.Tensor, shape: tuple[int, int, int], num_chunks: int, model: Model) -> int:
    """How many whole chunks the prefix holds."""
    chunk_frames = model.schedule.chunk_frames
    if not isinstance(prefix, torch.Tensor) or prefix.ndim != 4 or tuple(prefix.shape[1:]) != shape:
        raise UserError(f"The shot to continue has latents of the wrong shape: they must be frames of {shape}.")
    chunks, rest = divmod(len(prefix), chunk_frames)
    if rest or chunks > num_chunks:
        raise UserError(
            f"The shot to continue has {len(prefix)} latent frames: it must be whole chunks of {chunk_frames}, "
            f"at most {num_chunks} of them."
        )
    if not prefix.is_floating_point() or not prefix.isfinite().all():
        raise UserError("The shot to continue has latents that are not finite numbers.")
    return chunks

"""A model folder's `scheduler/`: how the model is sampled, read with suspicion and written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shotstream.errors import UserError
from shotstream.models.checkpoint import read_json
from shotstream.sampler import Guidance, Schedule

SCHEDULER_NAME = "scheduler_config.json"


def schedule_config(schedule: Schedule, guidance: Guidance | None) -> dict[str, Any]:
    """The file's content."""
    config: dict[str, Any] = {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "shift": schedule.shift,
        "stochastic_sampling": True,
        "denoising_steps": list(schedule.steps),
        "chunk_frames": schedule.chunk_frames,
        "default_chunks": schedule.default_chunks,
        "max_chunks": schedule.max_chunks,
    }
    if guidance is not None:
        config |= {
            "stochastic_sampling": False,
            "num_inference_steps": guidance.steps,
            "guidance_scale": guidance.scale,
            "negative_prompt": guidance.negative_prompt,
        }
    return config


def read_schedule(folder: Path) -> tuple[Schedule, Guidance | None]:
    """What a model folder's `scheduler/` says, and a teacher's guidance if it is one.

    Raises `UserError` naming the file and the first number that cannot be.
    """
    path = folder / SCHEDULER_NAME
    config = read_json(path)
    shift, steps = config.get("shift"), config.get("denoising_steps")
    if not isinstance(shift, int | float) or not 0 < shift <= 1000:
        raise UserError(f"{path}: shift must be a positive number.")
    if not isinstance(steps, list) or not 0 < len(steps) <= 1000 or not all(isinstance(s, int) for s in steps):
        raise UserError(f"{path}: denoising_steps must be a list of whole numbers.")
    if sorted(set(steps), reverse=True) != steps or not 0 < steps[-1] <= steps[0] <= 1000:
        raise UserError(f"{path}: denoising_steps must fall from at most 1000 to at least 1.")
    chunks = {key: config.get(key) for key in ("chunk_frames", "default_chunks", "max_chunks")}
    for key, value in chunks.items():
        if not isinstance(value, int) or not 0 < value <= 256:
            raise UserError(f"{path}: {key} must be a whole number from 1 to 256.")
    if chunks["default_chunks"] > chunks["max_chunks"]:
        raise UserError(f"{path}: default_chunks is larger than max_chunks.")
    return Schedule(float(shift), tuple(steps), **chunks), _read_guidance(config, path)


def _read_guidance(config: dict[str, Any], path: Path) -> Guidance | None:
    """A teacher's numbers; None for a student, which has none."""
    if "guidance_scale" not in config:
        return None
    steps, scale, negative = (config.get(key) for key in ("num_inference_steps", "guidance_scale", "negative_prompt"))
    if not isinstance(steps, int) or not 0 < steps <= 1000:
        raise UserError(f"{path}: num_inference_steps must be a whole number from 1 to 1000.")
    if not isinstance(scale, int | float) or not 0 <= scale <= 100:
        raise UserError(f"{path}: guidance_scale must be a number from 0 to 100.")
    if not isinstance(negative, str) or len(negative) > 5000:
        raise UserError(f"{path}: negative_prompt must be a short text.")
    return Guidance(steps, float(scale), negative)

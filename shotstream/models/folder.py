"""A model folder in the diffusers layout: its index, what its files say of its shapes, and how it is written.

    model_index.json   name, height, width, fps; "base": where components that the folder lacks come from;
                       "shapes": {"portrait": [width, height], ...} that it makes besides its own
    transformer/ vae/ text_encoder/ tokenizer/   as diffusers and transformers save them
    scheduler/scheduler_config.json              shift, steps and chunk sizes
    prompting.json     how it likes to be prompted, if it says so

Owns the layout and the index file. Reading weights is `weights`'s.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase, UMT5EncoderModel
from transformers.utils.logging import disable_progress_bar

from shotstream.errors import UserError
from shotstream.models.checkpoint import read_json, transformer_config
from shotstream.models.scheduling import SCHEDULER_NAME, read_schedule, schedule_config
from shotstream.models.shapes import Shapes
from shotstream.models.transformer import ShotTransformer
from shotstream.prompting import PROMPTING_NAME, Prompting
from shotstream.sampler import Guidance, Schedule

INDEX = "model_index.json"
COMPONENTS = ("vae", "text_encoder", "tokenizer")


def checked_index(path: Path) -> dict[str, Any]:
    """What an index file says, of sizes and texts that may be used. Raises `UserError`."""
    index = read_json(path)
    for key, most in (("height", 4096), ("width", 4096), ("fps", 120)):
        if not isinstance(index.get(key), int) or not 0 < index[key] <= most:
            raise UserError(f"{path}: {key} must be a whole number from 1 to {most}.")
    for key in ("name", "base"):
        if not isinstance(index.get(key), str | None) or len(index.get(key) or "") > 200:
            raise UserError(f"{path}: {key} must be a short text.")
        if not (index.get(key) or "").isprintable():  # it goes to a terminal
            raise UserError(f"{path}: {key} has control characters.")
    return index


@dataclass(frozen=True)
class Numbers:
    """What the files of a model folder say, VAE and text encoder apart; what it lacks comes from `base`."""

    name: str
    base: str | None
    transformer: dict[str, Any]
    schedule: Schedule
    guidance: Guidance | None
    size: dict[str, int]


def read_numbers(folder: Path) -> Numbers:
    """Raises `UserError`."""
    if not (folder / INDEX).is_file():
        raise UserError(f"There is no model folder at {folder}.")
    index = checked_index(folder / INDEX)
    place = folder / "transformer"
    schedule, guidance = read_schedule(folder / "scheduler")
    return Numbers(
        name=index.get("name") or folder.name,
        base=index.get("base"),
        transformer=transformer_config(read_json(place / "config.json"), place),
        schedule=schedule,
        guidance=guidance,
        size={key: index[key] for key in ("height", "width", "fps")},
    )


def save_model(
    folder: str | Path,
    *,
    name: str,
    transformer: ShotTransformer,
    schedule: Schedule,
    height: int,
    width: int,
    fps: int = 16,
    guidance: Guidance | None = None,
    vae: Any = None,
    text_encoder: UMT5EncoderModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    base: str | None = None,
    shapes: Shapes | None = None,
    prompting: Prompting | None = None,
    max_shard_size: str = "5GB",
) -> None:
    """Write a model folder, every part in the dtype it is in. Parts left out come from `base` when it is loaded.

    Raises `UserError` if the place cannot be written.
    """
    folder = Path(folder)
    parts = {"transformer": transformer, "vae": vae, "text_encoder": text_encoder, "tokenizer": tokenizer}
    index: dict[str, Any] = {"_class_name": "ShotStream", "name": name, "height": height, "width": width, "fps": fps}
    if base is not None:
        index["base"] = base
    if shapes is not None:
        index["shapes"] = {name: list(size) for name, size in shapes.items()}
    disable_progress_bar()  # of a file or two
    try:
        for part, value in parts.items():
            if value is None:
                continue
            shards = {} if part in ("tokenizer", "vae") else {"max_shard_size": max_shard_size}
            value.save_pretrained(folder / part, **shards)
        (folder / "scheduler").mkdir(parents=True, exist_ok=True)
        sampling = json.dumps(schedule_config(schedule, guidance), indent=2)
        (folder / "scheduler" / SCHEDULER_NAME).write_text(sampling + "\n")
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
        if prompting is not None:
            (folder / PROMPTING_NAME).write_text(prompting.to_json(), encoding="utf-8")
    except Exception as error:  # safetensors tells of a full disk in its own words
        raise UserError(f"Cannot write the model to {folder}: {str(error)[:200]}.") from error

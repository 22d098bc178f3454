"""A model folder in the diffusers layout, read and written; the published checkpoint with its borrowed components.

    model_index.json   name, height, width, fps; "base": where components that the folder lacks come from;
                       "shapes": {"portrait": [width, height], ...} that it makes besides its own
    transformer/ vae/ text_encoder/ tokenizer/   as diffusers and transformers save them
    scheduler/scheduler_config.json              shift, steps and chunk sizes
    prompting.json     how it likes to be prompted, if it says so

Owns where the parts of a `Model` come from and that they fit each other. Nothing here depends on which model it is.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, UMT5EncoderModel

from shotstream.errors import UserError, telling_lack_of_memory, telling_refused_files
from shotstream.models.attention import use_attention
from shotstream.models.checkpoint import load_checkpoint, load_safetensors, read_json, transformer_config
from shotstream.models.components import load_text, load_vae
from shotstream.models.hub import download, is_hub_id
from shotstream.models.model import Model
from shotstream.models.published import (
    CHECKPOINTS,
    PUBLISHED_PROMPTING,
    PUBLISHED_SHAPES,
    PUBLISHED_SIZE,
    WAN,
    WAN_NEGATIVE,
)
from shotstream.models.scheduling import SCHEDULER_NAME, read_schedule, schedule_config
from shotstream.models.shapes import Shapes, checked_shapes
from shotstream.models.text import UMT5Text
from shotstream.models.transformer import ShotTransformer
from shotstream.models.vae import VAE
from shotstream.prompting import PROMPTING_NAME, Prompting, read_prompting
from shotstream.sampler import Guidance, Schedule

SHIPPED = Path(__file__).parents[2] / "assets" / "models" / "toyworld"
INDEX = "model_index.json"
SHIPPED_TEACHER = SHIPPED.with_name("teacher")
COMPONENTS = ("vae", "text_encoder", "tokenizer")


def load_model(
    source: str | Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    attention: str = "native",
    quality: str = "student",
) -> Model:
    """The model at `source`: a folder, a published checkpoint file, or a Hub id (`owner/name[@revision]`).

    None means $SHOTSTREAM_MODEL, else the model shipped with the program. `attention` is a diffusers backend name or
    "auto", `quality` "student" or "teacher": the slow model that it learned from, in the folder `teacher/` of a model
    folder. Raises `UserError` for everything that can be missing, damaged or unfit.
    """
    source = source or os.environ.get("SHOTSTREAM_MODEL") or SHIPPED
    device = _checked_device(device)
    with telling_lack_of_memory(f"on {device} for the model {str(source)[:200]}"), telling_refused_files():
        return _load_model(source, device, dtype, attention, quality)


def _teacher_folder(folder: Path) -> Path:
    """Where a model folder's teacher is. Raises `UserError` if there is none."""
    teacher = SHIPPED_TEACHER if folder == SHIPPED else folder / "teacher"
    if not teacher.is_dir():
        raise UserError(f"{folder} has no teacher: use the student's quality.")
    return teacher


def _load_model(source: str | Path, device: torch.device, dtype: torch.dtype, attention: str, quality: str) -> Model:
    parts = _read_parts(source, device, dtype, quality)
    transformer, index, places = parts.transformer, parts.index, parts.places
    vae = load_vae(places["vae"], device, dtype)
    text = load_text(places["text_encoder"], places["tokenizer"], transformer.config.text_len, device, dtype)
    _check_fit(source, transformer, vae, text)
    patch_height, patch_width = (vae.spatial_factor * patch for patch in transformer.config.patch_size[1:])
    steps = patch_width, patch_height
    return Model(
        attention=use_attention(transformer, attention, device, dtype),
        name=index.get("name") or Path(source).name,
        transformer=transformer,
        vae=vae,
        text=text,
        schedule=parts.schedule,
        height=index["height"],
        width=index["width"],
        fps=index["fps"],
        device=device,
        dtype=dtype,
        guidance=parts.guidance,
        shapes=checked_shapes(index.get("shapes"), index["width"], index["height"], steps, source),
        prompting=parts.prompting,
    )


@dataclass(frozen=True)
class _Parts:
    """What is read of a model first; `places` are the folders of its other components."""

    transformer: ShotTransformer
    index: dict[str, Any]
    schedule: Schedule
    guidance: Guidance | None  # a teacher's
    places: dict[str, Path]
    prompting: Prompting


def _published_parts(transformer: ShotTransformer, name: str | None, quality: str) -> _Parts:
    guidance = Guidance(negative_prompt=WAN_NEGATIVE) if quality == "teacher" else None
    index = {"name": name, "shapes": PUBLISHED_SHAPES, **PUBLISHED_SIZE}
    return _Parts(transformer, index, Schedule(), guidance, _places(None, WAN), PUBLISHED_PROMPTING)


def _read_parts(source: str | Path, device: torch.device, dtype: torch.dtype, quality: str) -> _Parts:
    path = Path(source)
    name, _, revision = str(source).partition("@")
    if path.is_file():
        transformer = load_checkpoint(path, device=device, dtype=dtype)
        return _published_parts(transformer, None, quality)
    if path.is_dir():
        folder = _teacher_folder(path) if quality == "teacher" else path
    elif name in CHECKPOINTS:
        file = CHECKPOINTS[name][quality]
        transformer = load_checkpoint(download(str(source), [file]) / file, device=device, dtype=dtype)
        return _published_parts(transformer, name, quality)
    elif isinstance(source, str) and is_hub_id(source):
        below = "teacher/" if quality == "teacher" else ""
        parts = (f"{below}{part}/*" for part in ("transformer", "scheduler", *COMPONENTS))
        folder = download(source, [f"{below}{INDEX}", f"{below}{PROMPTING_NAME}", *parts])
        folder = _teacher_folder(folder) if quality == "teacher" else folder
    else:
        raise UserError(f"There is no model folder at {source}.")
    if not (folder / INDEX).is_file():
        raise UserError(f"{source} is not a model folder: it has no {INDEX}.")
    index = _checked_index(folder / INDEX)
    config = transformer_config(read_json(folder / "transformer" / "config.json"), folder / "transformer")
    with torch.device("meta"):
        transformer = ShotTransformer(**config)
    load_safetensors(transformer, folder / "transformer", device, dtype)
    schedule, guidance = read_schedule(folder / "scheduler")
    return _Parts(transformer, index, schedule, guidance, _places(folder, index.get("base")), read_prompting(folder))


def _places(folder: Path | None, base: str | None) -> dict[str, Path]:
    """Where each component is: in the model's own folder, else in its `base`, of which only what is needed is taken."""
    missing = [part for part in COMPONENTS if folder is None or not (folder / part).is_dir()]
    places = {part: folder / part for part in COMPONENTS if part not in missing}
    if missing and base is None:
        raise UserError(f"{folder} lacks the folder {missing[0]}/.")
    if missing:
        home = Path(base) if Path(base).is_dir() else download(base, [f"{part}/*" for part in missing])
        for part in missing:
            if not (home / part).is_dir():
                raise UserError(f"{base} lacks the folder {part}/.")
            places[part] = home / part
    return places


def _checked_index(path: Path) -> dict[str, Any]:
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


def _check_fit(source: object, transformer: ShotTransformer, vae: VAE, text: UMT5Text) -> None:
    config = transformer.config
    if not config.in_dim == config.out_dim == vae.latent_channels:
        raise UserError(
            f"{source}: the transformer has {config.in_dim} latent channels, the VAE {vae.latent_channels}."
        )
    if config.text_dim != text.encoder.config.d_model:
        raise UserError(
            f"{source}: the transformer reads text of {config.text_dim} channels, "
            f"the text encoder writes {text.encoder.config.d_model}."
        )
    if len(text.tokenizer) > text.encoder.config.vocab_size:
        raise UserError(f"{source}: the tokenizer has more words than the text encoder.")


def _checked_device(device: torch.device | str) -> torch.device:
    try:
        torch.empty(0, device=device)
        return torch.device(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"This machine has no device {str(device)[:40]!r}: use cpu, or cuda with a GPU.") from error


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

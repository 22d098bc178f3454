"""From a model folder, the published checkpoint or a Hub id to a `Model`, with the components that it borrows.

Owns where the parts of a `Model` come from and that they fit each other. Nothing here depends on which model it is;
what a folder looks like is in `folder`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from shotstream.errors import UserError, telling_lack_of_memory, telling_refused_files
from shotstream.models.attention import use_attention
from shotstream.models.checkpoint import (
    WEIGHTS_NAME,
    load_checkpoint,
    load_safetensors,
    opened_weights,
    read_checkpoint,
    read_json,
    transformer_config,
)
from shotstream.models.components import TEXT_WEIGHTS_NAME, load_text, load_vae
from shotstream.models.encoder_choice import choose_encoder
from shotstream.models.fetching import FetchProgress
from shotstream.models.folder import COMPONENTS, INDEX, checked_index, read_numbers
from shotstream.models.hub import cached, check_room, download, fetch, is_hub_id
from shotstream.models.model import Model
from shotstream.models.offload import GuestVAE, lodge_state
from shotstream.models.preview import load_preview
from shotstream.models.published import (
    CHECKPOINTS,
    PUBLISHED,
    PUBLISHED_PROMPTING,
    PUBLISHED_SHAPES,
    PUBLISHED_SIZE,
    TEXT_16_FILES,
    TEXT_32_FILES,
    TOKENIZER_FILES,
    VAE_FILES,
    WAN,
    WAN_NEGATIVE,
    checkpoint_files,
)
from shotstream.models.scheduling import read_schedule
from shotstream.models.shapes import checked_shapes
from shotstream.models.text import UMT5Text
from shotstream.models.transformer import ShotTransformer
from shotstream.models.vae import VAE, WanVAE, network_of
from shotstream.prompting import PROMPTING_NAME, Prompting, read_prompting
from shotstream.sampler import Guidance, Schedule

SHIPPED = Path(__file__).parents[2] / "assets" / "models" / "toyworld"
LARGE = 10**9  # bytes
SHIPPED_TEACHER = SHIPPED.with_name("teacher")


def load_model(
    source: str | Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    attention: str = "native",
    quality: str = "student",
    progress: FetchProgress | None = None,
    low_vram: bool = False,
    int8_text: bool = False,
    preview: str | None = None,
) -> Model:
    """The model at `source`: a folder, a published checkpoint file, or a Hub id (`owner/name[@revision]`).

    None means the `default_source`. `attention` is a diffusers backend name or "auto"; `quality` is "student" or
    "teacher": the slow model that it learned from, in the folder `teacher/` of a model folder. What has to be fetched
    is told to `progress`. `low_vram` keeps on the device only what computes at a time, `int8_text` rounds the text
    encoder, `preview` names a decoder for what is shown (see `load_preview`). Raises `UserError` for everything that
    can be missing, damaged or unfit.
    """
    device = _checked_device(device)
    source = source or default_source(device)
    with telling_lack_of_memory(f"on {device} for the model {str(source)[:200]}"), telling_refused_files():
        return _load_model(source, device, dtype, attention, quality, progress, low_vram, int8_text, preview)


def default_source(device: torch.device) -> str | Path:
    """What is loaded when nobody asks for a model: $SHOTSTREAM_MODEL, else the published one where there is a GPU for
    it, else the one shipped with the program."""
    return os.environ.get("SHOTSTREAM_MODEL") or (PUBLISHED if device.type == "cuda" else SHIPPED)


def is_large(path: Path) -> bool:
    """Is a model on this disk one that takes long to load?"""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file()) > LARGE


def look_over(path: Path) -> None:
    """Has a model on this disk all its files, each of its kind and whole? What is known at once, without reading the
    weights. Raises `UserError`."""
    if path.is_file():
        read_checkpoint(path)
        return
    read_numbers(path)
    for part, name in (("transformer", WEIGHTS_NAME), ("vae", WEIGHTS_NAME), ("text_encoder", TEXT_WEIGHTS_NAME)):
        if part == "transformer" or (path / part).is_dir():  # else it comes from elsewhere
            with opened_weights(path / part, name):
                pass


def as_guest(vae: VAE, transformer: ShotTransformer, device: torch.device) -> VAE:
    """A VAE that shares a small card with the transformer, and whose decoding state waits elsewhere."""
    if isinstance(vae, WanVAE):
        lodge_state(vae, device)
    return GuestVAE(vae, network_of(vae), transformer, device)


def _teacher_folder(folder: Path) -> Path:
    """Where a model folder's teacher is. Raises `UserError` if there is none."""
    teacher = SHIPPED_TEACHER if folder == SHIPPED else folder / "teacher"
    if not teacher.is_dir():
        raise UserError(f"{folder} has no teacher: use the student's quality.")
    return teacher


def _load_model(
    source: str | Path,
    device: torch.device,
    dtype: torch.dtype,
    attention: str,
    quality: str,
    progress: FetchProgress | None,
    low_vram: bool,
    int8_text: bool,
    preview: str | None,
) -> Model:
    parts = _read_parts(source, device, dtype, quality, progress)
    transformer, index, places = parts.transformer, parts.index, parts.places
    vae = load_vae(places["vae"], device, dtype)
    text_len = transformer.config.text_len
    text = load_text(
        places["text_encoder"], places["tokenizer"], text_len, device, dtype, int8=int8_text, streamed=low_vram
    )
    check_fit(source, transformer, vae, text)
    used = use_attention(transformer, attention, device, dtype)
    shown = load_preview(preview, vae, device, dtype) if preview else None
    if low_vram:
        vae = as_guest(vae, transformer, device)
    model = Model(
        attention=used,
        name=(index.get("name") or Path(source).name) + (" (preview)" if shown else ""),  # a film's note names it
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
        prompting=parts.prompting,
        preview=shown,
    )
    model.shapes = checked_shapes(index.get("shapes"), model.width, model.height, model.size_steps, source)
    return model


@dataclass(frozen=True)
class _Parts:
    """What is read of a model first; `places` are the folders of its other components."""

    transformer: ShotTransformer
    index: dict[str, Any]
    schedule: Schedule
    guidance: Guidance | None  # a teacher's
    places: dict[str, Path]
    prompting: Prompting


def _published_parts(
    checkpoint: Path, name: str | None, device: torch.device, dtype: torch.dtype, quality: str, places: dict[str, Path]
) -> _Parts:
    transformer = load_checkpoint(checkpoint, device=device, dtype=dtype)
    guidance = Guidance(negative_prompt=WAN_NEGATIVE) if quality == "teacher" else None
    index = {"name": name, "shapes": PUBLISHED_SHAPES, **PUBLISHED_SIZE}
    return _Parts(transformer, index, Schedule(), guidance, places, PUBLISHED_PROMPTING)


def _read_parts(
    source: str | Path, device: torch.device, dtype: torch.dtype, quality: str, progress: FetchProgress | None
) -> _Parts:
    path = Path(source)
    name, _, revision = str(source).partition("@")
    if path.is_file():
        places = _places(None, WAN, progress)
        return _published_parts(path, None, device, dtype, quality, places)
    if path.is_dir():
        folder = _teacher_folder(path) if quality == "teacher" else path
    elif name in CHECKPOINTS:
        part = checkpoint_files(name, revision, quality)
        encoder = [] if cached(TEXT_32_FILES) else [TEXT_16_FILES]
        check_room([part, VAE_FILES, TOKENIZER_FILES, *encoder])  # all of it, before the first byte
        checkpoint = fetch([part], progress)[0] / part.files[0]
        return _published_parts(checkpoint, name, device, dtype, quality, _places(None, WAN, progress))
    elif isinstance(source, str) and is_hub_id(source):
        below = "teacher/" if quality == "teacher" else ""
        parts = (f"{below}{part}/*" for part in ("transformer", "scheduler", *COMPONENTS))
        folder = download(source, [f"{below}{INDEX}", f"{below}{PROMPTING_NAME}*", *parts], progress)
        folder = _teacher_folder(folder) if quality == "teacher" else folder
    else:
        raise UserError(f"There is no model folder at {source}.")
    if not (folder / INDEX).is_file():
        raise UserError(f"{source} is not a model folder: it has no {INDEX}.")
    index = checked_index(folder / INDEX)
    places = _places(folder, index.get("base"), progress)
    config = transformer_config(read_json(folder / "transformer" / "config.json"), folder / "transformer")
    with torch.device("meta"):
        transformer = ShotTransformer(**config)
    load_safetensors(transformer, folder / "transformer", device, dtype)
    schedule, guidance = read_schedule(folder / "scheduler")
    return _Parts(transformer, index, schedule, guidance, places, read_prompting(folder))


def _places(folder: Path | None, base: str | None, progress: FetchProgress | None) -> dict[str, Path]:
    """Where each component is: in the model's own folder, else in its `base`, of which only what is needed is taken."""
    missing = [part for part in COMPONENTS if folder is None or not (folder / part).is_dir()]
    places = {part: folder / part for part in COMPONENTS if part not in missing}
    if missing and base is None:
        raise UserError(f"{folder} lacks the folder {missing[0]}/.")
    if missing:
        if base == WAN:
            homes = _published_homes(missing, progress)
        else:
            home = Path(base) if Path(base).is_dir() else download(base, [f"{part}/*" for part in missing], progress)
            homes = dict.fromkeys(missing, home)
        for part, home in homes.items():
            if not (home / part).is_dir():
                raise UserError(f"{base} lacks the folder {part}/.")
            places[part] = home / part
    return places


def _published_homes(missing: list[str], progress: FetchProgress | None) -> dict[str, Path]:
    """Where the folder of each of the `missing` components is to be found, after it was fetched."""
    small = {"vae": VAE_FILES, "tokenizer": TOKENIZER_FILES}
    wanted = [part for part in missing if part in small]
    homes = dict(zip(wanted, fetch([small[part] for part in wanted], progress), strict=True))
    if "text_encoder" in missing:
        homes["text_encoder"] = choose_encoder(TEXT_16_FILES, TEXT_32_FILES, progress)
    return homes


def check_fit(source: object, transformer: ShotTransformer, vae: VAE, text: UMT5Text) -> None:
    """Raises `UserError` naming `source` for parts that do not go together."""
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
    if text.tokenizer is not None and len(text.tokenizer) > text.encoder.config.vocab_size:
        raise UserError(f"{source}: the tokenizer has more words than the text encoder.")


def _checked_device(device: torch.device | str) -> torch.device:
    try:
        torch.empty(0, device=device)
        return torch.device(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"This machine has no device {str(device)[:40]!r}: use cpu, or cuda with a GPU.") from error

"""A model folder in the diffusers layout, read and written; the published checkpoint with its borrowed components.

    model_index.json   name, height, width, fps; "base": where components that the folder lacks come from
    transformer/ vae/ text_encoder/ tokenizer/   as diffusers and transformers save them
    scheduler/scheduler_config.json              shift, steps and chunk sizes

Owns where the parts of a `Model` come from and that they fit each other. Nothing here depends on which model it is.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from transformers import AutoTokenizer, PreTrainedTokenizerBase, UMT5EncoderModel
from transformers.utils.logging import CRITICAL, disable_progress_bar, get_verbosity, set_verbosity

from shotstream.errors import UserError, lacks_memory, telling_lack_of_memory, telling_refused_files
from shotstream.models.checkpoint import load_checkpoint, load_safetensors, read_json, transformer_config
from shotstream.models.hub import download, is_hub_id
from shotstream.models.model import Model
from shotstream.models.pixel_autoencoder import PixelAutoencoder
from shotstream.models.scheduling import SCHEDULER_NAME, read_schedule, schedule_config
from shotstream.models.text import UMT5Text
from shotstream.models.transformer import ShotTransformer
from shotstream.models.vae import VAE, WanVAE
from shotstream.sampler import Guidance, Schedule

SHIPPED = Path(__file__).parents[2] / "assets" / "models" / "toyworld"
INDEX = "model_index.json"
SHIPPED_TEACHER = SHIPPED.with_name("teacher")
# published as checkpoints instead of a folder
CHECKPOINTS = {"KlingTeam/ShotStream": {"student": "shotstream_merged.pt", "teacher": "bidirectional_teacher.pt"}}
WAN = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers@0fad780a534b6463e45facd96134c9f345acfa5b"
COMPONENTS = ("vae", "text_encoder", "tokenizer")
# Wan's own, which the published teacher was sampled with
WAN_NEGATIVE = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，"
    "丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，"
    "静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
)
# What a text encoder's configuration may claim before it is built.
TEXT_LIMITS = {
    "vocab_size": 1_000_000,
    "d_model": 16384,
    "d_kv": 1024,
    "d_ff": 131072,
    "num_layers": 256,
    "num_heads": 256,
    "relative_attention_num_buckets": 4096,
}
PUBLISHED_SIZE = {"height": 480, "width": 832, "fps": 16}
VAES: dict[str, tuple[type, Callable[[Any], VAE]]] = {
    "AutoencoderKLWan": (AutoencoderKLWan, WanVAE),
    "PixelAutoencoder": (PixelAutoencoder, lambda module: module),
}


def load_model(
    source: str | Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    attention: str = "native",
    quality: str = "student",
) -> Model:
    """The model at `source`: a folder, a published checkpoint file, or a Hub id (`owner/name[@revision]`).

    None means $SHOTSTREAM_MODEL, else the model shipped with the program. `attention` is a diffusers backend name,
    `quality` "student" or "teacher": the slow model that it learned from, in the folder `teacher/` of a model folder.
    Raises `UserError` for everything that can be missing, damaged or unfit.
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
    transformer, index, schedule, guidance, places = _read_parts(source, device, dtype, quality)
    vae = _load_vae(places["vae"], device, dtype)
    text = _load_text(places["text_encoder"], places["tokenizer"], transformer.config.text_len, device, dtype)
    _check_fit(source, transformer, vae, text)
    use_attention(transformer, attention, device, dtype)
    return Model(
        name=index.get("name") or Path(source).name,
        transformer=transformer,
        vae=vae,
        text=text,
        schedule=schedule,
        height=index["height"],
        width=index["width"],
        fps=index["fps"],
        device=device,
        dtype=dtype,
        guidance=guidance,
    )


def _read_parts(
    source: str | Path, device: torch.device, dtype: torch.dtype, quality: str
) -> tuple[ShotTransformer, dict[str, Any], Schedule, Guidance | None, dict[str, Path]]:
    """The transformer, the index, the schedule, a teacher's guidance, and the folder of every other component."""
    published = Guidance(negative_prompt=WAN_NEGATIVE) if quality == "teacher" else None
    path = Path(source)
    name, _, revision = str(source).partition("@")
    if path.is_file():
        transformer = load_checkpoint(path, device=device, dtype=dtype)
        return transformer, PUBLISHED_SIZE, Schedule(), published, _places(None, WAN)
    if path.is_dir():
        folder = _teacher_folder(path) if quality == "teacher" else path
    elif name in CHECKPOINTS:
        file = CHECKPOINTS[name][quality]
        transformer = load_checkpoint(download(str(source), [file]) / file, device=device, dtype=dtype)
        return transformer, PUBLISHED_SIZE | {"name": name}, Schedule(), published, _places(None, WAN)
    elif isinstance(source, str) and is_hub_id(source):
        below = "teacher/" if quality == "teacher" else ""
        parts = (f"{below}{part}/*" for part in ("transformer", "scheduler", *COMPONENTS))
        folder = download(source, [f"{below}{INDEX}", *parts])
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
    return transformer, index, schedule, guidance, _places(folder, index.get("base"))


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


def _load_vae(folder: Path, device: torch.device, dtype: torch.dtype) -> VAE:
    config = read_json(folder / "config.json")
    if config.get("_class_name") not in VAES:
        raise UserError(f"{folder} holds a {config.get('_class_name')}: known are {' and '.join(VAES)}.")
    kind, wrap = VAES[config["_class_name"]]
    if config.get("patch_size") is not None or config.get("is_residual"):
        raise UserError(f"{folder} holds a kind of AutoencoderKLWan that cannot be streamed here.")
    try:
        with torch.device("meta"):
            module = kind.from_config(config)
    except Exception as error:  # numbers that make no network fail in as many ways as there are layers
        raise UserError(f"{folder / 'config.json'} does not describe a {kind.__name__}.") from error
    return wrap(load_safetensors(module, folder, device, dtype))


def _load_text(
    encoder_folder: Path, tokenizer_folder: Path, text_len: int, device: torch.device, dtype: torch.dtype
) -> UMT5Text:
    try:
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the library raises nearly anything
        raise UserError(f"{tokenizer_folder} holds no tokenizer that can be read.") from error
    _check_text_config(encoder_folder / "config.json")
    disable_progress_bar()
    verbosity = get_verbosity()
    try:
        set_verbosity(CRITICAL)  # it reports over many lines what is told in one below
        encoder, report = UMT5EncoderModel.from_pretrained(
            encoder_folder,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the report, by name
        )
    except Exception as error:
        if lacks_memory(error):
            raise
        raise UserError(f"{encoder_folder} holds no UMT5 text encoder that can be read.") from error
    finally:
        set_verbosity(verbosity)
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[problem]:
            first = min(report[problem], key=str)  # a name, or a name and two shapes
            name = first if isinstance(first, str) else first[0]
            raise UserError(f"{encoder_folder}: the tensor {name} is {problem.removesuffix('_keys')}.")
    for name, weight in encoder.named_parameters():
        if not all(map(math.isfinite, torch.aminmax(weight.detach()))):
            raise UserError(f"{encoder_folder}: the tensor {name} holds numbers that are not finite.")
    if not encoder.encoder.embed_tokens.weight.any():  # once left so by a library that did not tie it
        raise UserError(f"{encoder_folder}: the token embeddings are all zero: update transformers.")
    return UMT5Text(tokenizer, encoder.to(device).eval(), text_len)


def _check_text_config(path: Path) -> None:
    """Raises `UserError` for numbers that no text encoder has, before one is built of them."""
    config = read_json(path)
    for key, most in TEXT_LIMITS.items():
        value = config.get(key, 1)
        if not isinstance(value, int) or not 0 < value <= most:
            raise UserError(f"{path}: {key} must be a whole number from 1 to {most}, not {str(value)[:40]}.")


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


def use_attention(transformer: ShotTransformer, name: str, device: torch.device, dtype: torch.dtype) -> None:
    """Set the diffusers backend `name` and let it attend once: what is missing for it is told now, as a `UserError`,
    and not in the middle of a shot."""
    logger = logging.getLogger("diffusers.models.modeling_utils")
    level = logger.level
    try:
        if name != "native":
            logger.setLevel(logging.ERROR)  # it warns that backends are experimental
            transformer.set_attention_backend(name)  # checks what it requires and fetches Hub kernels
        transformer.use_attention(name)
        probe = torch.zeros(1, 8, transformer.config.dim, device=device, dtype=dtype)
        attention = transformer.blocks[0].self_attn
        with torch.no_grad():
            attention.attend(attention.queries(probe), *attention.keys_values(probe), None)
    except Exception as error:  # anything between an unknown name and a kernel for other cards
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"The attention backend {name[:40]!r} does not work here: {reason[0][:200]}") from error
    finally:
        logger.setLevel(level)


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
    except Exception as error:  # safetensors tells of a full disk in its own words
        raise UserError(f"Cannot write the model to {folder}: {str(error)[:200]}.") from error

"""A model's VAE and text side from their folders, as diffusers and transformers save them, trusting nothing in them.

Owns what such a folder may hold. Knows no other part of a model and not whether they fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from transformers import AutoTokenizer, UMT5EncoderModel
from transformers.utils.logging import CRITICAL, disable_progress_bar, get_verbosity, set_verbosity

from shotstream.errors import UserError, lacks_memory
from shotstream.models.checkpoint import load_safetensors, read_json
from shotstream.models.pixel_autoencoder import PixelAutoencoder
from shotstream.models.text import UMT5Text
from shotstream.models.vae import VAE, WanVAE

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
VAES: dict[str, tuple[type, Callable[[Any], VAE]]] = {
    "AutoencoderKLWan": (AutoencoderKLWan, WanVAE),
    "PixelAutoencoder": (PixelAutoencoder, lambda module: module),
}


def load_vae(folder: Path, device: torch.device, dtype: torch.dtype) -> VAE:
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


def load_text(
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

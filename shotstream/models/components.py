"""A model's VAE and text side from their folders, as diffusers and transformers save them, trusting nothing in them.

Owns what such a folder may hold. Knows no other part of a model and not whether they fit.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from transformers import AutoTokenizer, UMT5Config, UMT5EncoderModel

from shotstream.errors import UserError
from shotstream.models.checkpoint import fill, load_safetensors, opened_weights, read_json
from shotstream.models.offload import stream_encoder
from shotstream.models.pixel_autoencoder import PixelAutoencoder
from shotstream.models.text import UMT5Text
from shotstream.models.vae import VAE, WanVAE, network_of

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
VAE_LIMIT = 4096  # of every whole number in a VAE's configuration, before one is built of it
TEXT_WEIGHTS_NAME = "model.safetensors"
EMBEDDINGS, SHARED = "encoder.embed_tokens.weight", "shared.weight"
LARGE_ENCODER = 1_000_000_000  # parameters: 4 GB in float32
VAES: dict[str, tuple[type, Callable[[Any], VAE]]] = {
    "AutoencoderKLWan": (AutoencoderKLWan, WanVAE),
    "PixelAutoencoder": (PixelAutoencoder, lambda module: module),
}


def _read_vae_config(folder: Path) -> dict[str, Any]:
    """A VAE's numbers, of a kind that is known. Raises `UserError`."""
    config = read_json(folder / "config.json")
    if config.get("_class_name") not in VAES:
        raise UserError(f"{folder} holds a {config.get('_class_name')}: known are {' and '.join(VAES)}.")
    if config.get("patch_size") is not None or config.get("is_residual"):
        raise UserError(f"{folder} holds a kind of AutoencoderKLWan that cannot be streamed here.")
    for key, value in config.items():
        numbers = value if isinstance(value, list) else [value]
        if len(numbers) > VAE_LIMIT or any(isinstance(number, int) and number > VAE_LIMIT for number in numbers):
            raise UserError(f"{folder / 'config.json'}: {key} is more than {VAE_LIMIT}.")
    return config


def empty_vae(folder: Path) -> VAE:
    """The VAE that a folder describes, without weights (on meta). Raises `UserError`."""
    config = _read_vae_config(folder)
    kind, wrap = VAES[config["_class_name"]]
    try:
        with torch.device("meta"):
            module = kind.from_config(config)
        return wrap(module)
    except Exception as error:  # numbers that make no network fail in as many ways as there are layers
        raise UserError(f"{folder / 'config.json'} does not describe a {kind.__name__}.") from error


def load_vae(folder: Path, device: torch.device, dtype: torch.dtype) -> VAE:
    vae = empty_vae(folder)
    load_safetensors(network_of(vae), folder, device, dtype)
    return vae


def empty_encoder(folder: Path) -> UMT5EncoderModel:
    """The text encoder that a folder describes, without weights (on meta). Raises `UserError`."""
    config = _read_text_config(folder)
    try:
        with torch.device("meta"):
            return UMT5EncoderModel(config)
    except Exception as error:
        raise UserError(f"{folder} holds no UMT5 text encoder that can be read.") from error


def load_text(
    encoder_folder: Path,
    tokenizer_folder: Path,
    text_len: int,
    device: torch.device,
    dtype: torch.dtype,
    int8: bool = False,
    streamed: bool = False,
) -> UMT5Text:
    """The text side, its encoder on `device` in `dtype`: in bfloat16 at most if it is a large one, whose published
    weights lose nothing that the model it was trained with would have seen. `int8` makes it half as large again, at the
    price of rounding; `streamed`, it waits in main memory and computes on `device` block by block."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the library raises nearly anything
        raise UserError(f"{tokenizer_folder} holds no tokenizer that can be read.") from error
    encoder = empty_encoder(encoder_folder)
    if dtype == torch.float32 and count_parameters(encoder) >= LARGE_ENCODER:
        dtype = torch.bfloat16
    encoder = _fill_encoder(encoder, encoder_folder, torch.device("cpu") if streamed else device, dtype)
    if int8:
        quantise_text(encoder)
    if streamed:
        stream_encoder(encoder, device)
    return UMT5Text(tokenizer, encoder, text_len, streamed)


def quantise_text(encoder: UMT5EncoderModel) -> None:
    """Rounds the weights of all linear layers to 8 bits, a scale per row. Raises `UserError` without torchao."""
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except Exception as error:  # not installed, or built for another torch
        raise UserError("A text encoder in int8 needs torchao: pip install -e '.[int8]'.") from error
    quantize_(encoder, Int8WeightOnlyConfig())


def _fill_encoder(
    encoder: UMT5EncoderModel, folder: Path, device: torch.device, dtype: torch.dtype
) -> UMT5EncoderModel:
    """Every tensor goes from its file to where it is used: nothing is in memory in another dtype or at another place.

    The library saves the embeddings, which it has under two names, under either.
    """
    with opened_weights(folder, TEXT_WEIGHTS_NAME) as (shapes, read):
        stored = {EMBEDDINGS if name == SHARED else name: name for name in sorted(shapes, reverse=True)}
        stack = torch.nn.ModuleDict({"encoder": encoder.encoder})
        known = {name: shapes[place] for name, place in stored.items()}
        # float16 is too narrow for what these make, as the library knows as well
        in_full = [name for name in known if ".wo." in name] if dtype == torch.float16 else ()
        fill(stack, known, lambda name: read(stored[name]), folder, device, dtype, in_full)
    encoder.shared = encoder.encoder.embed_tokens
    if not encoder.encoder.embed_tokens.weight.any():
        raise UserError(f"{folder}: the token embeddings are all zero.")
    return encoder.eval()


def count_parameters(module: torch.nn.Module) -> int:
    """Each counted once, by however many names it goes."""
    return sum(parameter.numel() for parameter in module.parameters())


def _read_text_config(folder: Path) -> UMT5Config:
    """A text encoder's numbers. Raises `UserError` for those that none has, before one is built of them."""
    path = folder / "config.json"
    config = read_json(path)
    for key, most in TEXT_LIMITS.items():
        value = config.get(key, 1)
        if not isinstance(value, int) or not 0 < value <= most:
            raise UserError(f"{path}: {key} must be a whole number from 1 to {most}, not {str(value)[:40]}.")
    try:
        return UMT5Config.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the library raises nearly anything
        raise UserError(f"{folder} holds no UMT5 text encoder that can be read.") from error

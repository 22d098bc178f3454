"""A model folder with random weights: the real layout at any size, for tests and measurements before training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from shotstream.models.folder import save_model
from shotstream.models.model import Model
from shotstream.models.pixel_autoencoder import PixelAutoencoder
from shotstream.models.text import UMT5Text
from shotstream.models.transformer import ShotTransformer
from shotstream.sampler import Schedule

SMALL = {
    "dim": 48,
    "ffn_dim": 96,
    "num_heads": 2,
    "num_layers": 2,
    "in_dim": 16,
    "out_dim": 16,
    "text_dim": 32,
    "text_len": 16,
    "freq_dim": 32,
}
WORDS = (
    "a",
    "cat",
    "fox",
    "in",
    "the",
    "snow",
    "forest",
    "runs",
    "jumps",
    "wide",
    "close",
    "shot",
    "night",
    "red",
    "blue",
)


def save_random_model(
    folder: str | Path,
    transformer: Mapping[str, Any] | None = None,
    *,
    vae: str = "AutoencoderKLWan",
    schedule: Schedule | None = None,
    height: int = 32,
    width: int = 48,
    seed: int = 0,
) -> Path:
    """Write a folder that `load_model` reads; returns it. `transformer` replaces numbers of the small default.

    `vae` is "AutoencoderKLWan" (8x in space) or "PixelAutoencoder" (4x), both tiny.
    """
    config = SMALL | dict(transformer or {})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ShotTransformer(**config)
        torch.nn.init.xavier_uniform_(network.head.head.weight)  # training starts from zero: nothing would move
        tokenizer = _tokenizer(config["text_len"])
        save_model(
            folder,
            name="random",
            transformer=network,
            schedule=schedule or Schedule(default_chunks=2, max_chunks=4),
            height=height,
            width=width,
            vae=_vae(vae, config["in_dim"]),
            text_encoder=_text_encoder(len(tokenizer), config["text_dim"]),
            tokenizer=tokenizer,
        )
    return Path(folder)


@torch.no_grad()
def fill_randomly(model: Model, device: torch.device) -> Model:
    """A `model` of shapes alone (on meta) with small random weights on `device`, and a tokenizer of a few words."""
    for network in model.networks.values():
        network.to_empty(device=device).eval().requires_grad_(False)
        for name, tensor in (*network.named_parameters(), *network.named_buffers()):
            if tensor.ndim > 1:
                tensor.normal_(std=0.02)
            else:
                tensor.fill_(0.0 if name.endswith("bias") else 1.0)
    encoder = model.text.encoder
    encoder.set_input_embeddings(encoder.get_input_embeddings())  # one table, which emptying made two of
    text_len = model.transformer.config.text_len
    return replace(model, device=device, text=UMT5Text(_tokenizer(text_len), encoder, text_len))


def _vae(kind: str, channels: int) -> torch.nn.Module:
    if kind == "AutoencoderKLWan":
        return AutoencoderKLWan(
            base_dim=8,
            z_dim=channels,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            latents_mean=torch.linspace(-0.5, 0.5, channels).tolist(),
            latents_std=torch.linspace(0.5, 1.5, channels).tolist(),
        )
    module = PixelAutoencoder(
        latent_channels=channels, encoder_dim=16, encoder_blocks=1, decoder_dim=16, decoder_blocks=1, detail_dim=8
    )
    module.palette.uniform_(-1, 1)
    return module


def _text_encoder(words: int, dim: int) -> UMT5EncoderModel:
    return UMT5EncoderModel(
        UMT5Config(vocab_size=words, d_model=dim, d_kv=8, d_ff=2 * dim, num_layers=1, num_heads=2, dropout_rate=0.0)
    )


def _tokenizer(text_len: int) -> PreTrainedTokenizerFast:
    """Lower-case words, one number each; whatever is not among `WORDS` is unknown."""
    vocabulary = {word: number for number, word in enumerate(["<pad>", "</s>", "<unk>", *dict.fromkeys(WORDS)])}
    return word_tokenizer(vocabulary, normalizers.Lowercase(), pre_tokenizers.Whitespace(), text_len)


def word_tokenizer(
    vocabulary: Mapping[str, int],
    normalizer: normalizers.Normalizer,
    pre_tokenizer: pre_tokenizers.PreTokenizer,
    text_len: int,
) -> PreTrainedTokenizerFast:
    """One number a word, "</s>" at the end; `vocabulary` must hold "<pad>", "</s>" and "<unk>"."""
    tokenizer = Tokenizer(models.WordLevel(dict(vocabulary), unk_token="<unk>"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=text_len,
        padding_side="right",
    )

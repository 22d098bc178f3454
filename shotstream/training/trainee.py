"""A transformer and its text encoder as one unit of training, and captions to tokens and embeddings. Knows no loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, UMT5EncoderModel

from shotstream.models.text import clean_caption
from shotstream.models.transformer import ShotTransformer
from shotstream.training.learner import Unit

UNKNOWN = 2  # after padding and end, in UMT5's tokenizer and in the small one


class Trainee(Unit):
    """`text_encoder` is None where captions come embedded from a frozen one."""

    def __init__(self, transformer: ShotTransformer, text_encoder: UMT5EncoderModel | None = None) -> None:
        super().__init__(transformer)
        self.text_encoder = text_encoder

    @property
    def transformer(self) -> ShotTransformer:
        return self.network


def embed(text_encoder: UMT5EncoderModel, tokens: Tensor) -> Tensor:
    """Token numbers [N, L] to prompt embeddings [N, L, D], zero at padding (spec section 5)."""
    mask = tokens != text_encoder.config.pad_token_id
    longest = int(mask.sum(1).max())  # the encoder need not look at padding
    used, used_mask = tokens[:, :longest], mask[:, :longest]
    hidden = text_encoder(input_ids=used, attention_mask=used_mask).last_hidden_state * used_mask[..., None]
    return F.pad(hidden, (0, 0, 0, tokens.shape[1] - longest))


def tokens_of(tokenizer: PreTrainedTokenizerBase, captions: Sequence[str], text_len: int) -> Tensor:
    """[N, text_len] long token numbers of `captions`, cleaned as the engine's text encoder cleans them."""
    encoded = tokenizer(
        [clean_caption(caption) for caption in captions],
        padding="max_length",
        truncation=True,
        max_length=text_len,
        return_tensors="pt",
    )
    return encoded["input_ids"]


def hide_words(tokens: Tensor, share: float) -> Tensor:
    """`tokens` [N, L] with a `share` of the words made unknown, so that unknown ones do no harm later."""
    hidden = (torch.rand(tokens.shape, device=tokens.device) < share) & (tokens > UNKNOWN)
    return tokens.masked_fill(hidden, UNKNOWN)


def frozen(module: nn.Module) -> nn.Module:
    """`module` for use only: no gradients, evaluation mode."""
    return module.requires_grad_(False).eval()


@torch.no_grad()
def embed_frozen(text_encoder: UMT5EncoderModel, tokens: Tensor) -> Tensor:
    """`embed` without a gradient; float32 whatever the encoder computes in."""
    return embed(text_encoder, tokens).float()

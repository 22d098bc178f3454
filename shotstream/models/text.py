"""Captions to embeddings: cleaning, tokenising, the text encoder, and a small cache by caption.

Knows nothing of stories: whoever composes a caption has decided what it says.
"""

from __future__ import annotations

import html
import re
import threading
from collections import OrderedDict
from typing import Protocol

import ftfy
import torch
from transformers import PreTrainedTokenizerBase, UMT5EncoderModel

CACHED_CAPTIONS = 32  # 4 MB each at the published size


class TextEncoder(Protocol):
    """What the engine and the screen ask of a model's text side. `streamed`: its weights come to the device block by
    block, for as long as a caption is encoded."""

    streamed: bool

    def encode(self, caption: str) -> torch.Tensor: ...

    def count_tokens(self, caption: str) -> tuple[int, int]: ...

    def forget(self) -> None: ...


def clean_caption(text: str) -> str:
    """Text as Wan's pipeline reads it: broken encodings mended, entities resolved, runs of white space made one."""
    return re.sub(r"\s+", " ", html.unescape(html.unescape(ftfy.fix_text(text)))).strip()


class UMT5Text:
    """A UMT5 encoder and its tokenizer."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, encoder: UMT5EncoderModel, text_len: int, streamed: bool = False
    ) -> None:
        self.tokenizer = tokenizer
        self.encoder = encoder
        self.text_len = text_len
        self.streamed = streamed
        self._cache: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._lock = threading.Lock()
        self._tokenizing = threading.Lock()  # a tokenizer is told before each use whether to cut a text off
        self._encoding = threading.Lock()  # on a small card weights come and go with a call; and nothing is made twice

    def count_tokens(self, caption: str) -> tuple[int, int]:
        """(tokens of the whole caption, tokens that the model reads)."""
        text = clean_caption(caption)
        with self._tokenizing:
            return len(self.tokenizer(text, verbose=False).input_ids), self.text_len

    def forget(self) -> None:
        """Captions encoded so far: they will be encoded anew."""
        with self._lock:
            self._cache.clear()

    @torch.no_grad()
    def encode(self, caption: str) -> torch.Tensor:
        """[text_len, text_dim] in the encoder's dtype and on its device, zero at padding; not to be written to.

        The encoder sees the caption's own tokens only: under its attention mask padding changes nothing.
        """
        if (known := self._known(caption)) is not None:
            return known
        with self._encoding:
            if (known := self._known(caption)) is not None:
                return known
            embeds = self._encode(caption)
            with self._lock:
                self._cache[caption] = embeds
                while len(self._cache) > CACHED_CAPTIONS:
                    self._cache.popitem(last=False)
        return embeds

    def _known(self, caption: str) -> torch.Tensor | None:
        with self._lock:
            if caption in self._cache:
                self._cache.move_to_end(caption)
            return self._cache.get(caption)

    def _encode(self, caption: str) -> torch.Tensor:
        text = clean_caption(caption)
        with self._tokenizing:
            tokens = self.tokenizer(text, truncation=True, max_length=self.text_len, return_tensors="pt")
        tokens = tokens.to(self.encoder.device)
        hidden = self.encoder(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state[0]
        embeds = hidden.new_zeros(self.text_len, hidden.shape[-1])
        embeds[: len(hidden)] = hidden
        return embeds

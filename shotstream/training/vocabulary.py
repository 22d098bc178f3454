"""The toy world's tokenizer: lower-case words, single digits and punctuation marks, learned from generated stories.

Owns the vocabulary and the small text encoder's shape. The caption's "shot3:" is split off the global caption that it
is glued to. No training story has more than six shots, so every later one is told as the sixth: read digit by digit,
"shot10:" would end like the first shot, which looks back at nothing.
"""

from __future__ import annotations

import random

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from shotstream.story import compose_caption
from shotstream.toyworld.stories import random_story

SPECIAL = ("<pad>", "</s>", "<unk>")
LAST_SHOT = 5  # from 0, of the longest story that is trained on


def _pattern() -> pre_tokenizers.PreTokenizer:
    words = Regex(r"shot(?=[0-9]+:)|[a-z]+|[0-9]|[^\sa-z0-9]")
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"shot[0-9]+:"), "isolated"),
            pre_tokenizers.Split(words, "removed", invert=True),
        ]
    )


def _normalizer() -> normalizers.Normalizer:
    beyond = Regex(rf"shot(?:[{LAST_SHOT + 1}-9]|[1-9][0-9]+):")
    later = normalizers.Replace(beyond, f"shot{LAST_SHOT}:")
    return normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), later])


def build_tokenizer(text_len: int = 64, stories: int = 20_000) -> PreTrainedTokenizerFast:
    """Every word of `stories` generated stories, all digits, in alphabetical order: the same on every machine."""
    rng = random.Random(0)
    normalizer, split = _normalizer(), _pattern()
    words: set[str] = set("0123456789.,:;!?'\"-()")
    for _ in range(stories):
        story = random_story(rng)
        for index, shot in enumerate(story.shots):
            for said in (shot.caption, *([shot.beat.caption] if shot.beat else [])):
                caption = compose_caption(story.global_caption, index, said)
                words |= {word for word, _ in split.pre_tokenize_str(normalizer.normalize_str(caption))}
    vocabulary = {word: index for index, word in enumerate((*SPECIAL, *sorted(words)))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = split
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=text_len,
        padding_side="right",
    )


def build_text_encoder(vocab_size: int) -> UMT5EncoderModel:
    """A small UMT5 encoder with random weights, trained jointly with the first denoiser."""
    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=vocab_size,
            d_model=128,
            d_kv=32,
            d_ff=256,
            num_layers=3,
            num_heads=4,
            dropout_rate=0.0,
            relative_attention_num_buckets=16,
            relative_attention_max_distance=64,
            pad_token_id=0,
            eos_token_id=1,
        )
    )

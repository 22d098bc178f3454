"""Captions to embeddings: cleaned and padded as the model was trained, counted, encoded once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import torch

from shotstream.models.text import CACHED_CAPTIONS, clean_caption


def test_captions_are_cleaned_as_the_model_was_trained():
    assert clean_caption("  a  fox\n &amp;amp; a â€œcatâ€\x9d ") == 'a fox & a "cat"'


def test_embeddings_end_in_zeros_and_do_not_depend_on_padding(random_model):
    text = random_model.text
    embeds = text.encode("a fox in the snow")
    used, limit = text.count_tokens("a fox in the snow")
    assert (used, limit) == (6, 16) and embeds.shape == (16, 32)
    assert embeds[:used].abs().sum(-1).gt(0).all() and embeds[used:].eq(0).all()
    padded = text.tokenizer("a fox in the snow", padding="max_length", max_length=16, return_tensors="pt")
    with torch.no_grad():
        hidden = text.encoder(padded.input_ids, attention_mask=padded.attention_mask).last_hidden_state[0]
    torch.testing.assert_close(embeds[:used], hidden[:used], atol=1e-5, rtol=0)


def test_long_captions_are_cut_and_counted(random_model):
    assert random_model.text.count_tokens("fox " * 500) == (501, 16)
    assert random_model.text.encode("fox " * 500).abs().sum(-1).gt(0).all()


def test_a_caption_that_two_ask_for_is_encoded_once_and_one_at_a_time(random_model):
    """A queued prompt is encoded ahead while its turn may come; on a small card weights come and go with every call."""
    text, calls, inside = random_model.text, [], []

    def enter(*_) -> None:
        inside.append(threading.get_ident())
        calls.append(len(set(inside)))

    hooks = [text.encoder.register_forward_pre_hook(enter)]
    hooks.append(text.encoder.register_forward_hook(lambda *_: inside.remove(threading.get_ident())))
    captions = [f"a fox runs {number // 4}" for number in range(16)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(text.encode, captions))
    for hook in hooks:
        hook.remove()
    assert calls == [1] * 4, "one call for each of four captions, never two at a time"
    assert all(found[number] is found[number // 4 * 4] for number in range(16))


def test_captions_are_encoded_once_and_only_so_many_are_kept(random_model):
    text = random_model.text
    first = text.encode("a fox")
    assert text.encode("a fox") is first
    for number in range(CACHED_CAPTIONS):
        text.encode(f"a cat {number}")
    assert text.encode("a fox") is not first

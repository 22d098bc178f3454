"""Prompt help: the files that models give it by, what is said of a prompt, and what is added to one."""

from __future__ import annotations

import json
import os
import random
import re
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from shotstream.models.model import Model
from shotstream.models.published import PUBLISHED_PROMPTING
from shotstream.models.weights import SHIPPED
from shotstream.prompting import (
    KINDS,
    PROMPTING_NAME,
    Prompting,
    advice_on,
    complete,
    read_prompting,
    reads_whole,
    unknown_words,
)
from shotstream.story import compose_caption
from shotstream.toyworld import words
from shotstream.toyworld.prompting import toyworld_prompting
from shotstream.training.vocabulary import build_tokenizer

SEEDS = range(40)
PROMPTS = (
    "a red ball in the forest",
    "make him look surprised",
    "Night falls.",
    "cut to the city!",
    "She looks happy",
    "they dance",
    "a cat and a ball in the meadow",
    "close-up",
    "Wide shot: Pip walks to the right on a sunny day.",
    "it is red now, ",
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(SHIPPED / "tokenizer")


@pytest.fixture(scope="module")
def toy() -> Prompting:
    return read_prompting(SHIPPED)


def phrases(prompting: Prompting) -> list[str]:
    groups = (*prompting.words.values(), *prompting.templates.values(), *prompting.signs.values())
    return [phrase for group in groups for phrase in group]


# The files


def test_the_shipped_file_and_the_shipped_vocabulary_agree(toy: Prompting, tokenizer: PreTrainedTokenizerBase):
    assert toy == toyworld_prompting(lambda phrase: not unknown_words(phrase, tokenizer))  # `train export` writes it
    assert toy.advice and set(toy.templates) == set(KINDS)
    assert [phrase for phrase in phrases(toy) if unknown_words(phrase, tokenizer)] == []


def test_everything_that_the_world_has_is_named(toy: Prompting):
    tables = {
        "who": words.SHAPE_WORDS,
        "colours": words.COLOUR_WORDS,
        "places": words.PLACE_WORDS,
        "light": words.TIME_WORDS,
        "camera": words.CAMERA_WORDS,
        "faces": words.FEELINGS,
        "actions": words.DOES,
    }
    for group, table in tables.items():
        for name, ways in table.items():
            assert set(ways) & set(toy.words[group]), name


@pytest.mark.parametrize("which", ["shipped", "today's"])
def test_shots_later_than_any_that_was_trained_on_are_told_as_the_last(which, tokenizer):
    """Digit by digit the eleventh, "shot10:", would end like the first."""
    read = (tokenizer if which == "shipped" else build_tokenizer(stories=200)).tokenize
    told = [read(compose_caption("A cat.", index, "It jumps at shot 12: high.")) for index in range(38)]
    assert all(told[index] == told[5] for index in range(5, 38))
    assert len({tuple(tokens) for tokens in told}) == 6 and told[0][3:6] == ["shot", "0", ":"]


def test_a_model_of_today_s_words_is_told_all_of_them():
    """The shipped one may be older than the newest words; the next is not."""
    today = build_tokenizer(stories=3000)
    prompting = toyworld_prompting(lambda phrase: not unknown_words(phrase, today))
    assert {"pan left", "zoom in", "close-up"} <= set(prompting.words["camera"])
    assert len(phrases(prompting)) == len(phrases(toyworld_prompting(lambda phrase: True)))


@pytest.mark.parametrize(
    "prompting", [PUBLISHED_PROMPTING, toyworld_prompting(lambda phrase: True)], ids=["long", "toy"]
)
def test_what_is_written_is_read(prompting: Prompting, tmp_path: Path):
    (tmp_path / PROMPTING_NAME).write_text(prompting.to_json(), encoding="utf-8")
    assert read_prompting(tmp_path) == prompting


BAD = {
    "nothing": "",
    "no JSON": "{",
    "a list": "[]",
    "advice that is no text": {"advice": 3},
    "advice that steers a terminal": {"advice": "a\x1b[2J"},
    "advice without an end": {"advice": "a" * 1000},
    "half a character": '{"advice": "\\ud800"}',
    "words that are a list": {"words": ["a"]},
    "a group that is a text": {"words": {"who": "ball"}},
    "a phrase that is a number": {"words": {"who": ["ball", 3]}},
    "a blank phrase": {"templates": {"light": [" "]}},
    "no phrase": {"templates": {"light": [""]}},
    "a phrase without an end": {"templates": {"light": ["a" * 400]}},
    "a phrase that turns the text": {"templates": {"light": ["\u202eat night"]}},
    "too many phrases": {"signs": {"light": ["a"] * 1000}},
    "too many groups": {"words": {str(n): ["a"] for n in range(50)}},
    "a number of thousands of digits": '{"advice": ' + "9" * 5000 + "}",
    "nested deeply": "[" * 90_000,
    "too large": '{"advice": "' + " " * 200_000 + '"}',
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_a_damaged_file_is_no_help_and_no_harm(content: str | dict, tmp_path: Path):
    (tmp_path / PROMPTING_NAME).write_text(content if isinstance(content, str) else json.dumps(content))
    assert read_prompting(tmp_path) == Prompting()


def test_a_missing_or_unreadable_file_is_no_help(tmp_path: Path):
    assert read_prompting(tmp_path) == read_prompting(tmp_path / "nowhere") == read_prompting("a\0b") == Prompting()
    (tmp_path / PROMPTING_NAME).write_bytes(os.urandom(1000))
    assert read_prompting(tmp_path) == Prompting()
    (tmp_path / PROMPTING_NAME).unlink()
    (tmp_path / PROMPTING_NAME).mkdir()
    assert read_prompting(tmp_path) == Prompting()


def test_what_is_not_known_of_a_file_is_left_out(tmp_path: Path):
    fields = {"templates": {"smell": ["of roses"], "light": ["at night"]}, "colour": "red"}
    (tmp_path / PROMPTING_NAME).write_text(json.dumps(fields))
    assert read_prompting(tmp_path) == Prompting(templates={"light": ("at night",)})


# Words


def test_unknown_words_are_named_once_and_in_order(tokenizer: PreTrainedTokenizerBase):
    found = unknown_words("A Dragon, a red ball: the dragon eats #lava—soup & a café 🐉… (龙)", tokenizer)
    assert found == ("dragon", "eats", "lava", "soup", "café", "🐉", "龙")
    assert unknown_words("", tokenizer) == unknown_words("Close-up of Pip: it's 3 o ' ... # — *", tokenizer)[2:] == ()
    assert unknown_words("&amp; a ball\n\n jumps", tokenizer) == ()  # as the encoder reads it
    assert unknown_words("a dragon </s> <unk>", tokenizer) == ("dragon", "s", "unk")


def test_tokenizers_of_parts_of_words_know_all(tokenizer: PreTrainedTokenizerBase):
    unigram = Tokenizer(models.Unigram([("<unk>", 0.0), ("▁a", -1.0), ("b", -2.0)], unk_id=0))
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    parts = PreTrainedTokenizerFast(tokenizer_object=unigram, unk_token="<unk>")
    assert unknown_words("a dragon in lava", parts) == unknown_words("a dragon", None) == ()


def test_a_text_that_is_read_at_the_same_time_is_not_cut(tokenizer: PreTrainedTokenizerBase):
    tokenizer("a", truncation=True, max_length=4)  # as the text encoder does: the tokenizer remembers it
    assert unknown_words("a ball " * 100 + "dragon", tokenizer) == ("dragon",)


def test_advice_is_one_sentence_on_what_is_not_read(random_model: Model):
    text = random_model.text  # knows a cat, a fox, snow, and reads 16 tokens
    assert advice_on("the cat jumps in the snow.", text, "a fox. ") == ""
    assert advice_on("a dragon in lava", text, "a fox.") == "This model does not know: dragon, lava."
    assert advice_on("a cat", text, "the unicorn. ") == "This model does not know: unicorn."
    assert advice_on("a b c d e f g h i j", text) == "This model does not know: b, c, d, e, f, g and 3 more."
    assert advice_on("x" * 300, text) == f"This model does not know: {'x' * 30}…."
    too_long = advice_on("a dragon " + "cat " * 20, text, "a fox. ", shot=3)
    assert re.fullmatch(r"Story and shot have \d+ tokens together, of which the model reads the first 16\.", too_long)
    assert reads_whole("a cat", text, "a fox. ") and not reads_whole("cat " * 20, text)


# Completion


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_completed_prompt_says_all_three_in_known_words(
    prompt: str, toy: Prompting, tokenizer: PreTrainedTokenizerBase
):
    for seed in SEEDS:
        text = complete(prompt, toy, random.Random(seed))
        assert prompt.strip(" ,.!") in text and text[-1] in ".!"
        assert set(unknown_words(text, tokenizer)) <= set(unknown_words(prompt, tokenizer))
        assert len(tokenizer(text).input_ids) <= len(tokenizer(prompt).input_ids) + 20
        assert complete(text, toy, random.Random(seed + 1)) == text  # nothing is missing any more
        assert complete(prompt, toy, random.Random(seed)) == text


def test_what_is_said_is_not_said_twice(toy: Prompting):
    light = "|".join(toy.templates["light"])
    for seed in SEEDS:
        rng = random.Random(seed)
        assert re.fullmatch(f"close-up: it jumps ({light})\\.", complete("close-up: it jumps", toy, rng))
        assert re.fullmatch(f"CLOSEUP: it jumps ({light})!!", complete("CLOSEUP: it jumps!!", toy, rng))
        assert re.fullmatch(
            r"(Wide shot|Medium shot|Close-up): It jumps at night\.", complete("It jumps at night", toy, rng)
        )
        assert re.fullmatch(r"wide shot at dusk\. It is [a-z ]+\.", complete("wide shot at dusk", toy, rng))
        whole = "Wide shot: she dances in the moonlight"
        assert complete(whole, toy, rng) == whole


def test_sentences_read_as_such():
    only = Prompting(templates={"camera": ("Close-up",), "action": ("jumping up and down",), "light": ("at sunset",)})
    said = {
        "a red ball in the forest": "Close-up: a red ball in the forest at sunset. It is jumping up and down.",
        "make him look happy!": "Close-up: make him look happy at sunset! He is jumping up and down.",
        "Luna is pink, she is happy.": "Close-up: Luna is pink, she is happy at sunset. She is jumping up and down.",
        "a cat and a ball": "Close-up: a cat and a ball, jumping up and down at sunset.",
        " the city , ": "Close-up: the city at sunset. It is jumping up and down.",
    }
    for prompt, text in said.items():
        assert complete(prompt, only, random.Random(0)) == text


def test_the_story_decides_on_light_and_on_he_or_she(toy: Prompting):
    story = "Pixel art. The hero is a cat called Luna, she lives in the city. shot0:Luna waits at night"
    for seed in SEEDS:
        text = complete("close-up of Luna", toy, random.Random(seed), known=story)
        assert re.fullmatch(r"close-up of Luna\. She is [a-z ]+\.", text)


def test_nothing_is_added_beyond_what_fits(toy: Prompting, tokenizer: PreTrainedTokenizerBase):
    for limit in range(6, 24):
        for seed in range(10):

            def fits(text: str, limit: int = limit) -> bool:
                return len(tokenizer(text).input_ids) <= limit

            text = complete("a red ball in the forest", toy, random.Random(seed), fits=fits)
            assert fits(text) or text == "a red ball in the forest"
    assert complete("a ball", toy, random.Random(0), fits=lambda text: False) == "a ball"


@pytest.mark.parametrize("prompt", ["", " ", "...", "?!"])
def test_where_there_is_nothing_to_complete_nothing_is_done(prompt: str, toy: Prompting):
    assert complete(prompt, toy, random.Random(0)) == prompt
    assert complete("a ball", Prompting(), random.Random(0)) == "a ball"


def test_the_published_model_s_style_is_long_and_descriptive():
    style, texts = PUBLISHED_PROMPTING, set()
    for seed in SEEDS:
        text = complete("a fox crosses a frozen lake", style, random.Random(seed))
        text2 = complete("an old lighthouse keeper", style, random.Random(seed))
        for completed, sentences in ((text, 2), (text2, 3)):
            assert 20 <= len(completed.split()) <= 80 and completed.count(".") == sentences
            assert completed.split(": ")[0] in style.templates["camera"]
            assert completed.endswith(style.templates["light"])
            assert complete(completed, style, random.Random(seed + 1)) == completed
        assert ": an old lighthouse keeper. " in text2
        texts.add(text2)
    assert len(texts) > 10
    said = "Close-up of a woman reading by candlelight"
    assert complete(said, style, random.Random(0)) == said
    assert style.advice and not style.words

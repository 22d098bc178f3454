"""The example stories: what a stranger clicks on first has to be sound, and in words that the shipped model knows."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from transformers import AutoTokenizer

from shotstream.models.weights import SHIPPED
from shotstream.prompting import unknown_words
from shotstream.story import Story, read_story

ROOT = Path(__file__).parents[1]
STORIES = sorted((ROOT / "assets" / "stories").glob("*.json"))


@pytest.fixture(scope="module")
def tokenizer():
    if not (SHIPPED / "tokenizer").exists():
        pytest.skip("there is no shipped model")
    return AutoTokenizer.from_pretrained(SHIPPED / "tokenizer")


@pytest.fixture(params=STORIES, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_there_are_enough_and_one_is_long():
    stories = [read_story(path) for path in STORIES]
    assert len(stories) >= 6 and max(len(story.shots) for story in stories) >= 8


def test_a_story_says_nothing_that_the_model_does_not_know(path: Path, tokenizer):
    story = read_story(path)
    assert not story.ignored_keys
    words = " ".join((story.global_caption, *(shot.caption for shot in story.shots)))
    assert unknown_words(words, tokenizer) == ()
    assert unknown_words("A dog.", tokenizer)  # it would be told


def test_a_story_is_written_as_we_write_it_and_has_a_hero(path: Path):
    assert Story.from_json(path.read_bytes()).to_json().encode() == path.read_bytes()
    with Image.open(path.with_suffix(".png")) as hero:
        assert hero.size == (34, 34) and hero.mode == "RGBA"

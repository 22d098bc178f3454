"""The example stories: what a stranger clicks on first has to be sound, and in words that the shipped model knows."""

from __future__ import annotations

import importlib.util
import json
from itertools import pairwise
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
    return AutoTokenizer.from_pretrained(SHIPPED / "tokenizer")


@pytest.fixture(params=STORIES, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_there_are_enough_and_one_is_long_one_steers_and_one_leaves_a_choice():
    stories = [read_story(path) for path in STORIES]
    assert len(stories) >= 6 and max(len(story.shots) for story in stories) >= 8
    assert any(shot.then for story in stories for shot in story.shots) and any(story.choices for story in stories)
    talk = [shot.caption for shot in read_story(ROOT / "assets" / "stories" / "a-talk-by-the-sea.json").shots]
    assert ["ghost" in caption for caption in talk[2:6]] == ["ball" not in caption for caption in talk[2:6]]
    assert [("ghost" in one) != ("ghost" in other) for one, other in pairwise(talk[1:6])] == [True] * 4  # to and fro


def test_the_run_of_agents_is_that_of_its_log():
    folder = ROOT / "assets" / "agent-run"
    spec = importlib.util.spec_from_file_location("agent_run_film", folder / "film.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    log = json.loads((folder / "events.json").read_text(encoding="utf-8"))
    told = Story.from_json(json.dumps(script.story_of(log["events"])))
    assert read_story(ROOT / "assets" / "stories" / "a-team-of-agents.json") == told


def test_a_story_says_nothing_that_the_model_does_not_know(path: Path, tokenizer):
    story = read_story(path)
    assert not story.ignored_keys
    told = [f"{shot.caption} {shot.then or ''}" for shot in story.shots]
    chosen = [caption for choice in story.choices for caption in choice.captions]
    words = " ".join([story.global_caption, *told, *chosen])
    assert unknown_words(words, tokenizer) == ()
    assert unknown_words("A dog.", tokenizer)  # it would be told


def test_a_story_is_written_as_we_write_it_and_has_a_hero(path: Path):
    assert Story.from_json(path.read_bytes()).to_json().encode() == path.read_bytes()
    with Image.open(path.with_suffix(".png")) as hero:
        assert hero.size == (34, 34) and hero.mode == "RGBA"

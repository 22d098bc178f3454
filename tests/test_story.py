"""Stories: the JSON format, what it refuses and how it says so, composition of captions."""

from __future__ import annotations

import json

import pytest

from shotstream.errors import UserError
from shotstream.story import (
    MAX_CHOICES,
    MAX_CHOSEN,
    MAX_FILE_BYTES,
    MAX_NAME_CHARACTERS,
    MAX_PROMPT_CHARACTERS,
    Choice,
    Shot,
    Story,
    clean_prompt,
    compose_caption,
    read_story,
)

GOOD = {
    "global_caption": "A red square, Rosa, in a desert at dawn.",
    "shot1": "Rosa waits.",
    "shot2": "Close-up: she ☀.",
}


def test_reads_the_community_format_in_numerical_order():
    fields = {"shot10": "j", **{f"shot{i}": chr(96 + i) for i in range(9, 0, -1)}, "global_caption": "who"}
    story = Story.from_json(json.dumps(fields))
    assert story.global_caption == "who"
    assert [shot.caption for shot in story.shots] == list("abcdefghij")
    assert story.warning is None


@pytest.mark.parametrize(
    "text", ["Ünïcode ☀ 東京", 'quotes " and \\ backslashes', "two\nlines\tand a tab", "  spaces  "]
)
def test_round_trip_is_exact(text):
    story = Story(text, (Shot(text), Shot("next")))
    again = Story.from_json(story.to_json())
    assert again == story
    assert again.global_caption == text and again.shots[0].caption == text
    assert again.to_json() == story.to_json()


def test_what_a_shot_is_told_half_way_and_choices_are_read_and_written():
    fields = GOOD | {"shot2_then": "She ☂.", "choices": {"Go  left": ["Left.", "On."], "Go right": ["Right."]}}
    story = Story.from_json(json.dumps(fields))
    assert story.shots == (Shot("Rosa waits."), Shot("Close-up: she ☀.", "She ☂."))
    assert story.choices == (Choice("Go left", ("Left.", "On.")), Choice("Go right", ("Right.",)))
    assert story.warning is None and Story.from_json(story.to_json()) == story
    assert list(json.loads(story.to_json())) == ["global_caption", "shot1", "shot2", "shot2_then", "choices"]
    assert '"Go left" or "Go right"' in story.undecided
    chosen = story.decided("Go left")
    assert [shot.caption for shot in chosen.shots[2:]] == ["Left.", "On."] and chosen.undecided is None
    for undecidable in (story, chosen):
        with pytest.raises(UserError, match='no choice "Go up"'):
            undecidable.decided("Go up")


def test_bytes_with_a_byte_order_mark_are_read():
    assert Story.from_json(b"\xef\xbb\xbf" + json.dumps(GOOD).encode()) == Story.from_json(json.dumps(GOOD))


def test_unknown_keys_are_left_out_with_a_warning():
    story = Story.from_json(json.dumps(GOOD | {"seed": 3, "author\x1b[31m": {"deep": [1]}}))
    assert story == Story.from_json(json.dumps(GOOD))
    assert '"seed"' in story.warning and "\x1b" not in story.warning
    assert "seed" not in story.to_json()


BAD = {
    "empty": ("", "not valid JSON"),
    "malformed": ('{"global_caption": "a",}', "not valid JSON"),
    "nesting bomb": ('{"a":' * 100_000, "nested too deeply"),
    "list bomb": ("[" * 500_000, "nested too deeply"),
    "endless number": ('{"a":' + "1" * 10_000 + "}", "number too long"),
    "binary": (bytes(range(256)), "not UTF-8"),
    "huge": (" " * (MAX_FILE_BYTES + 1), "larger than"),
    "list": ("[]", "not a JSON object"),
    "text": ('"once upon a time"', "not a JSON object"),
    "twice": ('{"global_caption": "a", "shot1": "b", "shot1": "c"}', '"shot1" twice'),
    "no global caption": ('{"shot1": "b"}', 'no "global_caption"'),
    "no shots": ('{"global_caption": "a"}', "no shots"),
    "gap": ('{"global_caption": "a", "shot1": "b", "shot3": "c"}', 'no "shot2"'),
    "from zero": ('{"global_caption": "a", "shot0": "b"}', 'no "shot1"'),
    "leading zero": ('{"global_caption": "a", "shot1": "b", "shot02": "b"}', 'no "shot2"'),
    "number as caption": ('{"global_caption": "a", "shot1": 7}', '"shot1" is not text'),
    "null": ('{"global_caption": null, "shot1": "b"}', '"global_caption" is not text'),
    "blank": ('{"global_caption": "a", "shot1": " \\n\\t"}', '"shot1" is blank'),
    "only control characters": ('{"global_caption": "\\u0000\\u001b", "shot1": "b"}', '"global_caption" is blank'),
    "then without its shot": (json.dumps(GOOD | {"shot3_then": "b"}), 'no "shot3"'),
    "blank then": (json.dumps(GOOD | {"shot2_then": " "}), '"shot2_then" is blank'),
    "number as then": (json.dumps(GOOD | {"shot2_then": 2}), '"shot2_then" is not text'),
    "list of choices": (json.dumps(GOOD | {"choices": ["Go left"]}), '"choices" is not as it should be'),
    "text as choice": (json.dumps(GOOD | {"choices": {"Go left": "Left."}}), '"choices" is not as it should be'),
    "choice without shots": (json.dumps(GOOD | {"choices": {"Go left": []}}), '"Go left" has 0 shots'),
    "choice of many shots": (json.dumps(GOOD | {"choices": {"a": ["b"] * (MAX_CHOSEN + 1)}}), f"1 to {MAX_CHOSEN}"),
    "many choices": (json.dumps(GOOD | {"choices": {str(i): ["b"] for i in range(MAX_CHOICES + 1)}}), "at most"),
    "choice without a name": (json.dumps(GOOD | {"choices": {" ": ["b"]}}), "name of a choice is blank"),
    "choice of a long name": (json.dumps(GOOD | {"choices": {"n" * (MAX_NAME_CHARACTERS + 1): ["b"]}}), "shorten it"),
    "choices of one name": (json.dumps(GOOD | {"choices": {"a b": ["c"], "a  b": ["d"]}}), "the same name"),
    "number as a choice's shot": (json.dumps(GOOD | {"choices": {"a": [7]}}), '"a" is not text'),
    "long": (
        json.dumps({"global_caption": "a", "shot1": "b" * (MAX_PROMPT_CHARACTERS + 1)}),
        f"{MAX_PROMPT_CHARACTERS + 1} characters",
    ),
}


@pytest.mark.parametrize("text, words", BAD.values(), ids=BAD.keys())
def test_bad_stories_are_told_in_one_sentence(text, words):
    with pytest.raises(UserError) as caught:
        Story.from_json(text)
    message = str(caught.value)
    assert words in message
    assert message.endswith(".") and "\n" not in message and len(message) < 200


def test_read_story_names_the_file(tmp_path):
    path = tmp_path / "story.json"
    path.write_text(json.dumps(GOOD), encoding="utf-8")
    assert read_story(path) == Story.from_json(json.dumps(GOOD))
    for bad in (tmp_path / "none.json", tmp_path, "/dev/zero"):
        with pytest.raises(UserError, match=str(bad)):
            read_story(bad)
    with pytest.raises(UserError, match="not a file name"):
        read_story("a\0b")


def test_captions_are_composed_with_nothing_added():
    assert compose_caption("A cat. ", 0, " It sits.") == "A cat. shot0: It sits."
    story = Story.from_json(json.dumps(GOOD))
    assert story.captions[1] == GOOD["global_caption"] + "shot1:" + GOOD["shot2"]


def test_cleaning_removes_control_characters_and_keeps_markup():
    assert clean_prompt("a\x00b\x1b[31mc\x7f\u0085\ud800d") == "ab[31mcd"
    assert clean_prompt("<b>bold</b> & \u200d\n") == "<b>bold</b> & \u200d\n"
    assert clean_prompt("a\u202eb\u200bc\ufeff") == "abc"  # no text that runs backwards, none that nobody sees
    for blank in ("", "   ", "\n", "\x07", "\u200b", "\ufeff", "\u3164 \u2800", "&nbsp;", "&#8203;", "\u200d"):
        with pytest.raises(UserError, match="blank"):
            clean_prompt(blank)
    assert len(clean_prompt("x" * 10_000)) == 10_000

"""A note must come back as it was, and whatever else a file holds must be told in one sentence."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from complaints import refusal

from shotstream.note import MAX_NOTE_BYTES, FilmNote, ShotNote, Steer

PICKS = ((0, 0), (0, 3), (0, 6), (1, 0), (1, 20), (1, 20))
NOTE = FilmNote(
    "toyworld",
    16,
    48,
    32,
    (
        ShotNote("A red ball jumps.", "The story of Pip. ", 7, 3),
        ShotNote('Weiß "☀" <b>\n', "", 2**63 - 1, 4, (Steer(1, "He looks happy."), Steer(3, "Night falls.")), True),
        ShotNote("Again.", "The story of Pip. ", 0, 1, picks=PICKS),
    ),
)


def test_a_note_comes_back_as_it_was():
    for note in (NOTE, replace(NOTE, cast=True)):
        text = note.to_json()
        assert text.isascii() and "\n" not in text
        assert FilmNote.from_json(text) == FilmNote.from_json(text.encode()) == note


def test_a_note_says_that_the_film_is_ai_made():
    fields = json.loads(NOTE.to_json())
    assert fields["ai_generated"] is True and fields["software"] == "ShotStream"
    assert fields["digital_source_type"].endswith("/digitalsourcetype/trainedAlgorithmicMedia")


def test_what_the_model_reads_is_composed_as_everywhere():
    assert NOTE.shots[1].captions(1) == (
        'shot1:Weiß "☀" <b>\n',
        "shot1:He looks happy.",
        "shot1:Night falls.",
    )


def test_the_note_of_an_interrupted_film_tells_what_was_made():
    early = NOTE.so_far([3, 2])
    assert [shot.num_chunks for shot in early.shots] == [3, 2]
    assert early.shots[1].steers == (Steer(1, "He looks happy."),)
    assert NOTE.so_far([3, 0]).shots == NOTE.shots[:1]
    assert NOTE.so_far([3, 4, 1]) == NOTE
    assert FilmNote.from_json(early.to_json()) == early


def changed(path: str, value: object) -> str:
    """NOTE's JSON with one thing in it set to something else, or taken out."""
    fields = json.loads(NOTE.to_json())
    *way, last = (int(key) if key.isdigit() else key for key in path.split("."))
    place = fields
    for key in way:
        place = place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return json.dumps(fields)


STEER = {"chunk": 2, "caption": "Now."}
SHORT = json.loads(NOTE.to_json())["shots"][0] | {"num_chunks": 1, "steers": [STEER]}
BAD = {
    "empty": ("", "not valid JSON"),
    "binary": (bytes(range(256)), "not valid JSON"),
    "half": (NOTE.to_json()[:200], "not valid JSON"),
    "nesting bomb": ("[" * 100_000, "not valid JSON"),
    "number bomb": ('{"fps": ' + "9" * 100_000 + "}", "not valid JSON"),
    "huge": (" " * (MAX_NOTE_BYTES + 1), "larger than"),
    "a list": ("[]", "not a JSON object"),
    "a story": ('{"global_caption": "a", "shot1": "b"}', "unknown key 'global_caption'"),
    "foreign": (changed("format", "other"), "not one of ShotStream"),
    "no format": (changed("format", ...), "not one of ShotStream"),
    "later version": (changed("version", 2), "another version"),
    "version as truth": (changed("version", True), "another version"),
    "later key": (changed("shots.0.lens", "wide"), "unknown key 'lens'"),
    "no model": (changed("model", ...), "not text"),
    "long model": (changed("model", "m" * 501), "more than 500"),
    "fps text": (changed("fps", "16"), "fps"),
    "fps fraction": (changed("fps", 16.5), "fps"),
    "fps infinite": (changed("fps", float("inf")), "fps"),
    "no frames a second": (changed("fps", 0), "fps"),
    "absurd width": (changed("width", 10**9), "width"),
    "no height": (changed("height", None), "height"),
    "cast is a number": (changed("cast", 1), '"cast"'),
    "no shots": (changed("shots", []), "1 to 1000"),
    "shots are an object": (changed("shots", {}), "1 to 1000"),
    "too many shots": (changed("shots", [{}] * 1001), "1 to 1000"),
    "a shot is text": (changed("shots.1", "x"), "Shot 2"),
    "blank caption": (changed("shots.0.caption", " \u200b"), "blank"),
    "no caption": (changed("shots.0.caption", ...), "Shot 1"),
    "long caption": (changed("shots.0.caption", "x" * 20_001), "20001 characters"),
    "no global caption": (changed("shots.0.global_caption", ...), "not text"),
    "blank global caption": (changed("shots.0.global_caption", "  "), "blank"),
    "negative seed": (changed("shots.0.seed", -1), "seed"),
    "seed too large": (changed("shots.0.seed", 2**63), "seed"),
    "seed is truth": (changed("shots.0.seed", True), "seed"),
    "no chunks": (changed("shots.0.num_chunks", 0), "num_chunks"),
    "absurd chunks": (changed("shots.0.num_chunks", 10**6), "num_chunks"),
    "steers are text": (changed("shots.1.steers", "abc"), "steers"),
    "steer is a number": (changed("shots.1.steers", [1]), "steer of shot 2"),
    "steer at the start": (changed("shots.1.steers.0.chunk", 0), "chunk of a steer"),
    "steer past the end": (changed("shots.1.steers.1.chunk", 4), "chunk of a steer"),
    "steers out of order": (changed("shots.1.steers", [STEER, STEER]), "chunk of a steer"),
    "steer of one chunk": (changed("shots.0", SHORT), "chunk of a steer"),
    "blank steer": (changed("shots.1.steers.0.caption", ""), "blank"),
    "dissolve is text": (changed("shots.1.dissolve", "yes"), '"dissolve"'),
    "five picks": (changed("shots.2.picks", [[0, 0]] * 5), "picks"),
    "picks of three": (changed("shots.2.picks", [[0, 0, 0]] * 6), "picks"),
    "picks are numbers": (changed("shots.2.picks", [0] * 6), "picks"),
    "pick of the shot itself": (changed("shots.2.picks", [[2, 0]] * 6), "picks"),
    "pick of a first shot": (changed("shots.0.picks", [[0, 0]] * 6), "picks"),
    "pick of no frame": (changed("shots.2.picks", [[0, -1]] * 6), "picks"),
}  # fmt: skip


@pytest.mark.parametrize("text, words", BAD.values(), ids=BAD.keys())
def test_a_bad_note_is_one_sentence(text: str | bytes, words: str):
    sentence = refusal(FilmNote.from_json, text)
    assert words in sentence and len(sentence) < 200

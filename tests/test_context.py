"""Which frames the next shot looks back at: the paper's sampling, other policies, pins and drops."""

from __future__ import annotations

import pytest
import torch
from complaints import refusal
from test_memory import shot

from shotstream.context import (
    anchor,
    even,
    first,
    latest,
    look_back,
    recent,
    retrieval,
    sample_context,
    slots_per_shot,
    stored_offsets,
)
from shotstream.memory import Memory, ShotMemory
from shotstream.story import compose_caption


def film(lengths: list[int], captions: list[str] | None = None) -> list[ShotMemory]:
    """Shots of these lengths, one after the other."""
    begins = [sum(lengths[:number]) for number in range(len(lengths))]
    captions = captions or ["A fox."] * len(lengths)
    return [shot(n, first=b, caption=c) for n, b, c in zip(lengths, begins, captions, strict=True)]


@pytest.mark.parametrize(
    "shots, slots",
    [
        (1, [6]),
        (2, [3, 3]),
        (3, [2, 2, 2]),
        (4, [1, 1, 2, 2]),
        (5, [1, 1, 1, 1, 2]),
        (6, [1] * 6),
        (8, [0, 0, 1, 1, 1, 1, 1, 1]),
    ],
)
def test_slots_go_to_the_most_recent(shots, slots):
    assert slots_per_shot(shots) == slots


def test_dynamic_sampling_of_81_frame_shots():
    assert sample_context([81]) == [(0, f) for f in (0, 16, 32, 48, 64, 80)]
    assert sample_context([81, 81]) == [(0, 0), (0, 40), (0, 80), (1, 0), (1, 40), (1, 80)]
    assert sample_context([81] * 8) == [(s, 0) for s in range(2, 8)]
    assert stored_offsets(0, 81) == (0, 16, 32, 40, 48, 64, 80)


def test_halves_round_to_even_on_numbers_that_count_through_the_story():
    # the middle of frames 0..9 is 4.5 -> 4; of 10..19 it is 14.5 -> 14; of 11..20 it is 15.5 -> 16
    assert sample_context([10, 10])[1::3] == [(0, 4), (1, 4)]
    assert sample_context([11, 10])[1::3] == [(0, 5), (1, 5)]


@pytest.mark.parametrize("lengths", [[9], [9, 81, 33], [33] * 7, [21, 9, 45, 57, 69], [81, 9, 9, 9, 9, 9, 9, 9, 33]])
def test_everything_that_may_be_asked_for_was_kept(lengths):
    kept, first = [], 0
    for length in lengths:
        kept.append(stored_offsets(first, length))
        first += length
    for shots in range(1, len(lengths) + 1):
        picks = sample_context(lengths[:shots])
        assert len(picks) == 6
        assert all(offset in kept[index] for index, offset in picks)


def test_context_brings_the_latents_of_the_sampled_frames():
    memory = Memory((shot(81), shot(33, first=81)))
    picks = look_back(memory.shots)
    assert [number for number, _ in picks] == [0, 0, 0, 1, 1, 1]
    latents = memory.latents_at(picks)
    first, second = memory.shots
    expected = [first.latents[i] for i in (0, 3, 6)] + [second.latents[i] for i in (0, 3, 6)]
    assert torch.equal(latents, torch.stack(expected))


def test_other_policies_take_their_frames_from_elsewhere():
    lengths = [33, 9, 81]
    assert [first(film(lengths), "", 6)[i] for i in (0, 5)] == [(0, 0), (0, 32)]
    assert [latest(film(lengths), "", 6)[i] for i in (0, 5)] == [(2, 0), (2, 80)]
    # frames 0 24 49 73 98 122 of the film, whose shots begin at 0, 33 and 42
    assert even(film(lengths), "", 6) == [(0, 0), (0, 24), (2, 7), (2, 31), (2, 56), (2, 80)]
    assert even(film([9, 9]), "", 6)[2:4] == [(0, 7), (1, 1)]


def test_a_frame_that_was_not_kept_is_replaced_by_the_nearest():
    memory = Memory((shot(9, offsets=(0, 5, 8), latents=torch.arange(3.0).view(3, 1, 1, 1).expand(3, 16, 4, 6)),))
    latents = memory.latents_at([(0, frame) for frame in (0, 2, 3, 5, 6, 8)])
    assert latents[:, 0, 0, 0].tolist() == [0, 0, 1, 1, 1, 2]


def test_recent_forgets_the_first_shot_after_seven_and_anchor_does_not():
    for count in (1, 3, 6):
        shots = film([33] * count)
        assert anchor(shots, "", 6) == recent(shots, "", 6) == sample_context([33] * count)
    shots = film([33] * 9)
    assert [number for number, _ in look_back(shots)] == [3, 4, 5, 6, 7, 8]
    assert [number for number, _ in look_back(shots, policy="anchor")] == [0, 4, 5, 6, 7, 8]


def test_retrieval_looks_where_the_caption_points():
    captions = ["A cat named Tom sits.", *(f"A fox number {n} runs." for n in range(7)), "A cat sleeps."]
    shots = film([33] * 9, captions)
    assert [number for number, _ in retrieval(shots, "The cat comes back.", 6)] == [0, 4, 5, 6, 7, 8]
    assert [number for number, _ in retrieval(shots, "Night falls.", 6)] == [3, 4, 5, 6, 7, 8]  # nothing in common
    # with room for more than one frame a shot the related ones get them
    assert [number for number, _ in retrieval(shots[:1] + shots[-3:], "The cat named so!", 6)] == [0, 0, 1, 2, 3, 3]


def test_retrieval_finds_who_is_called_by_name():
    said = ["A cat named Tom sits.", "A fox runs.", "The fox, Ada, meets Tom.", "Ada naps.", *["It runs."] * 6]
    shots = film([33] * 10, [compose_caption("A tale of Tom and Ada.", n, text) for n, text in enumerate(said)])
    assert [number for number, _ in retrieval(shots, "Tom comes back.", 6)] == [0, 0, 0, 2, 2, 2]
    assert [number for number, _ in retrieval(shots, compose_caption("A tale.", 10, "See Ada again."), 6)] == [
        *[2] * 3,
        *[3] * 3,
    ]
    assert 9 in [number for number, _ in retrieval(shots, "A tale of somebody.", 6)]  # nobody is called


def test_pinned_frames_stay_and_dropped_ones_do_not_come():
    shots = film([33] * 9)
    picks = look_back(shots, pinned=[(0, 0), (1, 32)])
    assert picks[:2] == ((0, 0), (1, 32)) and [number for number, _ in picks[2:]] == [5, 6, 7, 8]
    anchored = look_back(shots, policy="anchor", pinned=[(2, 16)])
    assert [number for number, _ in anchored] == [0, 2, 5, 6, 7, 8]
    gone = {(8, offset) for offset in shots[8].offsets}
    assert [number for number, _ in look_back(shots, dropped=gone)] == [2, 3, 4, 5, 6, 7]
    usual = look_back(shots[:1])
    dropped = look_back(shots[:1], dropped=usual[:1])
    assert usual[0] not in dropped and dropped[0] == (0, shots[0].offsets[1]) and len(dropped) == 6
    assert look_back(shots, pinned=[(0, 0)], dropped=[(0, 0)]) == look_back(shots)
    everything = [(number, offset) for number, seen in enumerate(shots) for offset in seen.offsets]
    assert "keep at least one" in refusal(look_back, shots, dropped=everything)
    assert len(look_back(shots, pinned=everything)) == 6


def test_a_pin_takes_the_place_of_the_picture_nearest_to_it():
    shots = film([33] * 6)
    usual = look_back(shots)
    assert look_back(shots, pinned=[usual[2]]) == usual
    assert look_back(shots, pinned=[(2, 32)]) == (*usual[:2], (2, 32), *usual[3:])
    pinned = [(2, 32), (2, 16)]  # one more than the policy takes of this shot: the earliest makes room
    assert look_back(shots, pinned=pinned) == (usual[1], (2, 16), (2, 32), *usual[3:])
    (first, second), alone = shots[0].offsets[:2], look_back(shots[:1])
    assert look_back(shots[:1], pinned=[(0, first), (0, second)]) == alone
    assert look_back(film([1]), pinned=[(0, 0)]) == ((0, 0),) * 6


@pytest.mark.parametrize("policy", ["recent", "anchor", "retrieval"])
@pytest.mark.parametrize("count", [1, 2, 5, 7, 12])
def test_every_policy_gives_six_kept_frames_in_story_order(policy: str, count: int):
    shots = film([9, 33, 81, 21][:count] + [33] * (count - 4))
    every = [(number, offset) for number, seen in enumerate(shots) for offset in seen.offsets]
    for pinned in ([], [(0, 0)], [(0, 0)] * 5, every[:5], every[1::3][:5], every[-5:]):
        picks = look_back(shots, "A fox.", policy, pinned)
        assert len(picks) == 6 and list(picks) == sorted(picks) and set(pinned) <= set(picks)
        assert all(frame in shots[number].offsets for number, frame in picks)

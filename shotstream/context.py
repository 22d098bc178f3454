"""Which frames of the film the next shot looks back at: the paper's dynamic sampling, other policies, pins and drops.

Owns the choice, as (shot, frame number inside it) pairs; the frames themselves lie in a `Memory`. Knows no tensors.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

import numpy as np

from shotstream.errors import UserError
from shotstream.story import own_words

MAX_CONTEXT_FRAMES = 6
MAX_PINS = MAX_CONTEXT_FRAMES - 1  # one is left to the policy

Pick = tuple[int, int]
"""A shot, and the number of a frame inside it."""


class Seen(Protocol):
    """What is asked of an earlier shot; `memory.ShotMemory` is one."""

    caption: str
    num_frames: int
    offsets: tuple[int, ...]  # the frames that were kept, ascending


Policy = Callable[[Sequence[Seen], str, int], list[Pick]]
"""Earlier shots, the new shot's caption, how many frames -> that many picks, in story order."""


def slots_per_shot(shots: int, frames: int = MAX_CONTEXT_FRAMES) -> list[int]:
    """How many of the context frames each of the `shots` earlier shots gets; the remainder goes to the latest."""
    each, remainder = divmod(frames, shots)
    return [each + (i >= shots - remainder) for i in range(shots)]


def spread(first: int, last: int, count: int) -> list[int]:
    """`count` frame numbers evenly from `first` to `last`, halves rounded to even; one is the first."""
    return np.round(np.linspace(first, last, count)).astype(int).tolist()


def sample_context(num_frames: Sequence[int], frames: int = MAX_CONTEXT_FRAMES) -> list[Pick]:
    """Dynamic sampling of the context frames, given the earlier shots' lengths (paper section 3.2).

    Rounding is done on frame numbers that count through the whole story.
    """
    return _spread_slots(num_frames, slots_per_shot(len(num_frames), frames))


def _spread_slots(num_frames: Sequence[int], slots: Sequence[int]) -> list[Pick]:
    picks = []
    first = 0
    for shot, (length, count) in enumerate(zip(num_frames, slots, strict=True)):
        picks += [(shot, frame - first) for frame in spread(first, first + length - 1, count)]
        first += length
    return picks


def recent(shots: Sequence[Seen], caption: str, frames: int) -> list[Pick]:
    """The paper's: evenly from all shots, once there are more shots than frames from the latest."""
    return sample_context(_lengths(shots), frames)


def anchor(shots: Sequence[Seen], caption: str, frames: int) -> list[Pick]:
    """The paper's, but one frame always is of the first shot."""
    if len(shots) <= frames or frames < 2:
        return recent(shots, caption, frames)
    return [(0, 0), *((shot + 1, frame) for shot, frame in recent(shots[1:], caption, frames - 1))]


def retrieval(shots: Sequence[Seen], caption: str, frames: int) -> list[Pick]:
    """The shots that call by name whom the new caption calls, and no others; if there are none, all. Those whose
    captions have most in common with the new one first; of equals the latest.

    No others, as a single picture of somebody else is enough for a small model to go on with that one.
    """
    said = [own_words(text) for text in (*(shot.caption for shot in shots), caption)]
    called = _names(said) & _words(said[-1])
    related = [shot for shot in range(len(shots)) if called & _words(said[shot])] or range(len(shots))
    likeness = _likeness(said[:-1], said[-1])
    ranked = sorted(related, key=lambda shot: (likeness[shot], shot), reverse=True)[:frames]
    slots = [0] * len(shots)
    for number in range(frames):
        slots[ranked[number % len(ranked)]] += 1
    return _spread_slots(_lengths(shots), slots)


def first(shots: Sequence[Seen], caption: str, frames: int) -> list[Pick]:
    """All from the first shot (an ablation)."""
    return [(0, frame) for frame in spread(0, shots[0].num_frames - 1, frames)]


def latest(shots: Sequence[Seen], caption: str, frames: int) -> list[Pick]:
    """All from the shot before (an ablation)."""
    return [(len(shots) - 1, frame) for frame in spread(0, shots[-1].num_frames - 1, frames)]


def even(shots: Sequence[Seen], caption: str, frames: int) -> list[Pick]:
    """Evenly from the whole film, wherever its cuts are (an ablation)."""
    ends = np.cumsum(_lengths(shots))
    picks = []
    for frame in spread(0, int(ends[-1]) - 1, frames):
        shot = int(np.searchsorted(ends, frame, side="right"))
        picks.append((shot, frame - int(ends[shot]) + shots[shot].num_frames))
    return picks


DIRECTED: Mapping[str, Policy] = {"recent": recent, "anchor": anchor, "retrieval": retrieval}
"""Policies that a director may choose from."""

CONTEXT_POLICIES: Mapping[str, Policy] = {**DIRECTED, "first": first, "latest": latest, "even": even}


def look_back(
    shots: Sequence[Seen],
    caption: str = "",
    policy: str = "recent",
    pinned: Collection[Pick] = (),
    dropped: Collection[Pick] = (),
) -> tuple[Pick, ...]:
    """The six context frames of the next shot, each one that was kept, in story order.

    `pinned` frames (the first `MAX_PINS`) are always among them, each in the place of the frame nearest to it that a
    `DIRECTED` policy takes from the same shot, if it takes one; `dropped` ones never. Both name kept frames. Raises
    `UserError` if nothing is left to look back at.
    """
    kept = [tuple(o for o in shot.offsets if (number, o) not in dropped) for number, shot in enumerate(shots)]
    usable = [number for number, offsets in enumerate(kept) if offsets]
    if not usable:
        raise UserError("Every frame that the next shot could look back at was dropped: keep at least one.")
    fixed = [pick for pick in dict.fromkeys(pinned) if pick not in dropped][:MAX_PINS]
    for count in range(MAX_CONTEXT_FRAMES, 0, -1):  # as many of the policy's as leave room for the pins
        chosen = CONTEXT_POLICIES[policy]([shots[n] for n in usable], caption, count)
        picks = [(usable[shot], nearest(kept[usable[shot]], frame)) for shot, frame in chosen]
        picks = _replaced(picks, fixed)
        if len(picks) <= MAX_CONTEXT_FRAMES:
            break
    return tuple(sorted(picks))


def _replaced(picks: Sequence[Pick], pinned: Sequence[Pick]) -> list[Pick]:
    """The picks with all pins among them, each instead of the nearest of its shot, or besides if that has none left."""
    rest = list(picks)
    for pin in sorted(pinned, key=lambda pin: pin not in picks):  # those that are there stay where they are
        if same := [pick for pick in rest if pick[0] == pin[0]]:
            rest.remove(min(same, key=lambda pick: abs(pick[1] - pin[1])))
    return [*pinned, *rest]


def nearest(offsets: Sequence[int], frame: int) -> int:
    """The kept frame that is closest to the one asked for (after shots before this one were exchanged for longer or
    shorter ones, halves may round the other way)."""
    return min(offsets, key=lambda offset: abs(offset - frame))


def stored_offsets(first: int, num_frames: int) -> tuple[int, ...]:
    """Every frame number inside a shot that dynamic sampling may ask for, however many shots follow.

    `first` is the story-wide number of the shot's first frame.
    """
    possible = {slots for shots in range(1, MAX_CONTEXT_FRAMES + 2) for slots in slots_per_shot(shots)}
    frames = {frame - first for slots in possible for frame in spread(first, first + num_frames - 1, slots)}
    return tuple(sorted(frames))


def _lengths(shots: Sequence[Seen]) -> list[int]:
    return [shot.num_frames for shot in shots]


def _words(caption: str) -> set[str]:
    return set(re.findall(r"\w+", caption.lower()))


def _names(captions: Sequence[str]) -> set[str]:
    """Words that are written as names are: with a capital inside of a sentence."""
    inside = (word for caption in captions for word in re.findall(r"(?<=[\w,;] )\w{2,}", caption))
    return {word.lower() for word in inside if word[0].isupper()}


def _likeness(captions: Sequence[str], caption: str) -> list[float]:
    """How much each of `captions` has in common with `caption`: shared words, rare ones counting more."""
    said = [_words(text) for text in captions]
    spread_over = Counter(word for words in said for word in words)
    weight = {word: math.log(len(captions) / count) for word, count in spread_over.items()}
    wanted = _words(caption)
    return [sum(weight[word] for word in words & wanted) / math.sqrt(max(len(words), 1)) for words in said]

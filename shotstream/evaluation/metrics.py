"""What is measured on toy pictures, each figure by itself: pure functions of pixels and of what is read from them.

Frames are [t, H, W, 3] uint8. Where the paper compares features of two pictures, the toy world compares what they
show, which the reader knows: a share of equals instead of a cosine, in [0, 1] all the same. Nobody in the picture is
never equal to anybody, so that a model that draws nobody scores nothing. Knows no model and no story.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shotstream.evaluation.reader import Reading, majority, read_frame, read_samples, read_shot
from shotstream.toyworld.world import Scene

ATTRIBUTES = tuple(Reading.__dataclass_fields__)
SUBJECT = ("colour", "shape")
BACKGROUND = ("place", "time")
EDGE = 4  # frames beside a cut within which no camera move begins or ends


@dataclass(frozen=True)
class Look:
    """A shot as read: frame by frame at a few evenly spread frames, and as a whole."""

    frames: np.ndarray
    samples: tuple[Reading, ...]
    shot: Reading


def look(frames: np.ndarray) -> Look:
    """Read a shot of at least one frame."""
    samples = read_samples(frames)
    return Look(frames, samples, read_shot(frames, samples))


def _values(reading: Reading | Scene, parts: Sequence[str]) -> tuple[str | None, ...]:
    return tuple(getattr(reading, part) for part in parts)


def adherence(reading: Reading, scene: Scene) -> dict[str, bool]:
    """Does the shot show what was asked for, attribute by attribute? (The paper's text alignment, there a cosine.)

    Every attribute that the reader reads, but for those that the scene has not, such as the looks of a second
    character where there is none.
    """
    asked = {name: getattr(scene, name) for name in ATTRIBUTES}
    return {name: getattr(reading, name) == value for name, value in asked.items() if value is not None}


def intra_shot(seen: Look, parts: Sequence[str]) -> float:
    """Share of sampled frames that show the same `parts`, taken together, as most of the shot's.

    `SUBJECT` and `BACKGROUND` are the paper's intra-shot subject and background consistency. In [0, 1]; 1 is a
    shot that holds, and frames without a character lower the subject's.
    """
    found = [_values(reading, parts) for reading in seen.samples]
    most = majority(found)
    return 0.0 if None in most else found.count(most) / len(found)


def inter_shot(first: Reading, later: Reading, parts: Sequence[str]) -> bool:
    """Does a later shot show the same `parts` as the film's own first shot, right or wrong as that may be? (The
    paper's inter-shot subject and background consistency.) Judge it together with `is_true`."""
    return None not in _values(first, parts) and _values(first, parts) == _values(later, parts)


def is_true(reading: Reading, scene: Scene, parts: Sequence[str]) -> bool:
    """Does the shot show the `parts` that it should?"""
    return _values(reading, parts) == _values(scene, parts)


def cut_is_exact(before: Look, after: Look) -> bool:
    """Is the last frame before a cut wholly of the old shot and the first one after it wholly of the new?

    Each shot's frame at the cut must show the stage, place, time and camera, of the frames beside it, and place and
    time of its whole shot. A cut that comes early, late or in the middle of a latent frame fails.
    """

    def belongs(seen: Look, edge: int, beside: int) -> bool:
        at, near = read_frame(seen.frames[edge]), read_frame(seen.frames[beside])
        stage = (*BACKGROUND, "camera")
        same_stage = _values(at, stage) == _values(near, stage)
        return same_stage and _values(at, BACKGROUND) == _values(seen.shot, BACKGROUND)

    return belongs(before, -1, -min(1 + EDGE, len(before.frames))) and belongs(
        after, 0, min(EDGE, len(after.frames) - 1)
    )


def cut_accuracy(asked: Sequence[int], found: Sequence[int], tolerance: int = 2) -> float:
    """Share of right ones among all cuts asked for or found: hits / (asked + false alarms), in [0, 1].

    Cuts are first frames of new shots. A cut found within `tolerance` frames is a hit; a moved cut counts twice, as
    missed and as a false alarm. (The paper's shot-cut accuracy, by TransNetV2.)
    """
    unused, hits = sorted(found), 0
    for cut in sorted(asked):
        if near := [other for other in unused if abs(other - cut) <= tolerance]:
            unused.remove(min(near, key=lambda other: abs(other - cut)))
            hits += 1
    return hits / (len(asked) + len(unused)) if asked or unused else 1.0


def blips(frames: np.ndarray) -> float:
    """Share of pixels that differ for one frame only from equal neighbours in time, in [0, 1]. The toy world, drawn on
    twos, has none: what there is, is flicker."""
    before, now, after = frames[:-2], frames[1:-1], frames[2:]
    return float(((before == after).all(-1) & (before != now).any(-1)).mean()) if len(frames) > 2 else 0.0


def shimmer(frames: np.ndarray) -> float:
    """Share of pixels that differ for one drawing only (two frames: the toy world is drawn on twos), in [0, 1].
    Motion makes some of it, so compare with the truth's."""
    return blips(frames[::2])


def motion(frames: np.ndarray) -> float:
    """Share of pixels that change from one frame to the next, in [0, 1] (the paper's dynamic degree asks the same of an
    optical flow). Neither much nor little is good: compare with the truth's."""
    return float((frames[1:] != frames[:-1]).any(-1).mean()) if len(frames) > 1 else 0.0

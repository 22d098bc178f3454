"""What is measured on stories of the wider world: two-shots, camera moves, new settings, somebody who comes back, and
instructions that change in mid-shot.

Figures by name of a story and its film, each a share of what is right by the script. Knows no model.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean

import numpy as np

from shotstream.evaluation import metrics
from shotstream.evaluation.metrics import BACKGROUND, SUBJECT
from shotstream.evaluation.reader import read_shot
from shotstream.toyworld.plot import ToyStory
from shotstream.toyworld.takes import parts

PAIR = (*SUBJECT, *(f"partner_{name}" for name in SUBJECT))


def of_everything(story: ToyStory, film: Sequence[np.ndarray]) -> dict[str, float]:
    """All attributes of all shots, said or remembered; and by themselves: who is in two-shots, camera moves, and place
    and time where they change."""
    found: dict[str, list[float]] = defaultdict(list)
    before = None
    for shot, frames in zip(story.shots, film, strict=True):
        hits = metrics.adherence(read_shot(frames), shot.scene)
        found["everything"] += hits.values()
        if shot.scene.partner:
            found["two_shots"] += [hits[name] for name in PAIR]
        if shot.scene.move != "still":
            found["camera_moves"].append(hits["move"])
        if before:
            found["new_settings"] += [
                hits[name] for name in BACKGROUND if getattr(before, name) != getattr(shot.scene, name)
            ]
        before = shot.scene
    return {name: fmean(hits) for name, hits in found.items() if hits}


def of_return(story: ToyStory, film: Sequence[np.ndarray]) -> dict[str, float]:
    """Is the character of the first shot back in the last one, after somebody else's?"""
    return {"returns": metrics.is_true(read_shot(film[-1]), story.shots[-1].scene, SUBJECT)}


def of_steering(story: ToyStory, film: Sequence[np.ndarray]) -> dict[str, float]:
    """Does what changes in mid-shot show in the rest of the shot?"""
    hits = []
    for shot, frames in zip(story.shots, film, strict=True):
        (_, old), (rest, new) = parts(shot)
        seen = metrics.adherence(read_shot(frames[rest]), new)
        hits += [hit for name, hit in seen.items() if getattr(old, name) != getattr(new, name)]
    return {"steering": fmean(hits)} if hits else {}

"""What a story says before its first shot: the global caption, and how much a first shot's caption adds to it."""

from __future__ import annotations

import random
from collections.abc import Sequence

from shotstream.toyworld.scene import Scene
from shotstream.toyworld.wording import Member, introduced
from shotstream.toyworld.words import PLACE_WORDS, STYLES, TIME_WORDS

SAID_SHARES = {"place": 0.93, "time": 0.85, "camera": 0.8, "expression": 0.6}  # how often shot 1 says what


def global_caption(rng: random.Random, scene: Scene, people: Sequence[Member]) -> tuple[str, set[str]]:
    """The global caption that introduces `people`, and what it says of the scene (place, time), in any order."""
    parts, known = [rng.choice(STYLES)], set()
    if people:
        place = ""
        if rng.random() < 0.4:
            known.add("place")
            place = f" {rng.choice(PLACE_WORDS[scene.place])}"
            if len(people) == 1:
                place = rng.choice((" that lives", " living", "", "")) + place
        who = " and ".join(introduced(rng, member) for member in people)
        lead = ("The hero is ", "", "", "This is the story of ", "A story about ")
        if len(people) == 2:
            lead = ("The heroes are ", "", "", "This is the story of ", "A story about two friends: ")
        parts.append(f"{rng.choice(lead)}{who}{place}.")
    elif rng.random() < 1 / 3:
        known.add("place")
        time = ""
        if rng.random() < 0.4:
            known.add("time")
            time = f" {rng.choice(TIME_WORDS[scene.time])}"
        happens = rng.choice(("It happens", "Everything takes place", "Set"))
        parts.append(f"{happens} {rng.choice(PLACE_WORDS[scene.place])}{time}.")
    rng.shuffle(parts)
    text = " ".join(part for part in parts if part)
    return text + (" " if text and rng.random() < 0.5 else ""), known

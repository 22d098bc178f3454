"""What happens in the toy world: casts, scenes that follow one another, camera moves, and changes in mid-shot.

Owns what a story is (`ToyStory`, `ToyShot`, `Beat`) and every choice in it but the words.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from shotstream.toyworld.motion import Segments, drawing_of, first_frame, travelled
from shotstream.toyworld.scene import (
    ACTIONS,
    CAMERAS,
    COLOURS,
    EXPRESSIONS,
    MOVES,
    PLACES,
    SHAPES,
    TIMES,
    ZOOMS,
    Character,
    Scene,
    settled,
)
from shotstream.toyworld.wording import Member, beat_caption
from shotstream.toyworld.words import NAMES, PRONOUNS

DEFAULTS = {"place": "meadow", "time": "day", "camera": "medium", "expression": "neutral"}
NAMED_SHARE = 0.4


@dataclass(frozen=True)
class Shares:
    """How much of the wider world there is: the share of stories with two characters, of shots in which the camera
    moves, and of shots with a change on the way. Without `two_shots` the two take turns, never in one picture."""

    duos: float = 0.25
    moves: float = 0.17
    beats: float = 0.13
    two_shots: bool = True


WHOLE_WORLD = Shares()


@dataclass(frozen=True)
class Beat:
    """A change in mid-shot: from the first frame of `chunk` on, `caption` is the prompt and `scene` is what happens.

    Position and motion go on from where they are; `scene.camera` is the framing that the shot has come to.
    """

    chunk: int
    caption: str
    scene: Scene


@dataclass(frozen=True)
class ToyShot:
    """A shot's caption and the truth about its pixels."""

    caption: str
    scene: Scene
    num_chunks: int
    beat: Beat | None = None


@dataclass(frozen=True)
class ToyStory:
    global_caption: str
    shots: tuple[ToyShot, ...]


def segments(shot: ToyShot) -> Segments:
    """The shot as `motion.draw` takes it: each scene with the drawing that it begins at."""
    if shot.beat is None:
        return [(0, shot.scene)]
    return [(0, shot.scene), (drawing_of(first_frame(shot.beat.chunk)), shot.beat.scene)]


def left_as(shot: ToyShot) -> Scene:
    """What the shot's last picture shows, all moves over: what "as it was" means to the next one."""
    return settled(shot.beat.scene if shot.beat else shot.scene)


def other(rng: random.Random, values: tuple[str, ...], *old: str) -> str:
    return rng.choice([value for value in values if value not in old])


def random_length(rng: random.Random) -> int:
    """Chunks in a shot."""
    return rng.choices((1, 2, 3, 4, 5, 6, 7), weights=(1, 2, 10, 2, 1, 1, 1))[0]


def steered_length(rng: random.Random) -> int:
    """Chunks in a shot with a beat: time for both halves."""
    return rng.choices((3, 4, 5, 6, 7), weights=(6, 4, 2, 1, 1))[0]


def opening_scene(rng: random.Random) -> Scene:
    return Scene(
        shape=rng.choice(SHAPES),
        colour=rng.choice(COLOURS),
        place=rng.choice(PLACES),
        time=rng.choice(TIMES),
        camera=rng.choice(CAMERAS),
        expression=rng.choice(EXPRESSIONS),
        action=rng.choice(ACTIONS),
    )


def new_member(rng: random.Random, *others: Member) -> Member:
    """A character whose colour and name nobody else has; the shape mostly neither."""
    taken = [o.shape for o in others if rng.random() < 0.8]
    name = other(rng, NAMES, *(o.name for o in others if o.name)) if rng.random() < NAMED_SHARE else None
    colour = other(rng, COLOURS, *(o.colour for o in others))
    return Member(other(rng, SHAPES, *taken), colour, name, *rng.choice(PRONOUNS))


def changed_setting(rng: random.Random, scene: Scene, places: list[str]) -> dict[str, str]:
    """New camera, place and time, if they change; a place is often one that the story has been to before."""
    changes: dict[str, str] = {}
    if rng.random() < 0.7:
        changes["camera"] = rng.choice(CAMERAS[:2] if scene.partner else CAMERAS)
    elif scene.partner and scene.camera == "close":  # two do not fit into a close-up
        changes["camera"] = rng.choice(CAMERAS[:2])
    if rng.random() < 0.3:
        before = [place for place in places if place != scene.place]
        changes["place"] = rng.choice(before) if before and rng.random() < 0.5 else rng.choice(PLACES)
    if rng.random() < 0.25:
        changes["time"] = rng.choice(TIMES)
    return changes


def back_words(rng: random.Random, old: Scene, scene: Scene, places: list[str]) -> set[str]:
    """Words that a return deserves: "back" (in the forest), sometimes only "began" (back where it began)."""
    if scene.place == old.place or scene.place not in places or rng.random() < 0.3:
        return set()
    return {"back", "began"} if scene.place == places[0] and rng.random() < 0.2 else {"back"}


def set_action(rng: random.Random, scene: Scene, action: str) -> Scene:
    """Who does it in a two-shot: both, or the first one alone; nobody walks out on the other."""
    both = scene.partner is not None and action != "stand" and (action.startswith("walk") or rng.random() < 0.5)
    return replace(scene, action=action, together=both)


def possible_moves(scene: Scene) -> list[str]:
    """Camera moves that suit the scene: along with a walk, never against it; zooms that keep two in the frame."""
    if scene.action.startswith("walk"):
        return ["pan_left" if scene.action == "walk_left" else "pan_right"]
    zooms = [move for move in MOVES if (move, scene.camera) in ZOOMS]
    if scene.partner and scene.camera == "medium":
        zooms.remove("zoom_in")
    return ["pan_left", "pan_right", *zooms]


def with_move(rng: random.Random, scene: Scene, num_chunks: int, share: float) -> Scene:
    """Now and then the camera moves, in shots with time for it."""
    if num_chunks < 2 or rng.random() >= share:
        return scene
    return replace(scene, move=rng.choice(possible_moves(scene)))


def _next_beat(rng: random.Random, scene: Scene) -> Scene:
    """One thing changes while the camera runs."""
    zooming = scene.move.startswith("zoom")
    now = settled(scene) if zooming else scene
    kind = rng.choices(("action", "expression", "time", "move"), weights=(50, 25, 10, 15))[0]
    if kind == "move" and scene.move == "still" and not scene.action.startswith("walk"):
        return replace(now, move=rng.choice(possible_moves(now)))
    if kind == "time":  # shown, not only told: the light changes before our eyes
        return replace(now, time=TIMES[(TIMES.index(now.time) + 1) % len(TIMES)])
    if kind == "expression":
        mood = other(rng, EXPRESSIONS, now.expression)
        if now.partner is None:
            return replace(now, expression=mood)
        first, second = rng.choice(((True, False), (False, True), (True, True)))
        partner_mood = mood if first and second else other(rng, EXPRESSIONS, now.partner.expression)
        return replace(
            now,
            expression=mood if first else now.expression,
            partner=replace(now.partner, expression=partner_mood) if second else now.partner,
        )
    if now.move != "still" and now.action.startswith("walk"):
        now = replace(now, move="still")  # the camera went along, and stops with the walker
    actions = [a for a in ACTIONS if a != now.action and (now.move == "still" or not a.startswith("walk"))]
    return set_action(rng, now, rng.choice(actions))


def with_beat(rng: random.Random, shot: ToyShot, members: tuple[Member, ...]) -> ToyShot:
    """The shot with a change in it that can be seen: no walk off the stage, and time for both halves."""
    slow = shot.scene.action in ("walk_left", "walk_right", "look") or shot.scene.move != "still"
    while True:
        chunk = rng.randrange(2 if slow else 1, shot.num_chunks)
        scene = _next_beat(rng, shot.scene)
        beaten = replace(shot, beat=Beat(chunk, "", scene))
        end = drawing_of(first_frame(shot.num_chunks) - 1)
        if scene.action.startswith("walk") and scene.action != shot.scene.action:
            ahead = travelled(segments(beaten), end) * (1 if scene.action == "walk_right" else -1)
            if ahead < (2 if scene.camera == "close" else 4 if scene.partner is None else 3):
                continue
        return replace(shot, beat=Beat(chunk, beat_caption(rng, shot.scene, scene, members), scene))


def as_pair(scene: Scene, first: Character, second: Character) -> Scene:
    return replace(scene, shape=first.shape, colour=first.colour, expression=first.expression, partner=second)

"""Random stories of the toy world: what happens (see `plot`) and how people would say it (see `wording`).

Everything visible is either said or was shown before: a later caption that leaves out colour, shape, place, time,
camera or expression means "as it was", and only the memory can know it. What was never said has a default
(`plot.DEFAULTS`). Knows no pixels and no models.
"""

from __future__ import annotations

import random
from dataclasses import replace

from shotstream.toyworld.duo import duo_story
from shotstream.toyworld.plot import (
    DEFAULTS,
    WHOLE_WORLD,
    Beat,
    Shares,
    ToyShot,
    ToyStory,
    back_words,
    changed_setting,
    left_as,
    new_member,
    opening_scene,
    other,
    random_length,
    steered_length,
    with_beat,
    with_move,
)
from shotstream.toyworld.prologue import SAID_SHARES, global_caption
from shotstream.toyworld.scene import ACTIONS, CAMERAS, COLOURS, EXPRESSIONS, SHAPES, Scene
from shotstream.toyworld.wording import Member, described, full_caption, instruction, singled_out
from shotstream.toyworld.words import NAMES, PLACE_NAMES, PRONOUNS, SHAPE_WORDS, STYLES

__all__ = [
    "PLACE_NAMES",
    "Beat",
    "ToyShot",
    "ToyStory",
    "leave_out",
    "long_return",
    "long_story",
    "random_story",
    "returning",
    "steered",
]

EVERYTHING = {"place", "time", "camera", "expression"}


def next_scene(rng: random.Random, scene: Scene, places: list[str], character_may_change: bool) -> Scene:
    """What happens next: something always changes or moves; what does not is as it was."""
    changes: dict[str, str] = {"action": "stand"}
    if character_may_change and rng.random() < 0.12:
        if rng.random() < 0.5:
            name, values = rng.choice((("colour", COLOURS), ("shape", SHAPES)))
            return replace(scene, **{name: other(rng, values, getattr(scene, name))}, action="stand")
        changes |= {"colour": rng.choice(COLOURS), "shape": rng.choice(SHAPES)}
    if rng.random() < 0.08:  # a director's "make him look surprised", and nothing else
        return replace(scene, expression=other(rng, EXPRESSIONS, scene.expression), action="stand")
    if rng.random() < 0.65:
        changes["action"] = rng.choice(ACTIONS)
    if rng.random() < 0.35:
        changes["expression"] = rng.choice(EXPRESSIONS)
    return replace(scene, **changes, **changed_setting(rng, scene, places))


def random_story(
    rng: random.Random, num_shots: int | None = None, num_chunks: int | None = None, shares: Shares = WHOLE_WORLD
) -> ToyStory:
    """A story of 1-6 shots with 1-7 chunks each, mostly 3, with one or two characters; the same for the same
    generator state. A fixed `num_chunks` below 3 leaves no time for beats, below 2 none for camera moves."""
    num_shots = num_shots or rng.choice((1, 2, 3, 3, 4, 5, 6))
    story = duo_story if rng.random() < shares.duos else _solo_story
    return story(rng, num_shots, num_chunks, shares)


def _solo_story(rng: random.Random, num_shots: int, num_chunks: int | None, shares: Shares) -> ToyStory:
    scene, member = opening_scene(rng), new_member(rng)
    member = replace(member, shape=scene.shape, colour=scene.colour)
    character_global = rng.random() < 0.55
    text, known = global_caption(rng, scene, [member] if character_global else [])
    shots: list[ToyShot] = []
    places: list[str] = []
    while len(shots) < num_shots:
        beat = rng.random() < shares.beats and (num_chunks is None or num_chunks > 2)
        length = num_chunks or (steered_length(rng) if beat else random_length(rng))
        if not shots:
            said = {name for name, share in SAID_SHARES.items() if rng.random() < share}
            said -= {name for name in sorted(known) if rng.random() < 0.7}
            silent = sorted(set(SAID_SHARES) - said - known)
            scene = with_move(rng, replace(scene, **{name: DEFAULTS[name] for name in silent}), length, shares.moves)
            subject = _opening_subject(rng, member, character_global)
            if not character_global and member.name and member.name not in subject:
                member = replace(member, name=None)  # nobody was told
            caption = full_caption(rng, scene, subject, said)
        else:
            old = left_as(shots[-1])
            scene = with_move(rng, next_scene(rng, old, places, not character_global), length, shares.moves)
            caption = later_caption(rng, old, scene, member, places)
        shot = ToyShot(caption, scene, length)
        shots.append(with_beat(rng, shot, (member,)) if beat else shot)
        places.append(scene.place)
    return ToyStory(text, tuple(shots))


def _opening_subject(rng: random.Random, member: Member, known: bool) -> str:
    if known:
        shape = f"the {rng.choice(SHAPE_WORDS[member.shape])}"
        return rng.choice((member.subject, member.name or member.subject, shape, described(rng, member, "the")))
    subject = described(rng, member, rng.choice(("a", "a", "the")))
    return subject + (f" named {member.name}" if member.name and rng.random() < 0.6 else "")


def later_caption(rng: random.Random, old: Scene, scene: Scene, member: Member, places: list[str]) -> str:
    """What the next shot's prompt says: what changed, seldom what did not."""
    back = back_words(rng, old, scene, places)
    if rng.random() < 0.6 and not back and (text := instruction(rng, old, scene, member)):
        return text
    unchanged = {"place": 0.12, "time": 0.1, "camera": 0.5, "expression": 0.15}
    said = {n for n, p in unchanged.items() if getattr(old, n) != getattr(scene, n) or rng.random() < p}
    if (old.colour, old.shape) != (scene.colour, scene.shape):
        subject = described(rng, scene, rng.choice(("a", "a", "another")))
    else:
        known = [member.subject] * 3 + [member.name or member.subject, "the hero", "the character"]
        named = [f"the {rng.choice(SHAPE_WORDS[scene.shape])}", described(rng, scene, "the")]
        subject = rng.choice(known * 2 + named)
    return full_caption(rng, scene, subject, said | back)


def leave_out(rng: random.Random, num_shots: int = 3, num_chunks: int = 3) -> ToyStory:
    """A test story for the memory: shot 1 says everything, later captions name neither character nor place nor time."""
    scene = opening_scene(rng)
    subject = rng.choice(PRONOUNS)[0]
    shots = [ToyShot(full_caption(rng, scene, described(rng, scene), EVERYTHING), scene, num_chunks)]
    while len(shots) < num_shots:
        scene = replace(
            scene,
            camera=other(rng, CAMERAS, scene.camera),  # a cut that nobody could see is none
            expression=rng.choice(EXPRESSIONS),
            action=rng.choice(ACTIONS),
        )
        caption = full_caption(rng, scene, subject, {"camera", "expression"})
        shots.append(ToyShot(caption, scene, num_chunks))
    return ToyStory(rng.choice(STYLES), tuple(shots))


def long_story(rng: random.Random, num_shots: int = 20, num_chunks: int = 3) -> ToyStory:
    """A test story for drift: `leave_out`, long enough for small errors to add up."""
    return leave_out(rng, num_shots, num_chunks)


def returning(rng: random.Random, num_chunks: int = 3) -> ToyStory:
    """A test story for the memory of two: shots 1 and 2 each describe a character, shot 3 returns to the first, and its
    caption says neither colour nor place nor time: only a name, a shape, or "the first one"."""
    scene = opening_scene(rng)
    shape, colour = other(rng, SHAPES, scene.shape), other(rng, COLOURS, scene.colour)
    name = rng.choice(NAMES) if rng.random() < 0.5 else None
    first = Member(scene.shape, scene.colour, name, *rng.choice(PRONOUNS))
    second = Member(shape, colour, None, *rng.choice(PRONOUNS))
    subject = described(rng, first) + (f" named {name}" if name else "")
    shots = [ToyShot(full_caption(rng, scene, subject, EVERYTHING), scene, num_chunks)]
    for member, who in (
        (second, described(rng, second)),
        (first, singled_out(rng, first, second, "first", brief=True)),
    ):
        scene = replace(
            scene,
            shape=member.shape,
            colour=member.colour,
            camera=other(rng, CAMERAS, scene.camera),
            expression=rng.choice(EXPRESSIONS),
            action=rng.choice(ACTIONS),
        )
        shots.append(ToyShot(full_caption(rng, scene, who, {"camera", "expression"}), scene, num_chunks))
    return ToyStory(rng.choice(STYLES), tuple(shots))


def long_return(rng: random.Random, num_shots: int = 12, num_chunks: int = 2) -> ToyStory:
    """A test story for a long memory: shot 1 shows somebody with a name, then somebody else has the film, and the last
    shot returns to the first one by name alone."""
    scene, name = opening_scene(rng), rng.choice(NAMES)
    first = Member(scene.shape, scene.colour, name, *rng.choice(PRONOUNS))
    second = Member(other(rng, SHAPES, scene.shape), other(rng, COLOURS, scene.colour), None, *rng.choice(PRONOUNS))
    subject = f"{described(rng, first)} named {name}"
    shots = [ToyShot(full_caption(rng, scene, subject, EVERYTHING), scene, num_chunks)]
    while len(shots) < num_shots:
        member = first if len(shots) + 1 == num_shots else second
        who = name if member is first else described(rng, second) if len(shots) == 1 else second.subject
        scene = replace(
            scene,
            shape=member.shape,
            colour=member.colour,
            camera=other(rng, CAMERAS, scene.camera),
            expression=rng.choice(EXPRESSIONS),
            action=rng.choice(ACTIONS),
        )
        shots.append(ToyShot(full_caption(rng, scene, who, {"camera", "expression"}), scene, num_chunks))
    return ToyStory(rng.choice(STYLES), tuple(shots))


def steered(rng: random.Random, num_shots: int = 1, num_chunks: int = 5) -> ToyStory:
    """A test story for steering: every shot's instruction changes on the way. Shot 1 says everything."""
    scene, member = opening_scene(rng), new_member(rng)
    member = replace(member, shape=scene.shape, colour=scene.colour)
    caption = full_caption(rng, scene, described(rng, member), EVERYTHING)
    shots = [with_beat(rng, ToyShot(caption, scene, num_chunks), (replace(member, name=None),))]
    while len(shots) < num_shots:
        scene = replace(left_as(shots[-1]), camera=rng.choice(CAMERAS), action=rng.choice(ACTIONS))
        caption = full_caption(rng, scene, member.subject, {"camera"})
        shots.append(with_beat(rng, ToyShot(caption, scene, num_chunks), (replace(member, name=None),)))
    return ToyStory(rng.choice(STYLES), tuple(shots))

"""How people would say it: captions for the scenes of the toy world, from full descriptions to a director's call.

Everything visible is either said or was shown before: a caption that leaves out colour, shape, place, time, camera or
expression means "as it was". Knows no pixels and decides nothing about what happens.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from shotstream.toyworld.scene import Scene
from shotstream.toyworld.words import (
    CAMERA_WORDS,
    COLOUR_WORDS,
    DO,
    DO_BOTH,
    DOES,
    DOING,
    FEELINGS,
    MOVE_WORDS,
    PLACE_NAMES,
    PLACE_WORDS,
    SHAPE_WORDS,
    SIZES,
    TIME_CHANGES,
    TIME_WORDS,
)


@dataclass(frozen=True)
class Member:
    """One of a story's cast: the looks it was introduced with, and how the wording may refer to it."""

    shape: str
    colour: str
    name: str | None
    subject: str  # he, she, it
    object: str  # him, her, it


def described(rng: random.Random, member: Member | Scene, article: str = "a") -> str:
    """A description by which anybody could draw the character."""
    colour = rng.choice(COLOUR_WORDS[member.colour])
    shape = rng.choice(SHAPE_WORDS[member.shape])
    size = rng.choice(SIZES)
    first = (size or colour)[0]
    article = "an" if article == "a" and first in "aeiou" else article
    return f"{article} {size}{colour} {shape}"


def introduced(rng: random.Random, member: Member, article: str = "a") -> str:
    """A description with the name, if there is one."""
    text = described(rng, member, article)
    if member.name is None:
        return text
    return text + rng.choice((f" named {member.name}", f" called {member.name}", f", {member.name}"))


def singled_out(rng: random.Random, member: Member, other: Member, order: str = "", brief: bool = False) -> str:
    """What tells a known character from the other one: its name, its shape, its place in the cast (`order`, such as
    "first") or its colour; `brief`: never its colour."""
    options = [member.name] * 3 if member.name else []
    if member.shape != other.shape:
        options += [f"the {rng.choice(SHAPE_WORDS[member.shape])}"] * 2
    if order:
        options += [f"the {order} one"]
    if not brief:
        options += [f"the {rng.choice(COLOUR_WORDS[member.colour])} one", described(rng, member, "the")]
    return rng.choice(options)


def punctuate(rng: random.Random, text: str) -> str:
    if rng.random() < 0.5:
        text = text[0].upper() + text[1:]
    return text + (". " if rng.random() < 0.3 else "." if rng.random() < 0.7 else "")


def _with_move(rng: random.Random, text: str, scene: Scene) -> str:
    if scene.move == "still":
        return text
    return text + rng.choice((", ", ". ")) + rng.choice(MOVE_WORDS[scene.move])


def _settings(rng: random.Random, scene: Scene, said: set[str]) -> tuple[str, str, str]:
    """Camera, place and time, each empty if not said. "back": the place is one that an earlier shot showed."""
    camera = rng.choice(CAMERA_WORDS[scene.camera]) if "camera" in said else ""
    place = " " + rng.choice(PLACE_WORDS[scene.place]) if "place" in said else ""
    if "began" in said:
        place = rng.choice((" back where it began", " back where we began"))
    elif place and "back" in said:
        place = " back" + place
    time = " " + rng.choice(TIME_WORDS[scene.time]) if "time" in said else ""
    return camera, place, time


def full_caption(rng: random.Random, scene: Scene, subject: str, said: set[str]) -> str:
    """A sentence or two on one character: what is in `said` (place, time, camera, expression), action and move."""
    camera, place, time = _settings(rng, scene, said)
    feeling = rng.choice(FEELINGS[scene.expression]) if "expression" in said else ""
    does, doing = rng.choice(DOES[scene.action]), rng.choice(DOING[scene.action])
    style = rng.randrange(4)
    if style == 0 and subject not in ("it", "he", "she"):  # noun phrase
        feeling = rng.choice((f", looking {feeling}", f" with a {feeling} face")) if feeling else ""
        of = rng.choice((f"a {camera} of ", f"{camera} of ", f"{camera}: ")) if camera else ""
        text = f"{of}{subject} {doing}{place}{time}{feeling}"
    elif style == 1:  # where and when first
        scenery = f"{place}{time}".strip()
        head = f"{scenery}, " if scenery else ""
        text = f"{head}{subject} {does}" + (f" and looks {feeling}" if feeling else "")
        text += f", {camera}" if camera else ""
    elif style == 2:  # screenplay
        head = f"{camera}: " if camera else ""
        text = f"{head}{subject} {does}{place}{time}"
        text += f". {rng.choice(('it looks', 'looking', 'feeling'))} {feeling}" if feeling else ""
    else:
        head = f"{camera}, " if camera else ""
        text = f"{head}{subject} {does}{place}{time}" + (f", {feeling}" if feeling else "")
    return punctuate(rng, _with_move(rng, text, scene))


def pair_caption(
    rng: random.Random, scene: Scene, people: tuple[str, str], both: str, again: tuple[str, str], said: set[str]
) -> str:
    """A sentence or two on a two-shot of `people`; `both` stands for the two as a subject ("they", "Pip and the cube"),
    `again` for each when the sentence comes back to them.

    `said` may hold place, time, camera, expression (the first one's) and partner_expression.
    """
    camera, place, time = _settings(rng, scene, said)
    if camera and rng.random() < 0.3:
        camera = rng.choice((f"{camera} of both", f"two-shot, {camera}"))
    if scene.together or scene.action == "stand":
        text = f"{both} {rng.choice(DO_BOTH[scene.action])}"
    else:
        where = rng.choice((f"beside {people[1]}", f"next to {people[1]}", f"while {people[1]} waits"))
        text = f"{people[0]} {rng.choice(DOES[scene.action])} {where}"
    if rng.random() < 0.4 and (place or time):
        text = f"{(place + time).strip()}, {text}"
    else:
        text += place + time
    moods = {"expression": scene.expression, "partner_expression": scene.partner_expression}
    left, right = (rng.choice(FEELINGS[mood]) if name in said else "" for name, mood in moods.items())
    if left and right and scene.expression == scene.partner_expression:
        text += rng.choice((f". they look {left}", f", both {left}", f". both look {left}"))
    elif left and right:
        text += f". {again[0]} {rng.choice(('looks', 'is'))} {left}, {again[1]} {right}"
    elif left or right:
        text += f". {again[0] if left else again[1]} {rng.choice(('looks', 'is'))} {left or right}"
    if camera:
        text = rng.choice((f"{camera}: {text}", f"{camera}, {text}", f"{text}, {camera}"))
    return punctuate(rng, _with_move(rng, text, scene))


def instruction(rng: random.Random, old: Scene, scene: Scene, member: Member) -> str | None:
    """Say one change the way a director calls it out; None if the change is not a single one."""
    changed = {name for name in Scene.__dataclass_fields__ if getattr(old, name) != getattr(scene, name)} - {"move"}
    him = rng.choice((member.object, member.name or member.object))
    he = rng.choice((member.subject, member.name or member.subject))
    now = rng.choice(("now ", "now ", "", "then "))
    camera, place = rng.choice(CAMERA_WORDS[scene.camera]), rng.choice(PLACE_NAMES[scene.place])
    still = scene.action == "stand"
    if changed <= {"expression", "action"} and still and "expression" in changed:
        feeling = rng.choice(FEELINGS[scene.expression])
        text = (f"make {him} look {feeling}",) * 2 + (
            f"{he} looks {feeling}",
            f"{he} is {feeling}",
            f"make {him} {feeling}",
        )
    elif changed <= {"camera", "action"} and still and "camera" in changed:
        text = (f"cut to a {camera}", f"transition to a {camera}", f"{camera} of {him}", camera, f"show a {camera}")
    elif changed <= {"camera", "place", "action"} and still and "place" in changed:
        if "camera" in changed or rng.random() < 0.5:
            text = (f"transition to a {camera} of {place}", f"cut to a {camera} of {place}", f"a {camera} of {place}")
        else:
            text = (
                f"go to {place}",
                f"move to {place}",
                f"{he} goes to {place}",
                f"cut to {place}",
                f"{he} is in {place}",
            )
    elif changed <= {"time", "action"} and still and "time" in changed:
        text = TIME_CHANGES[scene.time]
        now = ""
    elif changed <= {"action"}:
        does, do, doing = (rng.choice(words[scene.action]) for words in (DOES, DO, DOING))
        text = (f"{he} {does}", f"make {him} {do}", f"show {him} {doing}", f"let {him} {do}")
        if scene.move != "still" and still:
            return punctuate(rng, rng.choice(MOVE_WORDS[scene.move]))
    elif changed <= {"camera", "action"}:
        does, doing = (rng.choice(words[scene.action]) for words in (DOES, DOING))
        text = (f"{camera}: {he} {does}", f"{camera} of {him} {doing}", f"cut to a {camera}, {he} {does}")
    elif changed <= {"colour", "action"} and still and "colour" in changed:
        colour = rng.choice(COLOUR_WORDS[scene.colour])
        text = (f"{he} turns {colour}", f"{he} is {colour} now", f"make {him} {colour}")
    elif changed <= {"shape", "action"} and still and "shape" in changed:
        shape = rng.choice(SHAPE_WORDS[scene.shape])
        text = (f"{he} turns into a {shape}", f"{he} becomes a {shape}", f"make {him} a {shape}")
    else:
        return None
    return punctuate(rng, _with_move(rng, now + rng.choice(text), scene))


def cut_to(rng: random.Random, who: str, scene: Scene, camera_said: bool, returns: bool) -> str:
    """A cut to somebody known who does nothing but stand where the other one was: shot and reverse shot."""
    if camera_said:
        camera = rng.choice(CAMERA_WORDS[scene.camera])
        text = (f"{camera} of {who}", f"cut to a {camera} of {who}", f"{camera}: {who}")
    elif returns:
        text = (f"cut back to {who}", f"{who} is back", f"{who} again", f"back to {who}", f"{who} comes back")
    else:
        text = (f"cut to {who}", f"now {who}", f"show {who}", f"here is {who}")
    return punctuate(rng, _with_move(rng, rng.choice(text), scene))


def beat_caption(rng: random.Random, old: Scene, scene: Scene, members: tuple[Member, ...]) -> str:
    """The call that changes a take while it runs: one thing, for one character or for both."""
    one = members[0]
    he, him = rng.choice(((one.subject, one.object), (one.name or one.subject, one.name or one.object)))
    second = ""
    if len(members) > 1:
        second = singled_out(rng, members[1], one)
        he = him = singled_out(rng, one, members[1])
    if scene.time != old.time:
        return punctuate(rng, rng.choice(TIME_CHANGES[scene.time]))
    if scene.move != old.move and scene.move != "still":
        return punctuate(rng, rng.choice(("now ", "")) + rng.choice(MOVE_WORDS[scene.move]))
    if (scene.action, scene.together) != (old.action, old.together):
        if scene.together:
            do = rng.choice(DO_BOTH[scene.action])
            text = (f"now both {do}", f"now they {do}", f"make them {do}", f"both {do} now")
        else:
            does, do = rng.choice(DOES[scene.action]), rng.choice(DO[scene.action])
            text = (f"now {he} {does}", f"{he} {does} now", f"then {he} {does}", f"now make {him} {do}")
            if scene.action == "stand" and len(members) == 1:
                text = (f"{he} stops", f"now {he} stops", f"now {he} stands still", "stop")
            elif scene.action == "stand" and old.together:
                text = ("they stop", "now both stop", "both stop")
        return punctuate(rng, rng.choice(text))
    if len(members) > 1 and scene.partner_expression != old.partner_expression:
        if scene.expression != old.expression:  # only ever to the same mood
            feeling = rng.choice(FEELINGS[scene.expression])
            return punctuate(rng, rng.choice((f"now both look {feeling}", f"now they are {feeling}")))
        he = him = second
        feeling = rng.choice(FEELINGS[scene.partner_expression])
    else:
        feeling = rng.choice(FEELINGS[scene.expression])
    text = (
        f"now {he} looks {feeling}",
        f"make {him} look {feeling}",
        f"{he} is {feeling} now",
        f"{he} looks {feeling}",
    )
    return punctuate(rng, rng.choice(text))

"""Stories of two: shot and reverse shot, two-shots, somebody leaving, coming back, or turning up in mid-story.

Owns who is on screen when, and what is remembered of whoever is not. Knows no pixels.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from shotstream.toyworld.plot import (
    DEFAULTS,
    Shares,
    ToyShot,
    ToyStory,
    as_pair,
    back_words,
    changed_setting,
    left_as,
    new_member,
    opening_scene,
    random_length,
    set_action,
    steered_length,
    with_beat,
    with_move,
)
from shotstream.toyworld.prologue import SAID_SHARES, global_caption
from shotstream.toyworld.scene import ACTIONS, EXPRESSIONS, Character, Scene
from shotstream.toyworld.wording import (
    Member,
    cut_to,
    full_caption,
    instruction,
    introduced,
    pair_caption,
    singled_out,
)

_ORDER = ("first", "second")


@dataclass
class _Stage:
    """The two, who of them has been introduced, what each face last showed, who is on screen, left first."""

    cast: tuple[Member, Member]
    known: set[int]
    moves: float  # the share of shots in which the camera does
    moods: list[str] = field(default_factory=lambda: [DEFAULTS["expression"]] * 2)
    shown: tuple[int, ...] = ()
    seen: set[int] = field(default_factory=set)

    def refer(self, rng: random.Random, who: int) -> str:
        """A noun phrase that singles somebody out, or introduces somebody new in full."""
        if who not in self.known:
            return introduced(rng, self.cast[who])
        if self.known != {0, 1}:
            member = self.cast[who]
            return rng.choice((member.name or member.subject, singled_out(rng, member, self.cast[1 - who])))
        if self.shown == (1 - who,) and rng.random() < 0.2:
            return "the other one"
        return singled_out(rng, self.cast[who], self.cast[1 - who], _ORDER[who] if rng.random() < 0.4 else "")

    def view(self, scene: Scene, shown: tuple[int, ...]) -> Scene:
        """The scene with these characters in it, each as it was when last seen, nobody doing anything."""
        first, *rest = (Character(self.cast[i].shape, self.cast[i].colour, self.moods[i]) for i in shown)
        still = replace(scene, action="stand", together=False)
        return replace(as_pair(still, first, rest[0] if rest else first), partner=rest[0] if rest else None)

    def remember(self, shown: tuple[int, ...], scene: Scene) -> None:
        self.known |= set(shown)
        self.seen |= set(shown)
        self.shown = shown
        for who, mood in zip(shown, (scene.expression, scene.partner_expression), strict=False):
            self.moods[who] = mood


def duo_story(rng: random.Random, num_shots: int, num_chunks: int | None, shares: Shares) -> ToyStory:
    """A story of two characters; one that is a single shot long shows both, if there are two-shots."""
    first = new_member(rng)
    cast = (first, new_member(rng, first))
    opening = rng.random()
    known = {0, 1} if opening < 0.45 else {0} if opening < 0.7 else set()
    scene = opening_scene(rng)
    text, told = global_caption(rng, scene, [cast[i] for i in sorted(known)])
    stage = _Stage(cast, known, shares.moves)
    shots: list[ToyShot] = []
    places: list[str] = []
    while len(shots) < num_shots:
        beat = rng.random() < shares.beats and (num_chunks is None or num_chunks > 2)
        length = num_chunks or (steered_length(rng) if beat else random_length(rng))
        shown = _who_is_on(rng, stage, bool(shots), num_shots, shares.two_shots)
        if not shots:
            scene, caption = _opening(rng, stage, scene, shown, told, length)
        else:
            scene, caption = _later(rng, stage, left_as(shots[-1]), shown, places, length)
        shot = ToyShot(caption, scene, length)
        shots.append(with_beat(rng, shot, tuple(cast[i] for i in shown)) if beat else shot)
        stage.remember(shown, left_as(shots[-1]))
        places.append(scene.place)
    return ToyStory(text, tuple(shots))


def _who_is_on(rng: random.Random, stage: _Stage, later: bool, num_shots: int, two_shots: bool) -> tuple[int, ...]:
    both = (0, 1) if rng.random() < 0.7 else (1, 0)
    if not later:
        if two_shots and (num_shots == 1 or rng.random() < 0.4):
            return both if stage.known == {0, 1} else (0, 1)
        return (rng.randrange(2),) if stage.known == {0, 1} else (0,)
    kind = rng.random()
    if kind < 0.3:
        return stage.shown
    if two_shots and kind < 0.6 and len(stage.shown) == 1:
        return both
    return (1 - stage.shown[0],) if len(stage.shown) == 1 else (rng.randrange(2),)


def _opening(
    rng: random.Random, stage: _Stage, scene: Scene, shown: tuple[int, ...], told: set[str], length: int
) -> tuple[Scene, str]:
    said = {name for name, share in SAID_SHARES.items() if rng.random() < share}
    said -= {name for name in sorted(told) if rng.random() < 0.7}
    silent = sorted(set(SAID_SHARES) - said - told - {"expression"})
    scene = replace(scene, **{name: DEFAULTS[name] for name in silent})
    base = stage.view(scene, shown)
    if base.partner and base.camera == "close":
        base = replace(base, camera="medium" if "camera" not in said else rng.choice(("wide", "medium")))
    scene = set_action(rng, base, scene.action)
    moods = set()
    if "expression" in said:
        scene, moods = _feel(rng, scene, 1.0)
    scene = with_move(rng, scene, length, stage.moves)
    return scene, _caption(rng, stage, scene, shown, said - {"expression"} | moods)


def _later(
    rng: random.Random, stage: _Stage, old: Scene, shown: tuple[int, ...], places: list[str], length: int
) -> tuple[Scene, str]:
    base = stage.view(old, shown)
    scene = replace(base, **changed_setting(rng, base, places))
    if rng.random() < 0.65:
        scene = set_action(rng, scene, rng.choice(ACTIONS))
    scene, moods = _feel(rng, scene, 0.35)
    scene = with_move(rng, scene, length, stage.moves)
    back = back_words(rng, old, scene, places)
    changed = {name for name in ("place", "time", "camera") if getattr(base, name) != getattr(scene, name)}
    if len(shown) == 1 and not back:
        who = stage.cast[shown[0]]
        if shown == stage.shown:
            if rng.random() < 0.5 and (text := instruction(rng, base, scene, who)):
                return scene, text
        elif stage.known == {0, 1} and scene.action == "stand" and not moods and changed <= {"camera"}:
            returns = shown[0] in stage.seen and len(stage.shown) == 1
            return scene, cut_to(rng, stage.refer(rng, shown[0]), scene, bool(changed), returns)
    unchanged = {"place": 0.1, "time": 0.1, "camera": 0.4}
    said = changed | {name for name, share in unchanged.items() if rng.random() < share}
    return scene, _caption(rng, stage, scene, shown, said | moods | back)


def _feel(rng: random.Random, scene: Scene, share: float) -> tuple[Scene, set[str]]:
    """New moods, each with probability `share`, and which of them have to be said."""
    said = set()
    if rng.random() < share:
        scene = replace(scene, expression=rng.choice(EXPRESSIONS))
        said.add("expression")
    if scene.partner and rng.random() < share:
        mood = scene.expression if rng.random() < 0.3 else rng.choice(EXPRESSIONS)
        scene = replace(scene, partner=replace(scene.partner, expression=mood))
        said.add("partner_expression")
    return scene, said


def _caption(rng: random.Random, stage: _Stage, scene: Scene, shown: tuple[int, ...], said: set[str]) -> str:
    if len(shown) == 1:
        stays = shown == stage.shown and rng.random() < 0.6
        subject = stage.cast[shown[0]].subject if stays else stage.refer(rng, shown[0])
        return full_caption(rng, scene, subject, said)
    new = not stage.known >= set(shown)
    people = (stage.refer(rng, shown[0]), stage.refer(rng, shown[1]))
    again = tuple(singled_out(rng, stage.cast[i], stage.cast[1 - i]) for i in shown)
    both = " and ".join(people)
    same = shown == stage.shown or shown == (0, 1)
    if not new and same and rng.random() < 0.5:
        both = rng.choice(("they", "both", "the two friends"))
    return pair_caption(rng, scene, people, both, again, said)

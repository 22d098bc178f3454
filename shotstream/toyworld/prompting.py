"""How the toy world's models like to be prompted: their vocabulary, ordered for people, made of the wording's tables.

Owns what is said of it. A phrase is left out if a model was trained before one of its words was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from shotstream.prompting import Groups, Prompting
from shotstream.toyworld.words import (
    CAMERA_WORDS,
    COLOUR_WORDS,
    DO,
    DO_BOTH,
    DOES,
    DOING,
    FEELINGS,
    MOVE_WORDS,
    NAMES,
    PLACE_WORDS,
    SHAPE_WORDS,
    STYLES,
    TIME_CHANGES,
    TIME_WORDS,
)

ADVICE = (
    "This model knows a toy world and these words of everyday English, and skips all others. Say in the story who it "
    "is about, and in a shot what changes: camera, place, time of day, face or action."
)
LIGHT_SIGNS = (
    *("day", "daylight", "sunny", "noon", "morning", "sunset", "dusk", "evening", "night", "midnight", "moonlight"),
    "stars",
)
CAMERA_SIGNS = ("camera", "zoom", "pan", "two-shot")
CHANGES = ("turns", "becomes")
NO_ACTION_ALONE = ("look", "looks", "looking")  # "it looks happy" says a face

Table = Mapping[str, tuple[str, ...]]


def toyworld_prompting(known: Callable[[str], bool]) -> Prompting:
    """What a toy model's folder says of prompts; `known` tells whether the model has all words of a phrase."""
    words = {
        "who": _phrases(SHAPE_WORDS),
        "colours": _phrases(COLOUR_WORDS),
        "names": NAMES,
        "places": _phrases(PLACE_WORDS),
        "light": (*_phrases(TIME_WORDS), *_phrases(TIME_CHANGES)),
        "camera": (*_phrases(CAMERA_WORDS), *_phrases(MOVE_WORDS)),
        "faces": _phrases(FEELINGS),
        "actions": tuple(phrase for phrase in _phrases(DOES) if not phrase.startswith("is ")),
        "styles": tuple(style for style in STYLES if style),
    }
    templates = {
        "camera": tuple(phrases[0].capitalize() for phrases in CAMERA_WORDS.values()),
        "action": _phrases({name: phrases for name, phrases in DOING.items() if name != "stand"}),
        "light": _phrases(TIME_WORDS),
    }
    signs = {
        "camera": (*words["camera"], *CAMERA_SIGNS),
        "action": _action_signs(),
        "light": (*words["light"], *LIGHT_SIGNS),
    }
    return Prompting(ADVICE, _known(words, known), _known(templates, known), _known(signs, known))


def _phrases(table: Table) -> tuple[str, ...]:
    """All that a table says, each once."""
    return _once(phrase for phrases in table.values() for phrase in phrases)


def _action_signs() -> tuple[str, ...]:
    """The verb of an action alone, where it cannot mean anything else."""
    phrases = [phrase for table in (DOES, DOING, DO, DO_BOTH) for phrase in _phrases(table)]
    heads = ((phrase, phrase.split()[0]) for phrase in phrases if not phrase.startswith("is "))
    return _once((*(phrase if head in NO_ACTION_ALONE else head for phrase, head in heads), *CHANGES))


def _once(phrases: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(phrases))


def _known(groups: Groups, known: Callable[[str], bool]) -> Groups:
    kept = {name: tuple(filter(known, phrases)) for name, phrases in groups.items()}
    return {name: phrases for name, phrases in kept.items() if phrases}

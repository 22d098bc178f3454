"""A story: one global caption, its shots and the choices it ends with, read from and written to the community's JSON
format.

Owns the text of a film: validation, cleaning, composition of captions, the file format. Knows no model and no file
but the story's own. Every string inside a `Story` is clean and not blank, so that nobody below has to ask.
"""

from __future__ import annotations

import html
import json
import re
import unicodedata
from dataclasses import dataclass, field, replace
from pathlib import Path

from shotstream.errors import UserError

MAX_PROMPT_CHARACTERS = 20_000  # far more than any text encoder reads; beyond it something else was pasted
MAX_FILE_BYTES = 1_000_000
MAX_CHOICES = 6  # that a story ends with: they are buttons on a page
MAX_CHOSEN = 12  # shots of one of them
MAX_NAME_CHARACTERS = 60  # of one of them
INVISIBLE = "\u115f\u1160\u2800\u3164\uffa0"  # letters by their category, blank on every screen
_SHOT_KEY = re.compile(r"shot\d+", re.ASCII)
_THEN_KEY = re.compile(r"(shot\d+)_then", re.ASCII)


@dataclass(frozen=True)
class Shot:
    """One continuous take, described by its own caption (without the story's global caption), and by what it is told
    half-way, if it is."""

    caption: str
    then: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "caption", clean_prompt(self.caption, "A shot's caption"))
        if self.then is not None:
            object.__setattr__(self, "then", clean_prompt(self.then, "What a shot is told half-way"))


@dataclass(frozen=True)
class Choice:
    """One of the ways in which a story may go on: what it is called, in a line, and the captions of its shots."""

    name: str
    captions: tuple[str, ...]

    def __post_init__(self) -> None:
        name = " ".join(clean_prompt(self.name, "The name of a choice").split())
        object.__setattr__(self, "name", name)
        if len(name) > MAX_NAME_CHARACTERS:
            raise UserError(f"A choice's name has {len(name)} characters: shorten it to {MAX_NAME_CHARACTERS} or less.")
        said = json.dumps(name, ensure_ascii=False)
        captions = tuple(clean_prompt(caption, f"A shot of the choice {said}") for caption in self.captions)
        object.__setattr__(self, "captions", captions)
        if not 1 <= len(captions) <= MAX_CHOSEN:
            raise UserError(f"The choice {said} has {len(captions)} shots: give it 1 to {MAX_CHOSEN}.")


@dataclass(frozen=True)
class Story:
    """Who, where and in which style (`global_caption`), the shots in order, and the `choices` that it leaves then.

    `ignored_keys` names what a file held besides (never written back, not part of equality); `warning` tells it.
    Raises `UserError` for blank or over-long captions and for a story without shots.
    """

    global_caption: str
    shots: tuple[Shot, ...]
    choices: tuple[Choice, ...] = ()
    ignored_keys: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "global_caption", clean_prompt(self.global_caption, "global_caption"))
        if not self.shots:
            raise UserError('The story has no shots: add at least "shot1".')
        if len({choice.name for choice in self.choices}) < len(self.choices):
            raise UserError("Two of the story's choices have the same name: give each its own.")
        if len(self.choices) > MAX_CHOICES:
            raise UserError(f"The story has {len(self.choices)} choices: {MAX_CHOICES} at most can be given.")

    @classmethod
    def from_json(cls, text: str | bytes) -> Story:
        """Reads `{"global_caption": ..., "shot1": ..., "shot1_then": ..., "choices": {"Go left": ["...", ...], ...}}`,
        of which a shot's `_then` and the choices may be left out; raises `UserError` telling what is wrong."""
        fields = _parse_object(text)
        if "global_caption" not in fields:
            raise UserError('The story has no "global_caption": add one that says who, where and in which style.')
        given = {key for key in fields if _SHOT_KEY.fullmatch(key)}
        keys = [f"shot{number}" for number in range(1, len(given) + 1)]
        if missing := [key for key in keys if key not in given]:
            raise UserError(f'The story has no "{missing[0]}": number the shots shot1, shot2, ... without gaps.')
        told = {match[1]: key for key in fields if (match := _THEN_KEY.fullmatch(key))}
        if lost := [shot for shot in told if shot not in given]:
            raise UserError(f'The story has "{told[lost[0]]}" but no "{lost[0]}": add that shot, or leave it out.')
        known = {"global_caption", *keys, *told.values(), "choices"}
        for key in ("global_caption", *keys, *told.values()):
            fields[key] = clean_prompt(fields[key], f'"{key}"')
        return cls(
            global_caption=fields["global_caption"],
            shots=tuple(Shot(fields[key], fields[told[key]] if key in told else None) for key in keys),
            choices=read_choices(fields.get("choices", {})),
            ignored_keys=tuple(key for key in fields if key not in known),
        )

    def to_json(self) -> str:
        """The story as indented JSON; `Story.from_json(story.to_json()) == story`."""
        fields: dict[str, object] = {"global_caption": self.global_caption}
        for number, shot in enumerate(self.shots, start=1):
            fields[f"shot{number}"] = shot.caption
            if shot.then is not None:
                fields[f"shot{number}_then"] = shot.then
        if self.choices:
            fields["choices"] = {choice.name: choice.captions for choice in self.choices}
        return json.dumps(fields, ensure_ascii=False, indent=2) + "\n"

    @property
    def captions(self) -> tuple[str, ...]:
        """The composed caption of every shot, as the text encoder reads it."""
        return tuple(compose_caption(self.global_caption, i, shot.caption) for i, shot in enumerate(self.shots))

    def decided(self, name: str) -> Story:
        """The story that goes on as the choice of that name does. Raises `UserError` if there is none."""
        for choice in self.choices:
            if choice.name == name:
                return replace(self, shots=(*self.shots, *map(Shot, choice.captions)), choices=())
        said = json.dumps(name[:40], ensure_ascii=False)
        raise UserError(f"The story has no choice {said}. {self.undecided or 'It has none at all.'}")

    @property
    def undecided(self) -> str | None:
        """One sentence about the choices that it leaves, or None."""
        names = " or ".join(json.dumps(choice.name, ensure_ascii=False) for choice in self.choices)
        return f"The story leaves a choice: {names}." if names else None

    @property
    def warning(self) -> str | None:
        """One sentence about keys that were left out, or None."""
        if not self.ignored_keys:
            return None
        shown = ", ".join(json.dumps(key[:40]) for key in self.ignored_keys[:5])
        more = f" and {len(self.ignored_keys) - 5} more" if len(self.ignored_keys) > 5 else ""
        return f"The story's keys {shown}{more} are not known and were left out."


def read_story(path: str | Path) -> Story:
    """Reads a story file. Raises `UserError` naming the file for everything that can be wrong with it."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UserError(f"Cannot read the story {path}: {error.strerror}.") from error
    except ValueError as error:  # a NUL in the path
        raise UserError(f"Cannot read the story {path!r}: this is not a file name.") from error
    try:
        return Story.from_json(data)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def compose_caption(global_caption: str, shot_index: int, shot_caption: str) -> str:
    """The caption of shot `shot_index` (from 0) as the model was trained to read it: nothing added in between."""
    return f"{global_caption}shot{shot_index}:{shot_caption}"


def own_words(caption: str) -> str:
    """What a composed caption says of its shot alone."""
    return re.sub(r"^.*?shot\d+:", "", caption, count=1, flags=re.DOTALL)


def clean_prompt(text: str, name: str = "The prompt") -> str:
    """Removes characters that only steer (tabs and line ends stay) and raises `UserError` for what cannot be a prompt.

    `name` is what the message calls the text. Markup is left as it is: it is text, and whoever shows it escapes it.
    """
    if not isinstance(text, str):
        raise UserError(f"{name} is not text: write it as a string in quotes.")
    if len(text) > MAX_PROMPT_CHARACTERS:
        raise UserError(f"{name} has {len(text)} characters: shorten it to {MAX_PROMPT_CHARACTERS} or fewer.")
    # Cc are control characters, Cf turn the direction of text or are not seen at all (two of them join letters and
    # emoji), Cs lone surrogates that no file and no tokenizer can hold.
    clean = "".join(c for c in text if c in "\t\n\r\u200c\u200d" or unicodedata.category(c) not in ("Cc", "Cf", "Cs"))
    seen = html.unescape(clean)  # as the text encoder will
    if all(c.isspace() or c in INVISIBLE or unicodedata.category(c) in ("Cc", "Cf") for c in seen):
        raise UserError(f"{name} is blank: describe what is to be seen.")
    return clean


def read_choices(value: object) -> tuple[Choice, ...]:
    """Choices as a story file has them, a name to a list of captions each. Raises UserError for anything else."""
    sound = isinstance(value, dict) and all(isinstance(captions, list) for captions in value.values())
    if not sound:
        raise UserError('"choices" is not as it should be: write {"Go left": ["what is seen then", "..."], ...}.')
    return tuple(Choice(name, tuple(captions)) for name, captions in value.items())


def _parse_object(text: str | bytes) -> dict[str, object]:
    if len(text) > MAX_FILE_BYTES:
        raise UserError(f"The story is larger than {MAX_FILE_BYTES // 1_000_000} MB: this is not a story file.")
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        fields = json.loads(text, object_pairs_hook=_unique_keys)
    except UnicodeDecodeError as error:
        raise UserError("The story is not UTF-8 text: save it as a JSON text file.") from error
    except json.JSONDecodeError as error:
        raise UserError(f"The story is not valid JSON (line {error.lineno}: {error.msg}).") from error
    except (RecursionError, ValueError) as error:  # a nesting bomb, a number of thousands of digits
        raise UserError("The story is not valid JSON (nested too deeply, or a number too long).") from error
    if not isinstance(fields, dict):
        raise UserError('The story is not a JSON object: write {"global_caption": "...", "shot1": "..."}.')
    return fields


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise UserError(f"The story has {json.dumps(twice[:40])} twice: give every key once.")
    return fields

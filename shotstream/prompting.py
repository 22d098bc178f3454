"""How a model likes to be prompted: its folder's `prompting.json`, and what can be told and done by it.

    {"advice": "one or two sentences for whoever writes",
     "words": {"who": [...], "places": [...], ...},                       what it knows, if that can be listed
     "templates": {"camera": [...], "action": [...], "light": [...]},     what may be added to a prompt
     "signs": {"camera": [...], "action": [...], "light": [...]}}         by which a prompt shows that it says one

A template for the camera is what stands before a colon. One for action is "jumping up and down", one for light "at
sunset", to be said within a sentence; if it ends with a full stop it is a sentence of its own. The file is help and
nothing else: without a sound one there is none, and the model works.

Owns these rules. Knows no page, no network and no particular model.
"""

from __future__ import annotations

import json
import random
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerBase

from shotstream.errors import UserError
from shotstream.models.checkpoint import read_json
from shotstream.models.text import TextEncoder, clean_caption
from shotstream.story import compose_caption

PROMPTING_NAME = "prompting.json"
KINDS = ("camera", "action", "light")
MAX_FILE_BYTES = 100_000
MAX_ADVICE = 600  # characters, as the next two
MAX_NAME = 40
MAX_PHRASE = 300
MAX_GROUPS = 20
MAX_PHRASES = 300  # in a group
SHOWN_WORDS = 6
SHOWN_LETTERS = 30
_STOPS = ".!?…。！？"
_PLURAL = re.compile(r"\b(they|them|their|both|two)\b|\band (a|an|the)\b", re.IGNORECASE)
_PRONOUNS = {"it": "It", "its": "It", "he": "He", "him": "He", "his": "He", "she": "She", "her": "She"}

Groups = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Prompting:
    """What a `prompting.json` holds; empty where it holds nothing. Every string is printable and not blank."""

    advice: str = ""
    words: Groups = field(default_factory=dict)
    templates: Groups = field(default_factory=dict)
    signs: Groups = field(default_factory=dict)

    def to_json(self) -> str:
        """As `read_prompting` reads it."""
        filled = {name: value for name, value in asdict(self).items() if value}
        return json.dumps(filled, ensure_ascii=False, indent=2) + "\n"


def read_prompting(folder: str | Path) -> Prompting:
    """What a model folder says of prompts: nothing, if its file is missing or not as it should be."""
    path = Path(folder) / PROMPTING_NAME
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            return Prompting()
        fields = read_json(path)
        advice = fields.get("advice", "")
        _expect(advice == "" or _is_phrase(advice, MAX_ADVICE))
        return Prompting(
            advice,
            _groups(fields.get("words", {}), None),
            _groups(fields.get("templates", {}), KINDS),
            _groups(fields.get("signs", {}), KINDS),
        )
    except (OSError, ValueError, UserError):  # a path that is none, a number of thousands of digits
        return Prompting()


def unknown_words(text: str, tokenizer: PreTrainedTokenizerBase | None) -> tuple[str, ...]:
    """The words of `text`, each once and as the model reads them, that a tokenizer of whole words has no number for.

    One that puts words together from parts knows all of them. Marks are no words, an emoji is one.
    """
    # Asked part by part: the tokenizer as a whole may be in use, and is then told where to cut a text off.
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not isinstance(backend.model, WordLevel):
        return ()
    text = clean_caption(text)
    text = backend.normalizer.normalize_str(text) if backend.normalizer else text
    split = backend.pre_tokenizer
    pieces = split.pre_tokenize_str(text) if split else [(text, (0, len(text)))]
    unknown: list[str] = []
    last_end = -1
    for piece, (start, end) in pieces:
        if backend.token_to_id(piece) not in (None, tokenizer.unk_token_id) or not any(map(_is_letter, piece)):
            continue
        if start == last_end:  # "café" may come as "caf" and "é"
            unknown[-1] += piece
        else:
            unknown.append(piece)
        last_end = end
    return tuple(dict.fromkeys(unknown))


def advice_on(prompt: str, text: TextEncoder, story: str = "", shot: int = 0) -> str:
    """One sentence on what a model will not read of shot `shot` of a story, or nothing if it reads all of it."""
    used, limit = text.count_tokens(compose_caption(story, shot, prompt))
    if used > limit:
        return f"Story and shot have {used} tokens together, of which the model reads the first {limit}."
    unknown = unknown_words(f"{story} {prompt}", getattr(text, "tokenizer", None))
    if not unknown:
        return ""
    shown = ", ".join(w if len(w) <= SHOWN_LETTERS else f"{w[:SHOWN_LETTERS]}…" for w in unknown[:SHOWN_WORDS])
    more = f" and {len(unknown) - SHOWN_WORDS} more" if len(unknown) > SHOWN_WORDS else ""
    return f"This model does not know: {shown}{more}."


def reads_whole(prompt: str, text: TextEncoder, story: str = "", shot: int = 0) -> bool:
    """Is shot `shot` of a story, with this prompt, within the tokens that the model reads?"""
    used, limit = text.count_tokens(compose_caption(story, shot, prompt))
    return used <= limit


def complete(
    prompt: str,
    prompting: Prompting,
    rng: random.Random,
    known: str = "",
    fits: Callable[[str], bool] | None = None,
) -> str:
    """The prompt with a camera, an action and a light, of which nothing is added that it says already.

    `known` is the story and the film so far: a light that was said there stays as it is. `fits` says whether a longer
    prompt may still be used (`reads_whole`); what does not fit is left out.
    """
    if not _split(prompt):
        return prompt
    chosen: dict[str, str] = {}
    completed = prompt
    for kind in ("action", "light", "camera"):  # what matters most first: all may not fit
        if _says(prompt, kind, prompting) or (kind == "light" and _says(known, kind, prompting)):
            continue
        templates = prompting.templates.get(kind, ())
        for template in rng.sample(templates, len(templates)):
            longer = _composed(prompt, known, **chosen, **{kind: template})
            if fits is None or fits(longer):
                chosen[kind], completed = template, longer
                break
    return completed


def _composed(prompt: str, known: str, camera: str = "", action: str = "", light: str = "") -> str:
    """CAMERA: prompt LIGHT. It is ACTION. Or, of whole sentences, CAMERA: prompt. ACTION LIGHT"""
    text = prompt.strip()
    core = text.rstrip(_STOPS)
    stop = text[len(core) :] or "."
    core = core.rstrip(" ,;:-")
    sentences = []
    if action.endswith("."):
        sentences.append(action)
    elif action and not _PLURAL.search(prompt):
        sentences.append(f"{_pronoun(prompt, known)} is {action}.")
    elif action:  # whether the model knows "they are" cannot be told here
        core = f"{core}, {action}"
    if light.endswith("."):
        sentences.append(light)
    elif light:
        core = f"{core} {light}"
    head = f"{camera.rstrip(_STOPS)}: " if camera else ""
    return " ".join((f"{head}{core}{stop}", *sentences))


def _pronoun(prompt: str, known: str) -> str:
    """How the prompt, or else the story, speaks of its character."""
    for text in (prompt, known):
        if said := [word for word in _split(text) if word in _PRONOUNS]:
            return _PRONOUNS[said[-1]]
    return "It"


def _says(text: str, kind: str, prompting: Prompting) -> bool:
    words = f" {' '.join(_split(text))} "
    signs = (*prompting.signs.get(kind, ()), *prompting.templates.get(kind, ()))
    return any(f" {sign} " in words for sign in (" ".join(_split(phrase)) for phrase in signs) if sign)


def _split(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _is_letter(character: str) -> bool:
    """Or a digit, an emoji, an accent: a part of a word and not a mark between two."""
    return character.isalnum() or unicodedata.category(character) in ("So", "Mn", "Mc")


def _groups(value: object, names: tuple[str, ...] | None) -> Groups:
    """Lists of phrases by name, checked; of other names than `names` nothing is taken."""
    _expect(isinstance(value, dict) and len(value) <= MAX_GROUPS)
    groups: dict[str, tuple[str, ...]] = {}
    for name, phrases in value.items():
        _expect(_is_phrase(name, MAX_NAME) and isinstance(phrases, list) and len(phrases) <= MAX_PHRASES)
        _expect(all(_is_phrase(phrase, MAX_PHRASE) for phrase in phrases))
        if names is None or name in names:
            groups[name] = tuple(phrases)
    return groups


def _is_phrase(value: object, longest: int) -> bool:
    return isinstance(value, str) and len(value) <= longest and value.isprintable() and value.strip() != ""


def _expect(sound: bool) -> None:
    if not sound:
        raise ValueError("not as prompting.json should be")

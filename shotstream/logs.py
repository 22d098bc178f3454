"""What the operator of a page reads: one line for every event, without anybody's words.

    2026-01-31 12:00:00 INFO shot done session=3f2a91 chunks=3 frames=33 waited=0.4 seconds=0.71

Owns the form of such lines and what is left out of them. Prompts are told only if SHOTSTREAM_LOG_PROMPTS is 1; sessions
go by a number made from their names, since whoever knows a name can see the film.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys

PROMPTS = "SHOTSTREAM_LOG_PROMPTS"
log = logging.getLogger("shotstream")


def tell(event: str, **facts: object) -> None:
    """Logs an event, a few words, with its facts; those that are None are left out."""
    log.info("%s", " ".join([event, *(f"{name}={_told(fact)}" for name, fact in facts.items() if fact is not None)]))


def words(text: str) -> str | None:
    """A prompt as a fact of an event: nothing, unless the operator asked for prompts."""
    return text if os.environ.get(PROMPTS) == "1" else None


def number(session: str) -> str:
    """What a session is called here."""
    return hashlib.sha256(session.encode()).hexdigest()[:6]


def configure() -> None:
    """Sends the lines to standard error."""
    if log.handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


class OneLine(logging.Formatter):
    """A traceback stays on the line of its event, and no text can begin a line of its own."""

    def format(self, record: logging.LogRecord) -> str:
        return " | ".join(filter(None, map(str.rstrip, super().format(record).splitlines())))


def _told(fact: object) -> str:
    if isinstance(fact, float):
        return f"{fact:.2f}"
    text = str(fact)
    return text if text.isprintable() and text and not set(text) & set(' ="') else json.dumps(text, ensure_ascii=False)

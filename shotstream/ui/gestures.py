"""What the page's own buttons do: a JSON object `{"do": ..., ...}` from the browser, one call of the director.

Owns which gestures there are and what each needs. Everything in them is untrusted. Knows no request and no markup.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from shotstream.director import Director
from shotstream.errors import UserError
from shotstream.story import read_choices

MAX_BYTES = 100_000


def _number(fields: Mapping[str, Any], name: str) -> int:
    value = fields.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise UserError(f"This button sent no {name}: reload the page.")
    return value


def _switch(fields: Mapping[str, Any]) -> bool:
    return fields.get("on") is True


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name, "")
    return value if isinstance(value, str) else ""


def _length(fields: Mapping[str, Any]) -> int | None:
    """Chunks; 0 or nothing is the model's usual length."""
    return _number(fields, "chunks") or None if fields.get("chunks") is not None else None


def _cut_to(director: Director, fields: Mapping[str, Any]) -> None:
    story, caption = _text(fields, "story"), _text(fields, "caption")
    director.cut_to(story, caption, _length(fields), fields.get("dissolve") is True)


def _shoot(director: Director, fields: Mapping[str, Any]) -> None:
    """A shot of a story, as it is stepped through."""
    told, choices = (_text(fields, name) for name in ("story", "caption")), read_choices(fields.get("choices", {}))
    director.queue_shot(*told, then=_text(fields, "then") or None, choices=choices)


GESTURES: Mapping[str, Callable[[Director, Mapping[str, Any]], object]] = {
    "cut": lambda d, f: d.cut(),
    "cut to": _cut_to,
    "shoot": _shoot,
    "steer": lambda d, f: d.steer(_text(f, "caption")),
    "stop": lambda d, f: d.stop(),
    "retry": lambda d, f: d.retry(),
    "roll": lambda d, f: d.keep_rolling(_switch(f)),
    "edit": lambda d, f: d.edit(_number(f, "key"), _text(f, "caption")),
    "move": lambda d, f: d.move(_number(f, "key"), _number(f, "place")),
    "remove": lambda d, f: d.remove(_number(f, "key")),
    "retake": lambda d, f: d.retake(_number(f, "key"), _text(f, "caption") or None),
    "rewind": lambda d, f: d.rewind(_number(f, "key")),
    "choose take": lambda d, f: d.choose_take(_number(f, "key")),
    "decide": lambda d, f: d.decide(_number(f, "choice")),
    "play": lambda d, f: d.replay(_number(f, "key")),
    "policy": lambda d, f: d.remember_by(_text(f, "policy")),
    "attention": lambda d, f: d.weigh_attention(_switch(f)),
    "pin": lambda d, f: d.pin(_number(f, "key"), _number(f, "frame"), _switch(f)),
    "drop": lambda d, f: d.drop(_number(f, "key"), _number(f, "frame"), _switch(f)),
}


def read_gesture(body: bytes) -> Mapping[str, Any]:
    """The object that a browser sent. Raises UserError for anything else."""
    try:
        fields = json.loads(body) if len(body) <= MAX_BYTES else None
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict) or not isinstance(fields.get("do"), str) or fields["do"] not in GESTURES:
        raise UserError("The page sent something that is not known here: reload it.")
    return fields


def perform(director: Director, fields: Mapping[str, Any]) -> None:
    """Does it. Raises UserError with one sentence if it cannot be done (any more)."""
    GESTURES[fields["do"]](director, fields)

"""What a memory file says of a session besides the memory: the words, the switches, and where its noise goes on.

Owns the JSON inside the file. Everything read from it is untrusted, and checked before a session is changed. Knows
neither footage, which stays behind, nor tensors, which are the memory's.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from shotstream.context import DIRECTED, Pick
from shotstream.errors import UserError
from shotstream.memory import Memory
from shotstream.plan import LONGEST_SHOT
from shotstream.story import clean_prompt

if TYPE_CHECKING:
    from shotstream.backends.backend import ModelFacts

MAX_SEED, MAX_KEY, MAX_LIST, MAX_SIDE, MAX_NAME = 2**62, 1_000_000, 1000, 10_000, 500


@dataclass(frozen=True)
class SavedShot:
    """A shot of the film, or a prompt that waits."""

    key: int
    global_caption: str
    caption: str
    num_chunks: int | None = None
    dissolve: bool = False
    cast: bool = False


@dataclass(frozen=True)
class SavedSession:
    """`takes` are the shots of the memory, in order; `pinned` and `dropped` name frames by shot and number."""

    seed: int
    num_keys: int
    takes: tuple[SavedShot, ...]
    waiting: tuple[SavedShot, ...] = ()
    policy: str = "recent"
    pinned: tuple[Pick, ...] = ()
    dropped: tuple[Pick, ...] = ()
    size: tuple[int, int] | None = None  # width, height of the pictures; None the model's own
    model: str = ""  # its name, if that is known


def session_text(session: SavedSession) -> str:
    """The session as JSON."""
    return json.dumps(asdict(session), ensure_ascii=False)


def read_session(text: str, memory: Memory) -> SavedSession:
    """The session that goes with `memory`. Raises `UserError` for anything else."""
    try:
        told = json.loads(text)
        session = SavedSession(
            seed=_whole(told["seed"], 0, MAX_SEED),
            num_keys=_whole(told["num_keys"], 0, MAX_KEY),
            takes=_shots(told["takes"]),
            waiting=_shots(told["waiting"]),
            policy=_one_of(told["policy"], tuple(DIRECTED)),
            pinned=_frames(told["pinned"], memory),
            dropped=_frames(told["dropped"], memory),
            size=_size(told.get("size")),
            model=_text(told.get("model", "")),
        )
        keys = [shot.key for shot in (*session.takes, *session.waiting)]
        sound = len(session.takes) == len(memory.shots) and len(set(keys)) == len(keys)
        if not sound or any(key > session.num_keys for key in keys):
            raise ValueError("the shots are not those of the memory")
    except (ValueError, KeyError, TypeError, RecursionError, UserError) as error:
        raise UserError("This memory file holds no session that can be gone on with.") from error
    return session


def check_model(session: SavedSession, memory: Memory, model: ModelFacts) -> None:
    """Raises `UserError` for a session that `model` cannot go on with."""
    if session.model and _plain(session.model) != _plain(model.name):
        raise UserError(f"This session was made with {session.model}, not with {model.name}: open it where that plays.")
    if session.size and session.size not in model.shapes.values():
        raise UserError(f"This session has pictures of {_sides(session.size)}, which {model.name} does not make.")
    fitting = model.latent_shape(*(session.size or (model.width, model.height)))
    for found in {tuple(shot.latents.shape[1:]) for shot in memory.shots} - {fitting}:
        raise UserError(
            f"This session was made with another model or picture size than {model.name}'s: its latents are "
            f"{_sides(found)}, not {_sides(fitting)}."
        )


def _plain(name: str) -> str:
    """A model's name without how it runs, such as "(preview)": it remembers the same."""
    return name.split(" (")[0]


def _sides(sides: tuple[int, ...]) -> str:
    return "x".join(map(str, sides))


def _shots(value: Any) -> tuple[SavedShot, ...]:
    return tuple(_shot(entry) for entry in _list(value))


def _shot(entry: Any) -> SavedShot:
    if not isinstance(entry, dict) or set(entry) != {field.name for field in fields(SavedShot)}:
        raise ValueError("not a shot")
    return SavedShot(
        key=_whole(entry["key"], 1, MAX_KEY),
        global_caption=clean_prompt(entry["global_caption"]) if entry["global_caption"] != "" else "",
        caption=clean_prompt(entry["caption"]),
        num_chunks=None if entry["num_chunks"] is None else _whole(entry["num_chunks"], 1, LONGEST_SHOT),
        dissolve=_one_of(entry["dissolve"], (True, False)),
        cast=_one_of(entry["cast"], (True, False)),
    )


def _frames(value: Any, memory: Memory) -> tuple[Pick, ...]:
    """Frames that the memory has."""
    picks = tuple((_whole(shot, 0, len(memory.shots) - 1), _whole(frame, 0, 2**31)) for shot, frame in _list(value))
    if any(frame not in memory.shots[shot].offsets for shot, frame in picks):
        raise ValueError("no such frame")
    return picks


def _size(value: Any) -> tuple[int, int] | None:
    """Whether a model can make it, and whether the memory has it, is for `check_model` to say."""
    if value is None:
        return None
    width, height = (_whole(side, 1, MAX_SIDE) for side in _list(value))
    return width, height


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_NAME or not value.isprintable():
        raise ValueError("not a name")
    return value


def _list(value: Any) -> list:
    if not isinstance(value, list) or len(value) > MAX_LIST:
        raise ValueError("not a list")
    return value


def _whole(value: Any, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError("not a number that can be")
    return value


def _one_of(value: Any, choices: tuple) -> Any:
    if type(value) is not type(choices[0]) or value not in choices:
        raise ValueError("not a choice")
    return value

"""What a memory file says of a session besides the memory: the words, how the takes hang together, the switches, and
where its noise goes on.

Owns the JSON inside the file. Everything read from it is untrusted, and checked before a session is changed. Knows
neither footage, which stays behind, nor tensors, which are the memory's.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from shotstream.context import DIRECTED, Pick
from shotstream.crossroads import Crossroads
from shotstream.errors import UserError
from shotstream.memory import MAX_TEXT, MemoryFile
from shotstream.note import Steer
from shotstream.pixels import THUMBNAIL_SIZE
from shotstream.plan import LONGEST_SHOT
from shotstream.story import MAX_CHOICES, Choice, clean_prompt
from shotstream.takes import BEGINNING

if TYPE_CHECKING:
    from shotstream.backends.backend import ModelFacts

MAX_SESSION_SEED, MAX_KEY, MAX_LIST, MAX_SIDE, MAX_NAME = 2**62, 1_000_000, 1000, 10_000, 500
MAX_PROMPTS = 100
MAX_TAKES, MAX_KEPT = 250, 7  # more takes than a session can come to, and the frames that are kept of each


@dataclass(frozen=True)
class SavedShot:
    """A take, or a prompt that waits. `after` is the key of the take that it goes on from, None (of a prompt) wherever
    the film is by then. `picture`: which of the file's pictures waits to be cast."""

    key: int
    global_caption: str
    caption: str
    num_chunks: int | None = None
    dissolve: bool = False
    cast: bool = False
    after: int | None = None
    steers: tuple[Steer, ...] = ()
    picture: int | None = None
    then: str | None = None


OPTIONAL = {"after", "steers", "picture", "then"}  # which files of version 2 lack


@dataclass(frozen=True)
class SavedSession:
    """`takes` are those of the file's shots, in order, each behind the one that it goes on from; the film ends with
    `head`. `pinned` and `dropped` name frames by shot and number."""

    seed: int
    num_keys: int
    takes: tuple[SavedShot, ...]
    waiting: tuple[SavedShot, ...] = ()
    policy: str = "recent"
    pinned: tuple[Pick, ...] = ()
    dropped: tuple[Pick, ...] = ()
    size: tuple[int, int] | None = None  # width, height of the pictures; None the model's own
    model: str = ""  # its name, if that is known
    head: int = BEGINNING
    crossroads: Crossroads | None = None


def session_text(session: SavedSession) -> str:
    """The session as JSON."""
    return json.dumps(asdict(session), ensure_ascii=False)


def read_session(kept: MemoryFile) -> SavedSession:
    """The session of a file. Raises `UserError` if it holds none."""
    try:
        told = json.loads(kept.session)
        takes = _shots(told["takes"])
        if "head" not in told:  # of version 2: one film
            befores = [BEGINNING, *(take.key for take in takes)]
            takes = tuple(replace(take, after=key) for take, key in zip(takes, befores, strict=False))
            told["head"] = befores[-1]
        session = SavedSession(
            seed=_whole(told["seed"], 0, MAX_SESSION_SEED),
            num_keys=_whole(told["num_keys"], 0, MAX_KEY),
            takes=takes,
            waiting=_shots(told["waiting"]),
            policy=_one_of(told["policy"], tuple(DIRECTED)),
            pinned=_frames(told["pinned"], kept),
            dropped=_frames(told["dropped"], kept),
            size=_size(told.get("size")),
            model=_text(told.get("model", "")),
            head=_whole(told["head"], BEGINNING, MAX_KEY),
            crossroads=_crossroads(told.get("crossroads")),
        )
        _check_keys(session, kept)
    except (ValueError, KeyError, TypeError, RecursionError, UserError) as error:
        raise UserError("This memory file holds no session that can be gone on with.") from error
    return session


def _check_keys(session: SavedSession, kept: MemoryFile) -> None:
    """Raises ValueError if the takes are not the file's shots, or something goes on from what was not before it."""
    if len(session.takes) != len(kept.shots) or len(session.waiting) > MAX_PROMPTS:
        raise ValueError("the shots are not those of the memory")
    before = {BEGINNING}
    for take in session.takes:
        if take.after not in before or take.key in before or take.picture is not None:
            raise ValueError("no tree")
        before.add(take.key)
    ends = (session.head, *(shot.after for shot in session.waiting if shot.after is not None))
    keys = [shot.key for shot in (*session.takes, *session.waiting)]
    pictures = sorted(shot.picture for shot in session.waiting if shot.picture is not None)
    if len(set(keys)) < len(keys) or max(keys, default=0) > session.num_keys or not before.issuperset(ends):
        raise ValueError("keys that cannot be")
    if roads := session.crossroads:
        known = (*roads.ends, *(key for keys in roads.taken for key in keys))
        if max(known, default=0) > session.num_keys:
            raise ValueError("choices that became shots which were never asked for")
    if pictures != list(range(len(kept.pictures))):
        raise ValueError("the pictures are not those that wait")


def most_bytes(model: ModelFacts) -> int:
    """How large a file can be of a session with this model."""
    sizes = {*model.shapes.values(), (model.width, model.height)}
    latents = max(math.prod(model.latent_shape(height, width)) for width, height in sizes) * 4  # float32
    picture = max(math.prod(size) for size in sizes) * 3
    frame = latents + math.prod(THUMBNAIL_SIZE) * 3
    return MAX_TAKES * MAX_KEPT * frame + MAX_PROMPTS * picture + 2 * MAX_TEXT


def check_model(session: SavedSession, kept: MemoryFile, model: ModelFacts) -> None:
    """Raises `UserError` for a session that `model` cannot go on with."""
    if session.model and _plain(session.model) != _plain(model.name):
        raise UserError(f"This session was made with {session.model}, not with {model.name}: open it where that plays.")
    if session.size and session.size not in model.shapes.values():
        raise UserError(f"This session has pictures of {_sides(session.size)}, which {model.name} does not make.")
    width, height = session.size or (model.width, model.height)
    fitting = model.latent_shape(height, width)
    for found in {picture.shape for picture in kept.pictures} - {(height, width, 3)}:
        raise UserError(f"A picture of this session is {_sides(found)} and not {height}x{width}x3, as its film.")
    for found in {tuple(shot.latents.shape[1:]) for shot in kept.shots} - {fitting}:
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
    known = {field.name for field in fields(SavedShot)}
    if not isinstance(entry, dict) or not known - OPTIONAL <= set(entry) <= known:
        raise ValueError("not a shot")
    return SavedShot(
        key=_whole(entry["key"], 1, MAX_KEY),
        global_caption=clean_prompt(entry["global_caption"]) if entry["global_caption"] != "" else "",
        caption=clean_prompt(entry["caption"]),
        num_chunks=_optional(entry["num_chunks"], 1, LONGEST_SHOT),
        dissolve=_one_of(entry["dissolve"], (True, False)),
        cast=_one_of(entry["cast"], (True, False)),
        after=_optional(entry.get("after"), BEGINNING, MAX_KEY),
        steers=_steers(entry.get("steers", [])),
        picture=_optional(entry.get("picture"), 0, MAX_LIST),
        then=None if entry.get("then") is None else clean_prompt(entry["then"]),
    )


def _steers(value: Any) -> tuple[Steer, ...]:
    steers = tuple(Steer(_whole(s["chunk"], 1, LONGEST_SHOT), clean_prompt(s["caption"])) for s in _list(value))
    if any(one.chunk >= other.chunk for one, other in pairwise(steers)):
        raise ValueError("not in order")
    return steers


def _crossroads(value: Any) -> Crossroads | None:
    if value is None:
        return None
    choices = tuple(Choice(choice["name"], tuple(_list(choice["captions"]))) for choice in _list(value["choices"]))
    ends = tuple(_whole(key, 1, MAX_KEY) for key in _list(value["ends"]))
    taken = tuple(tuple(_whole(key, 1, MAX_KEY) for key in _list(keys)) for keys in _list(value["taken"]))
    if not len(choices) == len(taken) <= MAX_CHOICES:
        raise ValueError("not the choices of a story")
    return Crossroads(clean_prompt(value["global_caption"]), ends, choices, taken)


def _frames(value: Any, kept: MemoryFile) -> tuple[Pick, ...]:
    """Frames that the memory has."""
    picks = tuple((_whole(shot, 0, len(kept.shots) - 1), _whole(frame, 0, 2**31)) for shot, frame in _list(value))
    if any(frame not in kept.shots[shot].offsets for shot, frame in picks):
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


def _optional(value: Any, low: int, high: int) -> int | None:
    return None if value is None else _whole(value, low, high)


def _one_of(value: Any, choices: tuple) -> Any:
    if type(value) is not type(choices[0]) or value not in choices:
        raise ValueError("not a choice")
    return value

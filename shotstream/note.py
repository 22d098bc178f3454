"""A film's note: everything that the film can be made again from, as a value and as JSON.

Owns what a note says, its JSON format, and the checks of a note that comes from elsewhere: it is read from files of
strangers, so every type, length, count and range is looked at before anything is built from it. Knows no model, no
pixels, and not where in a file a note is kept.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from shotstream.errors import UserError
from shotstream.story import clean_prompt, compose_caption

FORMAT, VERSION = "shotstream.note", 1
SOFTWARE = "ShotStream"
DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"

# What a note may claim. A shot of the published model with a long caption takes 2 kB.
MAX_NOTE_BYTES = 16_000_000
MAX_SHOTS = 1000
MAX_CHUNKS = 1000
MAX_STEERS = 1000
MAX_SEED = 2**63 - 1  # of a shot: the largest that the engine takes
MAX_FPS = 1000
MAX_SIDE = 16_384
MAX_FRAME = 1_000_000
MAX_NAME = 500
CONTEXT_FRAMES = 6

STEERED_CHUNKS = 6  # of a shot that is told something else half-way, unless somebody asks for another length


@dataclass(frozen=True)
class Steer:
    """From chunk `chunk` on (counted from 0, so at least 1) the shot was told `caption` instead."""

    chunk: int
    caption: str


def half_way(then: str | None, num_chunks: int) -> tuple[Steer, ...]:
    """The steers of a shot of `num_chunks` that is told `then` from its middle on; none if it has no middle."""
    return (Steer(num_chunks // 2, then),) if then is not None and num_chunks > 1 else ()


@dataclass(frozen=True)
class ShotNote:
    """One shot. `caption` is its own, without the `global_caption` before it, as are those of its `steers`, earlier
    chunks first.

    `dissolve`: it fades in from the last picture of the shot before. `picks`: (shot, frame number inside it) of the six
    context frames that it looked back at, None for the model's own way.
    """

    caption: str
    global_caption: str
    seed: int
    num_chunks: int
    steers: tuple[Steer, ...] = ()
    dissolve: bool = False
    picks: tuple[tuple[int, int], ...] | None = None

    def captions(self, index: int) -> tuple[str, ...]:
        """What the model reads if this is shot `index` of a film: at the shot's start, then after each steer."""
        told = (self.caption, *(steer.caption for steer in self.steers))
        return tuple(compose_caption(self.global_caption, index, caption) for caption in told)


@dataclass(frozen=True)
class FilmNote:
    """A whole film: `width` and `height` are the model's pixels, before small pictures are enlarged.

    `cast`: pictures were given besides, which a note cannot hold, so this film cannot be made again.
    """

    model: str
    fps: int
    width: int
    height: int
    shots: tuple[ShotNote, ...]
    cast: bool = False

    def so_far(self, chunks: Sequence[int]) -> FilmNote:
        """The note of a film that ended early: `chunks` made of each shot that was begun."""
        made = []
        for shot, count in zip(self.shots, chunks, strict=False):
            if count:
                steers = tuple(steer for steer in shot.steers if steer.chunk < count)
                made.append(replace(shot, num_chunks=min(shot.num_chunks, count), steers=steers))
        return replace(self, shots=tuple(made))

    def to_json(self) -> str:
        """One line of ASCII, fit for any tag of any file; `FilmNote.from_json(note.to_json()) == note`."""
        about = {
            "format": FORMAT,
            "version": VERSION,
            "ai_generated": True,
            "digital_source_type": DIGITAL_SOURCE_TYPE,
            "software": SOFTWARE,
        }
        return json.dumps(about | asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> FilmNote:
        """Reads what `to_json` wrote. Raises `UserError` for anything else, also for what a later version may add: a
        film made again without it would be another one."""
        fields = _object(_parse(text), "The film's note", cls, _ABOUT)
        if fields.get("format") != FORMAT:
            raise UserError("The film's note is not one of ShotStream.")
        if not _is_whole(fields.get("version"), VERSION, VERSION):
            raise UserError("The film's note was written by another version of ShotStream.")
        shots = _list(fields.get("shots"), 1, MAX_SHOTS, "shots of the film's note")
        return cls(
            model=_name(fields.get("model"), "The model of the film's note"),
            fps=_whole(fields.get("fps"), 1, MAX_FPS, "The fps of the film's note"),
            width=_whole(fields.get("width"), 1, MAX_SIDE, "The width of the film's note"),
            height=_whole(fields.get("height"), 1, MAX_SIDE, "The height of the film's note"),
            shots=tuple(_read_shot(shot, index) for index, shot in enumerate(shots)),
            cast=_truth(fields.get("cast", False), 'The "cast" of the film\'s note'),
        )


_ABOUT = ("format", "version", "ai_generated", "digital_source_type", "software")


def _read_shot(value: object, index: int) -> ShotNote:
    name = f"Shot {index + 1} of the film's note"
    fields = _object(value, name, ShotNote)
    num_chunks = _whole(fields.get("num_chunks"), 1, MAX_CHUNKS, f"{name}: its num_chunks")
    global_caption = fields.get("global_caption")
    steers = _list(fields.get("steers", []), 0, MAX_STEERS, f"steers of shot {index + 1} of the film's note")
    return ShotNote(
        caption=clean_prompt(fields.get("caption"), f"{name}: its caption"),
        # a page lets it be empty
        global_caption="" if global_caption == "" else clean_prompt(global_caption, f"{name}: its global_caption"),
        seed=_whole(fields.get("seed"), 0, MAX_SEED, f"{name}: its seed"),
        num_chunks=num_chunks,
        steers=_read_steers(steers, num_chunks, name),
        dissolve=_truth(fields.get("dissolve", False), f'{name}: its "dissolve"'),
        picks=_read_picks(fields.get("picks"), index, name),
    )


def _read_steers(values: list, num_chunks: int, name: str) -> tuple[Steer, ...]:
    steers: list[Steer] = []
    for value in values:
        fields = _object(value, f"A steer of {name[0].lower()}{name[1:]}", Steer)
        first = steers[-1].chunk + 1 if steers else 1
        chunk = _whole(fields.get("chunk"), first, num_chunks - 1, f"{name}: the chunk of a steer")
        steers.append(Steer(chunk, clean_prompt(fields.get("caption"), f"{name}: the caption of a steer")))
    return tuple(steers)


def _read_picks(value: object, index: int, name: str) -> tuple[tuple[int, int], ...] | None:
    if value is None:
        return None
    sound = (
        isinstance(value, list)
        and len(value) == CONTEXT_FRAMES
        and all(isinstance(pick, list) and len(pick) == 2 for pick in value)
        and all(_is_whole(shot, 0, index - 1) and _is_whole(frame, 0, MAX_FRAME) for shot, frame in value)
    )
    if not sound:
        raise UserError(f"{name}: its picks must be {CONTEXT_FRAMES} pairs of an earlier shot and a frame number.")
    return tuple((shot, frame) for shot, frame in value)


def _parse(text: str | bytes) -> object:
    if len(text) > MAX_NOTE_BYTES:
        raise UserError(f"The film's note is larger than {MAX_NOTE_BYTES // 1_000_000} MB: this is not a note.")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # no JSON or no UTF-8, a nesting bomb, a number of many digits
        raise UserError("The film's note is damaged: it is not valid JSON.") from error


def _object(value: object, name: str, kind: type, others: Sequence[str] = ()) -> dict[str, object]:
    """`value` as a JSON object that has no other keys than the fields of `kind` and `others`."""
    if not isinstance(value, dict):
        raise UserError(f"{name} is not a JSON object.")
    known = {*kind.__dataclass_fields__, *others}
    if unknown := [key for key in value if key not in known]:
        raise UserError(f"{name} has an unknown key {unknown[0][:40]!r}: another version of ShotStream wrote it.")
    return value


def _list(value: object, least: int, most: int, what: str) -> list:
    if not isinstance(value, list) or not least <= len(value) <= most:
        raise UserError(f"The {what} must be a list of {least} to {most}.")
    return value


def _is_whole(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _whole(value: object, low: int, high: int, name: str) -> int:
    if not _is_whole(value, low, high):
        raise UserError(f"{name} must be a whole number from {low} to {high}.")
    return value


def _truth(value: object, name: str) -> bool:
    if not isinstance(value, bool):
        raise UserError(f"{name} must be true or false.")
    return value


def _name(value: object, name: str) -> str:
    clean = clean_prompt(value, name)
    if len(clean) > MAX_NAME:
        raise UserError(f"{name} has more than {MAX_NAME} characters.")
    return clean

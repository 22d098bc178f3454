"""A film's takes as what is taken along: shots to be written, the note that says how, a story, a session.

Pure functions from takes to values and back. Knows no lock, no queue and no page.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from shotstream.context import Pick
from shotstream.crossroads import Crossroads
from shotstream.film_file import FilmShot
from shotstream.media import still
from shotstream.memory import Memory, ShotMemory
from shotstream.note import FilmNote, ShotNote
from shotstream.reel import Reel
from shotstream.saving import SavedSession, SavedShot
from shotstream.story import Shot, Story
from shotstream.takes import BEGINNING, Prompt, Take

NO_STORY = "A film."


def film_shots(reel: Reel, takes: Sequence[Take]) -> list[FilmShot]:
    """The takes that have footage, which is read."""
    return [
        FilmShot(take.prompt.caption, [reel.load(piece).data for piece in take.footage], take.steered)
        for take in takes
        if take.footage
    ]


def film_note(reel: Reel, film: Sequence[Take], model: str, fps: int) -> FilmNote:
    """How the film was made; at least one of its takes has footage."""
    filmed = [take for take in film if take.footage]
    height, width = reel.last_picture(filmed[0].footage[0]).shape[:2]
    shots = (
        ShotNote(
            caption=take.prompt.caption,
            global_caption=take.prompt.global_caption,
            seed=take.seed,
            num_chunks=take.num_chunks,
            steers=take.steered,
            dissolve=take.prompt.dissolve,
            picks=take.picks,
        )
        for take in filmed
    )
    # what was not filmed here, a picture or a session from elsewhere, cannot be made again from words
    return FilmNote(model, fps, width, height, tuple(shots), cast=len(filmed) < len(film))


def story_of(film: Sequence[Take], waiting: Sequence[Prompt], roads: Crossroads | None = None) -> Story:
    """The film and what waits as a story, whose global caption is the latest that there is; with the choices of `roads`
    if it ends where they begin. A shot that was steered is told half-way what it was told last; pictures that were cast
    are left out. Raises UserError if there are no shots."""
    prompts = [prompt for prompt in (*map(_as_steered, film), *waiting) if prompt.picture is None]
    told = next((prompt.global_caption for prompt in reversed(prompts) if prompt.global_caption), NO_STORY)
    choices = roads.choices if roads and prompts and prompts[-1].key in roads.ends else ()
    return Story(told, tuple(Shot(prompt.caption, prompt.then) for prompt in prompts), choices)


def _as_steered(take: Take) -> Prompt:
    return replace(take.prompt, then=take.steers[-1].caption) if take.steers else take.prompt


def numbered(marks: Collection[Pick], closed: Sequence[Take]) -> tuple[Pick, ...]:
    """Frames named by the key of their take, as far as that is among `closed`, by its number there."""
    number = {take.key: place for place, take in enumerate(closed)}
    return tuple((number[key], frame) for key, frame in sorted(marks) if key in number)


def saved_takes(closed: Sequence[Take]) -> tuple[SavedShot, ...]:
    """Takes that are remembered, parents first."""
    return tuple(
        replace(_saved(take.prompt), after=last_closed(take.parent), steers=tuple(take.steers)) for take in closed
    )


def saved_prompts(prompts: Sequence[Prompt], takes: Mapping[int, Take]) -> tuple[tuple[SavedShot, ...], tuple]:
    """Prompts that wait, and the pictures of those that are to be cast."""
    shots, pictures = [], []
    for prompt in prompts:
        shot = _saved(prompt)
        if prompt.after is not None:
            shot = replace(shot, after=last_closed(takes.get(prompt.after)))
        if prompt.picture is not None:
            shot = replace(shot, picture=len(pictures))
            pictures.append(prompt.picture)
        shots.append(shot)
    return tuple(shots), tuple(pictures)


def last_closed(take: Take | None) -> int:
    """The key of the last take of this film that is remembered."""
    while take is not None and take.memory is None:
        take = take.parent
    return take.key if take else BEGINNING


def _saved(prompt: Prompt) -> SavedShot:
    told, cast = (prompt.global_caption, prompt.caption), prompt.picture is not None
    return SavedShot(prompt.key, *told, prompt.num_chunks, prompt.dissolve, cast, then=prompt.then)


def resumed_prompt(shot: SavedShot, pictures: Sequence[np.ndarray]) -> Prompt:
    """A prompt that waited."""
    told, picture = (shot.global_caption, shot.caption), None if shot.picture is None else pictures[shot.picture]
    return Prompt(shot.key, *told, shot.num_chunks, shot.dissolve, picture, shot.after, shot.then)


def resumed_takes(session: SavedSession, shots: Sequence[ShotMemory]) -> list[Take]:
    """The takes of a saved session as they hung together, with memory and a still and without footage."""
    takes: dict[int, Take] = {}
    for saved, seen in zip(session.takes, shots, strict=True):
        parent = takes.get(saved.after)
        take = Take(resumed_prompt(replace(saved, after=None), ()), parent, seen.seed, resumed=True)
        take.memory = Memory((*take.memory_before.shots, seen))
        take.still, take.steers = still(seen.thumbnails[-1]), list(saved.steers)
        takes[take.key] = take
    return list(takes.values())

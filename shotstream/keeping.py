"""A film's takes as what is taken along: shots to be written, the note that says how, a story, a session.

Pure functions from takes to values and back. Knows no lock, no queue and no page.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from shotstream.context import Pick
from shotstream.media import FilmShot, still
from shotstream.memory import Memory
from shotstream.note import FilmNote, ShotNote
from shotstream.reel import Reel
from shotstream.saving import SavedSession, SavedShot
from shotstream.story import Shot, Story
from shotstream.takes import Prompt, Take

NO_STORY = "A film."


def film_shots(reel: Reel, takes: Sequence[Take]) -> list[FilmShot]:
    """The takes that have footage, which is read."""
    return [
        FilmShot(take.prompt.caption, [reel.load(piece).data for piece in take.footage])
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
            steers=tuple(take.steers),
            dissolve=take.prompt.dissolve,
            picks=take.picks,
        )
        for take in filmed
    )
    # what was not filmed here, a picture or a session from elsewhere, cannot be made again from words
    return FilmNote(model, fps, width, height, tuple(shots), cast=len(filmed) < len(film))


def story_of(prompts: Sequence[Prompt]) -> Story:
    """The prompts as a story, whose global caption is the latest that there is. Raises UserError if there are none."""
    told = next((prompt.global_caption for prompt in reversed(prompts) if prompt.global_caption), NO_STORY)
    return Story(told, tuple(Shot(prompt.caption) for prompt in prompts))


def numbered(marks: Collection[Pick], closed: Sequence[Take]) -> tuple[Pick, ...]:
    """Frames named by the key of their take, as far as that is among `closed`, by its number there."""
    number = {take.key: place for place, take in enumerate(closed)}
    return tuple((number[key], frame) for key, frame in sorted(marks) if key in number)


def saved(prompt: Prompt) -> SavedShot:
    cast = prompt.picture is not None
    return SavedShot(prompt.key, prompt.global_caption, prompt.caption, prompt.num_chunks, prompt.dissolve, cast)


def prompt_of(shot: SavedShot) -> Prompt:
    return Prompt(shot.key, shot.global_caption, shot.caption, shot.num_chunks, shot.dissolve)


def resumed(session: SavedSession, memory: Memory) -> list[Take]:
    """The takes of a saved session, each the parent of the next, with memory and a still and without footage."""
    takes: list[Take] = []
    for place, shot in enumerate(session.takes):
        seen = memory.shots[place]
        take = Take(prompt_of(shot), takes[-1] if takes else None, seen.seed, resumed=True)
        take.memory, take.still = Memory(memory.shots[: place + 1]), still(seen.thumbnails[-1])
        takes.append(take)
    return takes

"""What is taken along of a session's films: the film, a take, captions, a storyboard, the story, the session itself;
and how a session is gone on with.

Owns what goes into which; the files' formats are those of `film_file`, `note` and `saving`. Changes nothing, but for
`resume`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from shotstream.errors import UserError
from shotstream.film_file import FilmShot, storyboard, webvtt, write_film
from shotstream.keeping import (
    film_note,
    film_shots,
    last_closed,
    numbered,
    resumed_prompt,
    resumed_takes,
    saved_prompts,
    saved_takes,
    story_of,
)
from shotstream.memory import MemoryFile, read_file, write_file
from shotstream.note import FilmNote
from shotstream.queueing import Queueing
from shotstream.saving import SavedSession, check_model, read_session, session_text
from shotstream.story import Story
from shotstream.takes import Take


class Exporting(Queueing):
    """Ways to keep a film, and to go on with one that was kept."""

    def export(self, path: Path) -> int:
        """Writes the film as an MP4 whose chapters are the shots, with the note that it can be made again from; the
        number of frames. Raises UserError."""
        shots, note = self._in_the_can()
        return write_film(path, shots, self._backend.fps if shots else 1, note)

    def export_take(self, key: int, path: Path) -> int:
        """Writes one take as an MP4; the number of frames. Raises UserError."""
        with self._condition:
            shots = film_shots(self._reel, [self._find(key)])
        return write_film(path, shots, self._backend.fps if shots else 1)

    def captions(self) -> str:
        """The film's captions as WebVTT."""
        shots, _ = self._in_the_can()
        return webvtt(shots, self._backend.fps if shots else 1)

    def storyboard(self) -> bytes:
        """PNG of a picture and the caption of every shot. Raises UserError if there is none."""
        return storyboard(self._in_the_can()[0])

    def _in_the_can(self) -> tuple[list[FilmShot], FilmNote | None]:
        with self._condition:
            film = self._film()
            shots = film_shots(self._reel, film)
            return shots, film_note(self._reel, film, self._backend.model_name, self._backend.fps) if shots else None

    def story(self) -> Story:
        """The film and what waits, in words. Raises UserError if there are none."""
        with self._condition:
            return story_of(self._film(), self._waiting, self._offered())

    def save(self, path: Path) -> None:
        """Writes all that the session's films remember, how they hang together, their words and what waits, so that
        another session can go on with them: the same prompts then make the same shots. A shot that is being made waits
        there to be made. Raises UserError."""
        with self._condition:
            closed = [take for take in self._takes.values() if take.memory]
            making = [replace(take.prompt, after=None) for take in [self._head] if take and _is_made(take)]
            waiting, pictures = saved_prompts([*making, *self._waiting], self._takes)
            session = SavedSession(
                self._seed,
                self._num_keys,
                saved_takes(closed),
                waiting,
                self._policy,
                numbered(self._pinned, closed),
                numbered(self._dropped, closed),
                self._size,
                self._backend.model.name if self._backend.model else "",
                last_closed(self._head),
                self._crossroads,
            )
            shots = tuple(take.memory.shots[-1] for take in closed)
        write_file(path, MemoryFile(shots, session_text(session), pictures))

    def resume(self, path: Path) -> str:
        """Goes on with what `save` wrote, without its footage, in the place of all that there is; the latest story's
        caption.

        Raises UserError for any other file, for one of another model, and before there is a model; then nothing is
        changed.
        """
        model = self._backend.model
        if model is None:
            raise UserError("The model is still loading: open the session in a moment.")
        kept = read_file(path)
        session = read_session(kept)
        check_model(session, kept, model)
        with self._changing():
            self._forget()
            self._seed, self._num_keys, self._policy = session.seed, session.num_keys, session.policy
            self._size = session.size
            self._takes |= {take.key: take for take in resumed_takes(session, kept.shots)}
            self._head = self._takes.get(session.head)
            for shot, frame in session.pinned:
                if self._can_pin(mark := (session.takes[shot].key, frame)):
                    self._pinned.add(mark)
            self._dropped |= {(session.takes[shot].key, frame) for shot, frame in session.dropped}
            self._waiting += [resumed_prompt(shot, kept.pictures) for shot in session.waiting]
            self._crossroads = session.crossroads
            told = [*(take.prompt for take in self._film()), *self._waiting]
        return told[-1].global_caption if told else ""


def _is_made(take: Take) -> bool:
    """Is there more of a take to come before it is remembered?"""
    return take.memory is None and not take.lost

"""What is taken along of a session's films: the film, a take, captions, a storyboard, the story, the session itself.

Owns what goes into which; the files' formats are those of `media`, `note` and `saving`. Changes nothing.
"""

from __future__ import annotations

from pathlib import Path

from shotstream.keeping import film_note, film_shots, numbered, saved, story_of
from shotstream.media import FilmShot, storyboard, webvtt, write_film
from shotstream.note import FilmNote
from shotstream.queueing import Queueing
from shotstream.saving import SavedSession, session_text
from shotstream.story import Story
from shotstream.takes import remembered


class Exporting(Queueing):
    """Ways to keep a film."""

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
            return story_of([*(take.prompt for take in self._film()), *self._waiting])

    def save(self, path: Path) -> None:
        """Writes all that the film remembers, its words and what waits, so that another session can go on with it: the
        same prompts then make the same shots. Raises UserError."""
        with self._condition:
            closed = [take for take in self._film() if take.memory]
            session = SavedSession(
                self._seed,
                self._num_keys,
                tuple(saved(take.prompt) for take in closed),
                tuple(saved(prompt) for prompt in self._waiting if prompt.picture is None and prompt.after is None),
                self._policy,
                numbered(self._pinned, closed),
                numbered(self._dropped, closed),
                self._size,
                self._backend.model.name if self._backend.model else "",
            )
            memory = remembered(self._head)
        memory.save(path, session_text(session))

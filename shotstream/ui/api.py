"""The page's one public endpoint: a whole film for programs, and for assistants as an MCP tool.

Owns what may be asked for, how long a finished film is kept, and the words that clients read about it. Makes a film as
the command line does, but through the page's backend: shot by shot, taking turns with the sessions. Knows no session
and no layout; everything else that the page does stays private.
"""

# no `from __future__ import annotations`: Gradio reads what the endpoint returns from the annotation itself
import atexit
import contextlib
import json
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import gradio as gr
from gradio.utils import get_upload_folder

from shotstream.arguments import MAX_FILM_SEED
from shotstream.backends.backend import Backend
from shotstream.errors import UserError
from shotstream.events import Chunk, Event
from shotstream.film import plan_film, shoot_film
from shotstream.film_file import FilmShot, write_film
from shotstream.media import SegmentEncoder, enlargement
from shotstream.note import FilmNote
from shotstream.prompting import advice_on
from shotstream.story import Story
from shotstream.ui.limits import visitor_of

MAX_SHOTS = 12
MAX_CHUNKS = 7
FILMS_AT_ONCE = 4  # each holds a thread of Gradio's while it waits for its turn; further ones wait in Gradio's queue
FILMS_OF_A_VISITOR = 2  # of them, so that nobody has them all
KEPT_SECONDS = 3600  # a client downloads its film at once; a link that an assistant passes on may be opened later


def add_film_endpoint(backend: Backend, limited: bool = True) -> None:
    """Registers the endpoint; to be called inside `with gr.Blocks()`. `launch(mcp_server=True)` makes it a tool too.
    Where it is `limited`, a visitor has `FILMS_OF_A_VISITOR` films made at a time."""
    shelf, desk = Shelf(), Desk(FILMS_OF_A_VISITOR if limited else FILMS_AT_ONCE)

    # Gradio and MCP clients read the names, the types and the docstring; of the request they know nothing.
    def film(
        story: dict[str, str], seed: int = 0, chunks: int | None = None, request: gr.Request | None = None
    ) -> gr.FileData:
        """
        Makes a short film from a story, shot by shot, and gives its MP4 file. Each shot looks back at the
        earlier ones, so say again only what changes. Chapters and subtitles are in the file, and a note that it is
        AI-made.

        Args:
            story: {"global_caption": "who, where, in which style", "shot1": "what is seen first", "shot2": "..."}, with 1 to 12 shots. "shot2_then" is what a shot is told half-way.
            seed: Whole number from 0 on. The same story and seed give the same film.
            chunks: Length of every shot, 1 to 7 pieces of about 0.75 seconds. Left out: the model's usual length.

        Returns:
            The film, an MP4 file that is kept for an hour.
        """  # noqa: E501 - what is said of an argument must stand on one line
        try:
            read = read_request(story, seed, chunks)
            with desk.one_more(visitor_of(request.request) if request else ""):
                path = shelf.place()
                make_film(backend, read, seed, chunks, path)
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from error
        for notice in notices(read, backend):
            gr.Warning(notice)
        return gr.FileData(path=str(path), orig_name="film.mp4", mime_type="video/mp4", size=path.stat().st_size)

    gr.api(film, api_name="film", concurrency_limit=FILMS_AT_ONCE)


def read_request(story: object, seed: object = 0, chunks: object = None) -> Story:
    """The story of a request, a JSON object or its text. Raises `UserError` for anything that cannot be made."""
    read = Story.from_json(story if isinstance(story, str) else json.dumps(story))
    if len(read.shots) > MAX_SHOTS:
        raise UserError(f"The story has {len(read.shots)} shots: a film made here has {MAX_SHOTS} at most.")
    _check_whole(seed, 0, MAX_FILM_SEED, "seed")
    if chunks is not None:
        _check_whole(chunks, 1, MAX_CHUNKS, "chunks")
    return read


def make_film(backend: Backend, story: Story, seed: int, chunks: int | None, path: Path) -> FilmNote:
    """Shoots a story as `shotstream film` does and writes it to `path`; the note that the file carries.

    Waits for the model and, before every shot, for a turn. Raises the `UserError` of whatever goes wrong.
    """
    backend.wait()
    note = plan_film(story, backend.model, seed, chunks)
    encoder = SegmentEncoder(note.width, note.height, note.fps, enlargement(note.width, note.height))
    # To this loop a backend is an engine: it takes requests and gives events.
    write_film(path, film_shots(note, shoot_film(backend, note), encoder), note.fps, note)
    return note


def film_shots(note: FilmNote, events: Iterable[Event], encoder: SegmentEncoder) -> Iterator[FilmShot]:
    """The shots of a film as they are made, each encoded while the next chunk is not there yet."""
    segments: list[bytes] = []
    shots = iter(note.shots)
    for event in events:
        if isinstance(event, Chunk):
            segments.append(encoder.encode(event.frames).data)
            if event.index + 1 == event.num_chunks:
                shot = next(shots)
                yield FilmShot(shot.caption, segments, shot.steers)
                segments = []


def notices(story: Story, backend: Backend) -> list[str]:
    """What was left out of a film that is made: keys and choices of the story, words that its model does not know."""
    told = ((index, words) for index, shot in enumerate(story.shots) for words in (shot.caption, shot.then) if words)
    advice = (advice_on(words, backend.model.text, story.global_caption, index) for index, words in told)
    undecided = story.undecided and f"{story.undecided} The film ends before it."
    return [notice for notice in dict.fromkeys((story.warning, undecided, *advice)) if notice]


class Desk:
    """Who has how many films made: at most `most` at a time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._making: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def one_more(self, visitor: str) -> Iterator[None]:
        """While a film of this visitor is made. Raises `UserError` if these are too many; nobody counts at this machine
        itself."""
        with self._lock:
            if visitor and self._making[visitor] >= self._most:
                raise UserError(f"{self._most} films are being made for you already: ask again when one is there.")
            self._making[visitor] += 1
        try:
            yield
        finally:
            with self._lock:
                self._making[visitor] -= 1
                self._making += Counter()  # forgets whom it counts no more


class Shelf:
    """A folder of finished films that Gradio serves. Films older than an hour go when the next one comes, all of them
    when the program ends."""

    def __init__(self) -> None:
        self._folder: Path | None = None  # made when it is needed: most pages are only looked at

    def place(self) -> Path:
        """Where the next film may be written. Raises `UserError` if the disk refuses."""
        try:
            if self._folder is None:
                cache = Path(get_upload_folder())  # what lies in there is served, and not copied before it is
                cache.mkdir(parents=True, exist_ok=True)
                self._folder = Path(tempfile.mkdtemp(prefix="films-", dir=cache))
                atexit.register(shutil.rmtree, self._folder, ignore_errors=True)
            self.clear(time.time() - KEPT_SECONDS)
            return Path(tempfile.mkdtemp(dir=self._folder)) / "film.mp4"
        except OSError as error:
            raise UserError(f"The film cannot be kept here ({error.strerror}): try again later.") from error

    def clear(self, before: float) -> None:
        """Deletes what was begun `before` that time."""
        for film in self._folder.iterdir() if self._folder else ():
            with contextlib.suppress(OSError):  # gone already
                if film.stat().st_mtime < before:
                    shutil.rmtree(film, ignore_errors=True)


def _check_whole(value: object, low: int, high: int, name: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise UserError(f'"{name}" must be a whole number from {low} to {high}.')

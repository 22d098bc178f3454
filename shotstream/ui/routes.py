"""What the browser sends and fetches besides Gradio's events: gestures, files that a visitor brings or takes along,
pictures.

Owns the addresses, and how a mistake is answered. Everything that comes in is untrusted, and only ever reaches the
session that it names. Knows no layout.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from codecs import BOM_UTF8
from collections.abc import Callable, Mapping
from contextvars import Context, copy_context
from pathlib import Path

import gradio as gr
from gradio.context import LocalContext
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from shotstream.backends.backend import Backend
from shotstream.director import Director
from shotstream.errors import UserError
from shotstream.media import encode_png
from shotstream.pictures import fit_picture
from shotstream.queueing import MAX_WAITING
from shotstream.saving import most_bytes
from shotstream.story import MAX_FILE_BYTES, Story
from shotstream.ui.bodies import read_body, store_body
from shotstream.ui.gestures import MAX_BYTES, perform, read_gesture
from shotstream.ui.session import Session, Sessions

MAX_PICTURE, MAX_UNKNOWN = 20_000_000, 64_000_000  # bytes; the latter of a session that comes before the model
MAX_SECONDS = 1e6
GONE = "This film is gone: its page was closed."
POSTER = Path(__file__).parents[2] / "assets" / "poster.mp4"


class Routes:
    """`all` of them. `forget` frees what the tab of that name was sent of an older film."""

    def __init__(
        self,
        backend: Backend,
        sessions: Sessions,
        examples: Mapping[str, Story],
        forget: Callable[[str], None],
    ) -> None:
        self.backend, self.sessions, self.examples, self._forget = backend, sessions, examples, forget
        self.all = [
            Route("/film/{session}", self.download),
            Route("/keep/{session}/{kind}", self.keep),
            Route("/take/{session}/{key:int}", self.take),
            Route("/still/{session}/{key:int}", self.still),
            Route("/frame/{session}/{key:int}/{frame:int}", self.frame),
            Route("/direct/{session}", self.direct, methods=["POST"]),
            Route("/shape/{session}/{name}", self.shape, methods=["POST"]),
            Route("/open/{session}", self.open, methods=["POST"]),
            Route("/cast/{session}", self.cast, methods=["POST"]),
            Route("/stories", self.stories),
            Route("/poster", self.poster),
            Route("/visit/{session}", self.visit, methods=["POST"]),
            Route("/health", self.health),
            Route("/ready", self.ready),
        ]

    async def direct(self, request: Request) -> Response:
        """Does what one of the page's own buttons says; 409 with a sentence if it cannot be done."""
        session = self.sessions.find(request.path_params["session"])
        if session is None:
            return PlainTextResponse(GONE, 404)
        try:
            gesture = read_gesture(await read_body(request, MAX_BYTES) or b"")
            await asyncio.to_thread(perform, session.director, gesture)
        except UserError as error:
            session.tell(str(error))
            return PlainTextResponse(str(error), 409)
        session.tell("")
        return Response(status_code=204)

    async def shape(self, request: Request) -> Response:
        """Chooses one of the model's shapes for a film without shots; 409 with a sentence if there are any."""
        session, model = self.sessions.find(request.path_params["session"]), self.backend.model
        if session is None:
            return PlainTextResponse(GONE, 404)
        size = model.shapes.get(request.path_params["name"]) if model else None
        if size is None:
            return PlainTextResponse("The model makes no such shape.", 404)
        try:
            await asyncio.to_thread(session.director.frame, size)
        except UserError as error:
            session.tell(str(error))
            return PlainTextResponse(str(error), 409)
        session.tell("")
        return Response(status_code=204)

    async def open(self, request: Request) -> Response:
        """Begins a film from what a visitor kept: a story (all its shots are queued) or a session's memory file."""
        model = self.backend.model
        return await self._received(request, most_bytes(model) if model else MAX_UNKNOWN, self._open)

    async def cast(self, request: Request) -> Response:
        """Puts a visitor's picture into the film; without one, what the player shows `at` seconds, or else the picture
        that the film ended with."""
        return await self._received(request, MAX_PICTURE, self._cast)

    async def _received(
        self, request: Request, most: int, use: Callable[[Session, Path, Request], tuple[str, str]]
    ) -> Response:
        """Hands a body of at most `most` bytes to `use`, as a file: its answer and its notice for the page, or why it
        cannot be used."""
        session = self.sessions.find(request.path_params["session"])
        if session is None:
            return PlainTextResponse(GONE, 404)
        with tempfile.TemporaryDirectory(prefix="shotstream-open-") as folder:
            path = Path(folder) / "file"
            try:
                if not await store_body(request, path, most):
                    message = f"This file is larger than {most // 1_000_000} MB: choose a smaller one."
                    session.tell(message)
                    return PlainTextResponse(message, 413)
                answer, notice = await asyncio.to_thread(use, session, path, request)
            except UserError as error:
                message = str(error).replace(str(path), "The file")  # where it lay for a moment is nobody's business
                session.tell(message)
                return PlainTextResponse(message, 409)
        session.tell(notice)
        return PlainTextResponse(answer)

    def _open(self, session: Session, path: Path, request: Request) -> tuple[str, str]:
        with path.open("rb") as file:
            start = file.read(MAX_FILE_BYTES + 1)
        if b"\0" not in start[:8] and start.removeprefix(BOM_UTF8).lstrip()[:1] == b"{":  # memory begins with a number
            story = Story.from_json(start)
            session.director.begin_story(story)
            told, notice = story.global_caption, _left_out(story)
        else:
            told, notice = session.director.resume(path), ""
        self._forget(request.path_params["session"])
        return told, notice

    def _cast(self, session: Session, path: Path, request: Request) -> tuple[str, str]:
        story, caption = (request.query_params.get(name, "") for name in ("story", "caption"))
        if self.backend.model is None:
            raise UserError("The model is still loading: cast the picture in a moment.")
        if body := path.read_bytes():
            size = session.director.size or (self.backend.model.width, self.backend.model.height)
            picture = fit_picture(body, *size)
        elif "at" in request.query_params:
            picture = session.director.picture_at(_seconds(request.query_params["at"]))
        else:
            picture = session.director.last_picture()
        if picture is None:
            raise UserError("There is no picture to cast yet: choose one, or make a shot first.")
        session.director.cast(story, caption, picture)
        return "", ""

    def keep(self, request: Request) -> Response:
        """A tab's film in another form: `story.json`, `captions.vtt`, `storyboard.png` or `session.memory`."""
        kind = request.path_params["kind"]
        if kind not in KEPT:
            return PlainTextResponse("There is nothing of that name.", 404)
        return self._film_file(request, KEPT[kind], kind)

    def download(self, request: Request) -> Response:
        """The film so far of an open tab, as an MP4."""
        return self._film_file(request, lambda director, path: director.export(path), "shotstream.mp4")

    def take(self, request: Request) -> Response:
        """One take of an open tab, as an MP4."""
        key = request.path_params["key"]
        return self._film_file(request, lambda director, path: director.export_take(key, path), f"take{key}.mp4")

    def _film_file(self, request: Request, write: Callable[[Director, Path], object], name: str) -> Response:
        session = self.sessions.find(request.path_params["session"])
        if session is None:
            return PlainTextResponse(GONE, 404)
        try:
            folder = tempfile.TemporaryDirectory(prefix="shotstream-download-")
        except OSError as error:
            return PlainTextResponse(f"There is no room for the film ({error.strerror}): try again later.", 507)
        try:
            path = Path(folder.name) / "film.mp4"
            write(session.director, path)
        except UserError as error:
            folder.cleanup()
            return PlainTextResponse(str(error), 409)
        return FileResponse(path, filename=name, background=BackgroundTask(folder.cleanup))

    def frame(self, request: Request) -> Response:
        """A small picture that a tab's film remembers; it never changes."""
        session, place = self.sessions.find(request.path_params["session"]), request.path_params
        picture = session.director.remembered_frame(place["key"], place["frame"]) if session else None
        return _picture(None if picture is None else encode_png(picture))

    def still(self, request: Request) -> Response:
        """A small picture of one of the tab's shots; it never changes."""
        session = self.sessions.find(request.path_params["session"])
        picture = session.director.still(request.path_params["key"]) if session else None
        return _picture(picture)

    def stories(self, request: Request) -> Response:
        """The examples, for a presenter who steps through one."""
        return JSONResponse({name: json.loads(story.to_json()) for name, story in self.examples.items()})

    def poster(self, request: Request) -> Response:
        """A film that was made before, for when none can be made."""
        return FileResponse(POSTER) if POSTER.exists() else Response(status_code=204)

    def visit(self, request: Request) -> Response:
        """A sign of whoever looks at a tab; with the headers that say whose GPU time it is, where that is limited."""
        if session := self.sessions.find(request.path_params["session"]):
            session.seat.visit(context_of(gr.Request(request)), pulse=True)
        return Response(status_code=204)

    def health(self, request: Request) -> Response:
        """That the page is up; whether shots can be made, or why not; how many tabs are open; and whether the `session`
        that is asked for is known."""
        known = self.sessions.find(request.query_params.get("session", "")) is not None
        return JSONResponse(self._state() | {"session": known})

    def ready(self, request: Request) -> Response:
        """The first part of it, with 503 as long as no shot can be made."""
        state = self._state()
        return JSONResponse(state, 200 if state["model"] else 503)

    def _state(self) -> dict[str, object]:
        promise = self.backend.ready
        failed = promise.exception() if promise.done() else None
        return {
            "status": "failed" if failed else "ready" if promise.done() else "loading",
            "model": promise.done() and not failed,
            "home": self.backend.name,
            "sessions": len(self.sessions),
            **({"reason": str(failed)} if failed else {}),
        }


def context_of(request: gr.Request) -> Context:
    """The context of a visitor's request, by which a home may find out who asks for a shot."""
    context = copy_context()
    context.run(LocalContext.request.set, request)
    return context


def _seconds(text: str) -> float:
    """A time that a page sent. Raises UserError."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < MAX_SECONDS:  # not a number is neither
        raise UserError("The page sent no time of its player: reload it.")
    return seconds


def _left_out(story: Story) -> str:
    """What of a story is not queued when it is opened, in words."""
    more = len(story.shots) - MAX_WAITING
    shots = f"{len(story.shots)} shots are more than can wait: the first {MAX_WAITING} are queued." if more > 0 else ""
    return " ".join(filter(None, (story.warning, shots)))


def _picture(png: bytes | None) -> Response:
    if png is None:
        return Response(status_code=204)  # the shot was dropped a moment ago: nothing to complain about
    return Response(png, media_type="image/png", headers={"Cache-Control": "private, max-age=3600"})


KEPT: dict[str, Callable[[Director, Path], object]] = {
    "story.json": lambda director, path: path.write_text(director.story().to_json(), encoding="utf-8"),
    "captions.vtt": lambda director, path: path.write_text(director.captions(), encoding="utf-8"),
    "storyboard.png": lambda director, path: path.write_bytes(director.storyboard()),
    "session.memory": Director.save,
}
"""What a film can be kept as besides a film: by the name of the file."""

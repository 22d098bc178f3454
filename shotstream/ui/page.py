"""The page: what happens when somebody does something to one of its components.

Knows no model and no video format; the film is the session's director's, where things are is `layout`'s, their look
is `render`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import gradio as gr
from gradio.route_utils import API_PREFIX, get_root_url

from shotstream.backends.backend import Backend, ModelFacts
from shotstream.errors import UserError
from shotstream.models.fetching import FetchProgress
from shotstream.story import Story, read_story
from shotstream.ui import drawers, prompt_help, render
from shotstream.ui.api import add_film_endpoint
from shotstream.ui.layout import STORIES, lay_out
from shotstream.ui.limits import Limits, visitor_of
from shotstream.ui.player import LATE, forget_segments
from shotstream.ui.prompt_help import PromptHelp
from shotstream.ui.routes import Routes, context_of
from shotstream.ui.session import Session, Sessions
from shotstream.views import FilmView

FETCHING_TOLD = 0.5  # seconds between two looks at a download
AT_ONCE: dict[str, Any] = {
    "queue": False,  # answered without a place in Gradio's queue
    "show_progress": "hidden",
    "api_visibility": "private",
    "trigger_mode": "multiple",  # a second Enter counts even while the first is under way
}
# sending.js took the prompt out of the box when Enter was pressed; the values that Gradio has are of a moment later.
SEND_PROMPT = """async (story, late, length, dissolve) =>
    [story, (await window.takenPrompt()) ?? late, length, dissolve]"""
JOIN = f"{API_PREFIX}/queue/join"  # where the page's events come in
GIVE_BACK, FAILED = "(refused) => window.giveBack(refused)", "() => window.giveBack()"
ALL_THE_TIME: dict[str, Any] = {
    "show_progress": "hidden",
    "api_visibility": "private",
    "concurrency_limit": None,  # they only wait, on the event loop
}


class Page:
    """The page as Gradio's `blocks`, and the `routes` beside it. `about` says in a few words what the model is,
    `fetching` how far its download has come."""

    def __init__(
        self, backend: Backend, about: str = "", fetching: FetchProgress | None = None, limits: Limits | None = None
    ) -> None:
        self.backend = backend
        self.about = about
        self.fetching = fetching
        self.sessions = Sessions(backend, limits)
        self.examples = {path.stem: read_story(path) for path in sorted(STORIES.glob("*.json"))}
        self.help = PromptHelp(backend, self.sessions)
        with gr.Blocks(title="ShotStream", analytics_enabled=False, fill_width=True) as self.blocks:
            self.layout = lay_out(self.examples)
            self._listen()
            add_film_endpoint(backend, limited=bool(self.sessions.limits.per_visitor))
        routes = Routes(backend, self.sessions, self.examples, self._forget_segments)
        self.routes = [*routes.all, *self.help.routes]

    def _listen(self) -> None:
        """Tells the components what to do."""
        blocks, on = self.blocks, self.layout
        blocks.load(self.on_model, None, [on.header, on.help], **ALL_THE_TIME)
        gr.on([blocks.load, on.again.click], self.on_open, None, [on.player, *on.parts.values()], **ALL_THE_TIME)
        blocks.unload(self.on_close)
        taken = gr.on(
            [on.next_shot.submit, on.shoot.click],
            self.on_shot,
            [on.story, on.next_shot, on.length, on.dissolve],
            on.refused,
            js=SEND_PROMPT,
            **AT_ONCE,
        )
        taken.success(None, on.refused, None, js=GIVE_BACK, **AT_ONCE)
        taken.failure(None, None, None, js=FAILED, **AT_ONCE)
        for button in on.calls:
            button.click(self.on_call, [on.story, button, on.length, on.dissolve], None, **AT_ONCE)
        for button, example in zip(on.stories, self.examples.values(), strict=True):
            button.click(self.play(example), None, on.story, **AT_ONCE)
        on.stop.click(self.on_stop, None, None, **AT_ONCE)
        on.new_film.click(self.on_new_film, None, None, **AT_ONCE)
        on.rolling.input(self.on_rolling, on.rolling, None, **AT_ONCE)

    # What people do

    async def on_model(self) -> AsyncIterator[tuple[Any, ...]]:
        """Says which model plays here and how it likes to be prompted as soon as it is there, or why there is none;
        until then, how far it has come."""
        loading, told = asyncio.wrap_future(self.backend.ready), ""
        while not loading.done():
            await asyncio.wait([loading], timeout=FETCHING_TOLD)
            line = self.fetching.line if self.fetching else ""
            if line != told and not loading.done():
                told = line
                yield render.header(line or "Loading the model"), gr.skip()
        try:
            model = loading.result()
        except UserError as error:
            yield render.header(str(error), wrong=True), gr.skip()
            return
        header = render.header(" · ".join(filter(None, (model.name, self.about, f"on {model.device}"))))
        yield header, prompt_help.markup(model.prompting)

    async def on_open(self, request: gr.Request) -> AsyncIterator[dict[gr.Component, object]]:
        """Shows the tab's film for as long as the tab is open."""
        name, parts = request.session_hash, self.layout.parts
        try:
            session = await asyncio.to_thread(self.sessions.open, name, visitor_of(request.request))
            session.seat.visit(context_of(request))
        except UserError as error:
            yield {parts["notes"]: render.notes(render.EMPTY, str(error))}
            return
        home = render.home_for(
            request.headers.get("origin", ""), get_root_url(request.request, JOIN, self.blocks.root_path)
        )
        drawn: dict[str, str] = {}
        over = False
        try:
            async for view, notice, segment in session.screen():
                before, drawn = drawn, _drawn(view, notice, name, self.backend.model)
                drawn = {part: render.at_home(html, home) for part, html in drawn.items()}
                changed = {parts[part]: html for part, html in drawn.items() if html != before.get(part, "")}
                yield {self.layout.player: segment or gr.skip(), **changed}
                if segment:
                    forget_segments(self.blocks, name, keep=LATE)
            over = not session.director.closed
            if over:
                yield {parts["status"]: render.at_home(render.status(view, over=True), home)}
        finally:
            if not over:
                await asyncio.shield(asyncio.to_thread(self.sessions.close, name))

    def on_close(self, request: gr.Request) -> None:
        """Frees what the tab held."""
        self.sessions.close(request.session_hash)

    def on_shot(self, story: str, next_shot: str, length: int, dissolve: bool, request: gr.Request) -> str:
        """Queues the next shot and returns nothing, or says what is wrong with it and gives it back."""
        return "" if self._direct(story, next_shot, request, length or None, dissolve) else next_shot

    def on_call(self, story: str, call: str, length: int, dissolve: bool, request: gr.Request) -> None:
        """Queues one of the ready-made directions."""
        self._direct(story, call, request, length or None, dissolve)

    def play(self, story: Story) -> Any:
        """What a click on an example does: a new film, its story in the box, all its shots queued."""

        def on_example(request: gr.Request) -> str:
            self._begin_film(request, story)
            return story.global_caption

        return on_example

    def on_stop(self, request: gr.Request) -> None:
        session = self._session(request)
        session.director.stop()
        session.tell("")

    def on_rolling(self, on: bool, request: gr.Request) -> None:
        """Shots go on by themselves, or end as they should."""
        self._session(request).director.keep_rolling(on)

    def on_new_film(self, request: gr.Request) -> None:
        self._begin_film(request)

    def _forget_segments(self, session: str) -> None:
        """Frees what a tab was sent of an older film."""
        forget_segments(self.blocks, session)

    def _begin_film(self, request: gr.Request, story: Story | None = None) -> None:
        session = self._session(request)
        if story:
            session.director.begin_story(story)
        else:
            session.director.new_film()
        self._forget_segments(request.session_hash)
        session.tell("")

    def _session(self, request: gr.Request) -> Session:
        try:
            return self.sessions.open(request.session_hash, visitor_of(request.request))
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from error

    def _direct(
        self, story: str, prompt: str, request: gr.Request, num_chunks: int | None = None, dissolve: bool = False
    ) -> bool:
        """Queues a shot; False if it cannot be one, which the page then says."""
        session = self._session(request)
        try:
            session.director.queue_shot(story, prompt, num_chunks, dissolve)
        except UserError as error:
            session.tell(str(error))
            return False
        session.tell(self.help.advice(session.director, story, prompt, queued=True))
        return True


def _drawn(view: FilmView, notice: str, name: str, model: ModelFacts | None) -> dict[str, str]:
    """All that the page shows of a film besides the film, by part of the page."""
    return {
        "curtain": render.curtain(view) + render.subtitle(view),
        "status": render.status(view),
        "notes": render.notes(view, notice),
        "strip": render.strip(view, name),
        "download": render.download(name if render.has_pictures(view) else None),
        "memory": drawers.memory(view, name),
        "futures": drawers.futures(view, name),
        "keep": drawers.keep(name if view.tree or view.waiting else None),
        "shapes": render.shapes(view, model.shapes, (model.width, model.height)) if model else "",
        "choices": render.choices(view),
    }

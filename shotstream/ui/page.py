"""The page: its layout, and what happens when somebody does something.

Reads in the order it looks. Knows no model and no video format; the film is the session's director's, its look is
`render`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.route_utils import API_PREFIX, get_root_url

from shotstream.backends.backend import Backend, ModelFacts
from shotstream.errors import UserError
from shotstream.models.fetching import FetchProgress
from shotstream.prompting import Prompting
from shotstream.story import Story, read_story
from shotstream.ui import drawers, prompt_help, render
from shotstream.ui.api import add_film_endpoint
from shotstream.ui.limits import Limits, visitor_of
from shotstream.ui.player import LATE, LivePlayer, forget_segments
from shotstream.ui.prompt_help import PromptHelp
from shotstream.ui.routes import Routes, context_of
from shotstream.ui.session import Session, Sessions
from shotstream.views import FilmView

ASSETS = Path(__file__).parents[2] / "assets"
STORIES = ASSETS / "stories"
CALLS = (
    "Close-up",
    "Wide shot",
    "Make it look surprised",
    "It jumps",
    "Night falls",
    "Transition to a wide shot of the city",
)
LENGTHS = [("Usual length", 0), *((f"{n} chunk{'s' * (n > 1)}", n) for n in (1, 2, 3, 5, 7, 14, 28))]
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


def story_button(name: str) -> gr.Button:
    """A button with the hero's picture, if the story has one."""
    picture = STORIES / f"{name}.png"
    return gr.Button(render.title(name), icon=picture if picture.exists() else None, size="sm", elem_classes="story")


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
        self.blocks = self._layout(self.examples)
        routes = Routes(backend, self.sessions, self.examples, self._forget_segments)
        self.routes = [*routes.all, *self.help.routes]

    def _layout(self, stories: dict[str, Story]) -> gr.Blocks:
        with gr.Blocks(title="ShotStream", analytics_enabled=False, fill_width=True) as blocks:
            header = gr.HTML(render.header("Loading the model"))
            with gr.Row(elem_id="theatre"):
                with gr.Column(elem_id="house", scale=2, min_width=320):
                    with gr.Column(elem_id="screen"):
                        player = LivePlayer(
                            streaming=True,
                            autoplay=True,
                            interactive=False,
                            show_label=False,
                            buttons=[],
                            elem_id="film",
                        )
                        curtain = gr.HTML(render.EMPTY_STAGE)
                    with gr.Row(elem_id="slate"):
                        status = gr.HTML(render.EMPTY_SLATE, elem_id="status")
                        gr.HTML(render.FIRST_PICTURE, elem_id="first-picture")
                        gr.HTML(render.METER, elem_id="meter")
                    notes = gr.HTML(elem_id="notes")
                    strip = gr.HTML(render.EMPTY_STRIP, elem_id="reel")
                with gr.Column(elem_id="desk", scale=1, min_width=320):
                    with gr.Row(elem_id="stories"):
                        buttons = [story_button(name) for name in stories]
                    story = gr.Textbox(
                        label="Story",
                        info="Who, where, in which style. Changes apply to the shots to come.",
                        lines=3,
                        max_lines=6,
                        elem_id="story",
                    )
                    next_shot = gr.Textbox(
                        label="Next shot",
                        placeholder="What happens? Enter shoots it.",
                        lines=1,
                        max_lines=4,
                        elem_id="next-shot",
                    )
                    refused = gr.Textbox(visible=False)
                    help_ = gr.HTML(prompt_help.markup(Prompting()), elem_id="prompt-help")
                    with gr.Row(elem_id="commands"):
                        shoot = gr.Button("Action!", variant="primary", elem_id="shoot")
                        gr.Button("Steer", elem_id="steer")
                        gr.Button("Cut now", elem_id="cut")
                    with gr.Row(elem_id="options"):
                        length = gr.Dropdown(
                            LENGTHS,
                            value=0,
                            label="Length of the next shots",  # read aloud, not shown
                            show_label=False,
                            container=False,
                            elem_id="length",
                        )
                        dissolve = gr.Checkbox(label="Dissolve", container=False, elem_id="dissolve")
                        rolling = gr.Checkbox(label="Keep rolling", container=False, elem_id="rolling")
                    shapes = gr.HTML(elem_id="shapes")
                    choices = gr.HTML(elem_id="choices")
                    with gr.Row(elem_id="calls"):
                        calls = [gr.Button(call, size="sm", elem_classes="call") for call in CALLS]
                    with gr.Row(elem_id="controls"):
                        stop = gr.Button("Stop", size="sm", elem_id="stop")
                        new_film = gr.Button("New film", size="sm", elem_id="new-film")
                        download = gr.HTML(render.download(None))
            with gr.Row(elem_id="drawers"):
                with gr.Accordion("Memory: what the next shot looks back at", open=False, elem_id="memory"):
                    memory = gr.HTML(drawers.EMPTY_MEMORY)
                with gr.Accordion("Takes and futures", open=False, elem_id="futures"):
                    futures = gr.HTML(drawers.EMPTY_FUTURES)
                with gr.Accordion("Cast a picture", open=False, elem_id="cast"):
                    gr.HTML(drawers.CAST)
                with gr.Accordion("Keep it, or open what you kept", open=False, elem_id="keep"):
                    keep = gr.HTML(drawers.keep(None))
            gr.HTML(render.COLOPHON)
            again = gr.Button("Open another stream", visible="hidden", elem_id="again")  # playing.js presses it

            blocks.load(self.on_model, None, [header, help_], **ALL_THE_TIME)
            self.player = player
            self.parts = {
                "curtain": curtain,
                "status": status,
                "notes": notes,
                "strip": strip,
                "download": download,
                "memory": memory,
                "futures": futures,
                "keep": keep,
                "shapes": shapes,
                "choices": choices,
            }
            gr.on([blocks.load, again.click], self.on_open, None, [player, *self.parts.values()], **ALL_THE_TIME)
            blocks.unload(self.on_close)
            taken = gr.on(
                [next_shot.submit, shoot.click],
                self.on_shot,
                [story, next_shot, length, dissolve],
                refused,
                js=SEND_PROMPT,
                **AT_ONCE,
            )
            taken.success(None, refused, None, js=GIVE_BACK, **AT_ONCE)
            taken.failure(None, None, None, js=FAILED, **AT_ONCE)
            for button in calls:
                button.click(self.on_call, [story, button, length, dissolve], None, **AT_ONCE)
            for button, example in zip(buttons, stories.values(), strict=True):
                button.click(self.play(example), None, story, **AT_ONCE)
            stop.click(self.on_stop, None, None, **AT_ONCE)
            new_film.click(self.on_new_film, None, None, **AT_ONCE)
            rolling.input(self.on_rolling, rolling, None, **AT_ONCE)
            add_film_endpoint(self.backend, limited=bool(self.sessions.limits.per_visitor))
        return blocks

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
        name = request.session_hash
        try:
            session = await asyncio.to_thread(self.sessions.open, name, visitor_of(request.request))
            session.seat.visit(context_of(request))
        except UserError as error:
            yield {self.parts["notes"]: render.notes(render.EMPTY, str(error))}
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
                changed = {self.parts[part]: html for part, html in drawn.items() if html != before.get(part, "")}
                yield {self.player: segment or gr.skip(), **changed}
                if segment:
                    forget_segments(self.blocks, name, keep=LATE)
            over = not session.director.closed
            if over:
                yield {self.parts["status"]: render.at_home(render.status(view, over=True), home)}
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

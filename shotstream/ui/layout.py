"""What the page consists of, in the order it looks, and how it is before anything happened.

Owns which components there are and where. What they do is wired in `page`, the look of each is in `render`, `drawers`,
`prompt_help` and the style sheet.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from shotstream.prompting import Prompting
from shotstream.ui import drawers, prompt_help, render
from shotstream.ui.player import LivePlayer

STORIES = Path(__file__).parents[2] / "assets" / "stories"
CALLS = (
    "Close-up",
    "Wide shot",
    "Make it look surprised",
    "It jumps",
    "Night falls",
    "Transition to a wide shot of the city",
)
LENGTHS = [("Usual length", 0), *((f"{n} chunk{'s' * (n > 1)}", n) for n in (1, 2, 3, 5, 7, 14, 28))]


@dataclass(frozen=True)
class Layout:
    """The components that something happens to. `parts` show the film besides the `player`, each a piece of HTML;
    `stories` and `calls` are buttons."""

    header: gr.HTML
    player: LivePlayer
    parts: dict[str, gr.HTML]
    stories: list[gr.Button]
    story: gr.Textbox
    next_shot: gr.Textbox
    refused: gr.Textbox  # a prompt that was not taken, for sending.js to put back
    help: gr.HTML
    shoot: gr.Button
    length: gr.Dropdown
    dissolve: gr.Checkbox
    rolling: gr.Checkbox
    calls: list[gr.Button]
    stop: gr.Button
    new_film: gr.Button
    again: gr.Button


def lay_out(stories: Iterable[str]) -> Layout:
    """Puts the page's components into the `gr.Blocks` that is open, with a button for each of the `stories`' names."""
    parts: dict[str, gr.HTML] = {}
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
                parts["curtain"] = gr.HTML(render.EMPTY_STAGE)
            with gr.Row(elem_id="slate"):
                parts["status"] = gr.HTML(render.EMPTY_SLATE, elem_id="status")
                gr.HTML(render.FIRST_PICTURE, elem_id="first-picture")
                gr.HTML(render.METER, elem_id="meter")
            parts["notes"] = gr.HTML(elem_id="notes")
            parts["strip"] = gr.HTML(render.EMPTY_STRIP, elem_id="reel")
        with gr.Column(elem_id="desk", scale=1, min_width=320):
            with gr.Row(elem_id="stories"):
                story_buttons = [_story_button(name) for name in stories]
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
            parts["shapes"] = gr.HTML(elem_id="shapes")
            parts["choices"] = gr.HTML(elem_id="choices")
            with gr.Row(elem_id="calls"):
                calls = [gr.Button(call, size="sm", elem_classes="call") for call in CALLS]
            with gr.Row(elem_id="controls"):
                stop = gr.Button("Stop", size="sm", elem_id="stop")
                new_film = gr.Button("New film", size="sm", elem_id="new-film")
                parts["download"] = gr.HTML(render.download(None))
    with gr.Row(elem_id="drawers"):
        with gr.Accordion("Memory: what the next shot looks back at", open=False, elem_id="memory"):
            parts["memory"] = gr.HTML(drawers.EMPTY_MEMORY)
        with gr.Accordion("Takes and futures", open=False, elem_id="futures"):
            parts["futures"] = gr.HTML(drawers.EMPTY_FUTURES)
        with gr.Accordion("Cast a picture", open=False, elem_id="cast"):
            gr.HTML(drawers.CAST)
        with gr.Accordion("Keep it, or open what you kept", open=False, elem_id="keep"):
            parts["keep"] = gr.HTML(drawers.keep(None))
    gr.HTML(render.COLOPHON)
    again = gr.Button("Open another stream", visible="hidden", elem_id="again")  # playing.js presses it
    return Layout(
        header=header,
        player=player,
        parts=parts,
        stories=story_buttons,
        story=story,
        next_shot=next_shot,
        refused=refused,
        help=help_,
        shoot=shoot,
        length=length,
        dissolve=dissolve,
        rolling=rolling,
        calls=calls,
        stop=stop,
        new_film=new_film,
        again=again,
    )


def _story_button(name: str) -> gr.Button:
    """A button with the hero's picture, if the story has one."""
    picture = STORIES / f"{name}.png"
    return gr.Button(render.title(name), icon=picture if picture.exists() else None, size="sm", elem_classes="story")

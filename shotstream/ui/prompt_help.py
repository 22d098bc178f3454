"""Help with the prompt in the box: what a model's folder says of prompts, a warning while somebody types, completion.

Owns how that looks and what `prompting.js` is answered. Everything that comes in is untrusted. The rules themselves are
in `shotstream.prompting`; nothing here asks anything of the network, nor of the model but its words.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Mapping
from functools import partial
from html import escape

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from shotstream.backends.backend import Backend
from shotstream.director import Director
from shotstream.prompting import KINDS, Prompting, advice_on, complete, reads_whole
from shotstream.story import MAX_PROMPT_CHARACTERS
from shotstream.ui.bodies import read_body
from shotstream.ui.session import Sessions

MAX_BYTES = 200_000
KEY = "Ctrl+Space"
NO_WORDS = "First say in words what is to happen."
SAYS_ALL = "This prompt has it all: a camera, an action, a light."
NO_ROOM = "There is no room for more: story and shot are as long as the model reads."


class PromptHelp:
    """The `routes` that answer about a prompt, and `advice` for a prompt that is queued."""

    def __init__(self, backend: Backend, sessions: Sessions) -> None:
        self.backend, self.sessions = backend, sessions
        self.routes = [
            Route("/advice/{session}", partial(self._answer, say=self.say_advice), methods=["POST"]),
            Route("/complete/{session}", partial(self._answer, say=self.say_completed), methods=["POST"]),
        ]

    def advice(self, director: Director, story: str, prompt: str, queued: bool = False) -> str:
        """One sentence on what the model will not read of the next shot (or of the last one that is `queued`), or
        nothing."""
        if self.backend.model is None or not prompt.strip():
            return ""
        return advice_on(prompt, self.backend.model.text, story, len(_prompts(director)) - queued)

    def say_advice(self, director: Director, story: str, prompt: str) -> dict[str, str]:
        """{"told": the advice, or nothing}"""
        director.expect(prompt)
        return {"told": self.advice(director, story, prompt)}

    def say_completed(self, director: Director, story: str, prompt: str) -> dict[str, str]:
        """{"prompt": with camera, action and light, "told": why nothing was added, if nothing was}"""
        model = self.backend.model
        if model is None:
            return {"prompt": prompt, "told": "The model is still loading: try again in a moment."}
        shots = _prompts(director)
        fits = partial(reads_whole, text=model.text, story=story, shot=len(shots))
        completed = complete(prompt, model.prompting, random.Random(), " ".join((story, *shots)), fits)
        return {"prompt": completed, "told": "" if completed != prompt else self._why_not(prompt, model.prompting)}

    @staticmethod
    def _why_not(prompt: str, prompting: Prompting) -> str:
        if not any(map(str.isalnum, prompt)):
            return NO_WORDS
        return SAYS_ALL if complete(prompt, prompting, random.Random()) == prompt else NO_ROOM

    async def _answer(self, request: Request, say: Callable[[Director, str, str], dict[str, str]]) -> Response:
        session = self.sessions.find(request.path_params["session"])
        if session is None:
            return PlainTextResponse("This film is gone: its page was closed.", 404)
        body = await read_body(request, MAX_BYTES)
        if body is None:
            return PlainTextResponse("This is no prompt.", 413)
        try:
            fields = json.loads(body)
        except (ValueError, RecursionError):
            fields = None
        texts = [fields.get(name) for name in ("story", "prompt")] if isinstance(fields, dict) else [None]
        if not all(isinstance(text, str) for text in texts):
            return PlainTextResponse("This is no prompt.", 400)
        if max(map(len, texts)) > MAX_PROMPT_CHARACTERS:  # it will be refused, and then told why
            return JSONResponse(
                {"prompt": texts[1], "told": f"This is longer than {MAX_PROMPT_CHARACTERS} characters."}
            )
        return JSONResponse(await asyncio.to_thread(say, session.director, *texts))


def _prompts(director: Director) -> list[str]:
    """The shots before the next one: made, being made, waiting."""
    view = director.view()
    return [shot.caption for shot in (*view.takes, *view.waiting)]


def markup(prompting: Prompting) -> str:
    """The row below the prompt box, and the model's vocabulary in a drawer. Of a model without `prompting.json` there
    is only the place for warnings."""
    button = (
        f'<button type="button" class="act" id="complete" aria-keyshortcuts="Control+Space" aria-describedby="advice" '
        f'title="Adds a camera, an action and a light where they are missing ({KEY}); once more takes it back">'
        "Complete my prompt</button>"
    )
    row = f'{button if any(prompting.templates.get(kind) for kind in KINDS) else ""}<p id="advice" role="status"></p>'
    return f'<div class="helprow">{row}</div>{_drawer(prompting)}'


def _drawer(prompting: Prompting) -> str:
    if not prompting.advice and not prompting.words:
        return ""
    advice = f'<p class="hint">{escape(prompting.advice)}</p>' if prompting.advice else ""
    return (
        '<details id="vocabulary"><summary>How this model likes to be prompted</summary>'
        f"{advice}{_groups(prompting.words)}{_templates(prompting)}</details>"
    )


def _groups(words: Mapping[str, tuple[str, ...]]) -> str:
    """Words to be put into the prompt; one of them can be reached by Tab, the others from there by arrows."""
    if not words:
        return ""
    groups = "".join(
        f"<dt>{escape(name)}</dt><dd>{''.join(map(_word, phrases))}</dd>" for name, phrases in words.items() if phrases
    ).replace('tabindex="-1"', 'tabindex="0"', 1)
    return f'<dl class="words" aria-label="Words that it knows; click one to put it into the prompt">{groups}</dl>'


def _word(phrase: str) -> str:
    return f'<button type="button" class="act" tabindex="-1" data-word="{escape(phrase)}">{escape(phrase)}</button>'


def _templates(prompting: Prompting) -> str:
    """An example of each kind, where there is no list of words to show."""
    if prompting.words:
        return ""
    examples = "".join(
        f"<dt>{kind}</dt><dd>{escape(prompting.templates[kind][0])}</dd>"
        for kind in KINDS
        if prompting.templates.get(kind)
    )
    return f'<dl class="words">{examples}</dl>' if examples else ""

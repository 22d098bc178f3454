"""The page's own pieces of HTML: what a `FilmView` looks like.

Pure functions from values to markup. Everything that a person typed is escaped here and nowhere else.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

from shotstream.takes import FilmView, TakeView

WORDMARK = (Path(__file__).parent / "wordmark.svg").read_text()
RATE = "Frames a second of the latest shot, end to end: text, memory, denoising, decoding and H.264."
STAGES = {"load": "Loading the model", "turn": "Waiting for the camera", "text": "Reading the prompt"}


def header(line: str, wrong: bool = False) -> str:
    """The title, and a line about the model."""
    kind = ' class="wrong" role="alert"' if wrong else ""
    return f'<header><h1>{WORDMARK}</h1><p id="model"{kind}>{escape(line)}</p></header>'


COLOPHON = (
    '<p class="colophon">Every shot is made while you watch, a chunk at a time, and remembers up to six pictures of '
    'the shots before it. The method is <a href="https://arxiv.org/abs/2603.25746">ShotStream</a>; the film stays here '
    "until you close this page.</p>"
)


def title(name: str) -> str:
    """A story's file name as a title."""
    return name.replace("-", " ").capitalize()


def curtain(view: FilmView) -> str:
    """The stage before the first picture."""
    if has_pictures(view):
        return ""
    words = "Here it comes" if view.takes or view.waiting else "Pick a story, or write your own"
    return f'<div class="curtain"><p>{words}</p></div>'


def download(session: str | None) -> str:
    """A link to the film so far; a grey one while there is none."""
    if session is None:
        return '<span class="download" aria-disabled="true">Download</span>'
    return f'<a class="download" href="film/{escape(session)}" download>Download</a>'


def status(view: FilmView) -> str:
    """The slate below the picture: what is being made, and how fast."""
    making = bool(view.stage)
    shot = len(view.takes) if making else len(view.takes) + 1
    rate = f"{view.fps:.0f} FPS" if view.fps else "–"
    cells = [
        _cell("shot", str(shot)),
        _cell("chunk", _blocks(view.chunk, view.num_chunks) if making else "–"),
        _cell("made at", rate, RATE),
    ]
    return (
        f'<div class="slate" data-state="{"making" if making else "waiting"}">{"".join(cells)}'
        f'<p class="state" role="status">{escape(sentence(view))}</p></div>'
    )


def sentence(view: FilmView) -> str:
    """What goes on, in words."""
    number = len(view.takes)
    queued = f" · {len(view.waiting)} queued" if view.waiting else ""
    if view.stage in STAGES:
        return f"{STAGES[view.stage]} for shot {number}{queued}"
    if view.stage and view.num_chunks:
        return f"Making shot {number}, chunk {view.chunk}/{view.num_chunks}{queued}"
    if view.stage:
        return f"Making shot {number}{queued}"
    if view.waiting:
        return f"{len(view.waiting)} queued"
    return "Waiting for you"


def notes(view: FilmView, notice: str) -> str:
    """What went wrong, and what else is worth a sentence."""
    wrong = f'<p class="wrong" role="alert">{escape(view.message)}</p>' if view.message else ""
    return wrong + (f'<p class="notice">{escape(notice)}</p>' if notice else "")


def strip(view: FilmView, session: str) -> str:
    """The film so far, a picture and a caption for every shot, and behind it the shots that wait to be made."""
    frames = [_frame(take, session) for take in view.takes]
    frames += [_queued(number, caption) for number, caption in enumerate(view.waiting, start=len(frames) + 1)]
    blank = '<li class="nothing">Your film, shot by shot.</li>'
    return f'<ol class="strip" tabindex="0" aria-label="The film so far">{"".join(frames) or blank}</ol>'


def _frame(take: TakeView, session: str) -> str:
    source = f"still/{escape(session)}/{take.key}"
    image = f'<img src="{source}" alt="">' if take.has_still else '<div class="blank"></div>'
    length = f"{take.seconds:.1f} s" + (" · stopped" if take.stopped else "")
    state = "made" if take.finished else "making"
    caption = escape(take.caption)
    return (
        f'<li class="{state}">{image}<p class="number">{take.number} <span>{length}</span></p>'
        f'<p class="caption" title="{caption}">{caption}</p></li>'
    )


def _queued(number: int, caption: str) -> str:
    return (
        f'<li class="queued"><div class="blank"></div><p class="number">{number} <span>queued</span></p>'
        f'<p class="caption" title="{escape(caption)}">{escape(caption)}</p></li>'
    )


def has_pictures(view: FilmView) -> bool:
    """Is there anything to see yet?"""
    return any(take.seconds for take in view.takes)


def _cell(name: str, value: str, hint: str = "") -> str:
    return f'<p class="cell" title="{hint}"><span>{name}</span><b>{value}</b></p>'


def _blocks(chunk: int, num_chunks: int) -> str:
    """A chunk counter as little blocks: done, being made, to come."""
    if not num_chunks:
        return "…"
    marks = "".join(
        f'<i class="{"done" if n < chunk else "now" if n == chunk else ""}"></i>' for n in range(1, num_chunks + 1)
    )
    return f'<span class="blocks">{marks}</span>'


EMPTY = FilmView(takes=(), waiting=(), stage="", chunk=0, num_chunks=0, fps=None, message=None)
EMPTY_STAGE = curtain(EMPTY)
EMPTY_STRIP = strip(EMPTY, "")
EMPTY_SLATE = status(EMPTY)
FIRST_PICTURE = _cell(
    "first picture", "–", "From Enter to the first new picture on this screen."
)  # page.js measures it

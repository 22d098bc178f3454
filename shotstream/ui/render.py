"""The page's own pieces of HTML: what a `FilmView` looks like, but for the `drawers` below it.

Pure functions from values to markup. Everything that a person typed is escaped here and nowhere else. A button with
`data-do` is a gesture: page.js sends its data attributes, `gestures` does what they say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from urllib.parse import urlsplit

from shotstream.views import FilmView, NodeView, QueuedView, TakeView

WORDMARK = (Path(__file__).parent / "wordmark.svg").read_text()
STAGES = {"load": "Loading the model", "turn": "Waiting for the camera", "text": "Reading the prompt"}
PARTS = {  # of the work, as the engine names them: as the page does
    "text": "text",
    "context_pass": "memory",
    "context_encode": "memory",
    "attention": "memory",
    "denoise": "denoising",
    "cache_pass": "denoising",
    "decode": "pixels",
    "encode": "H.264",
}


BEGIN = {  # what somebody does first, in each way of looking at the page
    "page": "Pick a story, or write your own",
    "embed": "Write what happens first",
    "presenter": "Press → for the first shot",
}


def header(line: str, wrong: bool = False) -> str:
    """The title, and a line about the model."""
    kind = ' class="wrong" role="alert"' if wrong else ""
    return f'<header><h1>{WORDMARK}</h1><p id="model"{kind}>{escape(line)}</p></header>'


COLOPHON = (
    '<p class="colophon">Every shot is made while you watch, a chunk at a time, and remembers up to six pictures of '
    'the shots before it. The method is <a href="https://arxiv.org/abs/2603.25746">ShotStream</a>; the film stays here '
    "until you close this page. Press <kbd>?</kbd> for the keys.</p>"
)


def title(name: str) -> str:
    """A story's file name as a title."""
    return name[:1].upper() + name[1:].replace("-", " ")


def button(label: str, do: str, hint: str = "", **data: object) -> str:
    """A gesture."""
    fields = "".join(f' data-{name}="{escape(str(value))}"' for name, value in data.items())
    told = f' title="{escape(hint)}" aria-label="{escape(hint)}"' if hint else ""
    return f'<button type="button" class="act" data-do="{do}"{fields}{told}>{escape(label)}</button>'


def curtain(view: FilmView) -> str:
    """The stage before the first picture."""
    if has_pictures(view):
        return ""
    words = "".join(f'<span class="in-{mode}">{begin}</span>' for mode, begin in BEGIN.items())
    if view.stage or view.waiting:
        words = "Here it comes"
    elif view.takes:
        words = "What happens next?"
    return f'<div class="curtain"><p>{words}</p></div>'


def subtitle(view: FilmView) -> str:
    """What is on the screen, in words: seen where there is nothing else to read."""
    return f'<p class="subtitle"><span>{escape(view.told)}</span></p>' if view.told else ""


def download(session: str | None) -> str:
    """A link to the film so far; a grey one while there is none."""
    if session is None:
        return '<span class="download" aria-disabled="true">Download</span>'
    return f'<a class="download" href="film/{escape(session)}" download>Download</a>'


def status(view: FilmView, over: bool = False) -> str:
    """The slate below the picture: what is being made, and how fast; `over` if the stream is, and wants another."""
    making = bool(view.stage)
    shot = len(view.takes) if making else len(view.takes) + 1
    rate = f"{view.fps:.0f} FPS" if view.fps else "–"
    cells = [
        _cell("shot", str(shot)),
        _cell("chunk", _blocks(view.chunk, view.num_chunks) if making else "–"),
        _cell("made at", rate),
    ]
    state = f'data-state="{"making" if making else "waiting"}" data-first="{view.first_chunk or ""}"'
    state += f' data-work="{where_time_goes(view)}"'
    return (
        f'<div class="slate" {state}{" data-over" if over else ""}>'
        f'{"".join(cells)}<p class="state" role="status">{escape(sentence(view))}</p></div>'
    )


def where_time_goes(view: FilmView) -> str:
    """The parts of the latest shot's work, the largest first."""
    parts: dict[str, float] = {}
    for name, seconds in view.seconds.items():
        parts[PARTS.get(name, name)] = parts.get(PARTS.get(name, name), 0.0) + seconds
    total = sum(parts.values())
    ranked = sorted(parts.items(), key=lambda part: -part[1]) if total else []
    return ", ".join(f"{name} {seconds / total:.0%}" for name, seconds in ranked)


def sentence(view: FilmView) -> str:
    """What goes on, in words."""
    number = len(view.takes)
    queued = f" · {len(view.waiting)} queued" if view.waiting else ""
    if view.stage in STAGES:
        return f"{STAGES[view.stage]} for shot {number}{_line(view)}{queued}"
    if view.stage:  # not which chunk: a screen reader would say it again and again
        return f"Making shot {number}{queued}"
    if view.held:
        return f"{len(view.waiting)} held" if view.waiting else "The shot broke off"
    if view.waiting:
        return f"{len(view.waiting)} queued"
    if view.rolls_on:
        return "Rolling on"
    if view.playing:
        return "Playing: what happens next?"
    return "Waiting for you, on the last picture" if has_pictures(view) else "Waiting for you"


def _line(view: FilmView) -> str:
    """How long the line is before a shot whose turn it is not yet."""
    if not view.place:
        return ""
    before = "1 shot" if view.place == 1 else f"{view.place} shots"
    return f": {before} before it" + (f", about {view.wait} s" if view.wait else "")


def notes(view: FilmView, notice: str) -> str:
    """What went wrong, and what else is worth a sentence."""
    again = button("Try again", "retry") if view.held and (view.waiting or view.broken) else ""
    wrong = f'<p class="wrong" role="alert">{escape(view.message)} {again}</p>' if view.message else ""
    return wrong + (f'<p class="notice">{escape(notice)}</p>' if notice else "")


def strip(view: FilmView, session: str) -> str:
    """The film so far, a picture and a caption for every shot, and behind it the shots that wait to be made."""
    frames = [_frame(take, session) for take in view.takes]
    first = len(frames) + 1
    frames += [_queued(place, len(view.waiting), first + place, shot) for place, shot in enumerate(view.waiting)]
    blank = '<li class="nothing">Your film, shot by shot.</li>'
    return (
        f'<ol class="strip" tabindex="0" aria-label="The film so far" data-session="{escape(session)}">'
        f"{''.join(frames) or blank}</ol>"
    )


def _frame(take: TakeView, session: str) -> str:
    length = f"{take.seconds:.1f} s" + (" · cut short" if take.stopped else "")
    length = "a picture" if take.cast else "from before" if take.resumed else length
    caption = escape(take.caption)
    acts = ""
    if take.finished:
        acts = button("Retake", "retake", f"Retake shot {take.number}", key=take.key, caption=take.caption) + button(
            "Rewind", "rewind", f"Rewind to shot {take.number}, and go on from it", key=take.key
        )
        if take.seconds:
            acts += button("Play", "play", f"Play the film again from shot {take.number}", key=take.key)
    return (
        f'<li class="{"made" if take.finished else "making"}" data-key="{take.key}">{picture(take, session)}'
        f'<p class="number">{take.number} <span>{length}</span></p>'
        f'<p class="caption" title="{caption}">{caption}</p>{_steers(take.steers)}{_takes(take)}'
        f'<p class="acts">{acts}</p></li>'
    )


def _steers(steers: Iterable[str]) -> str:
    return "".join(f'<p class="caption steer">{escape(steer)}</p>' for steer in steers)


def _takes(take: TakeView) -> str:
    """Which of several takes this is, and the way to the others."""
    if len(take.others) < 2:
        return ""
    place = take.others.index(take.key)
    before, after = take.others[place - 1], take.others[(place + 1) % len(take.others)]
    others = " ".join(map(str, take.others))
    return (
        f'<p class="takes">{button("◂", "choose take", "The take before", key=before)}'
        f'<button type="button" class="act" data-compare="{others}" data-chosen="{take.key}">'
        f"take {place + 1}/{len(take.others)}</button>"
        f"{button('▸', 'choose take', 'The next take', key=after)}</p>"
    )


def picture(shot: TakeView | NodeView, session: str) -> str:
    """A still of a shot, or the place for one."""
    if not shot.has_still:
        return '<div class="blank"></div>'
    return f'<img src="still/{escape(session)}/{shot.key}" alt="">'


def _queued(place: int, count: int, number: int, shot: QueuedView) -> str:
    caption = escape(shot.caption)
    acts = button("Edit", "edit", f"Edit shot {number}", key=shot.key, caption=shot.caption)
    if place:
        acts += button("◂", "move", f"Shoot shot {number} earlier", key=shot.key, place=place - 1)
    if place + 1 < count:
        acts += button("▸", "move", f"Shoot shot {number} later", key=shot.key, place=place + 1)
    acts += button("Remove", "remove", f"Remove shot {number}", key=shot.key)
    kind = "picture" if shot.cast else "retake" if shot.retake else "queued"
    return (
        f'<li class="queued" data-key="{shot.key}"><div class="blank"></div><p class="number">{number} <span>{kind}'
        f'</span></p><p class="caption" title="{caption}">{caption}</p>{_steers(filter(None, (shot.then,)))}'
        f'<p class="acts">{acts}</p></li>'
    )


def shapes(view: FilmView, offered: Mapping[str, tuple[int, int]], own: tuple[int, int]) -> str:
    """The choice of a picture's shape, if there is one; once the film has shots it shows what was chosen."""
    if len(offered) < 2:
        return ""
    chosen, begun = view.size or own, bool(view.tree)
    buttons = "".join(
        f'<button type="button" class="act" data-shape="{escape(name)}" '
        f'aria-pressed="{str(size == chosen).lower()}"{" disabled" if begun and size != chosen else ""}>'
        f'<i style="aspect-ratio:{size[0]}/{size[1]}"></i>{escape(name)}</button>'
        for name, size in offered.items()
    )
    hint = "A film has one shape: a new film may have another." if begun else "Chosen before the first shot."
    return f'<div class="shapes" role="group" aria-label="Shape of the picture" title="{hint}">{buttons}</div>'


def choices(view: FilmView) -> str:
    """How the story may go on, if it leaves that to whoever looks on."""
    buttons = "".join(
        f'<button type="button" class="act" data-do="decide" data-choice="{number}" '
        f'aria-pressed="{str(choice.taken).lower()}">{escape(choice.name)}</button>'
        for number, choice in enumerate(view.choices)
    )
    label = '<span id="what-now">What now?</span>'
    return f'<div class="choices" role="group" aria-labelledby="what-now">{label}{buttons}</div>' if buttons else ""


def home_for(origin: str, root: str) -> str:
    """Where our addresses begin, for a page of that `origin`: nothing, unless it is another one than ours at `root`."""
    return "" if not origin or urlsplit(origin).netloc == urlsplit(root).netloc else f"{root}/"


def at_home(html: str, home: str) -> str:
    """Our markup with addresses that begin with `home`. What people typed holds no such quotes: it is escaped."""
    return re.sub(r'\b(src|href)="(still|frame|film|keep)/', rf'\1="{escape(home)}\2/', html) if home else html


def has_pictures(view: FilmView) -> bool:
    """Is there anything to see yet?"""
    return any(take.seconds for take in view.takes)


def _cell(name: str, value: str) -> str:
    return f'<p class="cell"><span>{name}</span><b>{value}</b></p>'


def _blocks(chunk: int, num_chunks: int) -> str:
    """A chunk counter as little blocks: done, being made, to come."""
    if not num_chunks:
        return "…"
    if num_chunks > 12:
        return f"{chunk}/{num_chunks}"
    marks = "".join(
        f'<i class="{"done" if n < chunk else "now" if n == chunk else ""}"></i>' for n in range(1, num_chunks + 1)
    )
    return f'<span class="blocks">{marks}</span>'


EMPTY = FilmView()
EMPTY_STAGE = curtain(EMPTY)
EMPTY_STRIP = strip(EMPTY, "")
EMPTY_SLATE = status(EMPTY)
# playing.js measures these, and says what they are made of
FIRST_PICTURE = f'<div class="timings">{_cell("first picture", "–")}{_cell("on the way", "–")}</div>'
METER = (
    "<details><summary>Where the time goes</summary><dl>"
    '<dt>made at</dt><dd id="work">Frames a second of the latest shot, end to end.</dd>'
    '<dt>first picture</dt><dd id="first">From Enter to the first new picture on this screen.</dd>'
    '<dt>on the way</dt><dd id="way">From the server, encoded, to this browser.</dd></dl></details>'
)

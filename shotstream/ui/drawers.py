"""The drawers below the film, as HTML: its memory, its futures, casting, and what can be taken along.

Pure functions from values to markup, as in `render`, whose buttons these are.
"""

from __future__ import annotations

from html import escape

from shotstream.ui.render import EMPTY, button, picture
from shotstream.views import FilmView, FrameView

POLICIES = {
    "recent": "evenly from all shots; after six, from the latest (as the paper does)",
    "anchor": "like recent, and always a picture of the first shot",
    "retrieval": "from the shots that name who the next prompt names, or are most like it",
}


def futures(view: FilmView, session: str) -> str:
    """The tree of all takes: a column a shot, a row for every film that went another way."""
    if not view.tree:
        return '<p class="hint">Rewind or retake a shot, and both futures stay here.</p>'
    rows = {node.key: node.lane for node in view.tree}
    nodes = []
    for node in view.tree:
        drop = node.lane - rows.get(node.parent, node.lane)
        caption = escape(node.caption)
        state = "on" if node.on_film else "off"
        nodes.append(
            f'<li style="grid-column:{node.number};grid-row:{node.lane + 1};--drop:{drop}" class="{state}">'
            f'<button type="button" data-do="choose take" data-key="{node.key}" title="{caption}" '
            f'aria-label="Shot {node.number}: {caption}" aria-pressed="{str(node.on_film).lower()}">'
            f"{picture(node, session)}</button></li>"
        )
    return f'<ol class="tree" aria-label="All takes">{"".join(nodes)}</ol>'


def memory(view: FilmView, session: str) -> str:
    """The frames that the next shot looks back at, and how they are chosen."""
    if not view.frames:
        return '<p class="hint">After the first shot: the pictures that the next one looks back at.</p>'
    choices = "".join(
        f'<button type="button" class="act" data-do="policy" data-policy="{name}" title="{escape(hint)}" '
        f'aria-pressed="{str(view.policy == name).lower()}">{name}</button>'
        for name, hint in POLICIES.items()
    )
    weigh = button("Hide attention", "attention", on="") if view.weighing else button("Attention", "attention", on="1")
    frames = "".join(_remembered(frame, session) for frame in view.frames)
    unsaid = '<p class="hint">Which of them they are depends on the next prompt: type it.</p>' if view.unsaid else ""
    return f'<p class="policies">{choices}{weigh}</p>{unsaid}<ol class="frames">{frames}</ol>'


def _remembered(frame: FrameView, session: str) -> str:
    where = f"shot {frame.number}, {frame.seconds:.1f} s"
    mark = {"key": frame.key, "frame": frame.offset}
    if frame.dropped:
        acts = button("Take back", "drop", f"Look back at {where} again", **mark, on="")
    else:
        pin = ("Unpin", "") if frame.pinned else ("Pin", "1")
        acts = button(pin[0], "pin", f"{pin[0]} {where}", **mark, on=pin[1])
        acts += button("Drop", "drop", f"Do not look back at {where}", **mark, on="1") if frame.next else ""
    share = ""
    if frame.attention is not None:
        share = f'<meter min="0" max="1" value="{frame.attention:.3f}" title="attention">{frame.attention:.0%}</meter>'
        share = f'<span class="share">{share}{frame.attention:.0%}</span>'
    state = "pinned" if frame.pinned else "" if frame.next else "past"
    return (
        f'<li class="{state}"><img src="frame/{escape(session)}/{frame.key}/{frame.offset}" alt="{where}">'
        f'<p class="number">{frame.number} <span>{frame.seconds:.1f} s</span></p>{share}<p class="acts">{acts}</p></li>'
    )


CAST = (
    '<p class="hint">A picture that the camera already saw: the next shots look back at it. Choose one, paste one, or '
    "take the one that the player shows (pause it where you like).</p>"
    '<div class="cast"><label class="pick">Choose…<input type="file" accept="image/*"></label>'
    '<img class="chosen" alt="" hidden><input type="text" class="who" aria-label="Who or what it is" '
    'placeholder="Who or what is it?"><button type="button" class="act" data-cast="chosen">Cast it</button>'
    '<button type="button" class="act" data-cast="shown">Cast what is on the screen</button></div>'
)
KEPT = {
    "story.json": "Story",
    "captions.vtt": "Captions",
    "storyboard.png": "Storyboard",
    "session.memory": "Session",
}


def keep(session: str | None) -> str:
    """Ways to take the film along, and to open what was kept."""
    links = "".join(
        f'<a class="act" href="keep/{escape(session)}/{name}" download>{label}</a>' if session else ""
        for name, label in KEPT.items()
    )
    return (
        f'<p class="keepsakes">{links}<label class="act pick">Open…<input type="file" id="open" '
        'accept=".json,.memory"></label></p><p class="hint">A story opens as a queue of shots; a session goes on where '
        "it ended, with all its takes, their memory and what waits; their films stay behind, so download those. A shot "
        "that is being made is made there from its start.</p>"
    )


EMPTY_FUTURES = futures(EMPTY, "")
EMPTY_MEMORY = memory(EMPTY, "")

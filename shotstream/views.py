"""What a page may know of a session's film: plain values, taken at one moment.

Text is as it was typed: whoever shows it escapes it. Keys find pictures, see `Director`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from shotstream.context import Pick
from shotstream.crossroads import Crossroads
from shotstream.takes import BEGINNING, Prompt, Take, path_to


@dataclass(frozen=True)
class TakeView:
    """A shot of the film. `others` are the takes that could stand in its place, itself among them, in order."""

    number: int  # from 1
    key: int
    caption: str
    has_still: bool
    seconds: float
    finished: bool = True
    stopped: bool = False
    cast: bool = False
    resumed: bool = False
    dissolve: bool = False
    shown: bool = True  # at least a part of it
    steers: tuple[str, ...] = ()
    others: tuple[int, ...] = ()


@dataclass(frozen=True)
class NodeView:
    """A take in the tree of all films. `lane` is its column: the film that was begun first keeps the first."""

    key: int
    parent: int  # `BEGINNING` for a first shot
    number: int
    lane: int
    caption: str
    has_still: bool
    on_film: bool


@dataclass(frozen=True)
class QueuedView:
    """A prompt that waits. A retake goes on from elsewhere."""

    key: int
    caption: str
    cast: bool = False
    retake: bool = False
    then: str | None = None


@dataclass(frozen=True)
class ChoiceView:
    """A choice that the story leaves, and whether it is the one that the film went on with."""

    name: str
    taken: bool = False


@dataclass(frozen=True)
class FrameView:
    """A frame that the `next` shot looks back at, or the latest one did, or none may. `attention` is the share that it
    got in the latest shot."""

    key: int  # of the take
    offset: int
    number: int
    seconds: float  # inside the shot
    next: bool
    pinned: bool
    dropped: bool
    attention: float | None


@dataclass(frozen=True)
class FilmView:
    """A consistent look at everything. `stage` is "" when nothing is being made, else that of the last `Progress`."""

    takes: tuple[TakeView, ...] = ()
    waiting: tuple[QueuedView, ...] = ()
    tree: tuple[NodeView, ...] = ()
    frames: tuple[FrameView, ...] = ()
    choices: tuple[ChoiceView, ...] = ()
    stage: str = ""
    chunk: int = 0  # being made, from 1; 0 before the first
    num_chunks: int = 0  # of the shot being made; 0 until known
    place: int = 0  # how many shots of others come before the one that waits for its turn
    wait: int | None = None  # seconds until that turn, as far as is known
    fps: float | None = None  # frames a second of the latest shot, from the end of waiting to its last encoded frame
    first_chunk: float | None = None  # seconds from the end of waiting to the first encoded chunk, in the latest shot
    seconds: dict[str, float] = field(default_factory=dict, hash=False)  # of the latest shot, by part of the work
    message: str | None = None  # one sentence about what went wrong last
    held: bool = False  # the queue waits for somebody to try again
    broken: bool = False  # the last shot does, too
    rolls_on: bool = False  # the last shot will, by itself
    told: str = ""  # what the segment was told that was shown last
    playing: bool = False  # there is a shot that a cut would end
    policy: str = "recent"
    unsaid: bool = False  # which frames the next shot looks back at is for its prompt to say
    weighing: bool = False  # attention
    branched: bool = False  # the tree is more than one film
    size: tuple[int, int] | None = None  # width, height of the pictures; None the model's own


def take_views(film: Sequence[Take], takes: Sequence[Take], making: Take | None) -> tuple[TakeView, ...]:
    """The shots of `film`, with the retakes of each among all `takes`."""
    others: dict[int, list[int]] = {}
    for take in takes:
        others.setdefault(_parent_key(take), []).append(take.key)
    return tuple(
        TakeView(
            number=number,
            key=take.key,
            caption=take.prompt.caption,
            has_still=bool(take.still),
            seconds=take.seconds,
            finished=take is not making,
            stopped=take.stopped,
            cast=take.prompt.picture is not None,
            resumed=take.resumed,
            dissolve=take.prompt.dissolve,
            steers=tuple(steer.caption for steer in take.steers),
            others=tuple(others[_parent_key(take)]),
            shown=any(piece.shown for piece in take.footage),
        )
        for number, take in enumerate(film, start=1)
    )


def tree_views(takes: Sequence[Take], head: Take | None) -> tuple[NodeView, ...]:
    """All takes as a tree, children below their parents, each further child in a lane of its own."""
    on_film = {take.key for take in path_to(head)}
    lanes: dict[int, int] = {}
    begun: set[int] = set()
    nodes = []
    num_lanes = 0
    for take in takes:  # in the order of their making: parents come first
        parent = _parent_key(take)
        lane = num_lanes if parent in begun else lanes.get(parent, 0)
        begun.add(parent)
        lanes[take.key] = lane
        num_lanes = max(num_lanes, lane + 1)
        nodes.append(
            NodeView(
                key=take.key,
                parent=parent,
                number=len(path_to(take)),
                lane=lane,
                caption=take.prompt.caption,
                has_still=bool(take.still),
                on_film=take.key in on_film,
            )
        )
    return tuple(nodes)


def queued_views(waiting: Sequence[Prompt]) -> tuple[QueuedView, ...]:
    return tuple(
        QueuedView(prompt.key, prompt.caption, prompt.picture is not None, prompt.after is not None, prompt.then)
        for prompt in waiting
    )


def choice_views(roads: Crossroads | None, shots: Collection[int]) -> tuple[ChoiceView, ...]:
    """`shots` are the keys of the film's takes and of what waits behind them."""
    if roads is None:
        return ()
    pairs = zip(roads.choices, roads.taken, strict=True)
    return tuple(ChoiceView(choice.name, any(key in shots for key in taken)) for choice, taken in pairs)


def _parent_key(take: Take) -> int:
    return BEGINNING if take.parent is None else take.parent.key


def frame_views(
    film: Sequence[Take], picks: Sequence[Pick], pinned: Collection[Pick], dropped: Collection[Pick], fps: int
) -> tuple[FrameView, ...]:
    """The frames of `film` that matter now: those that its next shot looks back at (`picks` by closed take), those that
    the latest one did, if it told, and those that were `dropped`; marks are by key."""
    closed = [take for take in film if take.memory]
    coming = {(closed[shot].key, frame) for shot, frame in picks}
    looked: dict[Pick, float] = {}
    latest = closed[-1]
    if latest.attention and latest.picks:
        for (shot, frame), share in zip(latest.picks, latest.attention, strict=True):
            looked[closed[shot].key, frame] = looked.get((closed[shot].key, frame), 0.0) + share
    views = []
    for number, take in enumerate(film, start=1):
        for frame in take.memory.shots[-1].offsets if take.memory else ():
            mark = take.key, frame
            if mark in coming or mark in dropped or mark in looked:
                views.append(
                    FrameView(
                        key=take.key,
                        offset=frame,
                        number=number,
                        seconds=frame / fps,
                        next=mark in coming,
                        pinned=mark in pinned,
                        dropped=mark in dropped,
                        attention=looked.get(mark),
                    )
                )
    return tuple(views)

"""What a session's films consist of: prompts that wait, and takes that grow into a tree.

A `Prompt` becomes a `Take` whose parent is the take that it goes on from; the film is the way from the first take to
the newest. A second take of the same parent is a retake, or another future. Plain values; who changes them is the
director's business. What a page may know of them is in `views`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from shotstream.context import Pick
from shotstream.memory import Memory
from shotstream.note import Steer

BEGINNING = 0  # the key of no take: where a film begins


@dataclass(frozen=True, eq=False)
class Prompt:
    """What was asked for. `key` is its own among all of the session, and that of the take that it becomes.

    `num_chunks` None is the model's usual length. With `dissolve` the shot fades in from the picture before it. With a
    `picture` [H, W, 3] uint8 nothing is shot: the film is as if the camera had seen it. `after` is the take to go on
    from, None wherever the film is by then. `then` is what the shot is told half-way, if it is.
    """

    key: int
    global_caption: str
    caption: str
    num_chunks: int | None = None
    dissolve: bool = False
    picture: np.ndarray | None = None
    after: int | None = None
    then: str | None = None


@dataclass
class Piece:
    """A segment on disk, and beside it what a shot is continued from; `duration` in seconds."""

    path: Path
    source: Path
    duration: float
    num_frames: int
    shown: bool = False


@dataclass(eq=False)
class Take:
    """One shot: being made, or made, with a piece of footage for every chunk so far; none for a picture that was cast,
    or in a session that was `resumed`.

    `wanted` is how many chunks it is to have, None until the engine has said how many are usual. `steers` may be yet to
    come. `memory` is the film's memory after it, None until it is closed; it is `lost` if that went wrong.
    """

    prompt: Prompt
    parent: Take | None
    seed: int
    picks: tuple[Pick, ...] | None = None
    footage: list[Piece] = field(default_factory=list)
    steers: list[Steer] = field(default_factory=list)
    wanted: int | None = None
    still: bytes = b""  # PNG
    memory: Memory | None = None
    attention: tuple[float, ...] | None = None  # that `picks` got; empty if that cannot be told
    stopped: bool = False  # it is shorter than was asked for
    ended: bool = False  # it does not roll on by itself
    lost: bool = False
    broken: int | None = None  # the length it was to have, if its making broke off and may be gone on with
    resumed: bool = False

    @property
    def key(self) -> int:
        return self.prompt.key

    @property
    def num_chunks(self) -> int:
        return len(self.footage)

    @property
    def num_frames(self) -> int:
        return sum(piece.num_frames for piece in self.footage)

    @property
    def seconds(self) -> float:
        return sum(piece.duration for piece in self.footage)

    @property
    def unfinished(self) -> bool:
        """Are there chunks to be made yet?"""
        filmed = self.prompt.picture is None and not self.resumed
        return filmed and (self.wanted is None or self.wanted > self.num_chunks)

    def caption_at(self, chunk: int) -> str:
        """What the shot is told for a chunk, without the story."""
        told = [steer.caption for steer in self.steers if steer.chunk <= chunk]
        return told[-1] if told else self.prompt.caption

    @property
    def steered(self) -> tuple[Steer, ...]:
        """The steers of the chunks that there are."""
        return tuple(steer for steer in self.steers if steer.chunk < self.num_chunks)

    @property
    def memory_before(self) -> Memory:
        """What the film remembers when the take begins."""
        return remembered(self.parent)


def path_to(take: Take | None) -> list[Take]:
    """The film that ends with `take`, in order."""
    film = []
    while take is not None:
        film.append(take)
        take = take.parent
    return film[::-1]


def remembered(take: Take | None) -> Memory:
    """What the film that ends with `take` remembers: that of the last closed take."""
    while take is not None and take.memory is None:
        take = take.parent
    return take.memory if take else Memory()


def newest_future(take: Take, takes: Iterable[Take]) -> Take:
    """The end of the film that went on from `take` last."""
    children: dict[int, Take] = {t.parent.key: t for t in takes if t.parent is not None}  # later ones win
    while take.key in children:
        take = children[take.key]
    return take

"""Where a story leaves a choice, and which of its ways were gone.

Owns the rules of that, by the keys of shots. Knows neither films nor queues: who goes a way is the director.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from shotstream.story import Choice


@dataclass(frozen=True)
class Crossroads:
    """The choices after a story's last shot.

    `ends` are the keys of that shot and of all retakes of it, `taken` those of the shots that each choice became when
    it was gone last; none if it never was.
    """

    global_caption: str
    ends: tuple[int, ...]
    choices: tuple[Choice, ...]
    taken: tuple[tuple[int, ...], ...]

    @classmethod
    def after(cls, last: int, global_caption: str, choices: tuple[Choice, ...]) -> Crossroads | None:
        """Those of a story whose last shot has the key `last`; None if it leaves no choice."""
        return cls(global_caption, (last,), choices, ((),) * len(choices)) if choices else None

    def retaken(self, key: int, again: int) -> Crossroads:
        """After shot `key` was retaken as `again`."""
        return replace(self, ends=(*self.ends, again)) if key in self.ends else self

    def gone(self, number: int, keys: Collection[int]) -> Crossroads:
        """After choice `number` became the shots with these keys."""
        return replace(self, taken=(*self.taken[:number], tuple(keys), *self.taken[number + 1 :]))

    def newest_end(self, keys: Collection[int]) -> int | None:
        """The newest of the story's ends among `keys`, None if none is."""
        return max((end for end in self.ends if end in keys), default=None)

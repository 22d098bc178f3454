"""What is known of a visitor's daily GPU time, where that is limited: what was asked for, and what a refusal told.

Owns the sums and the sentence. Hugging Face tells what is left only when it refuses; it counts by address for those who
are not logged in, and so is counted here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

A_DAY = 24 * 60 * 60  # seconds, from the first use on
WITHOUT_ACCOUNT = 120  # seconds a day, by Hugging Face's documentation; accounts have more
MOST_VISITORS = 10_000


@dataclass
class Allowance:
    """Of one visitor: seconds `asked` for in a day, by `clock`, and how many are `left` of it, if that was told."""

    clock: Callable[[], float] = time.monotonic
    asked: int = 0
    left: int | None = None
    _since: float = field(default=0.0, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def ask(self, seconds: int) -> None:
        """A card was given for so many seconds."""
        with self._lock:
            self._begin()
            self.asked += seconds
            self.left = None if self.left is None else max(0, self.left - seconds)

    def refuse(self, left: int) -> None:
        """None was given, as no more than so many seconds are left."""
        with self._lock:
            self._begin()
            self.left = max(0, left)

    @property
    def sentence(self) -> str:
        """What a visitor should know; nothing where nothing is counted."""
        if not self._is_today:
            return ""
        if self.left is not None:
            return f"GPU time: about {self.left} s of yours are left today, by what Hugging Face said last."
        return (
            f"GPU time asked for from your address today: {self.asked} s. Hugging Face gives {WITHOUT_ACCOUNT} s a day "
            "without an account, and more with one."
        )

    @property
    def _is_today(self) -> bool:
        counted = self.asked > 0 or self.left is not None
        return counted and self.clock() - self._since < A_DAY

    def _begin(self) -> None:
        if not self._is_today:
            self.asked, self.left, self._since = 0, None, self.clock()


class Allowances:
    """Those of a page's visitors, by their addresses: whoever reloads a page has asked for what they asked for."""

    def __init__(self) -> None:
        self._known: dict[str, Allowance] = {}

    def of(self, visitor: str) -> Allowance:
        """May be called under a lock of the caller's. Without a name it is a new one."""
        if not visitor:
            return Allowance()
        allowance = self._known.pop(visitor, None) or Allowance()
        self._known[visitor] = allowance
        if len(self._known) > MOST_VISITORS:
            del self._known[next(iter(self._known))]
        return allowance

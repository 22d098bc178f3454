"""How long something takes as a rule, learned from each time that it did, and in what numbers that is told."""

from __future__ import annotations

import math

WEIGHT = 0.3  # of the latest time, among all that are remembered


def averaged(usual: float | None, latest: float) -> float:
    """A moving average with one more value; None is one of nothing."""
    return latest if usual is None else usual + WEIGHT * (latest - usual)


def rounded(seconds: float) -> int:
    """Whole seconds, and beyond ten of them steps of five: what is told of a wait should not flicker."""
    return math.ceil(seconds) if seconds <= 10 else 5 * math.ceil(seconds / 5)

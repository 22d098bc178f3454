"""A figure with its standard error, over stories.

Shots of one story share a character, a place and a memory: they succeed or fail together. So a story's shots are
averaged first, and the error is that of the mean of independent stories. Knows not what is being measured.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean, stdev


@dataclass(frozen=True)
class Estimate:
    """`value` is the mean of `stories` story means (of speed: rounds); `error` its standard error, None for one."""

    value: float
    error: float | None
    stories: int

    def __str__(self) -> str:
        return f"{self.value:.3f}" + ("" if self.error is None else f" ±{self.error:.3f}")


def over_stories(means: Iterable[float | None]) -> Estimate | None:
    """The mean of story means and its standard error, sd / sqrt(stories). A story that offered nothing to measure is
    None and counts for nothing; None if no story did."""
    found = [float(mean) for mean in means if mean is not None]
    if not found:
        return None
    return Estimate(fmean(found), stdev(found) / len(found) ** 0.5 if len(found) > 1 else None, len(found))

"""Seconds per stage of a shot, without making a GPU wait.

Owns the clock. Knows no stage by name.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Seconds per stage. On a CUDA device they are the device's own, taken from events in its streams; elsewhere a
    stage is waited for, so that it is charged with its own work. Stages may be timed from several threads."""

    def __init__(self, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> None:
        self._device, self._clock = device, clock
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        if self._device.type == "cuda":
            begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begun.record()
            yield
            ended.record()
            self._events.append((stage, begun, ended))
            return
        started = self._clock()
        yield
        if self._device.type != "cpu":
            torch.accelerator.synchronize(self._device)
        self._seconds[stage] += self._clock() - started

    def seconds(self) -> dict[str, float]:
        """What was timed so far; waits for the device to have done it."""
        events, self._events = self._events, []
        for stage, begun, ended in events:
            ended.synchronize()
            self._seconds[stage] += begun.elapsed_time(ended) / 1000
        return dict(self._seconds)

"""How fast a shot came, whatever it had to wait for."""

from __future__ import annotations

import time

import pytest

from shotstream.progress import Timing


def test_waiting_for_a_turn_is_not_counted_before_a_shot_and_neither_in_its_middle(monkeypatch: pytest.MonkeyPatch):
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    timing = Timing()
    assert timing.fps is None
    for wait in (5.0, 20.0):  # as a shot that is told something else half-way waits twice
        now += wait
        timing.waited()
        for _ in range(2):
            now += 0.5
            timing.chunk_encoded(12, encoding=0.1)
    assert timing.fps == pytest.approx(24) and timing.first_chunk == pytest.approx(0.5)
    assert timing.seconds == pytest.approx({"encode": 0.4})

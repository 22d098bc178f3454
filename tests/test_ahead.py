"""An iterator that runs ahead: the same items, so far ahead and no further, and gone when it is left."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import torch

from shotstream.ahead import Overlap, run_ahead, what_pays
from shotstream.arguments import leave_a_core
from shotstream.cores import usable_cores


def numbers(count: int, made: list[int] | None = None, ended: threading.Event | None = None):
    try:
        for number in range(count):
            if made is not None:
                made.append(number)
            yield number
    finally:
        if ended:
            ended.set()


def test_all_items_in_their_order():
    assert list(run_ahead(numbers(100), lambda _: True)) == list(range(100))
    assert list(run_ahead(numbers(0), lambda _: True)) == []


@pytest.mark.parametrize("room", [1, 3])
def test_only_so_many_heavy_items_wait(room):
    made: list[int] = []
    for item in run_ahead(numbers(20, made), lambda _: True, room):
        assert len(made) <= item + 1 + room


def test_it_does_run_ahead():
    other = threading.Event()

    def items():
        yield 1
        other.set()
        yield 2

    ahead = run_ahead(items(), lambda _: True)
    assert next(ahead) == 1
    assert other.wait(30)  # nobody asked for the second
    ahead.close()


def test_what_goes_wrong_is_told_in_its_place():
    def items():
        yield 1
        raise KeyError("two")

    ahead = run_ahead(items(), lambda _: False)
    assert next(ahead) == 1
    with pytest.raises(KeyError, match="two"):
        next(ahead)


def test_left_alone_it_ends():
    made, ended = [], threading.Event()
    ahead = run_ahead(numbers(10**9, made, ended), lambda _: True)
    next(ahead)
    ahead.close()
    assert ended.is_set() and len(made) <= 3


def test_it_computes_with_the_callers_number_of_threads():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)

        def items():
            yield torch.get_num_threads()

        assert list(run_ahead(items(), lambda _: False)) == [1]
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be bound to cores here")
def test_only_cores_that_this_process_may_use_count(monkeypatch: pytest.MonkeyPatch):
    cores, threads = os.sched_getaffinity(0), torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)  # of the machine
    try:
        os.sched_setaffinity(0, {min(cores)})
        leave_a_core()
        assert usable_cores() == torch.get_num_threads() == 1 and what_pays(torch.device("cpu")) is Overlap.NOTHING
    finally:
        os.sched_setaffinity(0, cores)
        torch.set_num_threads(threads)


@pytest.mark.parametrize(("quota", "share"), [("50000 100000", 1), ("150000 100000", 1), ("max 100000", None)])
def test_a_container_has_its_share_of_the_cores(tmp_path: Path, quota: str, share: int | None):
    (tmp_path / "cpu.max").write_text(quota + "\n")
    every = usable_cores(tmp_path / "no limit")
    assert usable_cores(tmp_path / "cpu.max") == (share or every)

"""An iterator that runs ahead: the same items, so far ahead and no further, and gone when it is left."""

from __future__ import annotations

import threading

import pytest
import torch

from shotstream.ahead import run_ahead


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

"""What many processes make shots with, in one process: the line before them, a replica, what is known of its model."""

from __future__ import annotations

import asyncio
import pickle
from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import pytest
import torch

from shotstream.arguments import add_model_arguments
from shotstream.backends.line import Line
from shotstream.backends.replica import Refusal, Replica
from shotstream.engine import Engine
from shotstream.events import Chunk, Progress, ShotDone, ShotRequest
from shotstream.models.facts import facts_of
from shotstream.models.model import Model
from shotstream.prompting import advice_on

REQUEST = ShotRequest("A red ball jumps.", seed=3, num_chunks=2)


@pytest.fixture(scope="module")
def replica(random_model_folder: Path) -> Replica:
    parser = ArgumentParser()
    add_model_arguments(parser)
    options = ["--model", str(random_model_folder), "--device", "cpu", "--attention", "native"]
    return Replica(parser.parse_args(options))


def test_turns_ask_in_order_and_what_is_urgent_before_all_that_have_not_asked():
    line = Line()
    line.servers = 2
    first, second, third = line.next(), line.next(), line.next()
    assert [turn.is_next() for turn in (first, second, third)] == [True, False, False]
    first.handed_over()
    assert [turn.is_next() for turn in (first, second, third)] == [False, True, False]
    urgent = line.next(urgent=True)
    assert urgent.is_next() and [turn.place for turn in (first, urgent, second, third)] == [1, 2, 3, 4]
    urgent.handed_over()
    assert not second.is_next()  # there are two servers
    urgent.turned_away()
    assert urgent.is_next() and not second.is_next()
    first.served()
    assert first.place == 0 and urgent.place == 1
    with second:
        pass  # gives up
    assert [turn.place for turn in (urgent, third)] == [1, 2] and len(line) == 2


def test_the_wait_is_that_of_all_servers_together():
    now = 0.0
    line = Line(lambda: now)
    shot, closing, *waiting = line.next(), line.next(urgent=True), *(line.next() for _ in range(4))
    line.servers = 2
    shot.served(), closing.served()
    now = 0.1
    closing.done()
    assert waiting[3].seconds is None  # nobody can know: what is urgent is done in a moment
    now = 3.0
    shot.done()
    assert [turn.seconds for turn in waiting] == [2, 3, 5, 6]


def test_a_replica_makes_the_shots_of_an_engine_and_sends_values(replica: Replica, random_model: Model):
    async def shoot() -> list:
        return [pickle.loads(pickle.dumps(event)) async for event in replica.shoot(REQUEST)]

    events, expected = asyncio.run(shoot()), list(Engine(random_model).shoot(REQUEST))
    assert [type(event) for event in events] == [type(event) for event in expected]
    for there, here in zip(events, expected, strict=True):
        if isinstance(here, Chunk):
            assert np.array_equal(there.frames, here.frames) and torch.equal(there.latents, here.latents)
    assert isinstance(events[-1], ShotDone) and not events[-1].memory.shots
    assert torch.equal(events[-1].shot.latents, expected[-1].shot.latents)


def test_a_cancelled_shot_ends_after_the_running_step_and_leaves_the_replica_free(replica: Replica):
    async def cancel() -> tuple[int, list]:
        seen = []

        async def watch() -> None:
            async for event in replica.shoot(ShotRequest("A red ball jumps.", num_chunks=80)):
                seen.append(event)

        task = asyncio.create_task(watch())
        while not any(isinstance(event, Chunk) for event in seen):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        return len(seen), [event async for event in replica.shoot(REQUEST)]

    made, later = asyncio.run(cancel())
    assert made < 20 and isinstance(later[-1], ShotDone)


def test_a_shot_that_is_closed_between_two_events_has_left_the_replica_by_then(replica: Replica):
    cache = replica._engine._idle

    async def close() -> None:
        shot = replica.shoot(ShotRequest("A red ball jumps.", num_chunks=80))
        await anext(shot)
        assert replica._engine._idle is None
        await shot.aclose()
        assert replica._engine._idle is cache

    asyncio.run(close())


def test_what_is_wrong_with_a_request_is_sent_as_a_sentence(replica: Replica):
    async def ask() -> tuple[list, list]:
        blank = [answer async for answer in replica.shoot(ShotRequest(" "))]
        return blank, [answer async for answer in replica.cast(np.zeros((12, 12, 3), np.uint8), "A ball.")]

    blank, odd = asyncio.run(ask())
    assert blank == [Refusal("The caption is blank: describe what is to be seen.")]
    assert isinstance(odd[0], Refusal) and "multiple of" in odd[0].sentence
    assert not any(isinstance(answer, Progress) for answer in blank)


def test_a_model_is_known_where_it_is_not(replica: Replica, random_model: Model):
    facts = pickle.loads(pickle.dumps(asyncio.run(replica.facts())))
    for name in ("name", "width", "height", "fps", "max_chunks", "default_chunks", "guidance", "shapes", "prompting"):
        assert getattr(facts, name) == getattr(random_model, name)
    assert facts.device == "cpu" and facts.text.count_tokens("A red ball.") == random_model.text.count_tokens(
        "A red ball."
    )
    prompt = "A zyxwv ball" * 300
    assert advice_on(prompt, facts.text) == advice_on(prompt, random_model.text) != ""
    pickle.dumps(facts_of(random_model))

"""Shots on ZeroGPU: the real fork, pickle and cancel code of `spaces`, against a stand-in for its scheduler.

The scenes are one program (`zero_scenes`), run once; and what it is made of.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
import torch

from shotstream.backends.gpu_time import BEGINNING, MOST, Course, GpuTime, LostWorker, told
from shotstream.backends.wire import pack, unpack
from shotstream.engine import Engine
from shotstream.errors import UserError
from shotstream.events import Chunk, Progress, ShotRequest
from shotstream.models.model import Model

SCENES = ["equal", "cancel", "cancel_while_waiting", "wrong_request", "quota", "time_out", "killed"]
FOLDER = Path(__file__).parent


def play(told: Path, names: list[str], **environment: str) -> dict[str, dict]:
    """What was told of each scene."""
    environment |= {"PYTHONPATH": str(FOLDER.parent), "OMP_NUM_THREADS": "1", "GRADIO_ANALYTICS_ENABLED": "0"}
    program = subprocess.run(
        [sys.executable, str(FOLDER / "zero_scenes.py"), str(told), *names],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=580,
    )
    written = [json.loads(line) for line in told.read_text().splitlines()] if told.exists() else []
    assert [scene["name"] for scene in written] == names, program.stdout[-2000:] + program.stderr[-4000:]
    return {scene["name"]: scene for scene in written}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    return play(tmp_path_factory.mktemp("zero") / "scenes", SCENES)


def one_sentence(text: str) -> bool:
    return text.endswith(".") and text.count(". ") == 0 and "Traceback" not in text


def test_a_shot_is_the_one_that_is_made_in_process(scenes: dict[str, dict]):
    scene = scenes["equal"]
    assert scene["frames apart"] == [0, 0, 0]
    assert scene["latents apart"] == scene["cast apart"] == scene["attention apart"] == 0
    assert scene["on the cpu"] and scene["reports"] == 1


def test_every_worker_chooses_its_attention_once_where_the_card_is(scenes: dict[str, dict]):
    scene = scenes["equal"]
    assert len(scene["attention"]) == scene["workers"] < 3  # calls
    assert all(line.endswith('attention="native: torch\'s own for cpu"') for line in scene["attention"])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_blocks_compiled_ahead_of_time_make_the_same_shots(tmp_path: Path):
    """A real compilation by `spaces` in a real worker; that it is used, is seen by the last digits."""
    told = play(tmp_path / "scenes", ["compiled"], SHOTSTREAM_AOT="1")["compiled"]
    assert told["compiled"] == "Either" and all(0 < apart < 1e-3 for apart in told["apart"]), told


def test_a_call_asks_for_the_length_of_its_shot_in_the_name_of_the_visitor(scenes: dict[str, dict]):
    first, second, cast = scenes["equal"]["durations"]
    assert first > cast and second > cast == BEGINNING
    assert scenes["equal"]["asked"] == [second]  # what the page can tell the visitor
    assert scenes["equal"]["tokens"][0] == scenes["equal"]["tokens"][1] != scenes["equal"]["tokens"][2] is None


def test_there_is_a_sign_of_life_a_step_and_a_shot_is_cancelled_by_the_next(scenes: dict[str, dict]):
    assert scenes["equal"]["steps"] >= 3 * 4
    assert scenes["cancel"]["closed"] < 0.2 and scenes["cancel"]["stopped"] < 2
    assert scenes["cancel"]["afterwards"] == "ShotDone"


def test_whoever_waits_for_a_gpu_can_leave_at_once_and_the_gpu_goes_back(scenes: dict[str, dict]):
    scene = scenes["cancel_while_waiting"]
    assert set(scene["stages"]) == {"turn"} and scene["closed"] < 0.2
    assert 0.5 < scene["given back"] < 15  # when it came


def test_nobodys_gpu_time_is_spent_on_what_cannot_be_made(scenes: dict[str, dict]):
    assert "blank" in scenes["wrong_request"]["told"] and scenes["wrong_request"]["asked"] == 0


def test_a_refusal_keeps_film_and_prompt(scenes: dict[str, dict]):
    refused, retried = scenes["quota"]["refused"], scenes["quota"]["retried"]
    assert "7 s of yours are left today (more in 1:00:00)" in refused["message"] and one_sentence(refused["message"])
    assert refused["takes"] == ["It jumps."] and refused["waiting"] == ["It sleeps."] and refused["held"]
    assert retried["takes"] == ["It jumps.", "It sleeps."] and retried["message"] is None
    assert retried["remembered"] == 2
    assert refused["left"] == 7  # as the page then tells


def test_running_out_of_time_costs_the_rest_of_the_shot(scenes: dict[str, dict]):
    cut, closed = scenes["time_out"]["cut off"], scenes["time_out"]["closed"]
    assert "longer than the 1 s" in cut["message"] and one_sentence(cut["message"])
    assert cut["takes"] == ["It jumps.", "It sleeps."] and cut["held"] and cut["chunks"][0] == 3
    assert closed["remembered"] == 2 and closed["chunks"] == cut["chunks"]


def test_a_lost_worker_costs_one_shot_which_goes_on_with_the_same_seed(scenes: dict[str, dict]):
    lost, retried = scenes["killed"]["lost"], scenes["killed"]["retried"]
    assert "GPU was lost" in lost["message"] and one_sentence(lost["message"])
    assert lost["chunks"][0] == 3 and 0 < lost["chunks"][1] < 12 and lost["remembered"] == 1
    assert retried["chunks"] == [3, 12] and retried["remembered"] == 2 and retried["message"] is None
    assert len(set(scenes["killed"]["seeds"])) == 1
    assert scenes["killed"]["apart"] < 1e-4


def test_values_travel_whole_and_without_what_they_were_cut_from():
    large = torch.randn(1000, 48, 4, 4)
    for prefix in (large[3:9].to(torch.bfloat16), large[3:9], large[3:9].transpose(2, 3), torch.tensor(2.0), large[:0]):
        sent = pack(ShotRequest("A ball.", prefix=prefix))
        got = unpack(sent).prefix
        assert got.dtype == prefix.dtype and got.shape == prefix.shape and got.equal(prefix)
        assert len(sent) < 40_000
        got += 1  # and is its receiver's own
    assert str(unpack(pack(UserError("No.")))) == "No."


@pytest.mark.parametrize("foreign", [os.system, eval, Path("/etc"), pack])
def test_nothing_but_values_is_unpacked(foreign: object):
    with pytest.raises(pickle.UnpicklingError, match="no value of a request"):
        unpack(pickle.dumps(foreign))


def course(chunks: int, before: int = 0, seconds: float = 0.0, again: float = 0.0, size: float = 1.0) -> Course:
    """Of a call whose chunks took as many seconds."""
    course, now = Course(chunks, before, size), 100.0
    course.note(Progress("context", 0, 0), now)
    for index in range(before + 1 if before else 0):
        now += again * before / (before + 1)
        course.note(Progress("context", index, 0), now)
    for index in range(chunks):
        course.note(Progress("denoise", before + index, 0), now + seconds / 2)
        now += seconds
        course.note(Chunk(before + index, before + chunks, np.zeros(1), torch.zeros(1)), now)
    course.note(Progress("remember", before, 0), now + 5)  # what was shown was a preview
    return course


def test_time_is_asked_for_as_shots_take_it():
    time = GpuTime()
    short, long = time.seconds(Course(1)), time.seconds(Course(7))
    assert BEGINNING < short < long and time.seconds(Course(7, size=2)) > long
    for _ in range(20):
        time.learn(course(3, seconds=0.3))
        time.learn(Course(3))  # nothing was made: nothing is learned
    assert BEGINNING < time.seconds(Course(7)) < long
    before = time.seconds(Course(7))
    aborted = gr.Error("GPU task aborted", title="ZeroGPU worker error")
    time.lose(Course(7), aborted, asked=10, elapsed=1.0)
    assert time.seconds(Course(7)) == before  # it was killed for something else
    time.lose(Course(7), LostWorker(), asked=10, elapsed=9.0)
    assert time.seconds(Course(7)) > before
    for _ in range(20):
        time.lose(Course(7), LostWorker(), asked=10, elapsed=9.0)
    assert time.seconds(Course(7)) == BEGINNING + 1.5 * 7 * MOST  # and no more


def test_what_a_shot_goes_on_from_is_counted_apart():
    time = GpuTime()
    new, on = time.seconds(Course(2)), time.seconds(Course(2, 40))
    assert new < on < time.seconds(Course(42))
    for _ in range(20):
        time.learn(course(2, 40, seconds=1.0, again=0.5))
    assert time.seconds(Course(2)) == new and time.seconds(Course(2, 40)) > on
    on = time.seconds(Course(2, 40))
    time.lose(Course(2, 40), LostWorker(), asked=10, elapsed=9.0)  # it never came to anything new
    time.lose(course(2, 40, seconds=0.9), LostWorker(), asked=10, elapsed=9.0)  # what was new went well
    assert time.seconds(Course(2)) == new and time.seconds(Course(2, 40)) > on
    time.lose(course(2, 40, seconds=3.0), LostWorker(), asked=10, elapsed=9.0)
    assert time.seconds(Course(2)) > new


def test_only_a_worker_that_has_nothing_tells_what_it_costs_to_go_on(random_model: Model):
    first = ShotRequest("A ball.", seed=3, num_chunks=2)
    warm = Engine(random_model)
    prefix = torch.cat([event.latents for event in warm.shoot(first) if isinstance(event, Chunk)])
    on, closed = replace(first, prefix=prefix, num_chunks=3), replace(first, prefix=prefix)

    def measured(engine: Engine, request: ShotRequest) -> Course:
        course = Course(request.num_chunks - 2, 2)
        for now, event in enumerate(engine.shoot(request), 1):
            course.note(event, now)
        return course

    for request in (on, closed):
        assert measured(Engine(random_model), request).again
    assert measured(warm, closed).again is None
    steered = measured(warm, replace(on, caption="A cube."))  # its pixels are there, its cache is not
    assert steered.again is None and steered.chunk == len(random_model.schedule.steps) + 1


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (gr.Error("Space app has reached its GPU limit. Try re-running", title="ZeroGPU quota exceeded"), "log in"),
        (gr.Error("You have exceeded your ZeroGPU runs limit. ", title="ZeroGPU quota exceeded"), "number of GPU runs"),
        (gr.Error("No GPU was available after 60s. Try", title="ZeroGPU quota exceeded"), "within a minute"),
        (gr.Error("No GPU was available after 60s", title="ZeroGPU queue timeout"), "within a minute"),
        (gr.Error("No GPU was available", title="ZeroGPU client error"), "within a minute"),
        (gr.Error("Expired ZeroGPU proxy token", title="ZeroGPU client error"), "half a minute"),
        (gr.Error("The requested GPU duration (99s) is larger", title="ZeroGPU illegal duration"), "shorter"),
        (gr.Error("You have too many", title="ZeroGPU pending credits exceeded"), "at once"),
        (gr.Error("KeyError", title="ZeroGPU worker error"), "KeyError"),
        (ConnectionError("secret address"), "ConnectionError"),
    ],
)
def test_every_refusal_is_one_plain_sentence(error: Exception, words: str):
    text = told(error, 20, 1.0)
    assert words in text and one_sentence(text) and "kept" in text and "secret" not in text

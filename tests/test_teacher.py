"""The bidirectional teacher as a user meets it: whole shots, slow and best, through the same engine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from shotstream.__main__ import main
from shotstream.context import look_back
from shotstream.engine import Engine
from shotstream.errors import UserError
from shotstream.events import Chunk, Progress, ShotDone, ShotRequest
from shotstream.memory import Memory
from shotstream.models.folder import save_model
from shotstream.models.model import Model
from shotstream.models.weights import load_model
from shotstream.sampler import Guidance, seeded_noise

CAPTIONS = ("a fox in the snow shot0:it runs", "a fox in the snow shot1:close shot")
GUIDANCE = Guidance(steps=5, scale=2.0)


@pytest.fixture(scope="module")
def folder(random_model_folder, random_model, tmp_path_factory) -> Path:
    """A model folder with a teacher in it."""
    folder = tmp_path_factory.mktemp("taught") / "model"
    shutil.copytree(random_model_folder, folder)
    save_model(
        folder / "teacher",
        name="a teacher",
        transformer=random_model.transformer,
        schedule=random_model.schedule,
        height=random_model.height,
        width=random_model.width,
        guidance=GUIDANCE,
        vae=random_model.vae,
        text_encoder=random_model.text.encoder,
        tokenizer=random_model.text.tokenizer,
    )
    return folder


@pytest.fixture(scope="module")
def teacher(folder) -> Model:
    return load_model(folder, quality="teacher")


def plain_teacher(model: Model, memory: Memory, caption: str, chunks: int, seed: int) -> torch.Tensor:
    """Latents [3 chunks, C, h, w] by the rule as it is written (spec section 7), a number at a time where it can be."""
    frames, schedule = 3 * chunks, model.schedule
    draw = seeded_noise(seed)
    x = torch.cat([draw(chunk, 0, (3, 16, 8, 12)) for chunk in range(chunks)])
    captions = [*(shot.caption for shot in memory.shots), caption]
    picks = look_back(memory.shots) if memory.shots else ((0, 0),) * 6
    context = memory.latents_at(picks) if memory.shots else torch.zeros(6, 16, 8, 12)
    shots = [shot for shot, _ in picks]
    own = max(len(memory.shots), 1)
    told = torch.stack([model.text.encode(text) for text in captions])
    s = [1 - step / GUIDANCE.steps for step in range(GUIDANCE.steps + 1)]
    sigmas = [schedule.shift * v / (1 + (schedule.shift - 1) * v) for v in s]
    for sigma, after in zip(sigmas, sigmas[1:], strict=False):
        flows = []
        for embeds in (told, torch.zeros_like(told)):
            out = model.transformer(
                torch.cat([context, x])[None],
                torch.full((1, 6 + frames), 1000 * sigma),
                embeds[None],
                torch.tensor([[*shots, *[len(memory.shots)] * frames]]),
                torch.arange(6 + frames),
                torch.tensor([*shots, *[own] * frames]),
            )
            flows.append(out[0, 6:])
        flow = flows[1] + GUIDANCE.scale * (flows[0] - flows[1])
        x = x + (after - sigma) * flow
    return x


@torch.no_grad()
def test_whole_shots_by_the_teacher_s_rule(teacher):
    engine, memory = Engine(teacher), Memory()
    for index, caption in enumerate(CAPTIONS):
        events = list(engine.shoot(ShotRequest(caption, memory, 7 + index, 2)))
        chunks = [event for event in events if isinstance(event, Chunk)]
        assert [chunk.frames.shape[0] for chunk in chunks] == [9, 12]
        assert sum(isinstance(e, Progress) and e.stage == "denoise" for e in events) == GUIDANCE.steps
        expected = plain_teacher(teacher, memory, caption, 2, 7 + index)
        torch.testing.assert_close(torch.cat([c.latents for c in chunks]), expected, atol=2e-5, rtol=0)
        assert isinstance(events[-1], ShotDone)
        memory = events[-1].memory
    assert len(memory.shots) == 2 and memory.shots[1].num_frames == 21


def test_a_student_s_film_can_go_on_with_the_teacher(random_model, teacher):
    """Memory is the same value for both."""
    memory = list(Engine(random_model).shoot(ShotRequest(CAPTIONS[0], num_chunks=1)))[-1].memory
    events = list(Engine(teacher).shoot(ShotRequest(CAPTIONS[1], memory, num_chunks=1)))
    assert len(events[-1].memory.shots) == 2
    student = list(Engine(random_model).shoot(ShotRequest(CAPTIONS[1], memory, num_chunks=1)))
    frames = [next(e for e in made if isinstance(e, Chunk)).frames for made in (events, student)]
    assert not np.array_equal(*frames)


def test_it_cannot_continue_a_shot(teacher):
    with pytest.raises(UserError, match="whole shots"):
        Engine(teacher).shoot(ShotRequest(CAPTIONS[0], num_chunks=2, prefix=torch.zeros(3, 16, 8, 12)))


@torch.no_grad()
def test_it_can_close_a_shot_that_was_stopped(teacher):
    """What a stop keeps is remembered without anything being made anew."""
    engine = Engine(teacher)
    whole = [e for e in engine.shoot(ShotRequest(CAPTIONS[0], num_chunks=2)) if isinstance(e, Chunk)]
    events = list(engine.shoot(ShotRequest(CAPTIONS[0], num_chunks=1, prefix=whole[0].latents)))
    assert not any(isinstance(e, Chunk) or (isinstance(e, Progress) and e.stage == "denoise") for e in events)
    assert events[-1].memory.num_frames == 9


def test_on_the_command_line(folder, tmp_path, capsys):
    story = tmp_path / "story.json"
    story.write_text('{"global_caption": "a fox", "shot1": "it runs", "shot2": "close shot"}')
    arguments = [str(story), "-o", str(tmp_path / "film.mp4"), "--chunks", "1", "--device", "cpu"]
    assert main(["film", *arguments, "--model", str(folder), "--quality", "teacher"]) == 0
    assert "a teacher on cpu" in capsys.readouterr().out and (tmp_path / "film.mp4").stat().st_size > 500


def test_a_model_without_a_teacher_says_so(random_model_folder, tmp_path):
    with pytest.raises(UserError, match="has no teacher"):
        load_model(random_model_folder, quality="teacher")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"guidance_scale": "6"}, "guidance_scale"),
        ({"negative_prompt": None}, "negative_prompt"),
    ],
)
def test_a_teacher_s_absurd_numbers_are_refused(folder, tmp_path, change, complaint):
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    path = copy / "teacher" / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=complaint):
        load_model(copy, quality="teacher")


@pytest.mark.parametrize("way", ["--baseline", "--ladder"])
def test_bench_does_not_compare_it_with_what_only_a_student_does(folder, capsys, way):
    assert main(["bench", "--model", str(folder / "teacher"), "--device", "cpu", "--shots", "1", way]) == 2
    assert "makes whole shots" in capsys.readouterr().err.splitlines()[-1]


def test_plan_does_not_take_it_for_a_student(folder, capsys):
    assert main(["plan", "--model", str(folder / "teacher")]) == 2
    told = capsys.readouterr()
    assert "plan for the student" in told.err and told.err.count("\n") == 1 and not told.out

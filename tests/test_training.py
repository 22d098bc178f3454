"""Training as a user runs it: recipes, whole runs from nothing, losses that fall, runs that resume exactly."""

from __future__ import annotations

import csv
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch._subclasses.fake_tensor import FakeTensorMode

from shotstream.__main__ import main
from shotstream.engine import Engine
from shotstream.errors import UserError
from shotstream.events import ShotRequest
from shotstream.memory import Memory
from shotstream.models.random_model import SMALL, save_random_model
from shotstream.models.transformer import ShotTransformer
from shotstream.models.weights import load_model
from shotstream.prompting import read_prompting
from shotstream.sampler import Schedule
from shotstream.toyworld import world
from shotstream.training import causal, direct, teacher
from shotstream.training.autoencoder import new_autoencoder
from shotstream.training.batches import ShotDealer
from shotstream.training.checkpoints import newest as newest_checkpoint
from shotstream.training.configuration import CONFIGS, load_recipe
from shotstream.training.data import StoryLatents, encode_stories, num_frames
from shotstream.training.learner import Learner, Unit
from shotstream.training.loop import LossLog, run_stage
from shotstream.training.muon import orthogonalise
from shotstream.training.recipe import Course, Phase, TeacherRecipe
from shotstream.training.run import Run
from shotstream.training.sheets import Look
from shotstream.training.trainee import Trainee
from shotstream.training.videos import write_sample
from shotstream.training.vocabulary import build_tokenizer


def test_orthogonalised_updates_have_singular_values_near_one():
    torch.manual_seed(0)
    for shape in ((3, 16, 40), (3, 40, 16)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        assert values.min() > 0.5 and values.max() < 1.5


@pytest.mark.parametrize(
    ("stage", "complaint"),
    [
        ("latents", "run the stage autoencoder first"),
        ("teacher", "run the stage latents first"),
        ("intra_shot", "run the stage"),
        ("export", "no trained student or teacher"),
    ],
)
def test_a_stage_without_its_input_says_so(stage, complaint, tmp_path, capsys):
    assert main(["train", stage, "--config", "smoke", "--out", str(tmp_path)]) == 2
    assert complaint in capsys.readouterr().err


# Data


@pytest.fixture(scope="module")
def stories() -> StoryLatents:
    torch.manual_seed(0)
    vae = new_autoencoder(encoder_dim=8, encoder_blocks=1, decoder_dim=8, decoder_blocks=1, detail_dim=8)
    return encode_stories(vae, 12, seed=0, progress=False)


def test_data_are_the_stories_and_survive_the_disk(stories, tmp_path):
    stories.save(tmp_path)
    again = StoryLatents.load(tmp_path)
    assert torch.equal(again.latents, stories.latents) and torch.equal(again.moving, stories.moving)
    assert again.stories == stories.stories
    for story in stories.stories:
        assert [bool(shot.context) for shot in story] == [index > 0 for index in range(len(story))]
        for index, shot in enumerate(story):
            assert len(shot.latents) % 3 == 0 and num_frames(len(shot.latents) // 3) % 12 == 9
            assert f"shot{index}:" in shot.caption
            assert all(0 <= s < index for s in shot.context_shots)
            assert len(shot.context) == len(shot.context_shots) == (6 if index else 0)


def test_a_batch_holds_what_its_shots_look_back_at(stories):
    dealer = ShotDealer(stories, build_tokenizer(stories=200), 3, 64)
    story = next(story for story in stories.stories if len(story) > 1 and len(story[1].latents) >= 6)
    batch = (
        dealer.collate([(story, 0), (story, 1)], 2) if len(story[0].latents) >= 6 else dealer.collate([(story, 1)], 1)
    )
    last = len(batch.shot) - 1
    frames = batch.target.shape[1]
    assert torch.equal(batch.target[last], stories.latents[story[1].latents[:frames]].float())
    assert torch.equal(batch.context[last], stories.latents[story[1].context].float())
    assert batch.shot[last] == 1 and batch.context_shot[last].tolist() == [0] * 6
    words = dealer.tokens[[dealer.row[story[0].captions[-1]], dealer.row[story[1].caption]]].long()
    assert torch.equal(batch.tokens[batch.context_caption[last, 0]], words[0])
    assert torch.equal(batch.tokens[batch.caption[last, 0]], words[1])
    assert not batch.context[0].any() and batch.shot[0] == 1
    assert torch.equal(batch.context_caption[0], batch.caption[0, :1].expand(6))


def test_losses_stay_on_the_device_of_their_batch(stories):
    """Where a tensor of a loss would be left behind on the CPU, only a machine with a GPU would tell: torch's fakes,
    which compute nothing but where and how large results are, tell everywhere."""
    batch = ShotDealer(stories, build_tokenizer(stories=200), 3, 64).draw(random.Random(0), 2, 1)
    numbers = TeacherRecipe(COURSE, context_noise=0.1)
    schedule, sizes = Schedule(), {"dim": 24, "ffn_dim": 48, "num_layers": 1, "num_heads": 2, "freq_dim": 8}
    with FakeTensorMode(allow_non_fake_inputs=True):
        with torch.device("cuda"):
            transformer = ShotTransformer(**sizes, text_dim=8, text_len=64)
        trainee = Trainee(transformer)
        batch = batch.to(torch.device("cuda"))
        embeds = torch.zeros(len(batch.tokens), 64, 8, device="cuda")
        noisy, level = torch.zeros_like(batch.target), torch.zeros(batch.target.shape[:2], device="cuda")
        states = torch.zeros(2, 5, *batch.target.shape[1:], device="cuda")
        losses = [
            teacher.loss_of(trainee, batch, embeds, schedule, numbers),
            causal.loss_of(trainee, batch, states, embeds, schedule),
            direct.teacher_forced_flow(trainee, batch, noisy, level, embeds, batch.caption[:, :1], 0.1, 3),
            teacher.guided_flow(transformer, batch, embeds, embeds[0], 2.0, distilling=True)(noisy, level[:, 0]),
        ]
    assert {loss.device.type for loss in losses} == {"cuda"}


# Whole runs


@pytest.fixture(scope="module")
def smoke_run(tmp_path_factory) -> Path:
    """Everything from nothing to a model folder."""
    out = tmp_path_factory.mktemp("smoke")
    assert main(["train", "all", "--config", "smoke", "--out", str(out)]) == 0
    return out


def link_all_but(parts: list[str], run: Path, out: Path) -> None:
    """The parts of a finished run in another run's folder, but those that it is to make itself."""
    for part in run.iterdir():
        if part.name not in (*parts, "model"):
            (out / part.name).symlink_to(part)


def test_from_nothing_to_a_model_folder(smoke_run, capsys):
    assert json.loads((smoke_run / "model" / "model_index.json").read_text())["width"] == world.WIDTH
    assert "in the forest" in read_prompting(smoke_run / "model").words["places"]
    for stage in ("autoencoder", "decoder", "direct", "teacher", "causal", "intra_shot", "inter_shot"):
        assert list((smoke_run / stage / "sheets").glob("*.png")), stage
        assert (smoke_run / stage / "losses.png").stat().st_size > 1000
    assert len(list((smoke_run / "pairs").glob("*.safetensors"))) == 4


def test_tensorboard_has_every_step_of_every_stage(smoke_run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for stage in ("direct", "inter_shot"):
        events = EventAccumulator(str(smoke_run / stage / "tensorboard"))
        events.Reload()
        told = {name: [event.step for event in events.Scalars(name)] for name in events.Tags()["scalars"]}
        rows = LossLog.rows_of(smoke_run / stage / "losses.csv")
        assert told == {n: [int(r["step"]) for r in rows if r["name"] == n] for n in {r["name"] for r in rows}}


@pytest.mark.parametrize("stage", ["autoencoder", "direct", "teacher", "causal"])
def test_losses_fall(smoke_run, stage):
    with (smoke_run / stage / "losses.csv").open() as file:
        values = [float(row["value"]) for row in csv.DictReader(file)]
    third = len(values) // 3
    assert sum(values[-third:]) < 0.97 * sum(values[:third])


@pytest.mark.parametrize("stage", ["autoencoder", "decoder", "direct", "teacher", "causal", "intra_shot", "inter_shot"])
def test_a_resumed_run_equals_an_uninterrupted_one(smoke_run, stage, tmp_path):
    """As after a power cut between the last two checkpoints; bit for bit."""
    link_all_but([stage], smoke_run, tmp_path)
    again = tmp_path / stage
    shutil.copytree(smoke_run / stage, again)
    shutil.rmtree(newest_checkpoint(again))
    shutil.rmtree(again / "transformer", ignore_errors=True)
    (again / "checkpoint.partial").mkdir()
    (again / "checkpoint.partial" / "student.safetensors").write_bytes(b"half a file")
    shutil.rmtree(again / "vae", ignore_errors=True)
    assert newest_checkpoint(again) is not None
    assert main(["train", stage, "--config", "smoke", "--out", str(tmp_path)]) == 0
    part = "vae" if stage in ("autoencoder", "decoder") else "transformer"
    files = [path.relative_to(smoke_run / stage) for path in newest_checkpoint(smoke_run / stage).iterdir()]
    assert files and {path.suffix for path in files} == {".safetensors"}, "nothing that has to be unpickled"
    for file in (*files, Path(part) / "diffusion_pytorch_model.safetensors"):
        expected, found = load_file(smoke_run / stage / file), load_file(again / file)
        assert expected.keys() == found.keys() and len(found) > 5
        for name in expected:
            assert torch.equal(expected[name], found[name]), name
    steps = [[row["step"] for row in LossLog.rows_of(folder / "losses.csv")] for folder in (smoke_run / stage, again)]
    assert steps[0] == steps[1]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_killed_while_a_checkpoint_is_written(smoke_run, tmp_path):
    link_all_but(["direct"], smoke_run, tmp_path)
    recipe = yaml.safe_load((CONFIGS / "smoke.yaml").read_text())
    recipe["direct"]["course"] |= {"steps": 400, "save_every": 1, "look_every": 1000}
    path = tmp_path / "often.yaml"
    path.write_text(yaml.safe_dump(recipe))
    command = [sys.executable, "-m", "shotstream", "train", "direct", "--config", str(path), "--out", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    folder = tmp_path / "direct"
    deadline = time.monotonic() + 120
    while not (newest_checkpoint(folder) and (folder / "checkpoint.partial").is_dir()):
        assert process.poll() is None and time.monotonic() < deadline
    process.kill()
    process.wait()
    newest = newest_checkpoint(folder)
    done = int(newest.name.rpartition("-")[2])
    recipe["direct"]["course"]["steps"] = done + 2
    path.write_text(yaml.safe_dump(recipe))
    assert main(command[3:]) == 0
    assert newest_checkpoint(folder).name == f"checkpoint-{done + 2:07}"


COURSE = Course(steps=9, lr=1e-3, phases=(Phase(1, (1,)),), save_every=2, look_every=100)


@pytest.mark.parametrize(("bad", "said"), [(float("nan"), "not a number"), (float("inf"), "not a number")])
def test_a_loss_that_is_no_number_stops_the_run(bad, said, tmp_path):
    accelerator = Accelerator()
    learners = {"it": Learner(accelerator, Unit(torch.nn.Linear(2, 2)), COURSE)}
    with pytest.raises(UserError, match=f"step 6: .*{said}.*checkpoint-0000004"):
        run_stage("test", tmp_path, COURSE, accelerator, learners, lambda step, _: {"flow": bad if step == 5 else 1.0})


def test_a_loss_that_explodes_stops_the_run(tmp_path):
    course = Course(steps=200, lr=1e-3, phases=(Phase(1, (1,)),), save_every=1000, look_every=1000)
    with pytest.raises(UserError, match="step 101: .*far above.*no checkpoint before it: go on with a lower"):
        run_stage("test", tmp_path, course, Accelerator(), {}, lambda step, _: {"flow": 1e4 if step == 100 else 1.0})


def test_a_checkpoint_of_another_configuration_is_refused(smoke_run, tmp_path, capsys):
    link_all_but(["direct"], smoke_run, tmp_path)
    shutil.copytree(smoke_run / "direct", tmp_path / "direct")
    recipe = yaml.safe_load((CONFIGS / "smoke.yaml").read_text())
    recipe["model"]["transformer"]["dim"] = 96
    path = tmp_path / "wide.yaml"
    path.write_text(yaml.safe_dump(recipe))
    assert main(["train", "direct", "--config", str(path), "--out", str(tmp_path)]) == 2
    assert "does not fit this configuration" in capsys.readouterr().err


def test_a_damaged_checkpoint_costs_what_came_after_the_one_before(smoke_run, tmp_path, capsys):
    link_all_but(["direct"], smoke_run, tmp_path)
    shutil.copytree(smoke_run / "direct", tmp_path / "direct")
    newest = newest_checkpoint(tmp_path / "direct")
    (newest / "student.safetensors").write_bytes(b"half a file")
    train = ["train", "direct", "--config", "smoke", "--out", str(tmp_path)]
    assert main(train) == 2
    assert f"remove {newest} to go on from the checkpoint before it" in capsys.readouterr().err
    shutil.rmtree(newest)
    assert main(train) == 0 and newest_checkpoint(tmp_path / "direct") == newest


def test_damaged_trajectories_are_made_anew(smoke_run, tmp_path):
    link_all_but(["pairs"], smoke_run, tmp_path)
    shutil.copytree(smoke_run / "pairs", tmp_path / "pairs")
    damaged, *_ = sorted((tmp_path / "pairs").iterdir())
    damaged.write_bytes(damaged.read_bytes()[:1000])
    assert main(["train", "pairs", "--config", "smoke", "--out", str(tmp_path)]) == 0
    again, before = (load_file(path)["states"] for path in (damaged, smoke_run / "pairs" / damaged.name))
    assert torch.equal(again, before)


@pytest.mark.parametrize(
    ("stage", "change", "complaint"),
    [
        ("pairs", {"teacher": {"guidance": 3.0}}, "made by another teacher"),
        ("causal", {"teacher": {"guidance": 3.0}}, "is of another teacher, sampler or data"),
        ("causal", {"model": {"steps": [1000, 500]}}, "is of another teacher, sampler or data"),
        ("teacher", {"model": {"height": 64}}, "run the stage latents again"),
        ("teacher", {"model": {"transformer": {"depth": 2}}}, "'depth' is not known"),
    ],
)
def test_inputs_of_another_configuration_are_refused(smoke_run, stage, change, complaint, tmp_path, capsys):
    link_all_but(["causal", *([stage] if stage == "teacher" else [])], smoke_run, tmp_path)
    recipe = yaml.safe_load((CONFIGS / "smoke.yaml").read_text())
    for part, numbers in change.items():
        recipe[part] |= numbers
    path = tmp_path / "other.yaml"
    path.write_text(yaml.safe_dump(recipe))
    assert main(["train", stage, "--config", str(path), "--out", str(tmp_path)]) == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "complaint"),
    [({"transformer": {"dim": 96}}, "has dim 48"), ({"text_len": 32}, "has text_len 64")],
)
def test_a_model_of_other_numbers_is_no_start(smoke_run, change, complaint, tmp_path, capsys):
    path = tmp_path / "other.yaml"
    recipe = yaml.safe_load((CONFIGS / "smoke.yaml").read_text())
    path.write_text(yaml.safe_dump(recipe | {"model": recipe["model"] | change}))
    for part in ("latents", "heldout", "tokenizer"):
        (tmp_path / part).symlink_to(smoke_run / part)
    start = ["--start", str(smoke_run / "model"), "--out", str(tmp_path)]
    assert main(["train", "direct", "--config", str(path), *start]) == 2
    assert complaint in capsys.readouterr().err


def test_latents_of_another_autoencoder_are_refused(smoke_run, tmp_path, capsys):
    """A decoder that was trained on is none."""
    link_all_but(["direct", "decoder"], smoke_run, tmp_path)
    assert (smoke_run / "decoder" / "vae").is_dir(), "the run itself went on after its decoder was refined"
    torch.manual_seed(5)
    sizes = load_recipe("smoke").autoencoder.sizes
    new_autoencoder(**sizes).save_pretrained(tmp_path / "decoder" / "vae")
    assert main(["train", "direct", "--config", "smoke", "--out", str(tmp_path)]) == 2
    assert "was encoded by another autoencoder" in capsys.readouterr().err


def test_a_small_teacher_begins_where_the_direct_student_ended(smoke_run, tmp_path):
    link_all_but(["teacher"], smoke_run, tmp_path)
    path = tmp_path / "still.yaml"
    path.write_text("like: smoke\nteacher: {course: {lr: 1.0e-9, steps: 1}}")
    assert main(["train", "teacher", "--config", str(path), "--out", str(tmp_path)]) == 0
    for part in ("transformer/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        begun, ended = (load_file(tmp_path / stage / part) for stage in ("teacher", "direct"))
        assert all(torch.allclose(begun[name], ended[name], atol=1e-6) for name in ended), part


def test_every_student_is_written_to_be_compared(smoke_run):
    written = {path.name for path in (smoke_run / "students").iterdir()}
    assert written == {"direct", "causal", "intra_shot", "inter_shot"}
    best, last = (load_model(smoke_run / part) for part in ("model", "students/inter_shot"))
    assert all(
        torch.equal(a, b) for a, b in zip(best.transformer.parameters(), last.transformer.parameters(), strict=True)
    )


def test_a_student_without_the_indicator_keeps_none(smoke_run, tmp_path):
    link_all_but(["causal"], smoke_run, tmp_path)
    path = tmp_path / "without.yaml"
    path.write_text("like: smoke\nstages: [causal]\ncausal: {indicator: false}")
    assert main(["train", "causal", "--config", str(path), "--out", str(tmp_path)]) == 0
    recipe = load_recipe("smoke")
    assert Run(tmp_path, recipe).transformer("causal").config.cut_angle == 0.0
    assert Run(tmp_path, recipe).transformer("teacher").config.cut_angle == pytest.approx(1 / 6)


def test_a_causal_start_on_real_shots_needs_no_trajectories(smoke_run, tmp_path):
    link_all_but(["causal", "pairs"], smoke_run, tmp_path)
    path = tmp_path / "true.yaml"
    path.write_text("like: smoke\ncausal: {true_steps: 20}")
    assert main(["train", "causal", "--config", str(path), "--out", str(tmp_path)]) == 0
    rows = LossLog.rows_of(tmp_path / "causal" / "losses.csv")
    losses = [float(row["value"]) for row in rows]
    assert {row["name"] for row in rows} == {"flow"} and sum(losses[-6:]) < 0.97 * sum(losses[:6])


def test_the_indicator_s_angle_may_differ_from_the_start_s(smoke_run, tmp_path):
    recipe = load_recipe("smoke")
    model = replace(recipe.model, transformer=recipe.model.transformer | {"cut_angle": 0.0})
    made = Run(tmp_path, replace(recipe, model=model), smoke_run / "model").first_transformer(128)
    assert made.config.cut_angle == 0.0
    assert Run(tmp_path, recipe, smoke_run / "model").first_transformer(128).config.cut_angle == pytest.approx(1 / 6)


def test_what_was_cut_off_is_not_told(stories):
    steered = next(shot for story in stories.stories for shot in story if shot.switch)
    early, late = steered.cut_to(steered.switch), steered.cut_to(steered.switch + 1)
    assert early.captions == (steered.caption,) and len(early.latents) == steered.switch
    assert late.captions == (steered.caption, steered.then) and late.caption_at(steered.switch) == steered.then


def test_stories_that_were_written_by_half_are_refused(stories, tmp_path):
    stories.save(tmp_path)
    (tmp_path / "latents.safetensors").write_bytes(b"half a file")
    with pytest.raises(UserError, match="run the stage latents again"):
        StoryLatents.load(tmp_path)


def test_shots_too_short_for_a_stage_are_told_before_it_begins(stories):
    dealer = ShotDealer(stories, build_tokenizer(stories=200), 3, 64)
    dealer.check([Phase(1, (1,), first=True)])
    with pytest.raises(UserError, match="No shot of the stories is 90 chunks long"):
        dealer.check([Phase(1, (1,), 0.5), Phase(1, (1, 90))])


def test_shots_of_one_chunk_can_be_looked_at(stories, tmp_path):
    short = [[replace(shot, latents=shot.latents[:3]) for shot in story] for story in stories.stories]
    dealer = ShotDealer(replace(stories, stories=short), build_tokenizer(stories=200), 3, 64)
    vae = new_autoencoder(encoder_dim=8, encoder_blocks=1, decoder_dim=8, decoder_blocks=1, detail_dim=8)
    sizes = {"dim": 24, "ffn_dim": 48, "num_layers": 1, "num_heads": 2, "freq_dim": 8}
    look = Look(vae, dealer, lambda trainee, batch: batch.target, tmp_path, 2, read=True)
    assert "later: colour 1.00" in look(Trainee(ShotTransformer(**sizes)), 3)
    assert (tmp_path / "000003.png").is_file()


def test_a_gradient_that_is_no_number_is_told_at_once():
    layer = torch.nn.Linear(2, 2)
    learner = Learner(Accelerator(), Unit(layer), COURSE)
    loss = learner.module(
        lambda unit: 0.0 * unit.network.weight.sum() + (0.0 * unit.network.bias).square().sum().sqrt()
    )
    assert loss.item() == 0.0 and math.isnan(learner.update(loss, 0))


def test_a_folder_of_videos_trains_the_same_stages(smoke_run, tmp_path, capsys):
    write_sample(tmp_path / "videos", stories=4, seed=0)
    (tmp_path / "autoencoder").symlink_to(smoke_run / "autoencoder")
    arguments = ["--config", "smoke", "--videos", str(tmp_path / "videos"), "--out", str(tmp_path)]
    assert main(["train", "latents", *arguments]) == 0
    kept, heldout = (StoryLatents.load(tmp_path / part) for part in ("latents", "heldout"))
    assert len(kept.stories) == 1 and len(heldout.stories) == 3, "of four stories eight cannot be held out"
    assert main(["train", "teacher", *arguments]) == 0
    assert (tmp_path / "teacher" / "transformer").is_dir()


def test_the_published_settings_train_a_model_of_the_published_parts(tmp_path, request):
    """Every stage of `paper` as it is, but for sizes: 16 bits, checkpointed gradients, Wan's autoencoder, UMT5 as it
    came, videos, trained self-attention, LoRA."""
    AcceleratorState._reset_state()  # a process has one precision; those of other tests are over
    request.addfinalizer(AcceleratorState._reset_state)
    start = save_random_model(tmp_path / "wan", schedule=Schedule(default_chunks=2, max_chunks=2))
    write_sample(tmp_path / "videos", stories=4, seed=0)
    sizes = {key: SMALL[key] for key in ("dim", "ffn_dim", "num_heads", "num_layers", "freq_dim")}
    course = {"steps": 1, "look_every": 1, "phases": [{"batch": 1, "chunks": [2]}]}
    stages = {stage: {"course": course} for stage in ("teacher", "causal", "intra_shot", "inter_shot")}
    recipe = {"like": "paper", "look_at": 1, **stages}
    recipe["model"] = {"transformer": sizes, "text_len": SMALL["text_len"], "height": 32, "width": 48}
    recipe["model"] |= {"default_chunks": 2, "max_chunks": 2}
    recipe["causal"] |= {"pairs": 1, "chunks": [2]}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(recipe))
    out = tmp_path / "run"
    places = ["--start", str(start), "--videos", str(tmp_path / "videos"), "--out", str(out)]
    assert main(["train", "all", "--config", str(tmp_path / "small.yaml"), *places]) == 0
    begun, taught = (
        load_file(path / "transformer" / "diffusion_pytorch_model.safetensors") for path in (start, out / "teacher")
    )
    changed = {name for name in begun if not torch.equal(begun[name], taught[name])}
    assert changed and all("self_attn" in name for name in changed)
    model = load_model(out / "model")
    assert type(model.vae).__name__ == "WanVAE" and (out / "inter_shot" / "sheets" / "000001.png").is_file()
    assert len(list(Engine(model).shoot(ShotRequest("a cat runs", Memory(), 1, 1)))) > 1


def test_sharding_is_asked_for_in_a_recipe_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert main(["train", "direct", "--config", "smoke", "--out", str(tmp_path)]) == 2
    assert "`sharded: true`" in capsys.readouterr().err


def in_two_processes(stage: str, config: str | Path, out: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launch, "-m", "shotstream", "train", stage, "--config", str(config), "--out", str(out)]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_two_processes_train_as_one(smoke_run, tmp_path):
    """Data-parallel on the CPU: every stage runs, and one process writes what it leaves. That they learn what one does
    is told by the next test, in which either way of sharing a batch leaves the same."""
    link_all_but(["autoencoder", "direct", "intra_shot", "inter_shot"], smoke_run, tmp_path)
    for stage in ("autoencoder", "direct", "intra_shot", "inter_shot"):
        in_two_processes(stage, "smoke", tmp_path)
        assert stage == "autoencoder" or (tmp_path / stage / "transformer").is_dir()
        for weights in newest_checkpoint(tmp_path / stage).iterdir():
            alone = newest_checkpoint(smoke_run / stage) / weights.name
            assert load_file(weights).keys() == load_file(alone).keys()
        rows = [LossLog.rows_of(run / stage / "losses.csv") for run in (tmp_path, smoke_run)]
        assert len(rows[0]) == len(rows[1]), "one process writes"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("stage", ["direct", "intra_shot", "inter_shot"])
def test_weights_shared_out_over_processes_learn_the_same(smoke_run, tmp_path, stage):
    """FSDP changes where weights lie, not what they become; and a run of it that was cut off goes on bit for bit."""
    runs = {}
    for name, sharded in (("each has all", False), ("shared out", True)):
        out = runs[name] = tmp_path / name
        out.mkdir()
        link_all_but([stage], smoke_run, out)
        config = out / "config.yaml"
        course = {"optimiser": "adamw", "sharded": sharded, "steps": 4, "save_every": 2, "look_every": 2}
        config.write_text(yaml.safe_dump({"like": "smoke", stage: {"course": course}}))
        in_two_processes(stage, config, out)

    def learned(run: Path) -> dict[str, torch.Tensor]:
        files = [*newest_checkpoint(run / stage).iterdir(), *(run / stage).glob("*/*.safetensors")]
        return {f"{file.name}:{key}": tensor for file in files for key, tensor in load_file(file).items()}

    before, after = learned(runs["each has all"]), learned(runs["shared out"])
    assert before.keys() == after.keys()
    worst = {name: (tensor - after[name]).abs().max() for name, tensor in before.items()}
    assert max(worst.values()) < 1e-5, max(worst, key=worst.get)

    shutil.rmtree(newest_checkpoint(runs["shared out"] / stage))
    in_two_processes(stage, runs["shared out"] / "config.yaml", runs["shared out"])
    again = learned(runs["shared out"])
    assert all(torch.equal(tensor, again[name]) for name, tensor in after.items())

"""Recipes: what the shipped ones say, and what is told of wrong ones."""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml

from shotstream.__main__ import main
from shotstream.models.weights import WAN_NEGATIVE
from shotstream.training.configuration import CONFIGS, load_recipe, shipped_recipes, with_seed
from shotstream.training.stages import Stages


def test_every_shipped_recipe_is_sound():
    ablations = ("inter-only", "no-indicator", "self-forcing", "true-shots")
    assert shipped_recipes() == (
        *(f"ablation-{a}" for a in ablations),
        "direct",
        "paper",
        "self-forcing",
        "smoke",
        "toy",
    )
    for name in shipped_recipes():
        recipe = load_recipe(name)
        for stage in recipe.stages:
            assert hasattr(Stages, stage)
            numbers = {"pairs": "causal", "decoder": "autoencoder", "latents": "data", "export": "model"}.get(
                stage, stage
            )
            assert getattr(recipe, numbers) is not None, (name, stage)


def test_a_recipe_that_is_like_another_differs_in_what_it_says():
    toy, short, without = map(load_recipe, ("toy", "ablation-true-shots", "ablation-no-indicator"))
    assert short.causal.indicator and without == replace(short, causal=replace(short.causal, indicator=False))
    assert (short.teacher, short.model, short.data) == (toy.teacher, toy.model, toy.data)
    assert short.causal.course == replace(toy.causal.course, steps=400) and short.causal.true_steps == 400
    assert short.stages == ("causal", "export")


def test_recipes_that_are_like_each_other_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text("like: b.yaml")
    (tmp_path / "b.yaml").write_text("like: a.yaml")
    assert main(["train", "all", "--config", "a.yaml", "--out", "out"]) == 2
    assert "one of them must say all" in capsys.readouterr().err


def test_another_seed_is_that_of_every_stage_and_of_nothing_else():
    toy, other = load_recipe("self-forcing"), with_seed(load_recipe("self-forcing"), 7)
    assert {getattr(other, name).course.seed for name in ("teacher", "causal", "intra_shot", "inter_shot")} == {7}
    assert other.data == toy.data and with_seed(other, 0) == with_seed(toy, 0)


def test_the_paper_s_recipe_has_the_paper_s_numbers():
    recipe = load_recipe("paper")
    assert (recipe.model.shift, recipe.model.steps) == (8.0, (1000, 740, 500, 260))
    assert recipe.model.transformer == {} and recipe.model.max_chunks == 7  # the transformer's defaults are published
    courses = {name: getattr(recipe, name).course for name in ("teacher", "causal", "intra_shot", "inter_shot")}
    assert [(c.steps, c.lr, c.phases[0].batch) for c in courses.values()] == [
        (10_000, 1e-5, 64),
        (2000, 1e-6, 64),
        (500, 2e-6, 32),
        (1000, 2e-6, 32),
    ]
    assert recipe.model.negative_prompt == WAN_NEGATIVE
    assert recipe.teacher.trained == "self_attention" and recipe.teacher.bell
    assert (recipe.teacher.drop_context, recipe.teacher.drop_text) == (0.1, 0.1)
    assert (recipe.teacher.sample_steps, recipe.teacher.guidance, recipe.causal.pairs) == (50, 6.0, 5000)
    assert (recipe.intra_shot.critic_lr, recipe.intra_shot.critic_steps, recipe.intra_shot.guidance) == (4e-7, 5, 3.0)
    assert (recipe.inter_shot.critic_lr, recipe.inter_shot.critic_steps, recipe.inter_shot.guidance) == (4e-7, 5, 3.0)
    assert (recipe.inter_shot.lora_rank, recipe.inter_shot.lora_alpha, recipe.inter_shot.shots) == (256, 256, 5)


ONE_STEP = {"steps": 1, "lr": 1.0e-3, "phases": [{"batch": 1, "chunks": [1]}]}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"speed": 3}, "'speed' is not known"),
        ({"model": {}}, "lacks 'name'"),
        ({"model": {"name": 3}}, "must be a str"),
        ({"causal": {"pairs": 3}}, "lacks 'course'"),
        ({"stages": "all"}, "must be a list"),
        ({"data": {"stories": 0}}, "data.stories must be at least one"),
        ({"data": {"heldout": 0}}, "data.heldout must be at least one"),
        ({"look_at": 0}, "look_at must be at least one"),
        ({"precision": "fp8"}, "precision is no or bf16"),
        ({"stages": []}, "stages lists what to run"),
        ({"stages": ["latents", "bogus"]}, "stages lists what to run"),
        ({"model": {"name": "x", "steps": [500, 1000]}}, "model.steps fall from 1000"),
        ({"model": {"name": "x", "steps": []}}, "model.steps fall from 1000"),
        ({"model": {"name": "x", "shift": 0}}, "model.shift"),
        ({"model": {"name": "x", "chunk_frames": 4}}, "model.chunk_frames is 3"),
        ({"model": {"name": "x", "default_chunks": 8}}, "model.default_chunks"),
        ({"model": {"name": "x", "text_len": 0}}, "model.text_len"),
        ({"teacher": {"course": ONE_STEP | {"save_every": 0}}}, "save_every"),
        ({"teacher": {"course": ONE_STEP | {"lr": -1}}}, "0 < lr"),
        ({"teacher": {"course": ONE_STEP | {"optimiser": "muon", "sharded": True}}}, "cannot be sharded"),
        ({"teacher": {"course": ONE_STEP | {"ema": 2}}}, "ema"),
        ({"teacher": {"course": ONE_STEP | {"betas": [0.9]}}}, "betas are two"),
        ({"teacher": {"course": ONE_STEP, "drop_text": 7}}, "teacher.drop_text is a share"),
        ({"teacher": {"course": ONE_STEP, "sample_steps": 0}}, "teacher.sample_steps must be at least one"),
        ({"causal": {"course": ONE_STEP, "pairs": 3, "chunks": [9]}}, "causal.chunks asks for more"),
        ({"inter_shot": {"course": ONE_STEP, "critic_lr": 1.0, "lora_rank": -1}}, "lora_rank"),
        ({"teacher": {"course": ONE_STEP, "trained": "self-attention"}}, "teacher.trained is all or self_attention"),
        ({"teacher": {"course": ONE_STEP | {"phases": [{"batch": 1, "chunks": [8]}]}}}, "asks for 8 chunks"),
        (
            {"intra_shot": {"course": ONE_STEP, "critic_lr": 1.0, "critic_steps": 0}},
            "critic_steps must be at least one",
        ),
    ],
)
def test_a_wrong_recipe_is_one_sentence(change, complaint, tmp_path, capsys):
    path = tmp_path / "my.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load((CONFIGS / "smoke.yaml").read_text()) | change))
    assert main(["train", "all", "--config", str(path), "--out", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err.strip()
    assert complaint in told and "\n" not in told


def test_no_such_recipe(tmp_path, capsys):
    assert main(["train", "all", "--config", "huge", "--out", str(tmp_path)]) == 2
    assert "paper, self-forcing, smoke, toy" in capsys.readouterr().err

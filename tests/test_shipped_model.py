"""The shipped model: small enough, ready soon, and really doing what it is shipped for, at a small sample."""

import random
import re
import time

import numpy as np
import pytest
import torch

from shotstream.engine import Engine
from shotstream.evaluation.reader import read_frame
from shotstream.evaluation.toyworld import Sample, check_autoencoder, film_of, measure, one_by_one, shoot
from shotstream.events import ShotRequest
from shotstream.memory import Memory
from shotstream.models.weights import SHIPPED, load_model
from shotstream.story import compose_caption
from shotstream.toyworld import world
from shotstream.toyworld.stories import leave_out

MEBI = 2**20


@pytest.fixture(scope="module")
def model():
    return load_model(SHIPPED)


def test_fits_a_plain_git_push():
    sizes = [path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()]
    assert sum(sizes) <= 16 * MEBI and max(sizes) <= 9 * MEBI
    assert not list(SHIPPED.rglob("*.bin")) and not list(SHIPPED.rglob("*.pt"))


def test_is_stored_in_16_bits_and_ready_within_seconds():
    started = time.perf_counter()
    load_model(SHIPPED)
    assert time.perf_counter() - started < 10
    from safetensors import safe_open

    for path in SHIPPED.rglob("*.safetensors"):
        with safe_open(path, "pt") as file:
            assert {file.get_slice(name).get_dtype() for name in file.keys()} <= {"F16"}, path  # noqa: SIM118


def test_streamed_decoding_equals_whole_decoding(model):
    latents = torch.randn(9, 16, 8, 12, generator=torch.Generator().manual_seed(0))
    whole, _ = model.vae.decode_step(latents, model.vae.start_decoding())
    state, parts = model.vae.start_decoding(), []
    for chunk in latents.split(3):
        frames, state = model.vae.decode_step(chunk, state)
        parts.append(frames)
    assert torch.equal(torch.cat(parts), whole) and len(whole) == 33
    with torch.no_grad():  # the same picture as all latent frames in one go, up to ties between two colours
        logits = model.vae.logits(model.vae.denormalise(latents[1:]), first=False)
    at_once = model.vae.palette[logits.argmax(2).flatten(0, 1)].permute(0, 3, 1, 2)
    assert (at_once == whole[1:]).all(1).float().mean() > 0.9999


def test_pictures_are_palette_colours_only(model):
    frames, _ = shoot(Engine(model), ShotRequest("a red ball jumps on the beach", num_chunks=1))
    palette = {tuple(colour) for colour in world.PALETTE.tolist()}
    assert {tuple(colour) for colour in np.unique(frames.reshape(-1, 3), axis=0).tolist()} <= palette


def test_the_same_seed_is_the_same_film(model):
    request = ShotRequest("Pixel art. shot0:a red ball jumps on the beach at night", seed=3, num_chunks=2)
    first, memory = shoot(Engine(model), request)
    again, _ = shoot(Engine(model), request)
    assert np.array_equal(first, again)
    later = ShotRequest("Pixel art. shot1:a close-up, it looks surprised", memory, seed=4, num_chunks=1)
    assert np.array_equal(shoot(Engine(model), later)[0], shoot(Engine(model), later)[0])


def test_autoencoder_is_sharp(model):
    figures = check_autoencoder(model, clips=24, seed=1)
    assert figures["psnr"] >= 30


def test_does_what_it_is_told_and_remembers(model):
    """A small sample of what `python -m shotstream evaluate` measures; the bounds leave room for its error."""
    engine, sample = Engine(model), Sample(seed=4242, stories=8, drift=0)
    told = measure(one_by_one(lambda story, seed: film_of(engine, story, seed), sample, None), sample).metrics
    forgetful = one_by_one(lambda story, seed: film_of(engine, story, seed, without_memory=True), sample, None)
    blind = measure(forgetful, sample).metrics
    assert told["flicker"].value < 0.01
    assert min(told["adherence_colour"].value, told["adherence_place"].value) >= 0.9, told
    assert min(told["kept_colour"].value, told["kept_place"].value) >= 0.8, told
    assert told["adherence_shape"].value >= 0.6 and told["cut_exact"].value >= 0.85, told
    for name in ("kept_colour", "kept_place"):
        assert blind[name].value <= told[name].value - 0.4, name


def test_a_directors_words_work_word_for_word(model):
    """Two sentences that everybody tries first, as the second shot of held-out openings."""
    engine, rng, openings = Engine(model), random.Random(31), 24
    surprised = city = 0
    for seed in range(openings):
        opening = leave_out(rng, num_shots=1)
        first = compose_caption(opening.global_caption, 0, opening.shots[0].caption)
        _, memory = shoot(engine, ShotRequest(first, seed=seed, num_chunks=1))
        read = []
        for words in ("Now make him look surprised.", "Transition to a wide shot of the city."):
            caption = compose_caption(opening.global_caption, 1, words)
            frames, _ = shoot(engine, ShotRequest(caption, memory, seed=seed, num_chunks=1))
            read.append(read_frame(frames[-1]))
        surprised += read[0].expression == "surprised"
        city += (read[1].place, read[1].camera) == ("city", "wide")
    assert surprised >= 0.6 * openings and city >= 0.6 * openings, (surprised, city)


def test_its_teacher_is_there_for_who_can_wait():
    """`film --quality teacher` without a model of one's own: slow, and as right."""
    teacher, rng = load_model(SHIPPED, quality="teacher"), random.Random(5)
    assert teacher.guidance.steps == 16
    for seed in range(2):
        story = leave_out(rng, num_shots=2, num_chunks=1)
        for shot, frames in zip(story.shots, film_of(Engine(teacher), story, seed), strict=True):
            read = read_frame(frames[-1])
            assert (read.colour, read.place, read.time) == (shot.scene.colour, shot.scene.place, shot.scene.time)


def test_ten_lines_of_python_make_a_film():
    """README's, word for word; every frame after the cut still shows the ball that only the first shot names."""
    readme = (SHIPPED.parents[2] / "README.md").read_text(encoding="utf-8")
    (lines,) = [block for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "Engine(" in block]
    made: dict = {}
    exec(compile(lines, "README.md", "exec"), made)
    assert len([line for line in lines.splitlines() if line]) <= 10
    film, memory = made["film"], made["memory"]
    assert len(film) == sum(shot.num_frames for shot in memory.shots) == 2 * 33
    read = [read_frame(frame) for frame in film[::6]]
    assert {frame.colour for frame in read} == {"red"} and {frame.place for frame in read} == {"beach"}


@pytest.mark.slow
def test_cuts_are_exact_over_many_stories(model):
    engine = Engine(model)
    sample = Sample(11, stories=30, drift=0)
    found = measure(one_by_one(lambda story, seed: film_of(engine, story, seed), sample, None), sample)
    assert found.metrics["cut_exact"].value >= 0.95


def test_a_film_without_memory_is_another_film(model):
    engine = Engine(model)
    _, memory = shoot(engine, ShotRequest("a pink ghost in the city at night", seed=1, num_chunks=1))
    with_memory, _ = shoot(engine, ShotRequest("shot1:it jumps", memory, seed=2, num_chunks=1))
    without, _ = shoot(engine, ShotRequest("shot1:it jumps", Memory(), seed=2, num_chunks=1))
    assert not np.array_equal(with_memory, without)

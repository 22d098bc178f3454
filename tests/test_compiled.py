"""Blocks compiled while they run: few compilations, none of them late, and the same shots."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from shotstream.engine import Engine
from shotstream.events import Chunk, ShotDone, ShotRequest
from shotstream.memory import Memory
from shotstream.models.attention import compile_blocks
from shotstream.models.random_model import save_random_model
from shotstream.models.weights import load_model
from shotstream.sampler import Schedule

FOX, OWL = "a fox in the snow shot0:it runs", "a fox in the snow shot1:it sleeps"


@pytest.fixture(autouse=True)
def anew() -> Iterator[None]:
    """Nothing is compiled yet, and torch may not give up in silence."""
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=8, fail_on_recompile_limit_hit=True):
        yield
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compiled") / "model"
    return save_random_model(folder, vae="PixelAutoencoder", schedule=Schedule(max_chunks=7))


def shoot(engine: Engine, caption: str = FOX, **wanted) -> tuple[torch.Tensor, Memory]:
    """A shot's latents, and the memory after it."""
    events = list(engine.shoot(ShotRequest(caption, seed=3, **wanted)))
    assert isinstance(events[-1], ShotDone)
    return torch.cat([event.latents for event in events if isinstance(event, Chunk)]), events[-1].memory


def direct(engine: Engine, **size: int) -> None:
    """Whatever a director can ask for, in pictures of one size."""
    latents, memory = shoot(engine, num_chunks=3, **size)
    shoot(engine, OWL, num_chunks=9, memory=memory, **size)  # longer than the caches
    shoot(engine, OWL, num_chunks=1, **size)
    shoot(engine, OWL, num_chunks=2, memory=memory, attention=True, **size)
    shoot(engine, OWL, num_chunks=4, prefix=latents[:3], **size)
    latents, _ = shoot(engine, num_chunks=7, **size)
    shoot(engine, OWL, num_chunks=8, prefix=latents[:18], **size)


@pytest.fixture
def counted(folder: Path) -> tuple[Engine, CompileCounter]:
    """An engine with compiled blocks, and how often that was."""
    model, counter = load_model(folder), CompileCounter()
    assert compile_blocks(model.transformer, counter).startswith("compiled")
    counter.clear()  # of what tried whether anything can be compiled
    return Engine(model), counter


def test_a_film_takes_three_compilations_at_its_start(counted):
    engine, counter = counted
    _, first = shoot(engine, num_chunks=7)
    _, second = shoot(engine, OWL, num_chunks=7, memory=first)
    after = counter.frame_count
    assert 1 <= after <= 3
    _, third = shoot(engine, num_chunks=7, memory=second)
    shoot(engine, OWL, num_chunks=9, memory=third)
    shoot(engine, OWL, num_chunks=7, memory=first)  # a rewind
    assert counter.frame_count == after


@pytest.mark.slow
def test_whatever_is_asked_for_takes_few_compilations_and_none_the_second_time(counted):
    engine, counter = counted
    sizes = [{"height": height, "width": width} for height, width in ((32, 48), (48, 32), (48, 48), (64, 32))]
    for size in sizes[:3]:
        direct(engine, **size)
    after = counter.frame_count
    assert after <= 14
    direct(engine, **sizes[0])
    direct(engine, **sizes[3])  # a size that never was
    assert counter.frame_count == after


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not shutil.which("g++"), reason="needs a compiler: g++")
def test_compiled_blocks_make_the_same_shots(folder):
    """By torch's own compiler."""
    plain, compiled = load_model(folder), load_model(folder)
    assert compile_blocks(compiled.transformer).startswith("compiled")
    engines = Engine(plain), Engine(compiled)
    memories = Memory(), Memory()
    for chunks in (3, 2):
        (one, first), (other, second) = (
            shoot(engine, num_chunks=chunks, memory=memory) for engine, memory in zip(engines, memories, strict=True)
        )
        memories = first, second
        assert 0 < (one - other).abs().max() < 1e-4  # that it is used, is seen by the last digits


def test_where_nothing_can_be_compiled_blocks_stay_as_they_are(folder):
    model = load_model(folder)

    def broken(graph, inputs):
        raise RuntimeError("no compiler here\nand more of it")

    line = compile_blocks(model.transformer, broken)
    assert line.startswith("not compiled: torch.compile does not work here: ") and "\n" not in line
    shoot(Engine(model), num_chunks=1)

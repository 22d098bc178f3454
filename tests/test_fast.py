"""The ladder: every rung makes films, changes what it says, and leaves the model it was given as it is."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
import torch

from shotstream.engine import Engine
from shotstream.errors import UserError
from shotstream.events import Chunk, ShotRequest
from shotstream.fast import Seconds, fewer, quicken
from shotstream.ladder import NEAR_CHUNKS, RUNGS
from shotstream.models import kernels
from shotstream.models.model import Model
from shotstream.models.random_model import save_random_model
from shotstream.models.weights import load_model
from shotstream.sampler import Schedule

CAPTION = "a fox in the snow shot0:it runs"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("fast") / "model"
    return load_model(save_random_model(folder, vae="PixelAutoencoder", schedule=Schedule(max_chunks=7)))


def latents(model: Model, chunks: int = 2, prefix: torch.Tensor | None = None) -> torch.Tensor:
    request = ShotRequest(CAPTION, seed=3, num_chunks=chunks, prefix=prefix)
    return torch.cat([event.latents for event in Engine(model).shoot(request) if isinstance(event, Chunk)]).float()


@pytest.mark.parametrize("rung", range(len(RUNGS) - 1))
def test_every_rung_makes_films_and_leaves_the_model_alone(model, rung):
    before = {name: tensor.clone() for name, tensor in model.transformer.state_dict().items()}
    quick, line = quicken(model, rung)
    assert latents(quick).isfinite().all() and line
    assert (quick.name == model.name) == (rung == 0)
    assert len(quick.schedule.steps) == (4, 4, 3, 3, 2)[rung]
    assert model.dtype == torch.float32 and len(model.schedule.steps) == 4
    for name, tensor in model.transformer.state_dict().items():
        assert torch.equal(tensor, before[name])


def told(float32: float, bfloat16: float) -> Seconds:
    """What is faster is the machine's business: here it is told."""
    seconds = {torch.float32: float32, torch.bfloat16: bfloat16}
    return lambda transformer, _: seconds[transformer.head.modulation.dtype]


def test_bfloat16_is_near_the_exact_film_where_it_is_used(model):
    half, line = quicken(model, 1, told(float32=3.0, bfloat16=2.0))
    assert half.dtype == torch.bfloat16 and line == "bfloat16"
    apart = (latents(half, 1) - latents(model, 1)).abs()
    assert 0 < apart.mean() < 0.05
    same, line = quicken(model, 1, told(float32=3.0, bfloat16=4.0))
    assert same.dtype == torch.float32 and "slower here" in line
    assert torch.equal(latents(same, 1), latents(model, 1))


def test_eight_bits_take_less_memory_and_are_near_the_rung_below(model):
    pytest.importorskip("torchao", reason="needs the extra 'int8'")
    below, _ = quicken(model, 4, told(float32=1.0, bfloat16=2.0))
    small, line = quicken(model, 5, told(float32=1.0, bfloat16=2.0))
    assert line.endswith("int8 weights")
    assert saved_bytes(small.transformer.blocks) < saved_bytes(below.transformer.blocks) / 2
    apart = (latents(small, 1) - latents(below, 1)).abs()
    assert 0 < apart.mean() < 0.05


def saved_bytes(module: torch.nn.Module) -> int:
    """Of its weights, as they are stored."""
    stream = io.BytesIO()
    torch.save(module.state_dict(), stream)
    return stream.tell()


def test_near_memory_is_exact_until_something_is_far(model):
    near = replace(model, schedule=replace(model.schedule, near_chunks=NEAR_CHUNKS))
    one, other = latents(model, 7), latents(near, 7)
    torch.testing.assert_close(other[: 3 * NEAR_CHUNKS], one[: 3 * NEAR_CHUNKS], atol=1e-5, rtol=0)
    assert (other[3 * NEAR_CHUNKS :] - one[3 * NEAR_CHUNKS :]).abs().max() > 1e-4
    assert latents(near, 9).isfinite().all()  # longer than the caches: what is near still fits
    for done in (3, 5):
        rest = latents(near, 7, other[: 3 * done])
        torch.testing.assert_close(rest, other[3 * done :], atol=2e-4, rtol=0)


def test_near_memory_is_the_first_chunk_the_latest_and_itself(model):
    """A chunk does not change with one that is far, and changes with the first and with a near one."""
    near = replace(model, schedule=replace(model.schedule, near_chunks=3))
    made = latents(near, 5)

    def last_after(changed: int) -> float:
        prefix = made[:12].clone()
        prefix[3 * changed : 3 * changed + 3] += 1
        return (latents(near, 5, prefix) - made[12:]).abs().max().item()

    assert last_after(0) > 1e-3 and last_after(3) > 1e-3
    # what is far is seen through what is near, which saw it: so only its own keys and values are compared
    engine = Engine(near)
    assert [engine.model.schedule.places(index) for index in range(5)] == [
        (0, 3, 0),
        (3, 6, 3),
        (6, 9, 6),
        (9, 9, 3),
        (12, 9, 6),
    ]


def test_eight_bits_are_to_be_had_alone(model):
    """All else is the exact model's: its steps, its reach, its digits."""
    pytest.importorskip("torchao", reason="needs the extra 'int8'")
    before = {name: tensor.clone() for name, tensor in model.transformer.state_dict().items()}
    rounded, line = quicken(model, 0, eight_bit=True)
    assert line == "int8 weights" and rounded.name == f"{model.name} (8 bit)"
    assert rounded.schedule == model.schedule and rounded.dtype == model.dtype == torch.float32
    exact = latents(model)
    assert 1e-4 < (latents(rounded) - exact).norm() / exact.norm() < 0.02
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.transformer.state_dict().items())
    half, line = quicken(model, 1, eight_bit=True)
    assert line.endswith("int8 weights") and half.name == f"{model.name} (fast 1) (8 bit)"
    assert latents(half, 1).isfinite().all()


def test_attention_by_products_is_attention():
    q, k, v = torch.randn(2, 300, 3, 16), torch.randn(2, 50, 3, 16), torch.randn(2, 50, 3, 16)
    for one, other in zip(kernels.attend(q, k, v), kernels.attend(q, k, v, backend=kernels.PRODUCTS), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_fewer_steps_are_the_models_own():
    assert fewer((1000, 740, 500, 260), 3) == (1000, 740, 260)
    assert fewer((1000, 740, 500, 260), 2) == (1000, 500)
    assert fewer((1000,), 3) == (1000,)


def test_what_cannot_be_is_one_sentence(model):
    for rung in (-1, len(RUNGS)):
        with pytest.raises(UserError, match="rungs 0 to 5"):
            quicken(model, rung)
    try:
        import torchao  # noqa: F401
    except ImportError:
        with pytest.raises(UserError, match="torchao"):
            quicken(model, 5)

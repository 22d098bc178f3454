"""The training's mathematics against slow, plain references: masks, rollout, the gradient of distribution matching."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from shotstream.context import MAX_CONTEXT_FRAMES, look_back
from shotstream.engine import Engine
from shotstream.errors import UserError
from shotstream.events import Chunk, ShotRequest
from shotstream.memory import Memory
from shotstream.models.random_model import save_random_model
from shotstream.models.weights import load_model
from shotstream.sampler import Schedule, guided, seeded_noise
from shotstream.training.batches import ShotBatch
from shotstream.training.causal import stored_steps
from shotstream.training.direct import teacher_forced_layout
from shotstream.training.dmd import CLAMP, dmd_gradient, dmd_loss, draw_timesteps
from shotstream.training.flows import bidirectional_flow, causal_flow, chunk_causal_mask
from shotstream.training.inter_shot import Adapted, remember, shared_out
from shotstream.training.rollout import roll_out
from shotstream.training.teacher import guided_flow, timestep_weights, without_captions

CAPTIONS = ("a fox in the snow shot0:it runs", "a fox in the snow shot1:close shot", "a fox in the snow shot2:night")


def may_see(query: tuple[str, int], key: tuple[str, int]) -> bool:
    """The rule of cached inference in words: (kind, chunk) of two frames."""
    (kind, chunk), (key_kind, key_chunk) = query, key
    if key_kind == "context":
        return True
    if kind == "context":
        return False
    if kind == "clean":
        return key_kind == "clean" and key_chunk <= chunk
    return key_chunk < chunk if key_kind == "clean" else key_chunk == chunk


@pytest.mark.parametrize("chunks", [1, 3, 7])
def test_masks_follow_the_rules(chunks):
    context = [("context", 0)] * MAX_CONTEXT_FRAMES
    frames = (
        context + [("clean", f // 3) for f in range(3 * chunks - 3)] + [("noisy", f // 3) for f in range(3 * chunks)]
    )
    positions, mask = teacher_forced_layout(3 * chunks, 3)
    assert torch.equal(mask, torch.tensor([[may_see(query, key) for key in frames] for query in frames]))
    local = [6 + f for f in range(3 * chunks)]
    assert positions.tolist() == [*range(6), *local[:-3], *local]

    noisy = context + [("clean", f // 3) for f in range(3 * chunks)]  # a chunk sees earlier ones as they are
    expected = torch.tensor([[may_see(query, key) for key in noisy] for query in noisy])
    assert torch.equal(chunk_causal_mask(3 * chunks, 3), expected)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = save_random_model(tmp_path_factory.mktemp("model") / "random", vae="PixelAutoencoder")
    return load_model(folder)


def story_of(model, lengths: tuple[int, ...], seed: int = 0) -> Memory:
    engine, memory = Engine(model), Memory()
    for caption, chunks in zip(CAPTIONS, lengths, strict=False):
        memory = list(engine.shoot(ShotRequest(caption, memory, seed, chunks)))[-1].memory
    return memory


def context_of(memory: Memory, shape: tuple[int, ...]) -> tuple[torch.Tensor, list[int]]:
    """Latents of the six context frames, and the shot each one is from."""
    if not memory.shots:
        return torch.zeros(6, *shape), [0] * 6
    picks = look_back(memory.shots)
    return memory.latents_at(picks), [shot for shot, _ in picks]


def batch_of(model, memories: list[Memory], num_chunks: int) -> tuple[ShotBatch, torch.Tensor]:
    """The next shots of films, as the training sees them, and the captions' embeddings."""
    frames, shape = 3 * num_chunks, (16, 8, 12)
    embeds = torch.stack([model.text.encode(caption) for caption in CAPTIONS])
    shots = [len(memory.shots) for memory in memories]
    context = [context_of(memory, shape) for memory in memories]
    return ShotBatch(
        context=torch.stack([latents for latents, _ in context]),
        context_shot=torch.tensor([numbers for _, numbers in context]),
        shot=torch.tensor([max(shot, 1) for shot in shots]),
        target=torch.zeros(len(memories), frames, *shape),
        weight=torch.zeros(len(memories), frames, *shape[1:], dtype=torch.bool),
        tokens=torch.zeros(3, 8, dtype=torch.long),
        context_caption=torch.tensor([numbers for _, numbers in context]),
        caption=torch.tensor([[shot] * frames for shot in shots]),
    ), embeds


def shot_by_engine(model, memory: Memory, num_chunks: int, seed: int) -> torch.Tensor:
    request = ShotRequest(CAPTIONS[len(memory.shots)], memory, seed, num_chunks)
    return torch.cat([event.latents for event in Engine(model).shoot(request) if isinstance(event, Chunk)])


def noise_of(seeds: list[int]):
    sources = [seeded_noise(seed) for seed in seeds]
    return lambda chunk, step: torch.stack([draw(chunk, step, (3, 16, 8, 12)) for draw in sources])


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("lengths", [(), (2,), (1, 3)])
def test_a_rollout_is_what_the_engine_makes(model, lengths, gradient):
    memory = story_of(model, lengths)
    batch, embeds = batch_of(model, [memory], 3)
    with torch.set_grad_enabled(gradient):
        clean = roll_out(model.transformer, batch, embeds, model.schedule, noise_of([11]))
    assert clean.requires_grad == gradient
    torch.testing.assert_close(clean[0].detach(), shot_by_engine(model, memory, 3, 11), atol=1e-5, rtol=0)


def test_a_shot_steered_on_its_way_is_what_the_engine_makes(model):
    """One of two shots is told something else from its second chunk on."""
    memories = [story_of(model, (2,), seed) for seed in (0, 1)]
    batch, embeds = batch_of(model, memories, 3)
    batch = replace(batch, caption=torch.tensor([[1] * 3 + [2] * 6, [1] * 9]))
    with torch.no_grad():
        clean = roll_out(model.transformer, batch, embeds, model.schedule, noise_of([5, 6]))
    first = shot_by_engine(model, memories[0], 3, 5)[:3]
    steered = ShotRequest(CAPTIONS[2], memories[0], 5, 3, prefix=first)
    rest = torch.cat([event.latents for event in Engine(model).shoot(steered) if isinstance(event, Chunk)])
    torch.testing.assert_close(clean[0], torch.cat([first, rest]), atol=1e-5, rtol=0)
    torch.testing.assert_close(clean[1], shot_by_engine(model, memories[1], 3, 6), atol=1e-5, rtol=0)


def test_a_batch_is_rolled_out_as_its_items_alone(model):
    memories = [story_of(model, (2, 1), seed) for seed in (0, 1)]
    batch, embeds = batch_of(model, memories, 2)
    with torch.no_grad():
        clean = roll_out(model.transformer, batch, embeds, model.schedule, noise_of([5, 6]))
    for item, memory, seed in zip(clean, memories, (5, 6), strict=True):
        torch.testing.assert_close(item, shot_by_engine(model, memory, 2, seed), atol=1e-5, rtol=0)


@pytest.mark.parametrize("last_step", [0, 2])
def test_the_gradient_of_a_rollout_is_that_of_its_one_step(model, last_step):
    """The head's weights touch no cache, so in a single chunk ending at the first step the whole truth is a finite
    difference; ending later, earlier steps are constants."""
    batch, embeds = batch_of(model, [story_of(model, (2,))], 1)
    transformer, schedule, noise = model.transformer, model.schedule, noise_of([3])
    weight = transformer.head.head.bias
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    transformer.zero_grad()
    roll_out(transformer, batch, embeds, schedule, noise, last_step).square().sum().backward()
    found = (weight.grad * direction).sum().item()

    def value(shift: float) -> float:
        """The sum with the head changed in the last step only."""
        calls = 0

        def shifted(module, inputs, output):
            nonlocal calls
            calls += 1
            return output + shift * direction if calls == 2 + last_step else output  # the context pass is call one

        hook = transformer.head.register_forward_hook(shifted)
        try:
            with torch.no_grad():
                return roll_out(transformer, batch, embeds, schedule, noise, last_step).double().square().sum().item()
        finally:
            hook.remove()

    expected = (value(1e-2) - value(-1e-2)) / 2e-2
    assert found == pytest.approx(expected, rel=2e-3)
    assert all(p.grad is not None for p in transformer.blocks.parameters())
    transformer.zero_grad()


def test_gradients_survive_checkpointing_and_sixteen_bits(tmp_path):
    """Caches are filled without a gradient by the weights that a later step needs one of; and what a block is run on
    again in the backward pass must still be what it was."""
    model = load_model(save_random_model(tmp_path / "m", vae="PixelAutoencoder"))
    batch, embeds = batch_of(model, [story_of(model, (2,))], 3)
    batch.caption[:, 6:] = 2  # changes after two chunks: what the second read of the first is filled anew

    def gradients(dtype: torch.dtype) -> dict[str, torch.Tensor]:
        model.transformer.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            clean = roll_out(model.transformer, batch, embeds, model.schedule, noise_of([3]), 2)
        assert clean.dtype == torch.float32
        clean.square().sum().backward()
        return {name: p.grad.flatten().clone() for name, p in model.transformer.named_parameters()}

    plain = gradients(torch.float32)
    model.transformer.enable_gradient_checkpointing()
    again, coarse = gradients(torch.float32), gradients(torch.bfloat16)
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient)
        assert torch.cosine_similarity(coarse[name], gradient, dim=0) > 0.99, name


def test_the_causal_mask_hides_the_future(model):
    """A chunk's flow is the same whether later chunks are there, are others, or are missing."""
    batch, embeds = batch_of(model, [story_of(model, (2,))], 3)
    noisy = torch.randn(1, 9, 16, 8, 12)
    timestep = torch.tensor([[900.0] * 3 + [500.0] * 3 + [750.0] * 3])
    with torch.no_grad():
        whole = causal_flow(model.transformer, batch, noisy, timestep, embeds, 3)
        other = causal_flow(model.transformer, batch, torch.cat([noisy[:, :6], -noisy[:, 6:]], 1), timestep, embeds, 3)
        short, _ = batch_of(model, [story_of(model, (2,))], 2)
        alone = causal_flow(model.transformer, short, noisy[:, :6], timestep[:, :6], embeds, 3)
        everything = bidirectional_flow(model.transformer, batch, noisy, torch.tensor([500.0]), embeds)
        changed = bidirectional_flow(
            model.transformer, batch, torch.cat([noisy[:, :6], -noisy[:, 6:]], 1), torch.tensor([500.0]), embeds
        )
    torch.testing.assert_close(whole[:, :6], other[:, :6], atol=1e-5, rtol=0)
    torch.testing.assert_close(whole[:, :6], alone, atol=1e-5, rtol=0)
    assert (whole[:, 6:] - other[:, 6:]).abs().max() > 1e-3
    assert (everything[:, :3] - changed[:, :3]).abs().max() > 1e-4, "the teacher sees the future"


# Distribution matching


def test_the_gradient_is_the_published_one():
    """Against loops over single numbers."""
    torch.manual_seed(0)
    clean, noisy = torch.randn(2, 3, 2, 2, 2), torch.randn(2, 3, 2, 2, 2)
    real_flow, fake_flow = torch.randn_like(clean), torch.randn_like(clean)
    timestep = torch.tensor([300.0, 800.0])
    found = dmd_gradient(clean, noisy, timestep, lambda x, t: real_flow, lambda x, t: fake_flow)
    for item in range(2):
        sigma = timestep[item].item() / 1000
        numbers = list(zip(*(x[item].flatten().tolist() for x in (clean, noisy, real_flow, fake_flow)), strict=True))
        distance = sum(abs(x - (n - sigma * real)) for x, n, real, _ in numbers) / len(numbers)
        expected = [((n - sigma * fake) - (n - sigma * real)) / distance for _, n, real, fake in numbers]
        assert found[item].flatten().tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)

    clean.requires_grad_(True)
    dmd_loss(clean, found).backward()
    torch.testing.assert_close(clean.grad, found / found.numel())


def test_a_student_that_matches_its_teacher_is_left_alone():
    clean = torch.randn(2, 3, 2, 2, 2)
    flow = torch.randn_like(clean)
    gradient = dmd_gradient(clean, torch.randn_like(clean), torch.tensor([500.0, 500.0]), *[lambda x, t: flow] * 2)
    assert not gradient.any()


def test_samples_are_judged_inside_the_grid():
    torch.manual_seed(0)
    drawn = draw_timesteps(5000, Schedule(shift=8.0))
    assert drawn.min() >= CLAMP[0] and drawn.max() == CLAMP[1] and len(drawn.unique()) > 500
    assert 0.5 < (drawn > 850).float().mean() < 0.75  # shift 8 puts most of the grid near noise


def test_guidance_of_sampling_and_of_distillation():
    conditional, unconditional = torch.tensor(3.0), torch.tensor(1.0)
    assert guided(conditional, unconditional, 6.0, unconditional) == 13.0
    assert guided(conditional, unconditional, 3.0, conditional) == 9.0


def test_guided_flow_asks_the_blank_caption(model):
    batch, embeds = batch_of(model, [story_of(model, (2,))], 1)
    noisy, t, negative = torch.randn(1, 3, 16, 8, 12), torch.tensor([600.0]), torch.zeros_like(embeds[0])
    with torch.no_grad():
        flow = guided_flow(model.transformer, batch, embeds, negative, 2.0, distilling=False)(noisy, t)
        told = bidirectional_flow(model.transformer, batch, noisy, t, embeds)
        blank = without_captions(batch, torch.tensor([True]), 0)
        untold = bidirectional_flow(model.transformer, blank, noisy, t, torch.zeros_like(embeds[:1]))
    torch.testing.assert_close(flow, untold + 2.0 * (told - untold))
    assert (told - untold).abs().max() > 1e-4


def test_timesteps_weigh_as_published():
    schedule = Schedule(shift=8.0)
    weights, timesteps = timestep_weights(schedule), (1000 * schedule.sigmas).tolist()
    bell = [math.exp(-2 * ((t - 500) / 1000) ** 2) for t in timesteps]
    scale = len(bell) / sum(b - min(bell) for b in bell)
    assert weights.tolist() == pytest.approx([(b - min(bell)) * scale for b in bell], abs=1e-4)
    assert weights.mean().item() == pytest.approx(1.0, abs=1e-5)


def test_paths_are_stored_where_the_student_stands():
    assert stored_steps(Schedule(), 50) == [0, 13, 25, 37, 50]
    with pytest.raises(UserError, match="none at the student's levels"):
        stored_steps(Schedule(), 16)


# The inter-shot stage


def test_a_memory_in_training_is_the_engine_s(model):
    request = ShotRequest(CAPTIONS[0], num_chunks=2)
    events = list(Engine(model).shoot(request))
    latents = torch.cat([event.latents for event in events if isinstance(event, Chunk)])
    remembered = remember(model.vae, Memory(), latents).shots[0]
    assert remembered.offsets == events[-1].shot.offsets and remembered.num_frames == events[-1].shot.num_frames
    torch.testing.assert_close(remembered.latents, events[-1].shot.latents)


@pytest.mark.parametrize(("total", "expected"), [(5, [1, 1, 1, 1, 1]), (5, [1, 2, 2]), (5, [5]), (1, [0, 0, 1])])
def test_the_critic_learns_as_often_whatever_the_story(total, expected):
    assert shared_out(total, len(expected)) == expected


def test_low_rank_updates_are_all_that_is_trained_and_merge_into_the_weights(tmp_path_factory):
    model = load_model(save_random_model(tmp_path_factory.mktemp("adapted") / "m", vae="PixelAutoencoder"))
    before = {name: p.clone() for name, p in model.transformer.state_dict().items()}
    batch, embeds = batch_of(model, [Memory()], 1)
    adapted = Adapted(model.transformer, rank=4, alpha=4)
    trained = [name for name, p in model.transformer.named_parameters() if p.requires_grad]
    layers = model.transformer.config.num_layers
    assert len(trained) == layers * 10 * 2 and all("lora" in name for name in trained)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.transformer.named_parameters():
            if "lora" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        live = roll_out(model.transformer, batch, embeds, model.schedule, noise_of([0]))
        merged = adapted.merged()
        after = roll_out(merged, batch, embeds, model.schedule, noise_of([0]))
    torch.testing.assert_close(live, after, atol=1e-4, rtol=0)
    assert merged.state_dict().keys() == before.keys()
    changed = {name for name, p in merged.state_dict().items() if not torch.equal(p, before[name])}
    assert changed == {
        name
        for name in before
        if name.endswith("weight") and ("attn." in name or "ffn." in name) and "norm" not in name
    }

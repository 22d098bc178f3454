"""The transformer: cached calls equal one masked forward; both equal the published procedure's recordings."""

from __future__ import annotations

import copy

import pytest
import torch

from shotstream.models.cache import ShotCache
from shotstream.models.rope import axis_dims, rope_phases, rotate
from shotstream.models.transformer import ShotTransformer

CONFIG = {"dim": 48, "ffn_dim": 96, "num_heads": 2, "num_layers": 3, "text_dim": 20, "text_len": 7, "freq_dim": 32}
GRID, TOKENS = (2, 3), 6
CONTEXT, CHUNK = 6, 3


@pytest.fixture
def transformer() -> ShotTransformer:
    torch.manual_seed(0)
    model = ShotTransformer(**CONFIG)
    torch.nn.init.normal_(model.head.head.weight, std=0.1)  # training starts from zero: nothing to compare
    return model.eval()


def allocate(model: ShotTransformer, local_frames: int) -> ShotCache:
    return ShotCache.allocate(model, (4, 6), local_frames, torch.device("cpu"), torch.float32)


def chunk_mask(chunks: int) -> torch.Tensor:
    """True where the query frame may attend: context to context, chunks to context, earlier chunks and themselves."""
    group = torch.cat([torch.zeros(CONTEXT), 1 + torch.arange(chunks * CHUNK) // CHUNK])
    return group[:, None] >= group[None, :]


@torch.no_grad()
def test_cached_calls_equal_one_masked_forward(transformer):
    chunks = 3
    frames = CONTEXT + chunks * CHUNK
    latents = torch.randn(1, frames, 16, 4, 6)
    timestep = torch.cat([torch.zeros(1, CONTEXT), torch.tensor([[0.0] * 6 + [888.9] * 3])], dim=1)
    prompts = torch.randn(1, 3, 7, 20)
    shot = torch.tensor([[0, 0, 0, 1, 1, 1] + [2] * chunks * CHUNK])
    positions = torch.arange(frames)
    whole = transformer(latents, timestep, prompts, shot, positions, shot, chunk_mask(chunks))

    captions = transformer.embed_captions(prompts[0])
    phases = rope_phases(positions, shot, GRID, transformer.head_dim)
    cache = allocate(transformer, chunks * CHUNK)
    parts = [
        transformer.forward_cached(
            latents[:, :CONTEXT],
            timestep[:, :CONTEXT],
            captions.routed(shot[0, :CONTEXT]),
            phases.frames(0, CONTEXT, TOKENS),
            cache.context_windows(),
        )
    ]
    for stop in range(CHUNK, chunks * CHUNK + 1, CHUNK):
        own = slice(CONTEXT + stop - CHUNK, CONTEXT + stop)
        parts.append(
            transformer.forward_cached(
                latents[:, own],
                timestep[:, own],
                captions.last(),
                phases.frames(own.start, own.stop, TOKENS),
                cache.chunk_windows(stop),
            )
        )
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=0)


@torch.no_grad()
def test_batch_items_are_independent(transformer):
    """Different captions, shots and masks in one batch give what each item gives alone."""
    frames = 9
    latents, prompts = torch.randn(2, frames, 16, 4, 6), torch.randn(2, 2, 7, 20)
    timestep = torch.rand(2, frames) * 1000
    caption, shot = torch.randint(0, 2, (2, frames)), torch.randint(0, 5, (2, frames))
    mask = torch.rand(2, frames, frames) > 0.5
    mask |= torch.eye(frames, dtype=torch.bool)
    positions = torch.stack([torch.arange(frames), torch.arange(frames) + 3])
    both = transformer(latents, timestep, prompts, caption, positions, shot, mask)
    for i in range(2):
        item = slice(i, i + 1)
        alone = transformer(
            latents[item], timestep[item], prompts[item], caption[item], positions[i], shot[item], mask[i]
        )
        torch.testing.assert_close(both[item], alone, atol=1e-5, rtol=0)


def test_gradients_reach_every_parameter(transformer):
    flow = transformer(
        torch.randn(1, 4, 16, 4, 6),
        torch.full((1, 4), 500.0),
        torch.randn(1, 1, 7, 20),
        torch.zeros(1, 4, dtype=torch.long),
        torch.arange(4),
        torch.zeros(1, 4, dtype=torch.long),
    )
    assert flow.shape == (1, 4, 16, 4, 6)
    flow.square().mean().backward()
    silent = [name for name, p in transformer.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # a key bias shifts all scores of a query alike only without the q/k norm; with it, every parameter matters
    assert silent == []


@pytest.mark.parametrize(("start", "place"), [(6, 3), (3, 0), (6, 5)])
def test_moved_keys_are_what_they_would_be_if_made_there(start, place):
    """Turned once, they equal keys that were rotated for their new place from the start, also where the two overlap."""
    keys, values = torch.randn(2, 1, 15 * 6, 2, 24), torch.randn(2, 1, 15 * 6, 2, 24)
    shots = torch.tensor([0, 0, 1, 1, 2, 2, *[3] * 9])
    phases = rope_phases(torch.arange(15), shots, (2, 3), 24)
    rotated = torch.stack([rotate(layer, phases) for layer in keys])
    cache = ShotCache(rotated.clone(), values.clone(), context_frames=6, frame_tokens=6)
    cache.move(start, place, 3)
    old, new = (slice((6 + at) * 6, (9 + at) * 6) for at in (start, place))
    there = torch.stack([rotate(layer[:, old], phases.frames(6 + place, 9 + place, 6)) for layer in keys])
    torch.testing.assert_close(cache.keys[:, :, new], there, atol=1e-5, rtol=0)
    assert torch.equal(cache.values[:, :, new], values[:, :, old])
    rest = torch.ones(90, dtype=torch.bool)
    rest[new] = False
    assert torch.equal(cache.keys[:, :, rest], rotated[:, :, rest])
    assert torch.equal(cache.values[:, :, rest], values[:, :, rest])


def test_watched_windows_see_what_attention_written_out_sees():
    cache = ShotCache(torch.randn(1, 1, 48, 2, 8), torch.randn(1, 1, 48, 2, 8), context_frames=6, frame_tokens=4)
    (window,) = cache.watched_windows(6)
    queries = torch.randn(1, 12, 2, 8)
    window.look(queries, window.keys)
    expected = torch.zeros(12)
    for query in range(12):
        for head in range(2):
            scores = torch.stack([queries[0, query, head] @ key / 8**0.5 for key in window.keys[0, :, head]])
            for token, share in enumerate(scores.exp() / scores.exp().sum()):
                expected[token // 4] += share / 24
    torch.testing.assert_close(window.shares[0], expected)


def test_rope_turns_by_position_and_by_a_sixth_of_a_radian_per_shot():
    assert axis_dims(128) == (44, 42, 42)
    assert axis_dims(32) == (12, 10, 10)
    x = torch.zeros(1, 1, 1, 32)
    x[..., 0::2] = 1
    turned = rotate(x, rope_phases(torch.tensor([5]), torch.tensor([2]), (1, 1), 32))
    angle = torch.atan2(turned[..., 1::2], turned[..., 0::2]).flatten()
    omega = 10000.0 ** (-torch.arange(0, 12, 2) / 12)
    expected = (5 * omega + 2 / 6 + torch.pi) % (2 * torch.pi) - torch.pi
    torch.testing.assert_close(angle[:6], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(angle[6:], torch.zeros(10), atol=1e-6, rtol=0)


def test_joined_weights_stay_parameters_of_their_own(tmp_path):
    transformer = ShotTransformer(**CONFIG)
    before = {name: tensor.clone() for name, tensor in transformer.state_dict().items()}
    x = torch.randn(1, 5, transformer.config.dim)
    attention = transformer.blocks[0].self_attn
    with torch.no_grad():
        apart = attention.queries_keys_values(x)
        transformer.join()
        assert attention._joined()
        for one, other in zip(apart, attention.queries_keys_values(x), strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
        attention.k.weight.mul_(2)  # as an optimiser steps
        other = attention.queries_keys_values(x)[2]
        torch.testing.assert_close(apart[2], other, atol=1e-6, rtol=1e-5)
        assert torch.equal(attention._joint[0][x.shape[-1] : 2 * x.shape[-1]], attention.k.weight)
        attention.k.weight.div_(2)
    transformer.save_pretrained(tmp_path)
    loaded = ShotTransformer.from_pretrained(tmp_path)
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, before[name])
    twin = copy.deepcopy(transformer)
    with torch.no_grad():
        twin.blocks[0].self_attn.q.weight.zero_()
        assert torch.equal(transformer.blocks[0].self_attn.q.weight, before["blocks.0.self_attn.q.weight"])
        transformer.double()
        assert not attention._joined()  # moved: what lay side by side does not any more
        wide = attention.queries_keys_values(x.double())
        torch.testing.assert_close(wide[0].float(), apart[0], atol=1e-5, rtol=1e-4)


def test_times_worked_out_beforehand_are_those_of_the_call():
    transformer = ShotTransformer(**CONFIG)
    torch.nn.init.normal_(transformer.head.head.weight)
    steps = torch.tensor([[0.0], [957.9], [737.6]])
    with torch.no_grad():
        times = transformer.times(steps)
        for place, step in enumerate(steps):
            alone = transformer.times(step[None])
            torch.testing.assert_close(times.at(place).blocks, alone.blocks)
            torch.testing.assert_close(times.at(place).head, alone.head)

"""What a full-size call asks of a GPU, counted on tensors without memory: the goals, and that the counter counts."""

from __future__ import annotations

import counting
import pytest
import torch
import torch.nn.functional as F

from shotstream.models.transformer import ShotTransformer

SMALL = {"dim": 96, "ffn_dim": 160, "num_heads": 2, "num_layers": 3, "text_dim": 32, "text_len": 12, "freq_dim": 32}


@pytest.mark.parametrize("start", [0, 9, 18])
def test_kernels_and_bytes_at_the_published_size(start):
    """Of a shot's first chunk, one in the middle and its last, outside matrix products and attention: at most two
    thirds of the kernels, a third of the bytes."""
    ours, plain = counting.count_calls(size=counting.Size(start=start))
    assert ours.kernels <= plain.kernels * 2 / 3
    assert ours.bytes <= plain.bytes / 3
    assert ours.kernels <= 18 * 30 + 10, ours.name  # a layer's kernels, so that none slips in unseen
    assert ours.matrix_products == 8 * 30 + 2  # q k v o, q o, two of the feed-forward layer; patches in and out


def test_a_later_chunk_costs_no_more_outside_attention():
    size = counting.Size(latent_size=(8, 12), start=0)
    first, _ = counting.count_calls(SMALL, size)
    last, _ = counting.count_calls(SMALL, counting.Size(latent_size=(8, 12), start=18))
    assert (first.kernels, first.bytes) == (last.kernels, last.bytes)


def test_the_counter_counts_what_is_launched():
    with torch.device("meta"), torch.no_grad():
        x, y = torch.empty(4, 6), torch.empty(4, 1).expand(4, 6)
        with counting.counted() as count:
            x.view(2, 12).t().unsqueeze(0)
            assert count.kernels == 0
            torch.mm(x, x.t())
            F.linear(x, x)
            assert (count.kernels, count.matrix_products) == (0, 2)
            x + y
            assert (count.kernels, count.bytes) == (1, 4 * (24 + 4 + 24))  # what is repeated is read once
            x.mul_(2)
            assert (count.kernels, count.bytes) == (2, 4 * 52 + 4 * 48)
            x[:2].copy_(x[2:])
            assert (count.kernels, count.bytes) == (3, 4 * 100 + 4 * 24)
            out = F.scaled_dot_product_attention(*[x.view(1, 1, 4, 6)] * 3)
            assert count.kernels == 3 and out.shape == (1, 1, 4, 6)


@pytest.mark.parametrize("grad", [True, False])
def test_no_number_is_read_back_inside_a_call(grad):
    """A tensor without memory has no number to read: a host that waits for one fails here."""
    with torch.device("meta"), torch.set_grad_enabled(grad):
        transformer = ShotTransformer(**SMALL)
        call = counting.engines_call(transformer, counting.Size(latent_size=(8, 12)), torch.float32)
        assert call().shape == (1, 3, 16, 8, 12)

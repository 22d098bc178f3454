"""What this machine can do here and now: matrix products and attention apart, and how near a call comes to them.

Owns the measuring of rates and the count of a transformer call's arithmetic by kind. Knows no engine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from shotstream.context import MAX_CONTEXT_FRAMES
from shotstream.models.transformer import ShotTransformer
from shotstream.sampler import Schedule


@dataclass(frozen=True)
class Flops:
    """Multiplications and additions, of `matrix` products with weights and of `attention` apart."""

    matrix: int
    attention: int

    @property
    def total(self) -> int:
        return self.matrix + self.attention


@dataclass(frozen=True)
class Rates:
    """FLOPs a second that were reached on this machine, each by the best of what it offers."""

    matrix: float
    attention: float

    def seconds(self, flops: Flops) -> float:
        """How long that arithmetic takes at these rates: the roof of a call that did nothing else."""
        return flops.matrix / self.matrix + flops.attention / self.attention

    def best(self, other: Rates) -> Rates:
        return Rates(max(self.matrix, other.matrix), max(self.attention, other.attention))


def attended(schedule: Schedule, chunks: int) -> list[int]:
    """Latent frames that each chunk of a shot attends to."""
    return [MAX_CONTEXT_FRAMES + schedule.chunk_frames * schedule.remembered(chunk) for chunk in range(chunks)]


def call_flops(transformer: ShotTransformer, frames: int, attended: int, rows: int, columns: int) -> Flops:
    """Of one cached call on `frames` latent frames of `rows` x `columns` that attend to `attended` latent frames
    (themselves included); norms and activations are left out, and captions' keys and values, which are not computed in
    a call."""
    config = transformer.config
    dim, (patch_t, patch_h, patch_w) = config.dim, config.patch_size
    grid = (rows // patch_h) * (columns // patch_w)
    tokens, keys = frames * grid, attended * grid
    patch = patch_t * patch_h * patch_w
    linear = tokens * dim * (4 * dim + 2 * dim + 2 * config.ffn_dim)  # self-attention, cross-attention, feed-forward
    attention = 2 * tokens * dim * (keys + config.text_len)
    ends = tokens * dim * patch * (config.in_dim + config.out_dim)
    return Flops(2 * (config.num_layers * linear + ends), 2 * config.num_layers * attention)


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOPs a second of a plain square matrix product: the best of a few."""
    square = _square(device, dtype)
    return 2 * len(square) ** 3 / _best(lambda: square @ square, 6, time.perf_counter)


def _square(device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    size = 2048 if device.type == "cpu" else 8192
    return torch.randn(size, size, device=device).to(dtype)


def measure_rates(
    transformer: ShotTransformer,
    tokens: int,
    keys: int,
    device: torch.device,
    dtype: torch.dtype,
    repeats: int = 6,
    clock: Callable[[], float] = time.perf_counter,
) -> Rates:
    """The best of `repeats` of: a square matrix product, and of each matrix product of the feed-forward layers;
    attention of `tokens` queries to `keys` keys, by torch's own kernel."""
    config = transformer.config
    heads, head_dim = config.num_heads, transformer.head_dim

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device).to(dtype)

    with torch.no_grad():
        square, wide = _square(device, dtype), random(tokens, config.dim)
        up = random(config.ffn_dim, config.dim)
        q, k, v = random(1, heads, tokens, head_dim), *(random(1, heads, keys, head_dim) for _ in range(2))
        whole = 2 * len(square) ** 3
        products = [(lambda: square @ square, whole)]
        layer = 2 * tokens * config.dim * config.ffn_dim
        products.append((lambda: F.linear(wide, up), layer))
        if device.type == "cpu" and hasattr(torch.ops.mkldnn, "_linear_pointwise"):  # the other library of a CPU
            one_dnn = torch.ops.mkldnn._linear_pointwise
            products.append((lambda: one_dnn(wide, up, None, "none", [], ""), layer))
            products.append((lambda: one_dnn(square, square, None, "none", [], ""), whole))
        attending = 4 * tokens * keys * config.dim
        return Rates(
            max(flops / _best(work, repeats, clock) for work, flops in products),
            attending / _best(lambda: F.scaled_dot_product_attention(q, k, v), repeats, clock),
        )


def _best(work: Callable[[], torch.Tensor], repeats: int, clock: Callable[[], float]) -> float:
    """Seconds."""
    best = float("inf")
    for _ in range(repeats + 1):
        started = clock()
        work().view(-1)[0].item()  # reading a number waits for the device
        best = min(best, clock() - started)
    return best

"""Blocks compiled ahead of time, for a home in which nothing may be compiled while it runs: ZeroGPU.

Owns the one call that is compiled, a chunk's, with its caches as arguments that are written to, and the package of it
that all blocks share, each with weights of its own. Every other call (context frames, several chunks at once, other
pictures than the model's own) is the block's as it was.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from shotstream.context import MAX_CONTEXT_FRAMES
from shotstream.models.cache import LayerWindow
from shotstream.models.layers import Block
from shotstream.models.model import Model
from shotstream.models.rope import Phases


class ChunkCall(nn.Module):
    """A block's call for a chunk under one caption, of tensors alone: `keys` and `values` are all that may be read, the
    chunk's own last; see `Block.forward` and `LayerWindow.put`."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.block = block

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        caption_keys: Tensor,
        caption_values: Tensor,
        turns: Tensor,
        keys: Tensor,
        values: Tensor,
    ) -> Tensor:
        window = LayerWindow(keys, values)
        return self.block(x, time, (caption_keys, caption_values), Phases(turns), None, window)


@torch.no_grad()
def package_blocks(model: Model, folder: Path) -> None:
    """Compiles a chunk's call for the model's own picture size, device and dtype, and writes it to `folder`: minutes.
    How much of the caches is read stays open."""
    import spaces

    transformer, schedule = model.transformer, model.schedule
    batch, frames, tokens, dim = _own_shape(model)
    least, most = ((MAX_CONTEXT_FRAMES + frames * chunks) * tokens for chunks in (1, schedule.max_chunks))
    heads = (transformer.config.num_heads, transformer.head_dim)

    def example(*shape: int, dtype: torch.dtype = model.dtype) -> Tensor:
        return torch.zeros(shape, device=model.device, dtype=dtype)

    caption = [example(1, transformer.config.text_len, *heads) for _ in range(2)]
    turns = example(1, frames * tokens, 1, transformer.head_dim // 2, 2, dtype=torch.float32)
    caches = [example(1, (least + most) // 2, *heads) for _ in range(2)]
    inputs = (example(batch, frames, tokens, dim), example(1, 1, 6, dim), *caption, turns, *caches)
    read = {1: torch.export.Dim("read", min=least, max=most)}
    call = ChunkCall(_alone(transformer.blocks[0]))
    program = torch.export.export(call, inputs, dynamic_shapes=(*[None] * 5, read, read), strict=False)
    spaces.aoti_compile_and_save(folder, program)


def use_package(model: Model, folder: Path) -> None:
    """Lets the model's blocks make a chunk's calls by the package in `folder`, which was made for such a model."""
    import spaces

    calls = nn.ModuleList(ChunkCall(block) for block in model.transformer.blocks)
    spaces.aoti_load_from_package_dir(calls, folder)
    for block, call in zip(model.transformer.blocks, calls, strict=True):
        block.forward = Either(block.forward, call.forward, _own_shape(model))


@dataclass(frozen=True)
class Either:
    """The compiled call where it is what is asked for, else the block's own."""

    plain: Callable[..., Tensor]
    compiled: Callable[..., Tensor]
    shape: tuple[int, ...]

    def __call__(self, x, time, caption, phases, mask, window) -> Tensor:
        tokens = x.shape[1] * x.shape[2]
        fits = x.shape == self.shape and time.shape[1] == 1 and len(caption[0]) == 1 and mask is None
        fits = fits and type(window) is LayerWindow and window.place in (None, window.keys.shape[1] - tokens)
        if not fits or torch.is_grad_enabled():
            return self.plain(x, time, caption, phases, mask, window)
        return self.compiled(x, time, *caption, phases.turns, window.keys, window.values)


def _own_shape(model: Model) -> tuple[int, ...]:
    """Of what a block is given of a chunk: [B, F, T, dim]."""
    rows, columns = model.transformer.patch_grid(*model.latent_size(model.height, model.width))
    return 1, model.schedule.chunk_frames, rows * columns, model.transformer.config.dim


def _alone(block: Block) -> Block:
    """A copy whose weights are nobody else's, so that the package asks for all of them by name."""
    alone = copy.deepcopy(block)
    for attention in (alone.self_attn, alone.cross_attn):
        attention._joint = None
    return alone

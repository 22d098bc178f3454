"""Faster with a stated loss: a ladder of changes to a loaded model, each rung with those below it.

Owns what a rung changes and the line that says so. What a rung costs is measured, not promised:
`python -m shotstream evaluate --table assets/fast.yaml -o assets/fast.md` makes the table and the plot.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, replace

import torch

from shotstream.context import MAX_CONTEXT_FRAMES
from shotstream.errors import UserError
from shotstream.models import kernels
from shotstream.models.cache import LayerWindow
from shotstream.models.model import Model
from shotstream.models.transformer import ShotTransformer

NEAR_CHUNKS = 4  # that a chunk attends to: the shot's first, the two before it, itself


@dataclass(frozen=True)
class Rung:
    """`what` it changes besides all that the rungs below it do."""

    name: str
    what: str


RUNGS = (
    Rung("exact", "nothing"),
    Rung("bf16", "the denoiser in bfloat16, on a CPU where that is faster"),
    Rung("3 steps", "three denoising steps a chunk"),
    Rung("near", f"a chunk attends to {NEAR_CHUNKS} chunks of its shot: the first, the latest and itself"),
    Rung("2 steps", "two denoising steps a chunk"),
    Rung("8 bit", "the weights of the denoiser's blocks in 8 bits, by torchao"),
)


def quicken(model: Model, rung: int) -> tuple[Model, str]:
    """`model` as rung number `rung` has it, and what that is, in a line; the one given is left as it is.

    Raises `UserError` for a rung that there is not, a teacher, or what this machine lacks.
    """
    if not 0 <= rung < len(RUNGS):
        raise UserError(f"The ladder has the rungs 0 to {len(RUNGS) - 1}, not {rung}.")
    if rung and model.guidance is not None:
        raise UserError("Only the student has faster ways: leave out --fast with the teacher.")
    told = []
    if rung >= 1:
        model, line = _in_half(model)
        told.append(line)
    steps = {2: 3, 3: 3}.get(rung, 2 if rung >= 4 else len(model.schedule.steps))
    if steps < len(model.schedule.steps):
        model = replace(model, schedule=replace(model.schedule, steps=fewer(model.schedule.steps, steps)))
        told.append(f"{steps} steps")
    if rung >= 3 and model.schedule.max_chunks > NEAR_CHUNKS:
        model = replace(model, schedule=replace(model.schedule, near_chunks=NEAR_CHUNKS))
        told.append(f"near memory of {NEAR_CHUNKS} chunks")
    if rung >= 5:
        model = replace(model, transformer=copy.deepcopy(model.transformer))
        told.append(_in_bytes(model))
    if rung:  # a film's note names it: it is another film
        model = replace(model, name=f"{model.name} (fast {rung})")
    return model, ", ".join(told) or "exact"


def fewer(steps: tuple[int, ...], count: int) -> tuple[int, ...]:
    """`count` of a model's own steps, none new to it: the first, and of the rest the evenly spread ones."""
    if count >= len(steps):
        return steps
    places = {round(place * len(steps) / count) for place in range(count)}
    return tuple(steps[place] for place in sorted(places))


def _in_half(model: Model) -> tuple[Model, str]:
    """In bfloat16; on a CPU only if a block is faster so at the model's size, here and now, and with the faster of
    torch's own attention and matrix products."""
    if model.dtype != torch.float32:
        return model, f"{str(model.dtype).removeprefix('torch.')} as it is"
    # not by `ModelMixin.to`, which warns
    transformer = torch.nn.Module.to(copy.deepcopy(model.transformer), torch.bfloat16)
    half = replace(model, transformer=transformer, dtype=torch.bfloat16)
    if model.device.type != "cpu":
        return half, "bfloat16"
    own = _block_seconds(transformer, model)
    transformer.use_attention(kernels.PRODUCTS)
    products = _block_seconds(transformer, model)
    if own <= products:
        transformer.use_attention(kernels.NATIVE)
    if min(own, products) >= _block_seconds(model.transformer, model):
        return model, "float32, as bfloat16 is slower here"
    return half, "bfloat16" if own <= products else "bfloat16 with attention by matrix products"


def _block_seconds(transformer: ShotTransformer, model: Model, repeats: int = 5) -> float:
    """Of processor time, for a block's call on the second chunk of a shot: the least of a few."""
    config, dtype = transformer.config, transformer.head.modulation.dtype
    size = model.latent_size(model.height, model.width)
    rows, columns = transformer.patch_grid(*size)
    frames = model.schedule.chunk_frames
    heads = (config.num_heads, transformer.head_dim)
    x = torch.randn(1, frames, rows * columns, config.dim).to(dtype)
    time_parts = torch.zeros(1, 1, 6, config.dim, dtype=dtype)
    text = torch.randn(1, config.text_len, *heads).to(dtype)
    read = torch.zeros(1, (MAX_CONTEXT_FRAMES + 2 * frames) * rows * columns, *heads, dtype=dtype)
    phases = transformer.phases(torch.arange(frames), torch.ones(frames), size, model.device)
    window, taken = LayerWindow(read, read.clone()), []
    with torch.no_grad():
        for _ in range(repeats):
            started = time.process_time()
            transformer.blocks[0](x, time_parts, (text, text), phases, None, window)
            taken.append(time.process_time() - started)
    return min(taken)


def _in_bytes(model: Model) -> str:
    """Weights of the blocks in 8 bits, in place."""
    try:
        from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, Int8WeightOnlyConfig, quantize_
    except Exception as error:  # not installed, or not for this torch
        raise UserError("The 8-bit rung needs torchao: pip install torchao.") from error
    eighth = model.device.type == "cuda" and torch.cuda.get_device_capability(model.device) >= (8, 9)
    config = Float8DynamicActivationFloat8WeightConfig() if eighth else Int8WeightOnlyConfig()
    quantize_(model.transformer.blocks, config)
    return "float8" if eighth else "int8 weights"

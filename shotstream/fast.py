"""Faster with a stated loss: a ladder of changes to a loaded model, each rung with those below it.

Owns how a rung of the `ladder` is climbed and the line that says so. What a rung costs is measured, not promised:
`python -m shotstream evaluate --table assets/fast.yaml -o assets/fast.md` makes the table and the plot.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from shotstream.context import MAX_CONTEXT_FRAMES
from shotstream.errors import UserError
from shotstream.ladder import RUNGS
from shotstream.models import kernels
from shotstream.models.cache import LayerWindow
from shotstream.models.model import Model
from shotstream.models.transformer import ShotTransformer

Seconds = Callable[[ShotTransformer, Model], float]


def quicken(model: Model, rung: int, seconds: Seconds | None = None, eight_bit: bool = False) -> tuple[Model, str]:
    """`model` as rung number `rung` has it, with weights in 8 bits even where the rung has none if asked for; and what
    that is, in a line. The one given is left as it is. `seconds` tells how long a block of a transformer takes,
    `block_seconds` unless given.

    Raises `UserError` for a rung that there is not, a teacher, or what this machine lacks.
    """
    if not 0 <= rung < len(RUNGS):
        raise UserError(f"The ladder has the rungs 0 to {len(RUNGS) - 1}, not {rung}.")
    if rung and model.guidance is not None:
        raise UserError("Only the student has faster ways: leave out --fast with the teacher.")
    asked, told = RUNGS[rung], []
    if asked.half:
        model, line = _in_half(model, seconds or block_seconds)
        told.append(line)
    schedule = model.schedule
    if asked.steps and asked.steps < len(schedule.steps):
        schedule = replace(schedule, steps=fewer(schedule.steps, asked.steps))
        told.append(f"{asked.steps} steps")
    if asked.near_chunks and asked.near_chunks < schedule.max_chunks:
        schedule = replace(schedule, near_chunks=asked.near_chunks)
        told.append(f"near memory of {asked.near_chunks} chunks")
    model = replace(model, schedule=schedule)
    if asked.eight_bit or eight_bit:
        model = replace(model, transformer=copy.deepcopy(model.transformer))
        told.append(_in_bytes(model))
    if rung:  # a film's note names it: it is another film
        model = replace(model, name=f"{model.name} (fast {rung})")
    if eight_bit and not asked.eight_bit:
        model = replace(model, name=f"{model.name} (8 bit)")
    return model, ", ".join(told) or "exact"


def fewer(steps: tuple[int, ...], count: int) -> tuple[int, ...]:
    """`count` of a model's own steps, none new to it: the first, and of the rest the evenly spread ones."""
    if count >= len(steps):
        return steps
    places = {round(place * len(steps) / count) for place in range(count)}
    return tuple(steps[place] for place in sorted(places))


def _in_half(model: Model, seconds: Seconds) -> tuple[Model, str]:
    """In bfloat16; on a CPU only if a block is faster so at the model's size, here and now, and with the faster of
    torch's own attention and matrix products."""
    if model.dtype != torch.float32:
        return model, f"{str(model.dtype).removeprefix('torch.')} as it is"
    # not by `ModelMixin.to`, which warns
    transformer = torch.nn.Module.to(copy.deepcopy(model.transformer), torch.bfloat16)
    half = replace(model, transformer=transformer, dtype=torch.bfloat16)
    if model.device.type != "cpu":
        return half, "bfloat16"
    own = seconds(transformer, model)
    transformer.use_attention(kernels.PRODUCTS)
    products = seconds(transformer, model)
    if own <= products:
        transformer.use_attention(kernels.NATIVE)
    if min(own, products) >= seconds(model.transformer, model):
        return model, "float32, as bfloat16 is slower here"
    return half, "bfloat16" if own <= products else "bfloat16 with attention by matrix products"


def block_seconds(transformer: ShotTransformer, model: Model, repeats: int = 5) -> float:
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
        raise UserError("The denoiser in 8 bits needs torchao: pip install -e '.[int8]'.") from error
    eighth = model.device.type == "cuda" and torch.cuda.get_device_capability(model.device) >= (8, 9)
    config = Float8DynamicActivationFloat8WeightConfig() if eighth else Int8WeightOnlyConfig()
    quantize_(model.transformer.blocks, config)
    return "float8" if eighth else "int8 weights"

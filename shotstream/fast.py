"""Faster with a stated loss: a ladder of changes to a loaded model, each rung with those below it.

Owns what a rung changes and the line that says so. What a rung costs is measured, not promised:
`python -m shotstream evaluate --table assets/fast.yaml -o assets/fast.md` makes the table and the plot.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, replace

import torch

from shotstream.errors import UserError
from shotstream.models import kernels
from shotstream.models.model import Model

NEAR_CHUNKS = 4  # that a chunk attends to: the shot's first, the two before it, itself


@dataclass(frozen=True)
class Rung:
    """`what` it changes besides all that the rungs below it do."""

    name: str
    what: str


RUNGS = (
    Rung("exact", "nothing"),
    Rung("bf16", "the denoiser in bfloat16"),
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
    if model.dtype != torch.float32:
        return model, f"{str(model.dtype).removeprefix('torch.')} as it is"
    transformer = copy.deepcopy(model.transformer).to(torch.bfloat16)
    backend, line = _faster_attention(transformer, model)
    transformer.use_attention(backend)
    return replace(model, transformer=transformer, dtype=torch.bfloat16), line


def _faster_attention(transformer: torch.nn.Module, model: Model) -> tuple[str, str]:
    """On a CPU, torch's own kernel for bfloat16 or matrix products, whichever is faster here at the model's size."""
    if model.device.type != "cpu":
        return transformer.blocks[0].self_attn.backend, "bfloat16"
    size = (model.height // model.vae.spatial_factor, model.width // model.vae.spatial_factor)
    rows, columns = transformer.patch_grid(*size)
    heads = (transformer.config.num_heads, transformer.head_dim)
    tokens = model.schedule.chunk_frames * rows * columns
    q, k = (torch.randn(1, count, *heads, dtype=torch.bfloat16) for count in (tokens, 5 * tokens))
    seconds = {}
    with torch.no_grad():
        for backend in (kernels.NATIVE, kernels.PRODUCTS):
            taken = []
            for _ in range(5):
                started = time.process_time()
                kernels.attend(q, k, k, backend=backend)
                taken.append(time.process_time() - started)
            seconds[backend] = min(taken)
    best = min(seconds, key=seconds.get)
    return best, f"bfloat16 with {'torch own' if best == kernels.NATIVE else 'matrix-product'} attention"


def _in_bytes(model: Model) -> str:
    """Weights of the blocks in 8 bits, in place: of a copy, as `_in_half` made one, where the model was float32."""
    try:
        from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, Int8WeightOnlyConfig, quantize_
    except Exception as error:  # not installed, or not for this torch
        raise UserError("The 8-bit rung needs torchao: pip install torchao.") from error
    eighth = model.device.type == "cuda" and torch.cuda.get_device_capability(model.device) >= (8, 9)
    config = Float8DynamicActivationFloat8WeightConfig() if eighth else Int8WeightOnlyConfig()
    quantize_(model.transformer.blocks, config)
    return "float8" if eighth else "int8 weights"

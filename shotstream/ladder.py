"""The ladder of faster ways to make a shot: what each rung asks for. Climbing it is `fast`'s."""

from __future__ import annotations

from dataclasses import dataclass

NEAR_CHUNKS = 4  # that a chunk attends to: the shot's first, the two before it, itself


@dataclass(frozen=True)
class Rung:
    """`half`: the denoiser in bfloat16, on a CPU where that is faster. At most so many denoising `steps` a chunk;
    `near_chunks` that it attends to. `eight_bit`: the weights of the denoiser's blocks, by torchao."""

    name: str
    half: bool = True
    steps: int | None = None
    near_chunks: int | None = None
    eight_bit: bool = False


RUNGS = (
    Rung("exact", half=False),
    Rung("bf16"),
    Rung("3 steps", steps=3),
    Rung("near memory", steps=3, near_chunks=NEAR_CHUNKS),
    Rung("2 steps", steps=2, near_chunks=NEAR_CHUNKS),
    Rung("8 bit", steps=2, near_chunks=NEAR_CHUNKS, eight_bit=True),
)

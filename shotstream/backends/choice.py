"""Which home shots are made in, from what is said in the environment, with the reason in words.

    SHOTSTREAM_BACKEND   in-process, zero-gpu or ray; left out: ZeroGPU in a Space that has it (SPACES_ZERO_GPU), Ray
                         where there is the address of a cluster (RAY_ADDRESS), else this process

Owns the decision. Imports a home only when it was chosen.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shotstream.errors import UserError

if TYPE_CHECKING:
    from shotstream.backends.backend import Backend
    from shotstream.models.fetching import FetchProgress

IN_PROCESS, ZERO_GPU, RAY = HOMES = ("in-process", "zero-gpu", "ray")
WHERE = {IN_PROCESS: "in this process", ZERO_GPU: "on ZeroGPU", RAY: "by replicas of Ray Serve"}


@dataclass(frozen=True)
class Choice:
    """A home, one of `HOMES`, and why."""

    home: str
    why: str

    def __str__(self) -> str:
        return f"Shots are made {WHERE[self.home]}: {self.why}."


def choose_home(environment: Mapping[str, str] = os.environ) -> Choice:
    """Raises `UserError` for a home that there is not."""
    asked = environment.get("SHOTSTREAM_BACKEND", "").strip().lower()
    zero_gpu = environment.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")  # as `spaces` reads it
    if asked == ZERO_GPU and not zero_gpu:
        raise UserError("SHOTSTREAM_BACKEND is zero-gpu, but this is no Space with ZeroGPU: choose another.")
    if asked in HOMES:
        return Choice(asked, f"SHOTSTREAM_BACKEND is {asked}")
    if asked:
        raise UserError(f"SHOTSTREAM_BACKEND is {asked[:40]!r}: it may be {', '.join(HOMES[:-1])} or {HOMES[-1]}.")
    if zero_gpu:
        return Choice(ZERO_GPU, "this Space has ZeroGPU")
    if environment.get("RAY_ADDRESS"):
        return Choice(RAY, "RAY_ADDRESS names a cluster")
    return Choice(IN_PROCESS, "neither ZeroGPU nor a Ray cluster is announced here")


def prepare(choice: Choice) -> None:
    """What must happen before torch is imported anywhere."""
    if choice.home == ZERO_GPU:
        import spaces  # noqa: F401


def build(choice: Choice, args: argparse.Namespace, progress: FetchProgress | None = None) -> Backend:
    """The chosen home for the model that `args` ask for (see `arguments.load_model`), not started yet. Raises
    `UserError` for what cannot be asked for there."""
    from shotstream.arguments import load_model

    if choice.home == RAY:
        from shotstream.backends.ray_serve import RayServeBackend

        return RayServeBackend(args)
    if choice.home == ZERO_GPU:
        if args.compile:  # a visitor's seconds would be spent on it, in every worker anew
            raise UserError("On ZeroGPU blocks are compiled ahead of time: set SHOTSTREAM_AOT=1 instead of --compile.")
        if args.low_vram:  # it pins memory for a card, and there is none in the process of the page
            raise UserError(
                "ZeroGPU's cards have room for the whole model: leave out SHOTSTREAM_LOW_VRAM (--low-vram)."
            )
        from shotstream.backends.zero_gpu import ZeroGpuBackend

        return ZeroGpuBackend(lambda: load_model(args, progress), args.attention)
    from shotstream.backends.in_process import InProcessBackend

    return InProcessBackend(lambda: load_model(args, progress))

"""A module that is being trained: its optimisers, the running average of its weights, and all of that as a state.

Owns one update down a loss, on one device or shared by many processes. Knows neither what the loss is nor when it is
asked for: that is a stage's, in `loop`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from shotstream.training import sharding
from shotstream.training.muon import Muon
from shotstream.training.recipe import Course


class Unit(nn.Module):
    """A network as one unit of training: `forward` runs whatever function it is given on the unit, so that
    data-parallel and sharding wrappers see every call."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, compute: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return compute(self, *args, **options)


class Average(EMAModel):
    """The running average of a module's weights, which stays on their device when it is read back."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        device = self.shadow_params[0].device
        super().load_state_dict(state_dict)
        self.to(device)


class Learner:
    """A module that is being trained, wrapped for wherever it runs, with its optimisers and the average of its
    weights."""

    def __init__(self, accelerator: Accelerator, module: Unit, course: Course, lr: float | None = None) -> None:
        self.accelerator, self.course, self.lr = accelerator, course, lr or course.lr
        shared = course.sharded and accelerator.num_processes > 1
        self.module = sharding.share_out(module, accelerator) if shared else accelerator.prepare(module)
        self.optimisers = [accelerator.prepare(o) for o in _optimisers(self.module, course, self.lr)]
        self.trained = [p for p in self.module.parameters() if p.requires_grad]
        self.ema = Average(self.trained, decay=course.ema)

    @property
    def unwrapped(self) -> Unit:
        return self.accelerator.unwrap_model(self.module)

    def update(self, loss: Tensor | Iterable[Tensor], step: int) -> float:
        """One step down `loss`, or the sum of several; returns its value, which is no number if a gradient is none.

        Several are asked for one after the other, each when the graph of the one before has been let go.
        """
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = self.lr * self.course.rate(step)
            optimiser.zero_grad()
        value = 0.0
        for part in [loss] if isinstance(loss, Tensor) else loss:
            self.accelerator.backward(part)
            value += part.item()
        norm = self.accelerator.clip_grad_norm_(self.trained, self.course.clip)
        for optimiser in self.optimisers:
            optimiser.step()
        self.ema.step(self.trained)
        return value if math.isfinite(sharding.whole(norm)) else math.nan  # before such weights get into a checkpoint

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that has been learned: trained weights, their average, what the optimisers remember. All processes must
        ask, as each may have a part; the tensors are the main one's alone, one after the other in its main memory, as
        no device need hold them all."""
        names = [name for name, p in self.unwrapped.named_parameters() if p.requires_grad]
        average = self.ema.state_dict()
        tensors = {f"weights.{name}": p for name, p in zip(names, self.trained, strict=True)}
        tensors |= {f"average.{name}": p for name, p in zip(names, average.pop("shadow_params"), strict=True)}
        numbers: dict[str, Any] = {"average": average, "optimisers": []}
        for place, optimiser in enumerate(self.optimisers):
            state = optimiser.state_dict()
            for index, entries in state["state"].items():
                tensors |= {f"optimiser{place}.{index}.{key}": torch.as_tensor(entry) for key, entry in entries.items()}
            numbers["optimisers"].append(state["param_groups"])
        gathered = ((name, sharding.whole(tensor)) for name, tensor in tensors.items())
        main = self.accelerator.is_main_process
        kept = [(name, tensor.detach().cpu()) if main else None for name, tensor in gathered]
        return dict(pair for pair in kept if pair), numbers

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Go on from a `state`. Raises whatever torch raises for one of other weights."""
        names = [name for name, p in self.unwrapped.named_parameters() if p.requires_grad]
        for name, parameter in zip(names, self.trained, strict=True):
            weights = tensors[f"weights.{name}"]
            if weights.shape != parameter.shape:
                raise ValueError(f"{name} is {tuple(parameter.shape)}, not {tuple(weights.shape)}")
            parameter.copy_(sharding.part_like(weights, parameter))
        pairs = zip(names, self.trained, strict=True)
        shadow = [sharding.part_like(tensors[f"average.{name}"], parameter) for name, parameter in pairs]
        self.ema.load_state_dict(numbers["average"] | {"shadow_params": shadow})
        for place, (optimiser, groups) in enumerate(zip(self.optimisers, numbers["optimisers"], strict=True)):
            state: dict[int, dict[str, Tensor]] = {}
            parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
            for name, tensor in tensors.items():
                kind, *rest = name.split(".")
                if kind == f"optimiser{place}":
                    index = int(rest[0])
                    state.setdefault(index, {})[rest[1]] = sharding.part_like(tensor, parameters[index])
            optimiser.load_state_dict({"state": state, "param_groups": groups})

    def look(self, look: Callable[[Any, int], str], step: int) -> str:
        """What `look(module, step)` says of the module with averaged weights; it is called in the main process, but
        all must ask."""
        self.ema.store(self.trained)
        self.ema.copy_to(self.trained)
        sharding.gather(self.module)
        try:
            return look(self.unwrapped, step) if self.accelerator.is_main_process else ""
        finally:
            sharding.release(self.module)
            self.ema.restore(self.trained)

    def finish(self) -> Any:
        """The module as it is to be kept: with averaged weights, all of them in every process."""
        self.ema.copy_to(self.trained)
        return self.whole()

    def whole(self) -> Any:
        """The module with all its weights in every process, for good: it is not trained on."""
        sharding.keep_whole(self.module)
        return self.unwrapped


def _optimisers(module: Unit, course: Course, lr: float) -> list[torch.optim.Optimizer]:
    """AdamW, or Muon for the matrices inside blocks and AdamW for embeddings, norms, modulation and the rest."""
    trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    matrices, rest = [], []
    for name, parameter in trained:
        inside = parameter.ndim == 2 and "block" in name and "relative" not in name and "lora" not in name
        (matrices if inside and course.optimiser == "muon" else rest).append(parameter)
    optimisers: list[torch.optim.Optimizer] = []
    if matrices:
        optimisers.append(Muon(matrices, lr=lr, weight_decay=course.weight_decay))
    if rest:
        optimisers.append(torch.optim.AdamW(rest, lr=lr, betas=course.betas[:2], weight_decay=course.weight_decay))
    return optimisers

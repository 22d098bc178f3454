"""Weights that several processes share out: each keeps a part of every parameter, of its average and of what the
optimiser remembers of it, and has the whole only while the network computes (FSDP).

accelerate starts the processes; it offers FSDP of its own on GPUs only, so the sharding is torch's, which is the same
on processes without one. Knows no loss and no files.
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def share_out(module: nn.Module, accelerator: Accelerator) -> nn.Module:
    """`module` on this process's device and in its precision, its parameters shared out over all processes.

    They are gathered for a call of the module itself and for nothing below it: what is called are functions on it
    (`learner.Unit`), which use its parts as they like.
    """
    module = accelerator.prepare_model(module, evaluation_mode=True)  # placed and cast, but not wrapped
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    return fully_shard(module, mesh=mesh, reshard_after_forward=True)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor of which this process may have a part. All processes must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """The part of a whole `tensor` that this process has of `parameter`, if that is shared out and of its shape."""
    if not isinstance(parameter, DTensor) or tensor.shape != parameter.shape:
        return tensor
    return distribute_tensor(tensor.to(parameter.device), parameter.device_mesh, parameter.placements)


def gather(module: nn.Module) -> None:
    """Have the whole parameters in every process for a while: `module` and its parts compute without others."""
    if isinstance(module, FSDPModule):
        module.unshard()


def release(module: nn.Module) -> None:
    """End of what `gather` began."""
    if isinstance(module, FSDPModule):
        module.reshard()


@torch.no_grad()
def keep_whole(module: nn.Module) -> None:
    """Exchange the parts for whole parameters, for good. All processes must ask."""
    release(module)
    made: dict[int, nn.Parameter] = {}  # tied parameters stay tied
    for owner in module.modules():
        for name, parameter in list(owner.named_parameters(recurse=False)):
            if isinstance(parameter, DTensor):
                if id(parameter) not in made:
                    made[id(parameter)] = nn.Parameter(parameter.full_tensor(), parameter.requires_grad)
                setattr(owner, name, made[id(parameter)])

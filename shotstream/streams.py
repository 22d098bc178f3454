"""CUDA streams, events and pinned memory, which are nothing elsewhere.

Owns what is asked of torch to let copies and a second stream run beside the first. Knows no models.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def side_stream(device: torch.device) -> torch.cuda.Stream | None:
    """A second stream of a CUDA device, served first: what is shown goes before what is made. None elsewhere."""
    return torch.cuda.Stream(device, priority=-1) if device.type == "cuda" else None


def marked(device: torch.device) -> torch.cuda.Event | None:
    """This place in a CUDA device's present stream; None elsewhere, where work is done when it is asked for."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    return event


@contextmanager
def on_stream(stream: torch.cuda.Stream | None, after: torch.cuda.Event | None) -> Iterator[None]:
    """What is asked for inside runs on `stream`, once `after` has come."""
    if stream is None:
        yield
        return
    with torch.cuda.stream(stream):
        if after is not None:
            stream.wait_event(after)
        yield


def wait_for(stream: torch.cuda.Stream | None) -> None:
    if stream is not None:
        stream.synchronize()


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A CPU tensor on `device`; nobody waits for the copy to a CUDA device."""
    if device.type == "cuda" and not tensor.is_cuda:
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def to_host(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor on the CPU; from a CUDA device only once its stream has been waited for."""
    if not tensor.is_cuda:
        return tensor.cpu()
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)

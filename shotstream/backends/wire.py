"""Requests and events as bytes, by value, for a worker that may be killed at any moment.

Pickled between a process and its own forks, nowhere else. Tensors are copied to the CPU and written whole: the way that
torch itself sends them, through memory shared with the sender, hangs whoever reads once the sender is gone.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import torch


def pack(value: object) -> bytes:
    """The bytes of a request, an event or a `UserError`."""
    buffer = io.BytesIO()
    _Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(value)
    return buffer.getvalue()


def unpack(data: bytes) -> Any:
    """What was packed, by ourselves."""
    return pickle.loads(data)


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: object) -> Any:
        if not isinstance(value, torch.Tensor):
            return NotImplemented
        tensor = value.detach().cpu().contiguous()
        return _tensor, (tensor.reshape(-1).view(torch.uint8).numpy(), tensor.dtype, tuple(tensor.shape))


def _tensor(data: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(data).view(dtype).reshape(shape)

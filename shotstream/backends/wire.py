"""Requests and events as bytes, by value, for a worker that may be killed at any moment.

Pickled between a process and its own forks, nowhere else, and nothing is read but the values that these exchange.
Tensors are copied to the CPU and written whole: the way that
torch itself sends them, through memory shared with the sender, hangs whoever reads once the sender is gone.
"""

from __future__ import annotations

import io
import pickle
from dataclasses import is_dataclass
from typing import Any

import torch

from shotstream.errors import UserError


def pack(value: object) -> bytes:
    """The bytes of a request, an event or a `UserError`."""
    buffer = io.BytesIO()
    _Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(value)
    return buffer.getvalue()


def unpack(data: bytes) -> Any:
    """What was packed, by ourselves. Raises `pickle.UnpicklingError` for anything else."""
    return _Unpickler(io.BytesIO(data)).load()


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: object) -> Any:
        if not isinstance(value, torch.Tensor):
            return NotImplemented
        tensor = value.detach().cpu().contiguous()
        return _tensor, (tensor.reshape(-1).view(torch.uint8).numpy(), tensor.dtype, tuple(tensor.shape))


class _Unpickler(pickle.Unpickler):
    """Makes values of our own classes, arrays and dtypes, and calls nothing."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == (_tensor.__module__, _tensor.__name__):
            return _tensor
        known = module.split(".")[0] in ("shotstream", "numpy", "torch")  # nothing else is so much as imported
        found = super().find_class(module, name) if known else None
        ours = module.startswith("shotstream.") and (is_dataclass(found) or found is UserError)
        array = module.startswith("numpy") and name in ("ndarray", "dtype", "_reconstruct", "_frombuffer")
        if not (ours or array or isinstance(found, torch.dtype)):
            raise pickle.UnpicklingError(f"{module}.{name} is no value of a request or an event.")
        return found


def _tensor(data: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(data).view(dtype).reshape(shape)

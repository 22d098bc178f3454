"""Which attention kernel a device gets, and why, in one line; and compiled blocks, likewise.

Owns the candidates by capability and their trial: one that does not work here is passed over. Whether what is chosen
still gives the published result is `verify`'s to say. Only taken by name are Sage attention, which computes in eight
bits, and kernels that are fetched from the Hub, which are programs of others.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from shotstream.errors import UserError
from shotstream.models.kernels import NATIVE
from shotstream.models.transformer import ShotTransformer

AUTO = "auto"


def candidates(device: torch.device, dtype: torch.dtype) -> Sequence[tuple[str, str]]:
    """(backend of diffusers, what it is) for `device`, the fastest first; the last one works everywhere."""
    if device.type != "cuda":
        return ((NATIVE, f"torch's own for {device.type}"),)
    own = (NATIVE, "torch's own, which chooses among its kernels")
    if dtype == torch.float32:  # the others compute in half the digits
        return (own,)
    major, _ = torch.cuda.get_device_capability(device)
    cudnn = ("_native_cudnn", "cuDNN's, through torch")
    if major == 9:
        return (("_flash_3", "FlashAttention 3, for Hopper cards"), cudnn, own)
    if major >= 10:
        return (cudnn, own)
    return (own,)


def use_attention(transformer: ShotTransformer, name: str, device: torch.device, dtype: torch.dtype) -> str:
    """Set the diffusers backend `name`, or for "auto" the first that works here; what was chosen and why, in a line.

    Raises `UserError` for a backend, named, that does not work.
    """
    if name != AUTO:
        _set(transformer, name, device, dtype)
        return f"{name}, as asked for"
    passed_over = ""
    for backend, what in candidates(device, dtype):
        try:
            _set(transformer, backend, device, dtype)
        except UserError as error:
            passed_over = passed_over or f" ({error})"
            continue
        return f"{backend}: {what}{passed_over}"
    raise UserError(f"No attention backend works on {device}{passed_over}.")


def _set(transformer: ShotTransformer, name: str, device: torch.device, dtype: torch.dtype) -> None:
    """Let it attend once: what is missing for it is told now, and not in the middle of a shot."""
    logger = logging.getLogger("diffusers.models.modeling_utils")
    level = logger.level
    try:
        if name != NATIVE:
            logger.setLevel(logging.ERROR)  # it warns that backends are experimental
            transformer.set_attention_backend(name)  # checks what it requires and fetches Hub kernels
        transformer.use_attention(name)
        probe = torch.zeros(1, 8, transformer.config.dim, device=device, dtype=dtype)
        attention = transformer.blocks[0].self_attn
        with torch.no_grad():
            found = attention.attend(attention.queries(probe), *attention.keys_values(probe), None)
        if not bool(found.isfinite().all()):
            raise RuntimeError("it gives numbers that are not finite")
    except Exception as error:  # anything between an unknown name and a kernel for other cards
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"The attention backend {name[:40]!r} does not work here: {reason[0][:200]}") from error
    finally:
        logger.setLevel(level)


def compile_blocks(transformer: ShotTransformer) -> str:
    """Has torch compile the transformer's blocks, all from one compilation for each kind of shape, when they are first
    called; what came of it, in a line. Where nothing can be compiled they stay as they are."""
    try:
        with torch.no_grad():
            probe = torch.compile(lambda x: x * 2 + 1)(torch.ones(8, device=transformer.head.modulation.device))
        if not bool((probe == 3).all()):
            raise RuntimeError("what it compiles is wrong")
    except Exception as error:  # no compiler, no Python headers, no room for its files
        reason = str(error).strip().splitlines() or [type(error).__name__]
        return f"not compiled: torch.compile does not work here: {reason[0][:200]}"
    if transformer.head.modulation.device.type == "cpu":
        transformer.join()
    for block in transformer.blocks:
        block.compile()
    return "compiled: the first shots take minutes longer, all others less"

"""Which attention kernel a device gets, and why, in one line; and compiled blocks, likewise.

Owns the candidates by capability and their trial: one that does not work here, or does not come to what attention is,
is passed over. Whether a whole story is still the published one is `verify`'s to say. Only taken by name are Sage
attention, which computes in eight bits, and kernels that are fetched from the Hub, which are programs of others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch

from shotstream.errors import UserError
from shotstream.models.kernels import NATIVE, attend
from shotstream.models.transformer import ShotTransformer

AUTO = "auto"
TOLERANCE = {torch.float32: 1e-4}  # share of what attention is, by which a kernel may differ from it
HALF_TOLERANCE = 2e-2
EIGHT_BIT_TOLERANCE = 0.1  # of kernels that say so by their name
TRIED = (40, 72)  # queries and keys
KINDS = 32  # of calls that are compiled: all that a director can ask for are 14, torch gives up after 8


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

    Raises `UserError` for a backend, named, that does not work, or gives something else than attention.
    """
    if name == AUTO:
        return use_first(transformer, candidates(device, dtype), device, dtype)
    in_eight_bits = name.lower().lstrip("_").startswith("sage")
    allowed = EIGHT_BIT_TOLERANCE if in_eight_bits else TOLERANCE.get(dtype, HALF_TOLERANCE)
    apart = _set(transformer, name, allowed, device, dtype)
    return f"{name}, as asked for" + (f"; in eight bits, it differs by {apart:.1%}" if in_eight_bits else "")


def use_first(
    transformer: ShotTransformer, offered: Sequence[tuple[str, str]], device: torch.device, dtype: torch.dtype
) -> str:
    """Set the first backend that works of the `candidates` that are `offered`; in a line as `use_attention`."""
    passed_over = ""
    for backend, what in offered:
        try:
            _set(transformer, backend, TOLERANCE.get(dtype, HALF_TOLERANCE), device, dtype)
        except UserError as error:
            passed_over = passed_over or f" ({error})"
            continue
        return f"{backend}: {what}{passed_over}"
    raise UserError(f"No attention backend works on {device}{passed_over}.")


def _set(transformer: ShotTransformer, name: str, allowed: float, device: torch.device, dtype: torch.dtype) -> float:
    """Let it attend once, before a shot: how far it is from what attention is, as a share of that."""
    logger = logging.getLogger("diffusers.models.modeling_utils")
    level = logger.level
    try:
        if name != NATIVE:
            logger.setLevel(logging.ERROR)  # it warns that backends are experimental
            transformer.set_attention_backend(name)  # checks what it requires and fetches Hub kernels
        apart = _difference(name, transformer.config.num_heads, transformer.head_dim, device, dtype)
        if not apart <= allowed:  # nor is what is no number
            raise RuntimeError(f"it differs from attention written out by {apart:.3%}, and may by {allowed:.3%}")
    except Exception as error:  # anything between an unknown name and a kernel for other cards
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"The attention backend {name[:40]!r} does not work here: {reason[0][:200]}") from error
    finally:
        logger.setLevel(level)
    transformer.use_attention(name)
    return apart


@torch.no_grad()
def _difference(name: str, heads: int, head_dim: int, device: torch.device, dtype: torch.dtype) -> float:
    """Root mean square of the difference from attention in float32 on the CPU, over that of the latter; of random
    queries, keys and values as large as a shot's."""
    generator = torch.Generator().manual_seed(0)
    queries, keys = TRIED
    q, k, v = (torch.randn(1, n, heads, head_dim, generator=generator).to(dtype) for n in (queries, keys, keys))
    scores = torch.einsum("bqhd,bkhd->bhqk", q.float(), k.float()) * head_dim**-0.5
    expected = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v.float())
    found = attend(q.to(device), k.to(device), v.to(device), None, name)
    return float((found.float().cpu() - expected).norm() / expected.norm())


def compile_blocks(transformer: ShotTransformer, backend: str | Callable = "inductor") -> str:
    """Has torch compile the transformer's blocks, all from one compilation for each kind of shape, when they are first
    called; what came of it, in a line. Where nothing can be compiled they stay as they are. `backend` is torch's."""
    try:
        with torch.no_grad():
            probe = torch.compile(lambda x: x * 2 + 1, backend=backend)(
                torch.ones(8, device=transformer.head.modulation.device)
            )
        if not bool((probe == 3).all()):
            raise RuntimeError("what it compiles is wrong")
    except Exception as error:  # no compiler, no Python headers, no room for its files
        reason = str(error).strip().splitlines() or [type(error).__name__]
        return f"not compiled: torch.compile does not work here: {reason[0][:200]}"
    if transformer.head.modulation.device.type == "cpu":
        transformer.join()
    torch._dynamo.config.recompile_limit = KINDS
    for block in transformer.blocks:
        block.compile(backend=backend)
    return "compiled: the first shots take minutes longer, all others less"

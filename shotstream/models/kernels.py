"""Operations that are written so that a device needs few kernels for them, with the same outcome as the obvious way.

Owns linear layers, norms with their modulation, gated sums and attention's dispatch. Without a gradient sums are taken
in place, and a CPU's float32 matrix products go to oneDNN, which fuses GELU into them and on many CPUs is faster than
what torch takes by itself. Knows no layers and no weights' names.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import nn

NATIVE = "native"
PRODUCTS = "products"  # attention as two matrix products and a softmax, a CPU's bfloat16 being fast at the former
MANY = 512  # rows from which on oneDNN is the faster library even without GELU


@cache
def one_dnn_linear() -> Callable[..., torch.Tensor] | None:
    """oneDNN's linear layer, if this build of torch has it: (x, weight, bias, activation, [], its algorithm)."""
    try:
        linear = torch.ops.mkldnn._linear_pointwise
        probe = torch.ones(2, 2)
        whole = linear(probe, probe, probe[0], "none", [], "")
        gelu = linear(probe, probe, probe[0], "gelu", [], "tanh")
        expected = torch.full((2, 2), 3.0)
        right = torch.equal(whole, expected) and torch.allclose(gelu, F.gelu(expected, approximate="tanh"))
    except Exception:  # no such library on this machine, or another signature in this build
        return None
    return linear if right else None


def linear(layer: nn.Module, x: torch.Tensor, gelu: bool = False) -> torch.Tensor:
    """`layer(x)`, by GELU (tanh form) if asked for. An adapted or quantised layer is called as it is."""
    plain = type(layer) is nn.Linear and type(layer.weight) is nn.Parameter
    if plain and _takes_one_dnn(x, gelu):
        activation = ("gelu", [], "tanh") if gelu else ("none", [], "")
        return one_dnn_linear()(x, layer.weight, layer.bias, *activation)
    out = layer(x)
    if not gelu:
        return out
    return F.gelu(out, approximate="tanh") if torch.is_grad_enabled() else torch.ops.aten.gelu_(out, approximate="tanh")


def joint_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Several linear layers of the same input as one."""
    if _takes_one_dnn(x, gelu=False):
        return one_dnn_linear()(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def _takes_one_dnn(x: torch.Tensor, gelu: bool) -> bool:
    return (
        x.device.type == "cpu"
        and (gelu or x.numel() >= MANY * x.shape[-1])
        and x.dtype in (torch.float32, torch.bfloat16)
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")  # which would have cast both sides
        and not torch.compiler.is_compiling()  # which finds it by itself
        and one_dnn_linear() is not None
    )


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Root-mean-square norm over the last dimension, in float32 inside."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return F.rms_norm(x, weight.shape, weight, eps)
    scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True)  # a CPU's own takes twice the passes over memory
    scale = scale.square_().mul_(1 / x.shape[-1]).add_(eps).rsqrt_()
    return (x * scale).mul_(weight)


def modulated(norm: nn.LayerNorm, x: torch.Tensor, shift: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """`norm(x)` by `factor` plus `shift`, [B, F or 1, 1, dim] each: part of the norm where they are those of all."""
    if shift.numel() == x.shape[-1]:
        return F.layer_norm(x, x.shape[-1:], factor.reshape(-1), shift.reshape(-1), norm.eps)
    return torch.addcmul(shift, norm(x), factor)


def add_gated(x: torch.Tensor, y: torch.Tensor, gate: torch.Tensor | None = None) -> torch.Tensor:
    """x + y gate; without a gradient in place of `x`."""
    if torch.is_grad_enabled():
        return x + y if gate is None else torch.addcmul(x, y, gate)
    return x.add_(y) if gate is None else x.addcmul_(y, gate)


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None, backend: str = NATIVE
) -> torch.Tensor:
    """[B, tokens, heads, head_dim] each -> the same of the queries, by the diffusers backend of this name; under a mask
    by torch's own, as most others know none."""
    if backend == PRODUCTS and mask is None:
        return _attend_by_products(q, k, v)
    if backend not in (NATIVE, PRODUCTS) and mask is None:
        return dispatch_attention_fn(q, k, v, backend=backend)
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


def _attend_by_products(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: int = 256) -> torch.Tensor:
    """`rows` queries at a time: their scores stay near the processor."""
    q, k, v = (q * q.shape[-1] ** -0.5).transpose(1, 2), k.permute(0, 2, 3, 1), v.transpose(1, 2)
    parts = [torch.softmax(some @ k, dim=-1) @ v for some in q.split(rows, dim=2)]
    return torch.cat(parts, dim=2).transpose(1, 2)

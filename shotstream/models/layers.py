"""The layers of the causal video transformer: Wan's, with parameters under their published names.

Owns what one layer does to the tokens of some latent frames. Knows neither how many layers there are nor where captions
and timesteps come from; what keys and values outlive a call, a window of the `cache` says.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from shotstream.models.cache import JoiningWindow, LayerWindow
from shotstream.models.kernels import NATIVE, add_gated, attend, joint_linear, linear, modulated, rms_norm
from shotstream.models.rope import Phases, rotate


class RMSNorm(nn.Module):
    """Root-mean-square norm over the full width (all heads together), in float32."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, self.weight, self.eps)


class Attention(nn.Module):
    """Projections and normalised queries and keys, shared by self- and cross-attention."""

    def __init__(self, dim: int, num_heads: int, eps: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.backend = NATIVE
        self._joint: tuple[torch.Tensor, torch.Tensor] | None = None
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.o = nn.Linear(dim, dim)
        self.norm_q = RMSNorm(dim, eps)
        self.norm_k = RMSNorm(dim, eps)

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.num_heads, -1))

    def join(self) -> None:
        """Lays the weights of queries, keys and values side by side, so that without a gradient they are one matrix
        product; they stay parameters of their own. Undone by whatever moves or replaces them."""
        layers = (self.q, self.k, self.v)
        if self._joined() or not all(type(layer) is nn.Linear for layer in layers):
            return
        if not all(type(layer.weight) is nn.Parameter for layer in layers):  # quantised
            return
        weight = torch.cat([layer.weight.data for layer in layers])
        bias = torch.cat([layer.bias.data for layer in layers])
        for layer, own_weight, own_bias in zip(layers, weight.chunk(3), bias.chunk(3), strict=True):
            layer.weight.data, layer.bias.data = own_weight, own_bias
        self._joint = weight, bias

    def _joined(self) -> bool:
        if self._joint is None or torch.compiler.is_compiling():  # where pointers cannot be compared
            return self._joint is not None
        weight, bias = self._joint
        step = weight.nbytes // 3
        return self.q.bias.data_ptr() == bias.data_ptr() and all(
            layer.weight.data_ptr() == weight.data_ptr() + place * step
            for place, layer in enumerate((self.q, self.k, self.v))
        )

    def queries(self, x: torch.Tensor) -> torch.Tensor:
        return self._heads(self.norm_q(linear(self.q, x)))

    def keys_values(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self._heads(self.norm_k(linear(self.k, x))), self._heads(linear(self.v, x))

    def queries_keys_values(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if torch.is_grad_enabled() or not self._joined():
            return self.queries(x), *self.keys_values(x)
        q, k, v = joint_linear(x, *self._joint).chunk(3, dim=-1)
        return self._heads(self.norm_q(q)), self._heads(self.norm_k(k)), self._heads(v)

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """[B, tokens, heads, head_dim] each -> [B, query tokens, dim], projected."""
        return linear(self.o, attend(q, k, v, mask, self.backend).flatten(-2))


class Block(nn.Module):
    """Self-attention, cross-attention to the frame's own caption, feed-forward; modulated per latent frame."""

    def __init__(self, dim: int, ffn_dim: int, num_heads: int, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps, elementwise_affine=False)
        self.self_attn = Attention(dim, num_heads, eps)
        self.norm3 = nn.LayerNorm(dim, eps)  # the cross-attention norm: the published numbering
        self.cross_attn = Attention(dim, num_heads, eps)
        self.norm2 = nn.LayerNorm(dim, eps, elementwise_affine=False)
        self.ffn = nn.Sequential(nn.Linear(dim, ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(ffn_dim, dim))
        self.modulation = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)

    def forward(
        self,
        x: torch.Tensor,  # [B, F, T, dim]: T tokens a latent frame; without a gradient it is written to
        time: torch.Tensor,  # [B, F or 1, 6, dim], see `transformer.Times`
        caption: tuple[torch.Tensor, torch.Tensor],  # [B * runs, text tokens, heads, head_dim] each
        phases: Phases,
        mask: torch.Tensor | None,  # [B or 1, 1, F * T, F * T]
        window: LayerWindow | JoiningWindow | None,
    ) -> torch.Tensor:
        shift1, factor1, gate1, shift2, factor2, gate2 = time.unsqueeze(3).unbind(2)

        y = modulated(self.norm1, x, shift1, factor1).flatten(1, 2)
        q, k, v = self.self_attn.queries_keys_values(y)
        q, k = rotate(q, phases).to(q.dtype), rotate(k, phases)
        if window is not None:
            k, v = window.put(k, v)  # which takes them as they are
            window.look(q, k)
        x = add_gated(x, self.self_attn.attend(q, k.to(q.dtype), v, mask).view_as(x), gate1)

        caption_k, caption_v = caption
        y = self.norm3(x).view(caption_k.shape[0], -1, x.shape[-1])  # each run of frames meets its own caption
        x = add_gated(x, self.cross_attn.attend(self.cross_attn.queries(y), caption_k, caption_v, None).view_as(x))

        y = modulated(self.norm2, x, shift2, factor2)
        return add_gated(x, linear(self.ffn[2], linear(self.ffn[0], y, gelu=True)), gate2)


class Head(nn.Module):
    def __init__(self, dim: int, out_features: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps, elementwise_affine=False)
        self.head = nn.Linear(dim, out_features)
        self.modulation = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """`x` [B, F, T, dim], `time` [B, F or 1, 2, dim], see `transformer.Times`."""
        return linear(self.head, modulated(self.norm, x, *time.unsqueeze(3).unbind(2)))


class PatchEmbedding(nn.Conv3d):
    """A patch is a convolution whose stride is its kernel: as one matrix product over [B, F, C, h, w]."""

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        _, height, width = self.kernel_size
        patches = latents.unflatten(-1, (-1, width)).unflatten(-3, (-1, height))  # B F C rows p columns p
        patches = patches.permute(0, 1, 3, 5, 2, 4, 6).flatten(4).flatten(2, 3)  # B F (rows columns) (C p p)
        return F.linear(patches, self.weight.flatten(1), self.bias)

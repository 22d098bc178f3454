"""The causal video transformer: Wan's blocks, with parameters under their published names.

Owns one flow prediction from noisy latents. It runs two ways through the same code: `forward` sees a whole sequence
under a frame mask (training, teacher), `forward_cached` sees one chunk and reads the rest from a `ShotCache`. It does
not know what a story is, when caches are filled or how sampling goes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from shotstream.models.cache import JoiningWindow, LayerWindow
from shotstream.models.rope import CUT_ANGLE, Phases, rope_phases, rotate


@dataclass(frozen=True)
class _Routed:
    """Rows `index` of a tensor per layer, taken when its layer comes: together they are larger than many a cache."""

    parts: Sequence[torch.Tensor]
    index: torch.Tensor

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, layer: int) -> torch.Tensor:
        # not by brackets, whose gradient on a CPU adds up in whatever order its threads arrive
        return self.parts[layer].index_select(0, self.index)


@dataclass(frozen=True)
class Captions:
    """Cross-attention keys and values of captions: one [captions, text tokens, heads, head_dim] pair per layer."""

    keys: Sequence[torch.Tensor]
    values: Sequence[torch.Tensor]

    def routed(self, index: torch.Tensor) -> Captions:
        """The captions `index` [runs] long that consecutive, equally long runs of latent frames attend to."""
        return Captions(_Routed(self.keys, index), _Routed(self.values, index))

    def last(self) -> Captions:
        """The last caption alone, for all frames (views)."""
        return Captions(tuple(k[-1:] for k in self.keys), tuple(v[-1:] for v in self.values))


class RMSNorm(nn.Module):
    """Root-mean-square norm over the full width (all heads together), in float32."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype) * self.weight


class Attention(nn.Module):
    """Projections and normalised queries and keys, shared by self- and cross-attention."""

    def __init__(self, dim: int, num_heads: int, eps: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.backend = "native"
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.o = nn.Linear(dim, dim)
        self.norm_q = RMSNorm(dim, eps)
        self.norm_k = RMSNorm(dim, eps)

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.num_heads, -1))

    def queries(self, x: torch.Tensor) -> torch.Tensor:
        return self._heads(self.norm_q(self.q(x)))

    def keys_values(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self._heads(self.norm_k(self.k(x))), self._heads(self.v(x))

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """[B, tokens, heads, head_dim] each -> [B, query tokens, dim], projected."""
        return self.o(dispatch_attention_fn(q, k, v, attn_mask=mask, backend=self.backend).flatten(-2))


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
        x: torch.Tensor,  # [B, F, T, dim]: T tokens a latent frame
        time: torch.Tensor,  # [B, F or 1, 6, dim]
        caption: tuple[torch.Tensor, torch.Tensor],  # [B * runs, text tokens, heads, head_dim] each
        phases: Phases,
        mask: torch.Tensor | None,  # [B or 1, 1, F * T, F * T]
        window: LayerWindow | JoiningWindow | None,
    ) -> torch.Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.modulation + time).unsqueeze(3).unbind(2)

        y = (self.norm1(x) * (1 + scale1) + shift1).flatten(1, 2)
        q = rotate(self.self_attn.queries(y), phases)
        k, v = self.self_attn.keys_values(y)
        k = rotate(k, phases)
        if window is not None:
            k, v = window.put(k, v)
            window.look(q, k)
        x = x + self.self_attn.attend(q, k, v, mask).view_as(x) * gate1

        caption_k, caption_v = caption
        y = self.norm3(x).view(caption_k.shape[0], -1, x.shape[-1])  # each run of frames meets its own caption
        x = x + self.cross_attn.attend(self.cross_attn.queries(y), caption_k, caption_v, None).view_as(x)

        return x + self.ffn(self.norm2(x) * (1 + scale2) + shift2) * gate2


class Head(nn.Module):
    def __init__(self, dim: int, out_features: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps, elementwise_affine=False)
        self.head = nn.Linear(dim, out_features)
        self.modulation = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """`x` [B, F, T, dim], `time` [B, F or 1, dim]."""
        shift, scale = (self.modulation + time.unsqueeze(2)).unsqueeze(3).unbind(2)
        return self.head(self.norm(x) * (1 + scale) + shift)


class PatchEmbedding(nn.Conv3d):
    """A patch is a convolution whose stride is its kernel: as one matrix product over [B, F, C, h, w]."""

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        _, height, width = self.kernel_size
        patches = latents.unflatten(-1, (-1, width)).unflatten(-3, (-1, height))  # B F C rows p columns p
        patches = patches.permute(0, 1, 3, 5, 2, 4, 6).flatten(4).flatten(2, 3)  # B F (rows columns) (C p p)
        return F.linear(patches, self.weight.flatten(1), self.bias)


class ShotTransformer(ModelMixin, ConfigMixin):
    """Predicts the flow (noise - x0) of latent frames. Defaults are the published model's numbers.

    `cut_angle` is the discontinuity indicator, radians per shot index; zero takes it away.
    """

    config_name = "config.json"
    _no_split_modules = ["Block"]
    _supports_gradient_checkpointing = True
    gradient_checkpointing = False

    @register_to_config
    def __init__(
        self,
        dim: int = 1536,
        ffn_dim: int = 8960,
        num_heads: int = 12,
        num_layers: int = 30,
        in_dim: int = 16,
        out_dim: int = 16,
        text_dim: int = 4096,
        text_len: int = 512,
        freq_dim: int = 256,
        patch_size: Sequence[int] = (1, 2, 2),
        eps: float = 1e-6,
        cut_angle: float = CUT_ANGLE,
    ) -> None:
        super().__init__()
        patch = tuple(patch_size)
        self.patch_embedding = PatchEmbedding(in_dim, dim, kernel_size=patch, stride=patch)
        self.text_embedding = nn.Sequential(nn.Linear(text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim))
        self.time_embedding = nn.Sequential(nn.Linear(freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList(Block(dim, ffn_dim, num_heads, eps) for _ in range(num_layers))
        self.head = Head(dim, out_dim * patch[0] * patch[1] * patch[2], eps)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        """A start for training: the residual stream begins as the patches, the prediction as zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv3d):
                nn.init.xavier_uniform_(module.weight.flatten(1))
                nn.init.zeros_(module.bias)
        for embedding in (self.text_embedding, self.time_embedding):
            for module in embedding:
                if isinstance(module, nn.Linear):
                    nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(self.head.head.weight)

    @property
    def head_dim(self) -> int:
        return self.config.dim // self.config.num_heads

    def phases(
        self, positions: torch.Tensor, shot_index: torch.Tensor, latent_size: tuple[int, int], device: torch.device
    ) -> Phases:
        """RoPE phases of latent frames of `latent_size` (height, width); see `rope_phases`."""
        grid = self.patch_grid(*latent_size)
        return rope_phases(positions, shot_index, grid, self.head_dim, device, self.config.cut_angle)

    def patch_grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches in a latent frame of `height` x `width`."""
        return height // self.config.patch_size[1], width // self.config.patch_size[2]

    def use_attention(self, backend: str) -> None:
        """Let every attention go through the diffusers backend of this name."""
        for module in self.modules():
            if isinstance(module, Attention):
                module.backend = backend

    def embed_captions(self, prompt_embeds: torch.Tensor) -> Captions:
        """Cross-attention keys and values of all layers for `prompt_embeds` [captions, text_len, text_dim]."""
        text = self.text_embedding(prompt_embeds)
        pairs = [block.cross_attn.keys_values(text) for block in self.blocks]
        return Captions(tuple(k for k, _ in pairs), tuple(v for _, v in pairs))

    def forward(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        prompt_embeds: torch.Tensor,
        caption_index: torch.Tensor,
        positions: torch.Tensor,
        shot_index: torch.Tensor,
        frame_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Flow [B, F, out_dim, h, w] of a whole sequence at once; differentiable.

        latents [B, F, C, h, w]; timestep [B, F] or [B, 1] float in 0..1000; prompt_embeds [B, N, text_len, text_dim];
        caption_index [B, F] long: which of the N captions a frame cross-attends to; positions [F] or [B, F]: place in
        time; shot_index [F] or [B, F]: discontinuity indicator; frame_mask [F, F] or [B, F, F] bool, True where the
        query frame (row) may attend to the key frame (column), None where all may.
        """
        batch, captions = prompt_embeds.shape[:2]
        phases = self.phases(positions, shot_index, latents.shape[-2:], latents.device)
        route = caption_index + torch.arange(batch, device=caption_index.device).unsqueeze(1) * captions
        routed = self.embed_captions(prompt_embeds.flatten(0, 1)).routed(route.flatten())
        mask = self._token_mask(frame_mask, latents)
        return self._predict(latents, timestep, routed, phases, mask, [None] * len(self.blocks))

    def forward_cached(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        captions: Captions,
        phases: Phases,
        windows: Sequence[LayerWindow | JoiningWindow],
        frame_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Flow [B, F, out_dim, h, w] of the frames `latents` [B, F, C, h, w], which leave their keys and values in
        `windows` (one per layer) and attend to all that these show.

        timestep [B or 1, F or 1], on any device; captions: routed, one per run of frames (one an item, or one a
        frame), the runs of an item together; phases: of exactly these frames; frame_mask [F, frames in a window] bool,
        True where a frame (row) may attend to another, None where all may.
        """
        return self._predict(latents, timestep, captions, phases, self._token_mask(frame_mask, latents), windows)

    def _token_mask(self, frame_mask: torch.Tensor | None, latents: torch.Tensor) -> torch.Tensor | None:
        """A mask of frames as one of tokens: [B or 1, 1 (any head), queries, keys]."""
        if frame_mask is None:
            return None
        tokens = math.prod(self.patch_grid(*latents.shape[-2:]))
        mask = frame_mask.repeat_interleave(tokens, -1).repeat_interleave(tokens, -2)
        return mask.view(-1, 1, *mask.shape[-2:])

    def _predict(self, latents, timestep, captions, phases, mask, windows) -> torch.Tensor:
        rows, columns = self.patch_grid(*latents.shape[-2:])
        x = self.patch_embedding(latents)
        time = self.time_embedding(timestep_features(timestep, self.config.freq_dim).to(x.device, x.dtype))  # B F dim
        modulation = self.time_projection(time).unflatten(-1, (6, -1))
        for block, key, value, window in zip(self.blocks, captions.keys, captions.values, windows, strict=True):
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = self._gradient_checkpointing_func(block, x, modulation, (key, value), phases, mask, window)
            else:
                x = block(x, modulation, (key, value), phases, mask, window)
        out = self.head(x, time)
        _, height, width = self.config.patch_size
        out = out.view(*out.shape[:2], rows, columns, height, width, -1)
        return out.permute(0, 1, 6, 2, 4, 3, 5).flatten(5).flatten(3, 4)  # B F C h w


def timestep_features(timestep: torch.Tensor, dim: int) -> torch.Tensor:
    """[...] timesteps -> [..., dim]: cosines, then sines. In float64, as 1000 radians leave float32 few digits."""
    half = dim // 2
    frequency = 10000.0 ** (-torch.arange(half, dtype=torch.float64, device=timestep.device) / half)
    angles = timestep.to(torch.float64).unsqueeze(-1) * frequency
    return torch.cat([angles.cos(), angles.sin()], dim=-1)

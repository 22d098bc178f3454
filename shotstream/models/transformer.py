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
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from shotstream.models.cache import JoiningWindow, LayerWindow
from shotstream.models.kernels import NATIVE, add_gated, attend, joint_linear, linear, modulated, rms_norm
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


@dataclass(frozen=True)
class Times:
    """What timesteps do to every layer: shift, 1 + scale and gate for self-attention, then for the feed-forward layer,
    `blocks` [layers, B, F or 1, 6, dim]; and shift and 1 + scale of the `head` [B, F or 1, 2, dim]."""

    blocks: torch.Tensor
    head: torch.Tensor

    def at(self, index: int) -> Times:
        """Of item `index` alone (views)."""
        return Times(self.blocks[:, index : index + 1], self.head[index : index + 1])


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
        time: torch.Tensor,  # [B, F or 1, 6, dim], see `Times`
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
        """`x` [B, F, T, dim], `time` [B, F or 1, 2, dim], see `Times`."""
        return linear(self.head, modulated(self.norm, x, *time.unsqueeze(3).unbind(2)))


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

    def join(self) -> None:
        """Makes one matrix product of self-attention's three, where no gradient is wanted; see `Attention.join`."""
        for block in self.blocks:
            block.self_attn.join()

    def times(self, timestep: torch.Tensor) -> Times:
        """What `timestep` [B or 1, F or 1], on any device, does to every layer."""
        weight = self.head.modulation
        features = timestep_features(timestep, self.config.freq_dim).to(weight.device, weight.dtype)
        time = self.time_embedding(features)  # B F dim
        offsets = self.time_projection(time).unflatten(-1, (6, -1))
        blocks = torch.stack([block.modulation for block in self.blocks])[:, None] + offsets  # layers B F 6 dim
        head = weight + time.unsqueeze(2)
        return Times(_with_ones(blocks, (1, 4)), _with_ones(head, (1,)))

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
        timestep: torch.Tensor | Times,
        captions: Captions,
        phases: Phases,
        windows: Sequence[LayerWindow | JoiningWindow],
        frame_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Flow [B, F, out_dim, h, w] of the frames `latents` [B, F, C, h, w], which leave their keys and values in
        `windows` (one per layer) and attend to all that these show.

        timestep [B or 1, F or 1], on any device, or what `times` made of it; captions: routed, one per run of frames
        (one an item, or one a frame), the runs of an item together; phases: of exactly these frames; frame_mask [F,
        frames in a window] bool, True where a frame (row) may attend to another, None where all may.
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
        times = timestep if isinstance(timestep, Times) else self.times(timestep)
        layers = zip(self.blocks, times.blocks, captions.keys, captions.values, windows, strict=True)
        for block, modulation, key, value, window in layers:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = self._gradient_checkpointing_func(block, x, modulation, (key, value), phases, mask, window)
            else:
                x = block(x, modulation, (key, value), phases, mask, window)
        out = self.head(x, times.head)
        _, height, width = self.config.patch_size
        out = out.view(*out.shape[:2], rows, columns, height, width, -1)
        return out.permute(0, 1, 6, 2, 4, 3, 5).flatten(5).flatten(3, 4)  # B F C h w


def _with_ones(modulation: torch.Tensor, scales: Sequence[int]) -> torch.Tensor:
    """One added to the scales among a modulation's parts [..., parts, dim]: what is multiplied by."""
    ones = modulation.new_zeros(modulation.shape[-2], 1)
    for place in scales:
        ones[place] = 1
    return modulation + ones


def timestep_features(timestep: torch.Tensor, dim: int) -> torch.Tensor:
    """[...] timesteps -> [..., dim]: cosines, then sines. In float64, as 1000 radians leave float32 few digits."""
    half = dim // 2
    frequency = 10000.0 ** (-torch.arange(half, dtype=torch.float64, device=timestep.device) / half)
    angles = timestep.to(torch.float64).unsqueeze(-1) * frequency
    return torch.cat([angles.cos(), angles.sin()], dim=-1)

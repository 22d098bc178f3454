"""The causal video transformer: Wan's `layers`, with parameters under their published names.

Owns one flow prediction from noisy latents. It runs two ways through the same code: `forward` sees a whole sequence
under a frame mask (training, teacher), `forward_cached` sees one chunk and reads the rest from a `ShotCache`. It does
not know what a story is, when caches are filled or how sampling goes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from shotstream.models.cache import JoiningWindow, LayerWindow
from shotstream.models.layers import Attention, Block, Head, PatchEmbedding
from shotstream.models.rope import CUT_ANGLE, Phases, rope_phases


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

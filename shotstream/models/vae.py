"""The video autoencoder as the engine sees it, and Wan's behind that interface.

Owns single-frame encoding, streamed decoding and the normalisation of latents. Decoder state is a value that goes in
and comes out, so that any number of shots may be decoded turn by turn. Knows no shots, chunks or memory.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d


class VAE(Protocol):
    """What a model folder's `vae/` must be able to do. Latents are normalised: what the transformer sees."""

    latent_channels: int
    spatial_factor: int
    temporal_factor: int

    def encode_frames(self, frames: torch.Tensor) -> torch.Tensor:
        """[n, 3, H, W] in [-1, 1] -> [n, C, h, w]: every frame alone, as a video of one frame."""
        ...

    def start_decoding(self) -> Any:
        """The state before a shot's first latent frame."""
        ...

    def decode_step(self, latents: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        """The next latent frames [f, C, h, w] of a shot -> their frames [t, 3, H, W] clamped to [-1, 1], and the state
        after them. The first latent frame of a shot gives one frame, others `temporal_factor`. `state` stays valid."""
        ...

    def save_pretrained(self, folder: str | Path) -> None: ...


def network_of(vae: VAE) -> torch.nn.Module:
    """What has its weights: a wrapped module, or the VAE itself."""
    return getattr(vae, "module", vae)


class LodgedState(list):
    """A decoding state whose entries lie elsewhere and come back one by one as they are asked for."""

    def __init__(self, state: tuple, away: Callable[[Any], Any], back: Callable[[Any], Any]) -> None:
        super().__init__(state)
        self._away, self._back = away, back

    def __getitem__(self, place: int) -> Any:
        return self._back(super().__getitem__(place))

    def __setitem__(self, place: int, entry: Any) -> None:
        super().__setitem__(place, self._away(entry))


class WanVAE:
    """`AutoencoderKLWan`, streamed: its feature cache, one entry per causal convolution, is the decoding state.

    `lodge` makes a state the list that the decoder works on, see `LodgedState`."""

    def __init__(self, module: AutoencoderKLWan) -> None:
        self.module = module
        self.lodge: Callable[[tuple], list] = list
        config = module.config
        self.latent_channels = config.z_dim
        self.spatial_factor = 2 ** len(config.temperal_downsample)
        self.temporal_factor = 2 ** sum(config.temperal_downsample)
        self._mean = torch.tensor(config.latents_mean).view(self.latent_channels, 1, 1)
        self._std = torch.tensor(config.latents_std).view(self.latent_channels, 1, 1)

    def _normal(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation of latents on `device`, where they stay: to fetch them at every call makes a GPU wait."""
        if self._mean.device != device:
            self._mean, self._std = self._mean.to(device), self._std.to(device)
        return self._mean, self._std

    def _place(self) -> dict[str, Any]:
        return {"device": self.module.device, "dtype": self.module.dtype}

    def encode_frames(self, frames: torch.Tensor) -> torch.Tensor:
        """One frame at a time: the peak of memory is that of one, and nothing is shared with another encoding."""
        vae = self.module
        convolutions = _count_convolutions(vae.encoder)
        latents = []
        for frame in frames.to(**self._place()):
            features = vae.encoder(frame[None, :, None], feat_cache=[None] * convolutions, feat_idx=[0])
            latents.append(vae.quant_conv(features)[0, : self.latent_channels, 0])  # the mean: no sampling
        raw = torch.stack(latents)
        mean, std = self._normal(raw.device)
        return ((raw.float() - mean) / std).to(raw.dtype)

    def start_decoding(self) -> tuple[None, ...]:
        return (None,) * _count_convolutions(self.module.decoder)

    def decode_step(self, latents: torch.Tensor, state: tuple) -> tuple[torch.Tensor, tuple]:
        vae = self.module
        raw = latents.to(self.module.device).float()
        mean, std = self._normal(raw.device)
        raw = (raw * std + mean).to(vae.dtype)
        frames = []
        for latent in raw:
            first = all(entry is None for entry in state)
            # the decoder replaces entries and never writes into them: old ones that nobody else holds go one by one
            cache, state = self.lodge(state), ()
            features = vae.post_quant_conv(latent[None, :, None])
            video = vae.decoder(features, feat_cache=cache, feat_idx=[0], first_chunk=first)  # 1 3 t H W
            frames.append(video[0].transpose(0, 1).clamp(-1.0, 1.0))
            state = tuple(list.__iter__(cache))
        return torch.cat(frames), state

    def save_pretrained(self, folder: str | Path) -> None:
        self.module.save_pretrained(folder)


def _count_convolutions(module: torch.nn.Module) -> int:
    return sum(isinstance(part, WanCausalConv3d) for part in module.modules())

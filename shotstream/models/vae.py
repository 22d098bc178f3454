"""The video autoencoder as the engine sees it, and Wan's behind that interface.

Owns single-frame encoding, streamed decoding and the normalisation of latents. Decoder state is a value that goes in
and comes out, so that any number of shots may be decoded turn by turn. Knows no shots, chunks or memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanResample, WanRMS_norm


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
        self._mean = torch.tensor(config.latents_mean).view(-1, 1, 1)
        self._std = torch.tensor(config.latents_std).view(-1, 1, 1)

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
        return ((raw.float() - self._mean.to(raw.device)) / self._std.to(raw.device)).to(raw.dtype)

    def start_decoding(self) -> tuple[None, ...]:
        return (None,) * _count_convolutions(self.module.decoder)

    def decode_step(self, latents: torch.Tensor, state: tuple) -> tuple[torch.Tensor, tuple]:
        vae = self.module
        raw = latents.to(self.module.device).float()
        raw = (raw * self._std.to(raw.device) + self._mean.to(raw.device)).to(vae.dtype)
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


def slice_decoding(decoder: torch.nn.Module) -> None:
    """Lets the decoder's widest operations work frame by frame, for less memory: upsampling and normalising, which see
    a frame alone, and causal convolutions, which see it and those before. Nothing else changes, least of all the state.
    """

    def joined(parts: Iterable[torch.Tensor], count: int, dim: int) -> torch.Tensor:
        out: torch.Tensor | None = None
        for place, part in enumerate(parts):
            if out is None:
                out = part.new_empty((*part.shape[:dim], count, *part.shape[dim + 1 :]))
            out.narrow(dim, place, 1).copy_(part)
        return out

    def frame_by_frame(forward: Callable[[torch.Tensor], torch.Tensor], dim: int) -> Callable:
        return lambda x: joined((forward(part) for part in x.split(1, dim)), x.shape[dim], dim)

    def convolve(module: WanCausalConv3d) -> Callable:
        forward, reach = module.forward, module.kernel_size[0] - 1

        def sliced(x: torch.Tensor, cache_x: torch.Tensor | None = None) -> torch.Tensor:
            if not reach or x.shape[2] == 1 or module.stride[0] != 1:
                return forward(x, cache_x)

            def frame(place: int) -> torch.Tensor:
                before = x[:, :, max(0, place - reach) : place]
                if cache_x is not None and before.shape[2] < reach:
                    before = torch.cat([cache_x[:, :, before.shape[2] - reach :].to(x.device), before], dim=2)
                return forward(x[:, :, place : place + 1], before if before.shape[2] else None)

            return joined(map(frame, range(x.shape[2])), x.shape[2], 2)

        return sliced

    for module in decoder.modules():
        if isinstance(module, WanResample):
            module.resample.forward = frame_by_frame(module.resample.forward, 0)
        elif isinstance(module, WanRMS_norm) and module.gamma.ndim == 4:
            module.forward = frame_by_frame(module.forward, 2)
        elif isinstance(module, WanCausalConv3d):
            module.forward = convolve(module)


def _count_convolutions(module: torch.nn.Module) -> int:
    return sum(isinstance(part, WanCausalConv3d) for part in module.modules())

"""A small streaming video autoencoder for pixel art, behind the same interface as the Wan VAE.

Time is compressed 4x by packing: the first frame of a shot is a latent frame of its own, every later latent frame holds
four frames. Space is compressed 4x. The decoder does not paint colours, it chooses them: each pixel is classified into
a fixed palette, so edges stay hard and flat areas flat whatever the denoiser's last error was. Latent frames are
coded independently, hence streamed decoding equals whole decoding and nothing drifts. Knows nothing of shots or text.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a skip, channels unchanged."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, dim), nn.Conv2d(dim, dim, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(8, dim), nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(h)))


class PixelAutoencoder(ModelMixin, ConfigMixin):
    """Frames of `palette_size` flat colours <-> latents [.., latent_channels, H/4, W/4].

    Latents are normalised: zero mean and unit variance per channel over the training data (buffers `latents_mean`,
    `latents_std`).
    """

    spatial_factor = 4
    temporal_factor = 4

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 16,
        palette_size: int = 84,
        encoder_dim: int = 128,
        encoder_blocks: int = 3,
        decoder_dim: int = 160,
        decoder_blocks: int = 3,
        detail_dim: int = 96,
        pixel_dim: int = 32,
    ):
        super().__init__()
        self.latent_channels = latent_channels
        patch, group = self.spatial_factor**2, self.temporal_factor
        self.embed_frame = nn.Conv2d(3 * patch, encoder_dim, 1)
        self.embed_group = nn.Conv2d(3 * patch * group, encoder_dim, 1)
        self.encoder = nn.Sequential(*(ResidualBlock(encoder_dim) for _ in range(encoder_blocks)))
        self.to_latent = nn.Conv2d(encoder_dim, latent_channels, 1)

        self.from_latent = nn.Conv2d(latent_channels, decoder_dim, 1)
        self.kind = nn.Embedding(2, decoder_dim)  # 0: a frame of its own, 1: a group of four
        self.decoder = nn.Sequential(*(ResidualBlock(decoder_dim) for _ in range(decoder_blocks)))
        self.upsample = nn.Sequential(nn.Conv2d(decoder_dim, detail_dim * 4, 1), nn.PixelShuffle(2))
        self.detail = ResidualBlock(detail_dim)
        self.to_frame = nn.Conv2d(detail_dim, pixel_dim * 4, 1)
        self.to_group = nn.Conv2d(detail_dim, pixel_dim * 4 * group, 1)
        self.pixel = nn.Conv2d(pixel_dim, pixel_dim, 3, padding=1)
        self.classify = nn.Conv2d(pixel_dim, palette_size, 1)

        self.register_buffer("palette", torch.zeros(palette_size, 3))  # [-1, 1]
        self.register_buffer("latents_mean", torch.zeros(latent_channels))
        self.register_buffer("latents_std", torch.ones(latent_channels))

    def encode_raw(self, frames: Tensor) -> Tensor:
        """[n, t, 3, H, W] with t = 1 or 4 frames in [-1, 1] to unnormalised latents [n, C, H/4, W/4]."""
        patches = F.pixel_unshuffle(frames.flatten(1, 2), self.spatial_factor)
        embed = self.embed_frame if frames.shape[1] == 1 else self.embed_group
        return self.to_latent(self.encoder(embed(patches)))

    def logits(self, raw: Tensor, first: bool) -> Tensor:
        """Unnormalised latents [n, C, h, w] to palette logits [n, t, palette, H, W], t = 1 if `first` else 4."""
        x = self.from_latent(raw) + self.kind.weight[0 if first else 1][:, None, None]
        x = self.detail(self.upsample(self.decoder(x)))
        x = F.pixel_shuffle((self.to_frame if first else self.to_group)(x), 2)
        x = x.unflatten(1, (1 if first else self.temporal_factor, -1))
        n, t = x.shape[:2]
        x = self.classify(F.silu(self.pixel(F.silu(x.flatten(0, 1)))))
        return x.unflatten(0, (n, t))

    def normalise(self, raw: Tensor) -> Tensor:
        return (raw - self.latents_mean[:, None, None]) / self.latents_std[:, None, None]

    def denormalise(self, latents: Tensor) -> Tensor:
        return latents * self.latents_std[:, None, None] + self.latents_mean[:, None, None]

    def encode_frames(self, frames: Tensor) -> Tensor:
        """Encode every frame alone: [n, 3, H, W] in [-1, 1] to normalised latents [n, C, H/4, W/4]."""
        return self.normalise(self.encode_raw(frames.to(self.dtype)[:, None]))

    def encode_shot(self, frames: Tensor) -> Tensor:
        """Encode a shot [1 + 4k, 3, H, W] in [-1, 1] to normalised latents [1 + k, C, H/4, W/4]."""
        frames = frames.to(self.dtype)
        first = self.encode_raw(frames[None, :1])
        groups = self.encode_raw(frames[1:].unflatten(0, (-1, self.temporal_factor)))
        return self.normalise(torch.cat([first, groups]))

    def start_decoding(self) -> bool:
        """State before a shot's first latent frame: whether that frame is still to come."""
        return True

    def decode_step(self, latents: Tensor, state: bool) -> tuple[Tensor, bool]:
        """Decode the next normalised latent frames [f, C, h, w] to frames [t, 3, H, W] in [-1, 1]."""
        frames = []
        for latent in self.denormalise(latents.to(self.dtype)):  # one at a time: the same result however it is chunked
            indices = self.logits(latent[None], first=state)[0].argmax(dim=1)  # t H W
            frames.append(self.palette[indices].permute(0, 3, 1, 2))
            state = False
        return torch.cat(frames), state

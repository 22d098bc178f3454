"""A tiny decoder for what is shown while a shot is made, where the VAE's own is too slow: off unless it is asked for.

Owns the network, its streaming and its files: weights of TAEHV's layout (github.com/madebyollin/taehv; `taew2_1` is the
one for the published VAE's latents), whose numbers are read off the weights. Pictures come out a little softer. Nothing
that a later shot looks back at is made by it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from shotstream.errors import UserError
from shotstream.models.checkpoint import fill
from shotstream.models.hub import download, is_hub_id
from shotstream.models.vae import VAE

LEVELS = 3  # each twice as high and wide as the one before
CONVOLUTIONS = ("decoder.1", "decoder.8", "decoder.14", "decoder.20")  # from the latents to each level, and the last
STRETCHES = ("decoder.7", "decoder.13", "decoder.19")
LAST = "decoder.22"

State = tuple[Tensor, ...] | None
"""What each remembering block saw last, [1, C, h, w]; None before a shot's first latent frame."""


class Remembering(nn.Module):
    """A residual block that sees the frame before, too."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers = [_conv(2 * width, width), nn.ReLU(), _conv(width, width), nn.ReLU(), _conv(width, width)]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        """Frames [t, C, h, w] one after the other; `before` [1, C, h, w] is the one before the first."""
        return F.relu(self.conv(torch.cat([x, torch.cat([before, x[:-1]])], dim=1)) + x)


class Stretch(nn.Module):
    """`times` frames out of each."""

    def __init__(self, width: int, times: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width * times, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        frames, channels, rows, columns = x.shape
        return self.conv(x).reshape(-1, channels, rows, columns)


class Soften(nn.Module):
    """Keeps outliers among the latents within bounds."""

    def forward(self, x: Tensor) -> Tensor:
        return 3 * torch.tanh(x / 3)


class PreviewDecoder(nn.Module):
    """Streams as a `VAE` decodes, with the same shapes: `widths` channels at its levels and after them, `times` frames
    out of each at every level, `patch` pixels a side out of each of the last level's."""

    def __init__(self, latent_channels: int, widths: tuple[int, ...], times: tuple[int, ...], patch: int = 1) -> None:
        super().__init__()
        self.latent_channels = latent_channels
        self.spatial_factor = 2**LEVELS * patch
        self.temporal_factor = math.prod(times)
        self.patch = patch
        layers: list[nn.Module] = [Soften(), _conv(latent_channels, widths[0]), nn.ReLU()]
        for (width, after), count in zip(pairwise(widths), times, strict=True):
            layers += [Remembering(width) for _ in range(3)]
            layers += [nn.Upsample(scale_factor=2), Stretch(width, count), _conv(width, after, bias=False)]
        self.decoder = nn.Sequential(*layers, nn.ReLU(), _conv(widths[-1], 3 * patch**2))

    def start_decoding(self) -> State:
        """The state before a shot's first latent frame."""
        return None

    def decode_step(self, latents: Tensor, state: State) -> tuple[Tensor, State]:
        """As `VAE.decode_step`: the first latent frame of a shot gives one frame, others `temporal_factor`."""
        x, memories, seen = latents, iter(state or ()), []
        for layer in self.decoder:
            if isinstance(layer, Remembering):
                before = next(memories, None)
                seen.append(x[-1:])
                x = layer(x, torch.zeros_like(x[:1]) if before is None else before)
            else:
                x = layer(x)
        frames = F.pixel_shuffle(x, self.patch)
        if state is None:  # of the first latent frame only the last picture is the shot's
            frames = frames[self.temporal_factor - 1 :]
        return frames.clamp(0, 1) * 2 - 1, tuple(seen)


def load_preview(source: str, vae: VAE, device: torch.device, dtype: torch.dtype) -> PreviewDecoder:
    """The preview decoder in a .safetensors file, here or on the Hub (`owner/name[@revision]/FILE`), in place of the
    decoder of `vae`.

    Raises `UserError` for what is missing, damaged, of another layout, or does not decode what `vae` does.
    """
    path = _file_of(source)
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            shapes = {name: shape for name, shape in shapes.items() if name.startswith("decoder.")}
            decoder = _decoder_of(shapes, path)
            _check_fit(path, decoder, vae)
            return fill(decoder, shapes, file.get_tensor, path, device, dtype).requires_grad_(False)
    except (SafetensorError, OSError) as error:
        raise UserError(f"There is no sound safetensors file at {path}: {error}.") from error


def _file_of(source: str) -> Path:
    path = Path(source)
    if path.is_file():
        return path
    owner, _, rest = source.partition("/")
    name, _, file = rest.partition("/")
    if path.suffix != ".safetensors" or not is_hub_id(repo := f"{owner}/{name}") or ".." in path.parts or "*" in file:
        raise UserError(
            f"There is no preview decoder at {source[:200]}: name a .safetensors file, "
            "or one on the Hub as owner/name/FILE.safetensors."
        )
    return download(repo, [file]) / file


def _decoder_of(shapes: Mapping[str, tuple[int, ...]], path: Path) -> PreviewDecoder:
    """A decoder of these shapes, without weights."""
    try:
        convolutions = [shapes[f"{name}.weight"] for name in (*CONVOLUTIONS, LAST)]
        stretches = [shapes[f"{name}.conv.weight"] for name in STRETCHES]
        widths, times = [shape[0] for shape in convolutions[:-1]], [shape[0] // shape[1] for shape in stretches]
        latent_channels, patch = convolutions[0][1], math.isqrt(convolutions[-1][0] // 3)
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise UserError(f"{path} is not a preview decoder: weights of TAEHV's layout are needed.") from error
    if not all(
        1 <= number <= limit for numbers, limit in ((widths, 4096), (times, 8), ((patch,), 8)) for number in numbers
    ):
        raise UserError(f"{path} is not a preview decoder: its sizes cannot be.")
    with torch.device("meta"):
        return PreviewDecoder(latent_channels, tuple(widths), tuple(times), patch)


def _check_fit(path: Path, decoder: PreviewDecoder, vae: VAE) -> None:
    found, needed = ((part.latent_channels, part.spatial_factor, part.temporal_factor) for part in (decoder, vae))
    if found != needed:
        raise UserError(
            f"{path} makes pictures {found[1]} times the size and {found[2]} times as many out of {found[0]} channels; "
            f"this model's VAE {needed[1]} and {needed[2]} out of {needed[0]}: name a decoder for it."
        )


def _conv(inward: int, outward: int, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inward, outward, 3, padding=1, bias=bias)

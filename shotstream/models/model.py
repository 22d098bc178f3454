"""A model as loaded: its parts and the few numbers that the rest of the house needs to know about it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from shotstream.models.preview import PreviewDecoder
from shotstream.models.shapes import Shapes, shape_name
from shotstream.models.text import TextEncoder
from shotstream.models.transformer import ShotTransformer
from shotstream.models.vae import VAE, network_of
from shotstream.prompting import Prompting
from shotstream.sampler import Guidance, Schedule


@dataclass
class Model:
    """`height` and `width` are pixels of the model's own size; `fps` its frame rate. All parts compute on `device`,
    wherever their weights wait; the transformer, the VAE and the memory's latents are in `dtype`. With `guidance` it is
    a bidirectional teacher, which makes a shot as a whole; without, a causal student.
    `shapes` are the pictures that it makes, (width, height) by name and always with its own size; `prompting` is how it
    likes to be prompted, as far as its folder says so. `preview` makes the pictures that are shown, if there is one."""

    name: str
    transformer: ShotTransformer
    vae: VAE
    text: TextEncoder
    schedule: Schedule
    height: int
    width: int
    fps: int
    device: torch.device
    dtype: torch.dtype
    guidance: Guidance | None = None
    shapes: Shapes = field(default_factory=dict)
    prompting: Prompting = field(default_factory=Prompting)
    preview: PreviewDecoder | None = None
    attention: str = "native"  # which kernel attends, and why, in words

    def __post_init__(self) -> None:
        self.shapes = {shape_name(self.width, self.height): (self.width, self.height)} | dict(self.shapes)

    @property
    def max_chunks(self) -> int:
        """The longest shot it was trained for."""
        return self.schedule.max_chunks

    @property
    def default_chunks(self) -> int:
        """The length of a shot when nobody asks for one."""
        return self.schedule.default_chunks

    @property
    def networks(self) -> dict[str, torch.nn.Module]:
        """What has weights, by the name of its folder."""
        return {"transformer": self.transformer, "vae": network_of(self.vae), "text_encoder": self.text.encoder}

    @property
    def size_steps(self) -> tuple[int, int]:
        """Pixels that a picture's width and height are multiples of: those of a patch."""
        rows, columns = self.transformer.config.patch_size[1:]
        return columns * self.vae.spatial_factor, rows * self.vae.spatial_factor

    def latent_size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the latents of a picture of so many pixels."""
        return height // self.vae.spatial_factor, width // self.vae.spatial_factor

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(C, h, w) of a latent frame of such a picture."""
        return self.vae.latent_channels, *self.latent_size(height, width)

    def shot_frames(self, num_chunks: int) -> int:
        """Pixel frames of a shot of `num_chunks` chunks."""
        return 1 + (num_chunks * self.schedule.chunk_frames - 1) * self.vae.temporal_factor

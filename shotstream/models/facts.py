"""What is worth knowing about a model where it is not: the numbers, names and words of one that runs elsewhere.

A value that can be pickled. For a page it stands in for `Model`, under the same names (those of
`backend.ModelFacts`); it has no weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from shotstream.models.model import Model
from shotstream.models.shapes import Shapes
from shotstream.models.text import TextEncoder, UMT5Text
from shotstream.prompting import Prompting
from shotstream.sampler import Guidance, Schedule


@dataclass(frozen=True)
class RemoteModel:
    """As in `Model`; `device` is what to call the place where it runs."""

    name: str
    height: int
    width: int
    fps: int
    device: str
    schedule: Schedule
    guidance: Guidance | None
    shapes: Shapes
    prompting: Prompting
    tokenizer: PreTrainedTokenizerBase
    text_len: int
    latent_channels: int
    spatial_factor: int

    @property
    def max_chunks(self) -> int:
        """The longest shot it was trained for."""
        return self.schedule.max_chunks

    @property
    def default_chunks(self) -> int:
        """The length of a shot when nobody asks for one."""
        return self.schedule.default_chunks

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(C, h, w) of a latent frame of a picture of so many pixels."""
        return self.latent_channels, height // self.spatial_factor, width // self.spatial_factor

    @cached_property
    def text(self) -> TextEncoder:
        """It counts tokens and knows words; it cannot encode."""
        return UMT5Text(self.tokenizer, None, self.text_len)


def facts_of(model: Model) -> RemoteModel:
    """The facts of a loaded model."""
    return RemoteModel(
        name=model.name,
        height=model.height,
        width=model.width,
        fps=model.fps,
        device=str(model.device),
        schedule=model.schedule,
        guidance=model.guidance,
        shapes=model.shapes,
        prompting=model.prompting,
        tokenizer=model.text.tokenizer,
        text_len=model.text.text_len,
        latent_channels=model.vae.latent_channels,
        spatial_factor=model.vae.spatial_factor,
    )

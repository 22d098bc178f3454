"""A recording of the published procedure, as a model and its noise: what `verify` replays.

Owns the recording's files (`.json`, `.pt`, `.safetensors`) and its stand-ins for the VAE and the text encoder. Compares
nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file

from shotstream.context import MAX_CONTEXT_FRAMES
from shotstream.errors import UserError
from shotstream.models.attention import use_attention
from shotstream.models.checkpoint import load_checkpoint, read_json, transformer_config
from shotstream.models.model import Model
from shotstream.sampler import NoiseSource, Schedule


@dataclass(frozen=True)
class Recording:
    """`config` and story from the `.json`, tensors from the `.safetensors`, weights still in the `.pt`."""

    stem: Path
    description: dict[str, Any]
    tensors: dict[str, torch.Tensor]

    @property
    def captions(self) -> list[str]:
        return self.description["captions"]

    @property
    def chunk_frames(self) -> int:
        return self.description["num_frames_per_chunk"]

    @property
    def latent_size(self) -> tuple[int, int]:
        height, width = self.description["latent_size"]
        return height, width

    def tensor(self, name: str) -> torch.Tensor:
        if name not in self.tensors:
            raise UserError(f"{self.stem}.safetensors lacks the tensor {name}.")
        return self.tensors[name]

    def shaped(self, name: str, *shape: int | None) -> torch.Tensor:
        """The tensor `name`, which must have this shape; None stands for any number."""
        tensor = self.tensor(name)
        if len(shape) != tensor.ndim or any(a not in (None, b) for a, b in zip(shape, tensor.shape, strict=True)):
            wanted = "x".join("?" if side is None else str(side) for side in shape)
            raise UserError(f"{self.stem}.safetensors: {name} has the shape {list(tensor.shape)} instead of {wanted}.")
        return tensor

    def check(self) -> None:
        """Raise `UserError` for the first tensor that is missing or does not fit the description."""
        config = transformer_config(self.description["config"], f"{self.stem}.json")
        channels, steps = config.get("in_dim", 16), len(self.description["denoising_step_list"])
        frame = (channels, *self.latent_size)
        self.shaped("vae.encode", channels, 3)
        self.shaped("vae.decode", 3, channels)
        for shot in range(len(self.captions)):
            chunks, rest = divmod(self.shaped(f"shot{shot}.initial_noise", 1, None, *frame).shape[1], self.chunk_frames)
            if rest or not chunks:
                raise UserError(f"{self.stem}.safetensors: shot{shot}.initial_noise is not whole chunks.")
            self.shaped(f"shot{shot}.latents", 1, chunks * self.chunk_frames, *frame)
            self.shaped(f"shot{shot}.renoise", chunks, steps - 1, self.chunk_frames, *frame)
            self.shaped(f"shot{shot}.context_latents", 1, MAX_CONTEXT_FRAMES, *frame)
            self.shaped(f"shot{shot}.context_shot_index", MAX_CONTEXT_FRAMES)
            self.shaped(f"prompt_embeds.{shot}", None, config.get("text_dim", 4096))
        for call in range(self.single_calls):
            for part in ("input", "flow"):
                self.shaped(f"lastshot.call{call}.{part}", 1, self.chunk_frames, *frame)
            self.shaped(f"lastshot.call{call}.timestep", 1, self.chunk_frames)

    @property
    def single_calls(self) -> int:
        """How many of the last shot's transformer calls were recorded one by one."""
        return next(call for call in itertools.count() if f"lastshot.call{call}.input" not in self.tensors)

    def num_chunks(self, shot: int) -> int:
        return self.tensor(f"shot{shot}.initial_noise").shape[1] // self.chunk_frames

    def noise(self, shot: int) -> NoiseSource:
        """The recorded noise, in the engine's terms."""
        initial, renoise = self.tensor(f"shot{shot}.initial_noise")[0], self.tensor(f"shot{shot}.renoise")

        def draw(chunk: int, step: int, shape: tuple[int, ...]) -> torch.Tensor:
            start = chunk * self.chunk_frames
            return renoise[chunk, step - 1] if step else initial[start : start + self.chunk_frames]

        return draw


def read_recording(stem: Path) -> Recording:
    """All but the weights. Raises `UserError` for files of another layout."""
    description = read_json(stem.with_name(stem.name + ".json"))
    chunk_frames, shift = description.get("num_frames_per_chunk"), description.get("timestep_shift")
    lists = ("captions", "latent_size", "denoising_step_list")
    sound = (
        isinstance(description.get("config"), dict)
        and isinstance(chunk_frames, int)
        and 0 < chunk_frames <= 256
        and isinstance(shift, int | float)
        and 0 < shift <= 1000
        and all(isinstance(description.get(key), list) and description[key] for key in lists)
        and len(description["latent_size"]) == 2
        and all(isinstance(side, int) and 0 < side <= 512 for side in description["latent_size"])
        and all(isinstance(step, int) and 0 < step <= 1000 for step in description["denoising_step_list"])
        and all(isinstance(caption, str) and caption.strip() for caption in description["captions"])
    )
    if not sound:
        raise UserError(f"{stem}.json does not describe a recording.")
    if description.get("max_context_frames", MAX_CONTEXT_FRAMES) != MAX_CONTEXT_FRAMES:
        raise UserError(f"{stem}.json was recorded with another number of context frames than {MAX_CONTEXT_FRAMES}.")
    if len(set(description["captions"])) < len(description["captions"]):
        raise UserError(f"{stem}.json has two shots of the same caption: their embeddings cannot be told apart.")
    recording = Recording(stem, description, load_tensors(stem.with_name(stem.name + ".safetensors")))
    recording.check()
    return recording


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise UserError(f"There is no recording at {path}.")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a recording, or it is damaged: {error}.") from error


def recorded_model(recording: Recording, device: torch.device, dtype: torch.dtype, attention: str) -> Model:
    """The recording's weights with its stand-ins for VAE and text encoder."""
    description = recording.description
    transformer = load_checkpoint(
        recording.stem.with_name(recording.stem.name + ".pt"), description["config"], device=device, dtype=dtype
    )
    chosen = use_attention(transformer, attention, device, dtype)
    vae = StandInVAE(recording.tensor("vae.encode").to(device, dtype), recording.tensor("vae.decode").to(device, dtype))
    longest = max(recording.num_chunks(shot) for shot in range(len(recording.captions)))
    height, width = recording.latent_size
    return Model(
        attention=chosen,
        name=str(recording.stem),
        transformer=transformer,
        vae=vae,
        text=RecordedText(
            {caption: recording.tensor(f"prompt_embeds.{i}") for i, caption in enumerate(recording.captions)}
        ),
        schedule=Schedule(
            description["timestep_shift"],
            tuple(description["denoising_step_list"]),
            recording.chunk_frames,
            longest,
            longest,
        ),
        height=height * vae.spatial_factor,
        width=width * vae.spatial_factor,
        fps=16,
        device=device,
        dtype=dtype,
    )


@dataclass(frozen=True)
class RecordedText:
    embeds: Mapping[str, torch.Tensor]

    def encode(self, caption: str) -> torch.Tensor:
        return self.embeds[caption]

    def count_tokens(self, caption: str) -> tuple[int, int]:
        """Not known any more: the recording holds embeddings only."""
        return len(self.embeds[caption]), len(self.embeds[caption])


@dataclass(frozen=True)
class StandInVAE:
    """Average pooling and two matrices, `encode` [C, 3] and `decode` [3, C]: enough pixels to look back at.

    Its decoding state is the number of frames decoded so far: copies of a latent frame are told apart by dimming.
    """

    encode: torch.Tensor
    decode: torch.Tensor
    spatial_factor: int = 8
    temporal_factor: int = 4

    @property
    def latent_channels(self) -> int:
        return len(self.encode)

    def encode_frames(self, frames: torch.Tensor) -> torch.Tensor:
        pooled = F.avg_pool2d(frames.to(self.encode.dtype), self.spatial_factor)
        return torch.einsum("cp,nphw->nchw", self.encode, pooled)

    def start_decoding(self) -> int:
        return 0

    def decode_step(self, latents: torch.Tensor, state: int) -> tuple[torch.Tensor, int]:
        pictures = torch.einsum("pc,fchw->fphw", self.decode, latents.to(self.decode.dtype)).tanh()
        copies = torch.full((len(latents),), self.temporal_factor, device=latents.device)
        if state == 0:
            copies[0] = 1
        pictures = pictures.repeat_interleave(copies, dim=0)
        numbers = torch.arange(state, state + len(pictures), device=latents.device)
        dimmed = pictures * (1 - 0.01 * (numbers % 4)).to(pictures.dtype).view(-1, 1, 1, 1)
        return F.interpolate(dimmed.clamp(-1, 1), scale_factor=self.spatial_factor), state + len(pictures)

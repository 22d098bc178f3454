"""Training data: random toy stories, rendered and encoded once, kept as latents by number.

Equal pictures share one latent (a character that stands still repeats itself), so a story is a list of latent numbers
and a data set is one safetensors file plus one JSON of stories. Knows no denoiser.
"""

from __future__ import annotations

import json
import os
import random
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from shotstream.context import sample_context
from shotstream.errors import UserError
from shotstream.models.pixel_autoencoder import PixelAutoencoder
from shotstream.models.vae import VAE
from shotstream.story import compose_caption
from shotstream.toyworld import world
from shotstream.toyworld.plot import WHOLE_WORLD, Shares, ToyStory
from shotstream.toyworld.stories import random_story
from shotstream.toyworld.takes import render_take

GROUP = 4  # pixel frames in a latent frame; the first of a shot has one
CHUNK = 3  # latent frames


@dataclass(frozen=True)
class EncodedShot:
    """One shot as latent numbers: its own frames, and what it looks back at (empty for a first shot).

    From latent frame `switch` on (never if zero) it is told `then` instead of `caption`.
    """

    caption: str
    latents: list[int]
    context: list[int]
    context_shots: list[int]
    then: str = ""
    switch: int = 0

    @property
    def captions(self) -> tuple[str, ...]:
        return (self.caption, self.then) if self.switch else (self.caption,)

    def cut_to(self, frames: int) -> EncodedShot:
        """The first latent `frames`: what comes later was neither shown nor said."""
        told = {} if self.switch < frames else {"then": "", "switch": 0}
        return replace(self, latents=self.latents[:frames], **told)

    def caption_at(self, frame: int) -> str:
        """The caption of a latent frame."""
        return self.then if 0 < self.switch <= frame else self.caption


@dataclass(frozen=True)
class StoryLatents:
    """`latents` [u, C, h, w] float16; `moving` [u, h, w] bool: does the character touch this latent pixel? `probe`
    [C, h, w]: what the encoder made of a picture that is always the same (see `probe_of`)."""

    latents: Tensor
    moving: Tensor
    stories: list[list[EncodedShot]]
    probe: Tensor | None = None

    def save(self, folder: Path) -> None:
        """Write both files; a kill in between leaves no stories, so that old ones never meet new latents."""
        folder.mkdir(parents=True, exist_ok=True)
        told, part = folder / "stories.json", folder / "stories.part"
        told.unlink(missing_ok=True)
        tensors = {"latents": self.latents, "moving": self.moving}
        save_file(tensors | ({} if self.probe is None else {"probe": self.probe}), folder / "latents.safetensors")
        part.write_text(json.dumps([[asdict(shot) for shot in story] for story in self.stories]))
        os.replace(part, told)

    @classmethod
    def load(cls, folder: Path) -> StoryLatents:
        """Raises `UserError` for files that are missing or damaged."""
        try:
            stories = json.loads((folder / "stories.json").read_text())
            tensors = load_file(folder / "latents.safetensors")
            told = [[EncodedShot(**shot) for shot in story] for story in stories]
            return cls(tensors["latents"], tensors["moving"], told, tensors.get("probe"))
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"The stories in {folder} are not whole: run the stage latents again.") from error

    def split(self, heldout: int) -> tuple[StoryLatents, StoryLatents]:
        """All but the last `heldout` stories, and these; of too few stories at least one remains in either part."""
        border = min(max(len(self.stories) - heldout, 1), max(len(self.stories) - 1, 0))
        return replace(self, stories=self.stories[:border] or self.stories), replace(
            self, stories=self.stories[border:]
        )


@torch.no_grad()
def probe_of(vae: VAE, height: int, width: int, device: torch.device) -> Tensor:
    """[C, h, w] float16: a fixed picture as `vae`, which is on `device`, encodes it. Once there are latents its decoder
    may be trained on, its encoder may not."""
    picture = torch.stack(torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij"))
    picture = torch.cat([picture, picture[:1] * picture[1:]])
    return vae.encode_frames(picture[None].to(device))[0].half().cpu()


def num_frames(num_chunks: int) -> int:
    """Pixel frames of a shot of `num_chunks` chunks of 3 latent frames."""
    return 1 + GROUP * (CHUNK * num_chunks - 1)


def _body_mask(pictures: np.ndarray) -> np.ndarray:
    """[n, t, H, W] palette indices to [n, H/4, W/4] bool: is any pixel of the cell of a character's own colour?"""
    own = np.zeros(len(world.PALETTE), dtype=bool)
    own[[world.colour_index(part, colour) for part in ("body", "shade") for colour in world.COLOURS]] = True
    n, _, height, width = pictures.shape
    return own[pictures].any(axis=1).reshape(n, height // 4, 4, width // 4, 4).any(axis=(2, 4))


class _Encoder:
    """Collects pictures, tells equal ones apart by their bytes, and encodes them in batches."""

    def __init__(self, vae: PixelAutoencoder):
        self.vae, self.numbers, self.waiting = vae, {}, {1: [], 4: []}
        self.latents: dict[int, Tensor] = {}
        self.moving: dict[int, Tensor] = {}

    def number(self, picture: np.ndarray) -> int:
        key = (len(picture), picture.tobytes())
        if key not in self.numbers:
            self.numbers[key] = len(self.numbers)
            queue = self.waiting[len(picture)]
            queue.append((self.numbers[key], picture))
            if len(queue) == 64:
                self.flush(queue)
        return self.numbers[key]

    @torch.no_grad()
    def flush(self, queue: list[tuple[int, np.ndarray]]) -> None:
        if not queue:
            return
        pictures = np.stack([picture for _, picture in queue])
        frames = self.vae.palette[torch.from_numpy(pictures).long()].permute(0, 1, 4, 2, 3)
        latents = self.vae.normalise(self.vae.encode_raw(frames)).half()
        moving = torch.from_numpy(_body_mask(pictures))
        for (number, _), latent, mask in zip(queue, latents, moving, strict=True):
            self.latents[number], self.moving[number] = latent, mask
        queue.clear()


def _encode_story(encoder: _Encoder, story: ToyStory) -> list[EncodedShot]:
    shots: list[EncodedShot] = []
    takes: list[np.ndarray] = []
    for index, shot in enumerate(story.shots):
        frames = render_take(shot)
        latents = [encoder.number(frames[:1])]
        latents += [encoder.number(frames[i : i + GROUP]) for i in range(1, len(frames), GROUP)]
        looked = sample_context([len(take) for take in takes]) if takes else []
        context = [encoder.number(takes[s][frame : frame + 1]) for s, frame in looked]
        told = {"caption": compose_caption(story.global_caption, index, shot.caption)}
        if shot.beat:
            told |= {
                "then": compose_caption(story.global_caption, index, shot.beat.caption),
                "switch": CHUNK * shot.beat.chunk,
            }
        shots.append(EncodedShot(**told, latents=latents, context=context, context_shots=[s for s, _ in looked]))
        takes.append(frames)
    return shots


def encode_stories(
    vae: PixelAutoencoder, num_stories: int, seed: int, shares: Shares = WHOLE_WORLD, progress: bool = True
) -> StoryLatents:
    """Render and encode `num_stories` random stories."""
    rng, encoder = random.Random(seed), _Encoder(vae)
    stories = [
        _encode_story(encoder, random_story(rng, shares=shares))
        for _ in tqdm(range(num_stories), desc="encoding stories", disable=not progress)
    ]
    for queue in encoder.waiting.values():
        encoder.flush(queue)
    order = range(len(encoder.numbers))
    return StoryLatents(
        torch.stack([encoder.latents[i] for i in order]), torch.stack([encoder.moving[i] for i in order]), stories
    )

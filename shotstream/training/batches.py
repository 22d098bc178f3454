"""Batches of shots: what each looks back at, what it is told, and what it really looks like.

Deals stored stories (`data.StoryLatents`) out in batches of equal length, and says how latent frames stand in time.
Knows no loss; every stage of the training takes the same `ShotBatch`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from shotstream.context import MAX_CONTEXT_FRAMES
from shotstream.errors import UserError
from shotstream.models.rope import Phases
from shotstream.models.transformer import ShotTransformer
from shotstream.training.data import EncodedShot, StoryLatents
from shotstream.training.loop import share_of
from shotstream.training.recipe import Course, Phase
from shotstream.training.trainee import tokens_of

Item = tuple[list[EncodedShot], int]
"""A story and the number of one of its shots."""


@dataclass(frozen=True)
class ShotBatch:
    """B shots of F latent frames, with L caption tokens each.

    A first shot looks back at exact zeros of shot 0 and its own RoPE index is 1 (spec section 3).
    """

    context: Tensor  # [B, 6, C, h, w] clean
    context_shot: Tensor  # [B, 6] long: RoPE shot index of each context frame
    shot: Tensor  # [B] long: RoPE shot index of the shot itself
    target: Tensor  # [B, F, C, h, w] clean
    weight: Tensor  # [B, F, h, w] bool: where a character is, for losses that weigh it up
    tokens: Tensor  # [N, L] long: all captions of the batch, each once
    context_caption: Tensor  # [B, 6] long: row into tokens
    caption: Tensor  # [B, F] long: row into tokens of each latent frame's caption

    @property
    def positions(self) -> Tensor:
        """[6 + F] places in time of context and target."""
        return torch.arange(MAX_CONTEXT_FRAMES + self.target.shape[1], device=self.target.device)

    @property
    def shot_index(self) -> Tensor:
        """[B, 6 + F] RoPE shot index of context and target."""
        return torch.cat([self.context_shot, self.shot[:, None].expand(-1, self.target.shape[1])], dim=1)

    @property
    def caption_index(self) -> Tensor:
        """[B, 6 + F] caption of context and target."""
        return torch.cat([self.context_caption, self.caption], dim=1)

    def phases(self, transformer: ShotTransformer) -> Phases:
        """RoPE phases of all context and target frames."""
        return transformer.phases(self.positions, self.shot_index, self.target.shape[-2:], self.target.device)

    def to(self, device: torch.device) -> ShotBatch:
        return ShotBatch(**{name: value.to(device) for name, value in vars(self).items()})

    def without_context(self, which: Tensor) -> ShotBatch:
        """The batch with the context of the shots `which` [B] bool taken away: zeros of shot 0 (spec section 8)."""
        context = self.context.masked_fill(which[:, None, None, None, None], 0.0)
        return replace(self, context=context, context_shot=self.context_shot.masked_fill(which[:, None], 0))


class ShotDealer:
    """Deals the shots of stored stories in batches; all randomness comes from the generators that a caller gives."""

    def __init__(
        self, stories: StoryLatents, tokenizer: PreTrainedTokenizerBase, chunk_frames: int, text_len: int
    ) -> None:
        self.latents, self.moving, self.stories = stories.latents, stories.moving, stories.stories
        self.chunk_frames = chunk_frames
        self.items: list[Item] = [(story, index) for story in self.stories for index in range(len(story))]
        if not self.items:
            raise UserError("There are no stories to train on.")
        self._lists: dict[tuple[int, bool], list[int]] = {}
        captions = sorted({text for story in self.stories for shot in story for text in shot.captions})
        self.tokens = tokens_of(tokenizer, captions, text_len).to(torch.int32)
        self.row = {caption: row for row, caption in enumerate(captions)}

    def check(self, phases: Sequence[Phase]) -> None:
        """Raises `UserError` if no shot is as long as the `phases` of a stage will ask for."""
        for phase in phases:
            for num_chunks in phase.chunks:
                self.choose(random.Random(0), 1, num_chunks, phase.first)

    def deal(self, course: Course, step: int, rng: random.Random, accelerator: Accelerator) -> ShotBatch:
        """A process's share of the random shots that `step` of the course learns from, on its device."""
        phase = course.phase(step)
        size = share_of(phase.batch, accelerator)
        return self.draw(rng, size, rng.choice(phase.chunks), phase.first).to(accelerator.device)

    def draw(self, rng: random.Random, size: int, num_chunks: int, first: bool = False) -> ShotBatch:
        """`size` random shots cut to `num_chunks`; only first shots if `first`."""
        return self.collate([self.items[i] for i in self.choose(rng, size, num_chunks, first)], num_chunks)

    def choose(self, rng: random.Random, size: int, num_chunks: int, first: bool = False) -> list[int]:
        """Numbers of `size` random shots of at least `num_chunks`; only first shots if `first`.

        Raises `UserError` if no shot is that long.
        """
        usable = self._usable(num_chunks, first)
        if not usable:
            raise UserError(f"No shot of the stories is {num_chunks} chunks long: ask for shorter ones.")
        return [rng.choice(usable) for _ in range(size)]

    def choose_stories(self, rng: random.Random, size: int, num_shots: int, num_chunks: int) -> list[list[EncodedShot]]:
        """The first `num_shots` shots of `size` random stories that have as many, cut to `num_chunks`, none shorter;
        fewer shots if no story has so many."""
        for shots in range(num_shots, 0, -1):
            usable = [
                story[:shots]
                for story in self.stories
                if len(story) >= shots and min(self.length(shot) for shot in story[:shots]) >= num_chunks
            ]
            if usable:
                frames = self.chunk_frames * num_chunks
                return [[shot.cut_to(frames) for shot in rng.choice(usable)] for _ in range(size)]
        raise UserError(f"No shot of the stories is {num_chunks} chunks long: ask for shorter ones.")

    def _usable(self, num_chunks: int, first: bool) -> list[int]:
        if (num_chunks, first) not in self._lists:
            self._lists[num_chunks, first] = [
                number
                for number, (story, index) in enumerate(self.items)
                if self.length(story[index]) >= num_chunks and not (first and index)
            ]
        return self._lists[num_chunks, first]

    def length(self, shot: EncodedShot) -> int:
        """Whole chunks of a stored shot."""
        return len(shot.latents) // self.chunk_frames

    def collate(self, items: list[Item], num_chunks: int) -> ShotBatch:
        """The first `num_chunks` chunks of `items`, which are at least as long."""
        frames = self.chunk_frames * num_chunks
        context, context_shot, target, weight, context_rows, rows = [], [], [], [], [], []
        for story, index in items:
            shot = story[index]
            own = self.latents[shot.latents[:frames]].float()
            target.append(own)
            weight.append(self.moving[shot.latents[:frames]])
            rows.append([self.row[shot.caption_at(frame)] for frame in range(frames)])
            if index:
                context.append(self.latents[shot.context].float())
                context_shot.append(shot.context_shots)
                context_rows.append([self.row[story[s].captions[-1]] for s in shot.context_shots])
            else:
                context.append(own.new_zeros(MAX_CONTEXT_FRAMES, *own.shape[1:]))
                context_shot.append([0] * MAX_CONTEXT_FRAMES)
                context_rows.append([rows[-1][0]] * MAX_CONTEXT_FRAMES)
        used = sorted({row for part in (*rows, *context_rows) for row in part})
        place = {row: i for i, row in enumerate(used)}
        return ShotBatch(
            context=torch.stack(context),
            context_shot=torch.tensor(context_shot),
            shot=torch.tensor([max(index, 1) for _, index in items]),
            target=torch.stack(target),
            weight=torch.stack(weight),
            tokens=self.tokens[used].long(),
            context_caption=torch.tensor([[place[row] for row in part] for part in context_rows]),
            caption=torch.tensor([[place[row] for row in part] for part in rows]),
        )

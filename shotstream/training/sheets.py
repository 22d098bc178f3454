"""A look at a model while it learns: samples held-out shots and reads them back from pixels.

Says which share of the shots show what the real ones show, and draws a contact sheet (real above sampled).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from shotstream.evaluation.reader import read_frame
from shotstream.models.vae import VAE
from shotstream.training.batches import ShotBatch, ShotDealer
from shotstream.training.trainee import Trainee

ATTRIBUTES = ("colour", "shape", "place", "time", "camera", "expression")
CHUNKS = 2  # enough to see a shot go on; one where no shot has two
ACROSS, ROWS, SCALE = 10, 2, 3  # of a sheet

Sample = Callable[[Trainee, ShotBatch], Tensor]
"""A model's clean latents [B, F, C, h, w] of a batch's shots."""


class Look:
    """Looks at `count` held-out first shots and as many later shots, at the end of their second chunk."""

    def __init__(self, vae: VAE, dealer: ShotDealer, sample: Sample, folder: Path, count: int, read: bool) -> None:
        """`read`: they are of the toy world, and can be read back."""
        self.vae, self.sample, self.folder, self.read = vae, sample, folder, read
        rng = random.Random(0)
        chunks = min(CHUNKS, max(dealer.length(story[i]) for story, i in dealer.items))
        long = [(story, i) for story, i in dealer.items if dealer.length(story[i]) >= chunks]
        pools = {
            "first": [item for item in long if item[1] == 0],
            "later": [item for item in long if item[1] > 0],
        }
        self.batches = {
            name: dealer.collate(rng.sample(pool, min(count, len(pool))), chunks)
            for name, pool in pools.items()
            if pool
        }

    @torch.no_grad()
    def __call__(self, trainee: Trainee, step: int) -> str:
        """What was seen, in a line; the sheet is `step`.png."""
        told, rows = [], []
        for name, batch in self.batches.items():
            batch = batch.to(trainee.transformer.device)
            torch.manual_seed(1)  # every step of the training seeds anew, so looking changes nothing
            real, made = (
                [self._last_frame(latents) for latents in shots]
                for shots in (batch.target, self.sample(trainee, batch))
            )
            if self.read:
                pairs = [(read_frame(a), read_frame(b)) for a, b in zip(real, made, strict=True)]
                shares = {a: np.mean([getattr(r, a) == getattr(m, a) for r, m in pairs]) for a in ATTRIBUTES}
                told.append(f"{name}: " + " ".join(f"{a} {share:.2f}" for a, share in shares.items()))
            rows += rows_of(real, made)
        save_sheet(rows, self.folder / f"{step:06}.png", SCALE if self.read else 1)
        return " | ".join(told) or f"sheet {step:06}.png"

    def _last_frame(self, latents: Tensor) -> np.ndarray:
        """[F, C, h, w] to the last pixel frame [H, W, 3] uint8."""
        frames, _ = self.vae.decode_step(latents, self.vae.start_decoding())
        return ((frames[-1].permute(1, 2, 0) + 1) * 127.5).round().to(torch.uint8).cpu().numpy()


def rows_of(real: list[np.ndarray], made: list[np.ndarray]) -> list[np.ndarray]:
    """Rows of a sheet: real pictures [H, W, 3] uint8 beside each other, below them what was made of each."""
    across = min(ACROSS, len(real))
    starts = range(0, len(real) - across + 1, across)[:ROWS]
    return [np.concatenate(frames[start : start + across], 1) for start in starts for frames in (real, made)]


def save_sheet(rows: list[np.ndarray], path: Path, scale: int) -> None:
    """Rows [H, W, 3] uint8 below each other as a PNG, `scale` times as large."""
    wide = max(row.shape[1] for row in rows)
    sheet = Image.fromarray(np.concatenate([np.pad(r, ((0, 0), (0, wide - r.shape[1]), (0, 0))) for r in rows]))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.resize((sheet.width * scale, sheet.height * scale), Image.Resampling.NEAREST).save(path)

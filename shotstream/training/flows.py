"""How a batch goes through the transformer as one masked sequence: bidirectionally (the teacher and the critic) and
causally by chunks (the student before it rolls itself out). Knows no loss.
"""

from __future__ import annotations

import torch
from torch import Tensor

from shotstream.context import MAX_CONTEXT_FRAMES
from shotstream.models.transformer import ShotTransformer
from shotstream.training.batches import ShotBatch


def bidirectional_flow(
    transformer: ShotTransformer, batch: ShotBatch, noisy: Tensor, timestep: Tensor, embeds: Tensor
) -> Tensor:
    """Flow [B, F, C, h, w] at one `timestep` [B] for all tokens, context included; everything sees everything.

    `embeds` [N, text_len, text_dim] are the batch's captions (paper section 3.2, spec section 7).
    """
    return _flow(transformer, batch, noisy, timestep[:, None], embeds, None)


def causal_flow(
    transformer: ShotTransformer, batch: ShotBatch, noisy: Tensor, timestep: Tensor, embeds: Tensor, chunk_frames: int
) -> Tensor:
    """Flow [B, F, C, h, w] at a `timestep` [B, F] per frame under the chunk-wise causal mask; context is at timestep
    zero (paper section 3.4, causal initialisation)."""
    clean = timestep.new_zeros(len(timestep), MAX_CONTEXT_FRAMES)
    mask = chunk_causal_mask(noisy.shape[1], chunk_frames).to(noisy.device)
    return _flow(transformer, batch, noisy, torch.cat([clean, timestep], dim=1), embeds, mask)


def _flow(
    transformer: ShotTransformer,
    batch: ShotBatch,
    noisy: Tensor,
    timestep: Tensor,
    embeds: Tensor,
    mask: Tensor | None,
) -> Tensor:
    # captions as those of one item, which all items share: each is embedded once, however often it is looked at
    out = transformer(
        torch.cat([batch.context, noisy], dim=1),
        timestep,
        embeds[None],
        batch.caption_index,
        batch.positions,
        batch.shot_index,
        mask,
    )
    return out[:, MAX_CONTEXT_FRAMES:].float()  # what is made of it is no place for 16 bits


def chunk_causal_mask(frames: int, chunk_frames: int) -> Tensor:
    """[6 + F, 6 + F] bool: context sees context; a chunk sees the context, the chunks before it and itself."""
    chunk = torch.cat([torch.full((MAX_CONTEXT_FRAMES,), -1), torch.arange(frames) // chunk_frames])
    return chunk[:, None] >= chunk[None, :]

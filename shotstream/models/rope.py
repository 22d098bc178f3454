"""Rotary position phases with the discontinuity indicator (paper section 3.3).

Owns the angles of time, height and width and their rotation of queries and keys. Knows nothing of caches or of which
frame is context: a caller says where each latent frame stands in time and which shot it belongs to.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

BASE = 10000.0
CUT_ANGLE = 1.0 / 6.0  # radians added to every temporal angle per shot index: the indicator of a cut


@dataclass(frozen=True)
class Phases:
    """Cosines and sines, float32 [B or 1, tokens, 1, head_dim / 2, 2], ready to turn pairs of channels."""

    turns: torch.Tensor

    @classmethod
    def of_angles(cls, angles: torch.Tensor, device: torch.device) -> Phases:
        """Of float64 `angles` [B or 1, tokens, 1, head_dim / 2]."""
        return cls(torch.stack([angles.cos(), angles.sin()], dim=-1).to(device, torch.float32))

    def frames(self, start: int, stop: int, frame_tokens: int) -> Phases:
        """The phases of latent frames `start` to `stop` (views)."""
        return Phases(self.turns[:, start * frame_tokens : stop * frame_tokens])


def axis_dims(head_dim: int) -> tuple[int, int, int]:
    """How many channels of a head turn with time, height and width."""
    spatial = 2 * (head_dim // 6)
    return head_dim - 2 * spatial, spatial, spatial


def _angles(positions: torch.Tensor, dim: int) -> torch.Tensor:
    """[...] positions -> [..., dim / 2] angles in radians, float64."""
    exponent = torch.arange(0, dim, 2, dtype=torch.float64, device=positions.device) / dim
    return positions.to(torch.float64).unsqueeze(-1) * BASE**-exponent


def rope_phases(
    positions: torch.Tensor,
    shot_index: torch.Tensor,
    grid: tuple[int, int],
    head_dim: int,
    device: torch.device | None = None,
    cut_angle: float = CUT_ANGLE,
) -> Phases:
    """Phases of latent frames at temporal `positions` [F] or [B, F] belonging to shots `shot_index` [F] or [B, F].

    `grid` is (rows, columns) of patches in a latent frame; every shot index turns time by `cut_angle` radians. Angles
    are taken in float64 and stored as float32 on `device` (that of `positions` by default).
    """
    rows, columns = grid
    time_dim, row_dim, column_dim = axis_dims(head_dim)
    positions, shot_index = torch.broadcast_tensors(torch.atleast_2d(positions), torch.atleast_2d(shot_index))
    batch, frames = positions.shape
    turn = shot_index.to(torch.float64).unsqueeze(-1) * cut_angle
    time = _angles(positions, time_dim) + turn  # [B, F, time_dim / 2]
    row = _angles(torch.arange(rows, device=positions.device), row_dim)
    column = _angles(torch.arange(columns, device=positions.device), column_dim)
    angles = torch.cat(
        [
            time[:, :, None, None].expand(batch, frames, rows, columns, -1),
            row[None, None, :, None].expand(batch, frames, rows, columns, -1),
            column[None, None, None].expand(batch, frames, rows, columns, -1),
        ],
        dim=-1,
    ).reshape(batch, frames * rows * columns, 1, head_dim // 2)
    return Phases.of_angles(angles, device or positions.device)


def shift_phases(frames: int, head_dim: int, device: torch.device) -> Phases:
    """The phases that move a rotated query or key by `frames` latent frames in time: rotations add up."""
    time_dim = axis_dims(head_dim)[0]
    angles = torch.zeros(head_dim // 2, dtype=torch.float64, device=device)
    angles[: time_dim // 2] = _angles(torch.full((), frames, device=device), time_dim)
    return Phases.of_angles(angles.view(1, 1, 1, -1), device)


def rotate(x: torch.Tensor, phases: Phases) -> torch.Tensor:
    """Turn the channel pairs (0, 1), (2, 3), ... of `x` [B, tokens, heads, head_dim]; float32 out."""
    pairs = x.float().unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():  # it fuses real numbers, complex ones it leaves as they are
        (even, odd), (cos, sin) = pairs.unbind(-1), phases.turns.unbind(-1)
        return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)
    turned = torch.view_as_complex(pairs) * torch.view_as_complex(phases.turns)  # one kernel
    return torch.view_as_real(turned).flatten(-2)

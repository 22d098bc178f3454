"""What a session keeps of the film so far, and which frames of it the next shot looks back at (paper section 3.2).

Owns the memory value, dynamic sampling of context frames, and the memory's file format. Knows no model: the engine
encodes frames into latents and puts them here.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from shotstream.errors import UserError

MAX_CONTEXT_FRAMES = 6
FORMAT = "shotstream.memory"
VERSION = 1

# What a file may claim before anything is allocated for it. A shot at 480p is 1.5 MB.
MAX_SHOTS = 1000
MAX_FRAMES = 100_000
MAX_OFFSETS = 16
MAX_LATENT_SIDE = 512
MAX_LATENT_CHANNELS = 128
MAX_THUMBNAIL_SIDE = 512
MAX_CAPTION = 100_000
MAX_SEED = 2**63 - 1
MAX_FILE_BYTES = 4 << 30
LATENT_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True, eq=False)
class ShotMemory:
    """One finished shot, as later shots may ask for it.

    `latents` [n, C, h, w] are single-frame encodings of the pixel frames at `offsets` (frame numbers inside the shot,
    ascending); `thumbnail` [H, W, 3] uint8.
    """

    caption: str
    seed: int
    num_frames: int
    offsets: tuple[int, ...]
    latents: torch.Tensor
    thumbnail: np.ndarray

    def latent_at(self, offset: int) -> torch.Tensor:
        """[C, h, w]: the stored latent at `offset`, or the nearest one (after shots before this one were exchanged
        for longer or shorter ones, halves may round the other way)."""
        nearest = min(range(len(self.offsets)), key=lambda i: abs(self.offsets[i] - offset))
        return self.latents[nearest]


@dataclass(frozen=True, eq=False)
class Memory:
    """The film so far: finished shots in story order. An older `Memory` sent again is a rewind."""

    shots: tuple[ShotMemory, ...] = ()

    @property
    def num_frames(self) -> int:
        """Pixel frames of the whole film."""
        return sum(shot.num_frames for shot in self.shots)

    def context(self, policy: str = "dynamic") -> tuple[torch.Tensor, tuple[int, ...]]:
        """The next shot's context: latents [6, C, h, w] in story order and the shot each one is from, as one of
        `CONTEXT_POLICIES` picks them.

        Only for a memory with at least one shot.
        """
        picks = CONTEXT_POLICIES[policy]([shot.num_frames for shot in self.shots])
        latents = torch.stack([self.shots[shot].latent_at(offset) for shot, offset in picks])
        return latents, tuple(shot for shot, _ in picks)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, whole or not at all. Raises `UserError` if the place cannot be written, or for a
        film longer than `load` takes."""
        if len(self.shots) > MAX_SHOTS:
            raise UserError(f"A memory file holds {MAX_SHOTS} shots, not {len(self.shots)}: save an earlier state.")
        tensors = {}
        for i, shot in enumerate(self.shots):
            tensors[f"shot{i}.latents"] = shot.latents.contiguous().cpu()
            tensors[f"shot{i}.thumbnail"] = torch.from_numpy(np.ascontiguousarray(shot.thumbnail))
        film = json.dumps(
            [
                {"caption": s.caption, "seed": s.seed, "num_frames": s.num_frames, "offsets": s.offsets}
                for s in self.shots
            ]
        )
        about = {"format": FORMAT, "version": str(VERSION), "shots": film, "checksum": _checksum(film, tensors)}
        data = save(tensors, about)
        path = Path(path)
        part = path.with_name(path.name + ".part")
        try:
            part.write_bytes(data)
            os.replace(part, path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise UserError(f"Cannot write the memory to {path}: {error.strerror or error}.") from error

    @classmethod
    def load(cls, path: str | Path) -> Memory:
        """Read a file that `save` wrote. Raises `UserError` for anything else, before allocating what it claims."""
        path = Path(path)
        try:
            if not path.is_file():
                raise UserError(f"There is no memory file at {path}.")
            if path.stat().st_size > MAX_FILE_BYTES:
                raise UserError(f"{path} is too large for a memory file.")
            with safe_open(path, framework="pt") as file:
                return cls(tuple(_read_shots(path, file)))
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} is not a memory file, or it is damaged: {error}.") from error


def slots_per_shot(shots: int) -> list[int]:
    """How many of the six context frames each of the `shots` earlier shots gets; the remainder goes to the latest."""
    each, remainder = divmod(MAX_CONTEXT_FRAMES, shots)
    return [each + (i >= shots - remainder) for i in range(shots)]


def spread(first: int, last: int, count: int) -> list[int]:
    """`count` frame numbers evenly from `first` to `last`, halves rounded to even; one is the first."""
    return np.round(np.linspace(first, last, count)).astype(int).tolist()


def sample_context(num_frames: Sequence[int]) -> list[tuple[int, int]]:
    """Dynamic sampling: (shot, frame number inside it) of the six context frames, given the earlier shots' lengths.

    Rounding is done on frame numbers that count through the whole story.
    """
    picks = []
    first = 0
    for shot, (length, slots) in enumerate(zip(num_frames, slots_per_shot(len(num_frames)), strict=True)):
        picks += [(shot, frame - first) for frame in spread(first, first + length - 1, slots)]
        first += length
    return picks


def sample_first(num_frames: Sequence[int]) -> list[tuple[int, int]]:
    """All six context frames from the first shot (an ablation)."""
    return [(0, frame) for frame in spread(0, num_frames[0] - 1, MAX_CONTEXT_FRAMES)]


def sample_latest(num_frames: Sequence[int]) -> list[tuple[int, int]]:
    """All six context frames from the shot before (an ablation)."""
    return [(len(num_frames) - 1, frame) for frame in spread(0, num_frames[-1] - 1, MAX_CONTEXT_FRAMES)]


def sample_evenly(num_frames: Sequence[int]) -> list[tuple[int, int]]:
    """Six context frames evenly from the whole film, wherever its cuts are (an ablation)."""
    ends = np.cumsum(num_frames)
    frames = spread(0, int(ends[-1]) - 1, MAX_CONTEXT_FRAMES)
    shots = [int(np.searchsorted(ends, frame, side="right")) for frame in frames]
    return [(shot, frame - int(ends[shot]) + num_frames[shot]) for shot, frame in zip(shots, frames, strict=True)]


Policy = Callable[[Sequence[int]], list[tuple[int, int]]]
"""Lengths of the earlier shots in frames -> (shot, frame number inside it) of the six context frames."""

CONTEXT_POLICIES: Mapping[str, Policy] = {
    "dynamic": sample_context,
    "first": sample_first,
    "latest": sample_latest,
    "even": sample_evenly,
}


def stored_offsets(first: int, num_frames: int) -> tuple[int, ...]:
    """Every frame number inside a shot that dynamic sampling may ask for, however many shots follow.

    `first` is the story-wide number of the shot's first frame.
    """
    possible = {slots for shots in range(1, MAX_CONTEXT_FRAMES + 2) for slots in slots_per_shot(shots)}
    frames = {frame - first for slots in possible for frame in spread(first, first + num_frames - 1, slots)}
    return tuple(sorted(frames))


def _checksum(film: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """Of the list of shots and every byte of their tensors, to tell a flipped bit."""
    digest = hashlib.blake2b(film.encode(), digest_size=16)
    for name in sorted(tensors):
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _read_shots(path: Path, file) -> list[ShotMemory]:
    """All shots of an open safetensors file, each part checked before its tensors are read."""
    metadata = file.metadata() or {}
    if metadata.get("format") != FORMAT:
        raise UserError(f"{path} is not a ShotStream memory file.")
    if metadata.get("version") != str(VERSION):
        raise UserError(f"{path} was written by another version of ShotStream (format {metadata.get('version')!r}).")
    try:
        film = json.loads(metadata.get("shots", ""))
    except (ValueError, RecursionError) as error:
        raise UserError(f"The list of shots in {path} is damaged.") from error
    if not isinstance(film, list) or len(film) > MAX_SHOTS:
        raise UserError(f"The list of shots in {path} is damaged or longer than {MAX_SHOTS}.")
    expected = {f"shot{i}.{part}" for i in range(len(film)) for part in ("latents", "thumbnail")}
    if set(file.keys()) != expected:
        raise UserError(f"The tensors in {path} do not belong to its list of {len(film)} shots.")
    shots: list[ShotMemory] = []
    for i, entry in enumerate(film):
        offsets = _checked_entry(path, i, entry)
        latents_info, thumbnail_info = file.get_slice(f"shot{i}.latents"), file.get_slice(f"shot{i}.thumbnail")
        shape = latents_info.get_shape()
        latents_fit = (
            len(shape) == 4
            and shape[0] == len(offsets)
            and 0 < shape[1] <= MAX_LATENT_CHANNELS
            and all(0 < side <= MAX_LATENT_SIDE for side in shape[2:])
            and latents_info.get_dtype() in LATENT_DTYPES
        )
        if not latents_fit:
            raise UserError(f"The latents of shot {i} in {path} have a wrong shape or type.")
        if shots and (list(shots[0].latents.shape[1:]) != shape[1:]):
            raise UserError(f"The latents of shot {i} in {path} have another size than those of shot 0.")
        shape = thumbnail_info.get_shape()
        thumbnail_fits = len(shape) == 3 and shape[2] == 3 and thumbnail_info.get_dtype() == "U8"
        if not thumbnail_fits or not all(0 < side <= MAX_THUMBNAIL_SIDE for side in shape[:2]):
            raise UserError(f"The thumbnail of shot {i} in {path} has a wrong shape or type.")
        latents = file.get_tensor(f"shot{i}.latents").clone()  # not a view of a file that may change
        if not latents.isfinite().all():
            raise UserError(f"The latents of shot {i} in {path} are not finite numbers.")
        thumbnail = file.get_tensor(f"shot{i}.thumbnail").clone().numpy()
        shots.append(ShotMemory(entry["caption"], entry["seed"], entry["num_frames"], offsets, latents, thumbnail))
    if metadata.get("checksum") != _checksum(metadata["shots"], {name: file.get_tensor(name) for name in expected}):
        raise UserError(f"{path} is damaged: its checksum is another.")
    return shots


def _checked_entry(path: Path, index: int, entry: object) -> tuple[int, ...]:
    """The offsets of one shot's description, all of whose fields are then known to be sound."""

    def is_int(value: object, low: int, high: int) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high

    sound = (
        isinstance(entry, dict)
        and isinstance(entry.get("caption"), str)
        and len(entry["caption"]) <= MAX_CAPTION
        and is_int(entry.get("seed"), 0, MAX_SEED)
        and is_int(entry.get("num_frames"), 1, MAX_FRAMES)
        and isinstance(entry.get("offsets"), list)
        and 0 < len(entry["offsets"]) <= MAX_OFFSETS
        and all(is_int(offset, 0, entry["num_frames"] - 1) for offset in entry["offsets"])
        and all(a < b for a, b in zip(entry["offsets"], entry["offsets"][1:], strict=False))
    )
    if not sound:
        raise UserError(f"The description of shot {index} in {path} is damaged.")
    return tuple(entry["offsets"])

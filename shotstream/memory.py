"""What a session keeps of the film so far: the memory value, and the file of it or of all that a session remembers.

Which of the kept frames the next shot looks back at is `context`'s to say. Knows no model: the engine encodes frames
into latents and puts them here.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from shotstream.context import Pick, nearest
from shotstream.errors import UserError
from shotstream.note import MAX_SEED

FORMAT = "shotstream.memory"
VERSION = 3
OLDEST = 2  # that is read: a film without pictures beside it

# What a file may claim before anything is allocated for it. A shot at 480p is 1.5 MB.
MAX_SHOTS = 1000
MAX_FRAMES = 100_000
MAX_OFFSETS = 16
MAX_LATENT_SIDE = 512
MAX_LATENT_CHANNELS = 128
MAX_THUMBNAIL_SIDE = 512
MAX_CAPTION = 100_000
MAX_TEXT = 40_000_000  # bytes of all words; a header of safetensors may be 100 MB, in which they may be twice as long
MAX_PICTURES = 100
MAX_PICTURE_SIDE = 10_000
MAX_FILE_BYTES = 4 << 30
LATENT_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True, eq=False)
class ShotMemory:
    """One finished shot, as later shots may ask for it.

    `latents` [n, C, h, w] are single-frame encodings of the pixel frames at `offsets` (frame numbers inside the shot,
    ascending), `thumbnails` [n, H, W, 3] uint8 small pictures of them.
    """

    caption: str
    seed: int
    num_frames: int
    offsets: tuple[int, ...]
    latents: torch.Tensor
    thumbnails: np.ndarray


@dataclass(frozen=True, eq=False)
class Memory:
    """The film so far: finished shots in story order. An older `Memory` sent again is a rewind."""

    shots: tuple[ShotMemory, ...] = ()

    @property
    def num_frames(self) -> int:
        """Pixel frames of the whole film."""
        return sum(shot.num_frames for shot in self.shots)

    def latents_at(self, picks: Sequence[Pick]) -> torch.Tensor:
        """[n, C, h, w]: the latents of these frames, of each the nearest that was kept."""
        latents = []
        for shot, frame in picks:
            seen = self.shots[shot]
            latents.append(seen.latents[seen.offsets.index(nearest(seen.offsets, frame))])
        return torch.stack(latents)

    def save(self, path: str | Path) -> None:
        """Write a file of nothing but this film; see `write_file`."""
        write_file(path, MemoryFile(self.shots))

    @classmethod
    def load(cls, path: str | Path) -> Memory:
        """The memory of a file that `save` wrote; see `read_file`."""
        return cls(read_file(path).shots)


@dataclass(frozen=True, eq=False)
class MemoryFile:
    """What a file holds: `shots` of one film, or of all films of a session, in any order that `session` knows, and
    `pictures` [H, W, 3] uint8 that it names, too."""

    shots: tuple[ShotMemory, ...]
    session: str = ""
    pictures: tuple[np.ndarray, ...] = ()


def write_file(path: str | Path, kept: MemoryFile) -> None:
    """Write one safetensors file, whole or not at all. Raises `UserError` if the place cannot be written, or for more
    than `read_file` takes."""
    if len(kept.shots) > MAX_SHOTS or len(kept.pictures) > MAX_PICTURES:
        raise UserError(f"A memory file holds {MAX_SHOTS} shots, not {len(kept.shots)}: save an earlier state.")
    tensors = {}
    for i, shot in enumerate(kept.shots):
        tensors[f"shot{i}.latents"] = shot.latents.contiguous().cpu()
        tensors[f"shot{i}.thumbnails"] = torch.from_numpy(np.ascontiguousarray(shot.thumbnails))
    for i, picture in enumerate(kept.pictures):
        tensors[f"picture{i}"] = torch.from_numpy(np.ascontiguousarray(picture))
    film = json.dumps(
        [{"caption": s.caption, "seed": s.seed, "num_frames": s.num_frames, "offsets": s.offsets} for s in kept.shots],
        ensure_ascii=False,
    )
    if len(film.encode()) + len(kept.session.encode()) > MAX_TEXT:
        raise UserError(f"The words of this session are more than {MAX_TEXT // 1_000_000} MB: save an earlier state.")
    about = {"format": FORMAT, "version": str(VERSION), "shots": film, "session": kept.session}
    about["checksum"] = _checksum(film + kept.session, tensors)
    data = save(tensors, about)
    path = Path(path)
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UserError(f"Cannot write the memory to {path}: {error.strerror or error}.") from error


def read_file(path: str | Path) -> MemoryFile:
    """What `write_file` wrote. Raises `UserError` for anything else, before allocating what it claims."""
    path = Path(path)
    try:
        if not path.is_file():
            raise UserError(f"There is no memory file at {path}.")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UserError(f"{path} is too large for a memory file.")
        with safe_open(path, framework="pt") as file:
            return _read(path, file)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a memory file, or it is damaged: {error}.") from error


def _checksum(film: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """Of the list of shots and every byte of their tensors, to tell a flipped bit."""
    digest = hashlib.blake2b(film.encode(), digest_size=16)
    for name in sorted(tensors):
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _read(path: Path, file) -> MemoryFile:
    """All of an open safetensors file, each part checked before its tensors are read."""
    metadata = file.metadata() or {}
    if metadata.get("format") != FORMAT:
        raise UserError(f"{path} is not a ShotStream memory file.")
    if metadata.get("version") not in map(str, range(OLDEST, VERSION + 1)):
        raise UserError(f"{path} was written by another version of ShotStream (format {metadata.get('version')!r}).")
    try:
        film = json.loads(metadata.get("shots", ""))
    except (ValueError, RecursionError) as error:
        raise UserError(f"The list of shots in {path} is damaged.") from error
    if not isinstance(film, list) or len(film) > MAX_SHOTS:
        raise UserError(f"The list of shots in {path} is damaged or longer than {MAX_SHOTS}.")
    expected = {f"shot{i}.{part}" for i in range(len(film)) for part in ("latents", "thumbnails")}
    names = set(file.keys())
    others = [f"picture{i}" for i in range(min(len(names - expected), MAX_PICTURES))]
    if names != expected | set(others):
        raise UserError(f"The tensors in {path} do not belong to its list of {len(film)} shots.")
    pictures = [_read_picture(path, file, name) for name in others]
    shots: list[ShotMemory] = []
    for i, entry in enumerate(film):
        offsets = _checked_entry(path, i, entry)
        latents_info, thumbnails_info = file.get_slice(f"shot{i}.latents"), file.get_slice(f"shot{i}.thumbnails")
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
        shape = thumbnails_info.get_shape()
        thumbnails_fit = len(shape) == 4 and shape[0] == len(offsets) and shape[3] == 3
        thumbnails_fit &= thumbnails_info.get_dtype() == "U8"
        if not thumbnails_fit or not all(0 < side <= MAX_THUMBNAIL_SIDE for side in shape[1:3]):
            raise UserError(f"The thumbnails of shot {i} in {path} have a wrong shape or type.")
        latents = file.get_tensor(f"shot{i}.latents").clone()  # not a view of a file that may change
        if not latents.isfinite().all():
            raise UserError(f"The latents of shot {i} in {path} are not finite numbers.")
        thumbnails = file.get_tensor(f"shot{i}.thumbnails").clone().numpy()
        shots.append(ShotMemory(entry["caption"], entry["seed"], entry["num_frames"], offsets, latents, thumbnails))
    written = metadata["shots"] + metadata.get("session", "")
    if metadata.get("checksum") != _checksum(written, {name: file.get_tensor(name) for name in names}):
        raise UserError(f"{path} is damaged: its checksum is another.")
    return MemoryFile(tuple(shots), metadata.get("session", ""), tuple(pictures))


def _read_picture(path: Path, file, name: str) -> np.ndarray:
    about = file.get_slice(name)
    shape = about.get_shape()
    fits = len(shape) == 3 and shape[2] == 3 and all(0 < side <= MAX_PICTURE_SIDE for side in shape[:2])
    if not fits or about.get_dtype() != "U8":
        raise UserError(f"The {name} in {path} has a wrong shape or type.")
    return file.get_tensor(name).clone().numpy()


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

"""A session's footage on disk: chunks in, segments out, in a temporary folder of its own.

Owns the folder and the encoder. Knows neither shots nor films: whoever adds footage keeps the pieces, and says at which
frame of the stream one is to be shown.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from shotstream.errors import UserError
from shotstream.media import Segment, SegmentEncoder, enlargement, nth_frame
from shotstream.takes import Piece


class Reel:
    """Making one raises UserError where no temporary folder can be made. `close` deletes it."""

    def __init__(self) -> None:
        try:
            self.folder = Path(tempfile.mkdtemp(prefix="shotstream-"))
        except OSError as error:
            raise _no_room(error) from error
        self._encoder: SegmentEncoder | None = None
        self._num_files = 0

    def encode(self, frames: np.ndarray, fps: int) -> Segment:
        """frames [t, H, W, 3] uint8 -> the segment that shows them, from time 0 on."""
        height, width = frames.shape[1:3]
        if self._encoder is None or (self._encoder.width, self._encoder.height) != (width, height):
            self._encoder = SegmentEncoder(width, height, fps, enlargement(width, height))
        self._encoder.num_frames = 0
        return self._encoder.encode(frames)

    def keep(self, segment: Segment, latents: torch.Tensor, last: np.ndarray) -> Piece:
        """Puts a segment on the disk, with its clean latents [f, C, h, w] and its last picture [H, W, 3] uint8.

        Raises UserError if they do not fit.
        """
        piece = Piece(*self._new_paths(), segment.duration, segment.num_frames)
        try:
            piece.path.write_bytes(segment.data)
            source = {"latents": latents.contiguous(), "picture": torch.from_numpy(last.copy())}
            piece.source.write_bytes(save(source))
        except OSError as error:
            self.drop([piece])
            raise _no_room(error) from error
        return piece

    def copy(self, pieces: Sequence[Piece]) -> list[Piece]:
        """The same footage once more, which is dropped by itself. Raises UserError if it does not fit."""
        twins = []
        try:
            for piece in pieces:
                path, source = self._new_paths()
                twins.append(replace(piece, path=path, source=source))
                shutil.copyfile(piece.path, path)
                shutil.copyfile(piece.source, source)
        except OSError as error:
            self.drop(twins)
            raise _no_room(error) from error
        return twins

    def _new_paths(self) -> tuple[Path, Path]:
        self._num_files += 1
        path = self.folder / f"{self._num_files:06}.ts"
        return path, path.with_suffix(".source")

    def load(self, piece: Piece, first_frame: int = 0) -> Segment:
        """What `keep` put there, with timestamps that begin at frame `first_frame` of the stream."""
        data = piece.path.read_bytes()
        if first_frame:
            data = retimed(data, Fraction(first_frame) * Fraction(piece.duration) / piece.num_frames)
        return Segment(data, piece.duration, piece.num_frames)

    def latents(self, pieces: Sequence[Piece]) -> torch.Tensor | None:
        """[f, C, h, w] of all these pieces; None for none. Raises UserError if they cannot be read."""
        return torch.cat([_source(piece)["latents"] for piece in pieces]) if pieces else None

    def last_picture(self, piece: Piece) -> np.ndarray:
        """[H, W, 3] uint8: the last picture of a piece, as it was. Raises UserError if it cannot be read."""
        return _source(piece)["picture"].numpy()

    def picture(self, piece: Piece, frame: int) -> np.ndarray:
        """[H, W, 3] uint8: a picture of a piece as it was shown, at the size that it was made in."""
        last = self.last_picture(piece)
        if frame + 1 == piece.num_frames:
            return last
        shown = nth_frame(piece.path.read_bytes(), frame)
        return np.asarray(Image.fromarray(shown).reduce(len(shown) // len(last)))

    def drop(self, pieces: Iterable[Piece]) -> None:
        """Deletes footage that is not part of any film any more."""
        for piece in pieces:
            piece.path.unlink(missing_ok=True)
            piece.source.unlink(missing_ok=True)

    def close(self) -> None:
        """Deletes everything. May be called twice."""
        shutil.rmtree(self.folder, ignore_errors=True)


def retimed(data: bytes, seconds: Fraction) -> bytes:
    """An MPEG-TS segment `seconds` later; nothing is encoded again."""
    buffer = io.BytesIO()
    with (
        av.open(io.BytesIO(data), format="mpegts") as old,
        av.open(buffer, "w", format="mpegts", options={"mpegts_copyts": "1"}) as new,
    ):
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.size:
                shift = round(seconds / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                new.mux(packet)
    return buffer.getvalue()


def _source(piece: Piece) -> dict[str, torch.Tensor]:
    """What lies beside a segment; mapped, so that only what is used is read."""
    try:
        return load_file(piece.source)
    except (OSError, SafetensorError) as error:
        raise UserError("What this shot goes on from cannot be read from the disk any more: shoot another.") from error


def _no_room(error: OSError) -> UserError:
    return UserError(
        f"The film cannot be kept on disk ({error.strerror or error}): download what there is and make room."
    )

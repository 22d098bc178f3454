"""A session's footage on disk: chunks in, segments out, in a temporary folder of its own.

Owns the folder and the encoder, whose timestamps run on through everything that a session is ever shown. Knows neither
shots nor films: whoever adds footage says at which frame of the stream it begins, and keeps the pieces.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from shotstream.errors import UserError
from shotstream.media import Segment, SegmentEncoder, enlargement
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

    def encode(self, frames: np.ndarray, fps: int, first_frame: int) -> Segment:
        """frames [t, H, W, 3] uint8 -> the segment that shows them from frame `first_frame` of the stream on."""
        if self._encoder is None:
            height, width = frames.shape[1:3]
            self._encoder = SegmentEncoder(width, height, fps, enlargement(width, height))
        self._encoder.num_frames = first_frame
        return self._encoder.encode(frames)

    def keep(self, segment: Segment) -> Piece:
        """Puts a segment on the disk. Raises UserError if it does not fit."""
        self._num_files += 1
        path = self.folder / f"{self._num_files:06}.ts"
        try:
            path.write_bytes(segment.data)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise _no_room(error) from error
        return Piece(path, segment.duration, segment.num_frames)

    def load(self, piece: Piece) -> Segment:
        """What `keep` put there."""
        return Segment(piece.path.read_bytes(), piece.duration, piece.num_frames)

    def drop(self, pieces: Iterable[Piece]) -> None:
        """Deletes footage that is not part of the film any more."""
        for piece in pieces:
            piece.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Deletes everything. May be called twice."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _no_room(error: OSError) -> UserError:
    return UserError(
        f"The film cannot be kept on disk ({error.strerror or error}): download what there is and make room."
    )

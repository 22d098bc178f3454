"""What a film in the making leaves on the disk: encoded segments first, so that nothing is lost, and an MP4 at the end.

Owns the files beside the output, and the folder of PNGs. Knows no model: bytes and pixels come in, files come out.

Segments go to a transport stream next to the output as they are made. It plays as it is, so even a killed process or a
full disk leaves a film. Once the MP4 is complete, the stream is removed.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from shotstream.errors import UserError
from shotstream.film_file import FilmShot, write_film
from shotstream.media import Segment, encode_png
from shotstream.note import FilmNote, Steer


class Footage:
    """One film's segments on their way to `output` (an .mp4 file), shot by shot; a context manager.

    Making one raises UserError if `output` cannot be written: before anything expensive has begun.
    """

    def __init__(self, output: Path) -> None:
        if output.suffix.lower() != ".mp4":
            raise UserError(f"Cannot write {output}: a film is an MP4 file, so let its name end in .mp4.")
        try:
            if output.exists() and not output.is_file():
                raise UserError(f"Cannot write {output}: there is something else of that name, choose another.")
            handle, name = tempfile.mkstemp(prefix=f"{output.stem}-", suffix=".ts", dir=output.parent)
        except OSError as error:
            raise UserError(f"Cannot write {output}: {error.strerror}; choose another place.") from error
        self.output = output
        self.num_frames = 0
        self._stream_path = Path(name)
        self._stream = os.fdopen(handle, "w+b", buffering=0)
        self._keep_stream = False
        self._shots: list[
            tuple[str, tuple[Steer, ...], list[int]]
        ] = []  # caption, steers, sizes of its segments in the stream

    def __enter__(self) -> Footage:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        if not self._keep_stream:
            self._stream_path.unlink(missing_ok=True)

    def begin_shot(self, caption: str, steers: tuple[Steer, ...] = ()) -> None:
        """What is added from now on belongs to a new shot, titled `caption`, that is told `steers` as it goes on."""
        self._shots.append((caption, steers, []))

    def add(self, segment: Segment) -> None:
        """Puts a segment of the current shot on the disk. Raises UserError if it does not fit."""
        rest = memoryview(segment.data)
        try:
            while rest:
                rest = rest[self._stream.write(rest) :]
        except OSError as error:
            raise UserError(f"Cannot go on writing the film: {error.strerror}.") from error
        self._shots[-1][-1].append(len(segment.data))
        self.num_frames += segment.num_frames

    def finish(self, fps: int, note: FilmNote | None = None) -> None:
        """Writes `output`, with a chapter a shot and the note, if any. Raises UserError if that fails."""
        write_film(self.output, self.shots(), fps, note)

    def keep(self, fps: int, note: FilmNote | None = None) -> str:
        """Saves what there is after a failure, as an MP4 or else as the bare stream, and says so in one sentence.

        The `note` is that of the whole film; every segment is a chunk of it.
        """
        if not self.num_frames:
            return "No film was made."
        try:
            self.finish(fps, note and note.so_far([len(sizes) for *_, sizes in self._shots]))
            return f"The film so far ({self.num_frames} frames) is in {self.output}."
        except UserError:
            self._keep_stream = True
            self._stream.truncate(sum(sum(sizes) for *_, sizes in self._shots))  # half a segment may be at its end
            return f"The film so far ({self.num_frames} frames) is in {self._stream_path}."

    def shots(self) -> Iterator[FilmShot]:
        """What there is so far, shot by shot."""
        self._stream.seek(0)
        for caption, steers, sizes in self._shots:
            yield FilmShot(caption, [self._stream.read(size) for size in sizes], steers)


class FrameFolder:
    """Numbers the frames of a film from 0 and writes them as frame00000.png, frame00001.png, ... into a new or empty
    folder (old frames among new ones would look like part of the film). Raises UserError if that cannot be."""

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                occupied = any(folder.iterdir())
        except OSError as error:
            raise UserError(f"Cannot write frames to {folder}: {error.strerror}.") from error
        if occupied:
            raise UserError(f"Cannot write frames to {folder}: it is not empty, choose a new folder.")
        self.folder = folder
        self.num_frames = 0

    def add(self, frames: np.ndarray) -> None:
        """frames [t, H, W, 3] uint8, written at their own size."""
        for frame in frames:
            path = self.folder / f"frame{self.num_frames:05}.png"
            try:
                path.write_bytes(encode_png(frame))
            except OSError as error:
                raise UserError(f"Cannot go on writing frames to {self.folder}: {error.strerror}.") from error
            self.num_frames += 1

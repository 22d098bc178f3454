"""Pixels into film: frames -> H.264 segments for the live stream, segments -> one MP4 with chapters.

Owns codec settings, timestamps, the enlarging of small pictures and the film file. Knows no model, no session and no
page. Everything goes through PyAV, so no ffmpeg program is needed.

A segment can be played on its own (it opens with an IDR frame and carries its own parameter sets) and has no B-frames,
so that a frame is out as soon as it is in. A film is remuxed from segments: nothing is encoded, let alone generated,
a second time.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image

from shotstream.errors import UserError

LARGEST_PICTURE = (832, 512)  # width, height up to which small pictures are enlarged
MPEG_TS_CLOCK = 90_000  # ticks a second
X264_OPTIONS = {"preset": "ultrafast", "tune": "zerolatency", "crf": "18", "threads": "1"}


@dataclass(frozen=True)
class Segment:
    """An encoded piece of the stream: MPEG-TS bytes, seconds, number of frames."""

    data: bytes
    duration: float
    num_frames: int


@dataclass(frozen=True)
class FilmShot:
    """One chapter of a film: a caption and the shot's segments (MPEG-TS bytes) in order."""

    caption: str
    segments: Iterable[bytes]


def enlargement(width: int, height: int) -> int:
    """The whole number by which a picture is enlarged for showing: 16 for 48x32, 1 for 832x480."""
    return max(1, min(LARGEST_PICTURE[0] // width, LARGEST_PICTURE[1] // height))


class SegmentEncoder:
    """Encodes frames of one film into segments whose timestamps run on from one to the next, whatever shot they are of.

    `width`, `height` are those of the incoming frames in pixels; every pixel becomes a square of `scale` x `scale`.
    Raises UserError for an odd picture size (H.264 stores colour for every second pixel).
    """

    def __init__(self, width: int, height: int, fps: int, scale: int = 1) -> None:
        if (width * scale) % 2 or (height * scale) % 2:
            raise UserError(f"A film of {width * scale}x{height * scale} pixels cannot be encoded: use even sizes.")
        self.width, self.height, self.fps, self.scale = width, height, fps, scale
        self.num_frames = 0  # encoded so far, which is also the timestamp of the next one

    def encode(self, frames: np.ndarray) -> Segment:
        """frames [t, H, W, 3] uint8, t >= 1 -> the segment that shows them."""
        if frames.ndim != 4 or frames.shape[1:] != (self.height, self.width, 3) or frames.dtype != np.uint8:
            raise ValueError(f"expected uint8 [t, {self.height}, {self.width}, 3], got {frames.dtype} {frames.shape}")
        buffer = io.BytesIO()
        # copyts: the muxer must not move timestamps, or segments would overlap
        with av.open(buffer, "w", format="mpegts", options={"mpegts_copyts": "1"}) as container:
            stream = container.add_stream("libx264", rate=self.fps, options=X264_OPTIONS)
            stream.width, stream.height, stream.pix_fmt = self.width * self.scale, self.height * self.scale, "yuv420p"
            context = stream.codec_context
            context.max_b_frames = 0
            context.gop_size = len(frames) + 1  # one key frame, the first
            context.colorspace, context.color_range = Colorspace.ITU709.value, ColorRange.MPEG.value
            for index, frame in enumerate(frames):
                picture = enlarge(frame, self.scale)
                picture.pts, picture.time_base = self.num_frames + index, Fraction(1, self.fps)
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
        self.num_frames += len(frames)
        return Segment(buffer.getvalue(), len(frames) / self.fps, len(frames))


def enlarge(frame: np.ndarray, scale: int) -> av.VideoFrame:
    """frame [H, W, 3] uint8 -> a yuv420p picture of `scale` times the size, every pixel a flat square.

    The colour transform happens before the enlarging: cheaper, and no colour bleeds into a neighbouring square.
    """
    small = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
    small = small.reformat(format="yuv444p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)
    y, u, v = small.to_ndarray()
    luma = y.repeat(scale, 0).repeat(scale, 1)
    planes = np.concatenate([luma.ravel(), halve(u, scale).ravel(), halve(v, scale).ravel()])
    return av.VideoFrame.from_ndarray(planes.reshape(-1, luma.shape[1]), format="yuv420p")


def halve(plane: np.ndarray, scale: int) -> np.ndarray:
    """plane [H, W] uint8 -> [H * scale / 2, W * scale / 2], the resolution at which yuv420p keeps colour."""
    if scale % 2 == 0:
        return plane.repeat(scale // 2, 0).repeat(scale // 2, 1)
    full = plane.repeat(scale, 0).repeat(scale, 1)
    height, width = full.shape
    blocks = full.reshape(height // 2, 2, width // 2, 2)
    return ((blocks.sum((1, 3), dtype=np.uint16) + 2) // 4).astype(np.uint8)


def encode_png(frame: np.ndarray) -> bytes:
    """frame [H, W, 3] uint8 -> PNG bytes."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, format="PNG")
    return buffer.getvalue()


def still(frame: np.ndarray, max_height: int = 120) -> bytes:
    """frame [H, W, 3] uint8 -> PNG bytes of a small picture: at most `max_height` rows, small frames as they are."""
    height, width = frame.shape[:2]
    if height > max_height:
        size = (max(1, round(width * max_height / height)), max_height)
        frame = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX))
    return encode_png(frame)


def write_film(path: str | Path, shots: Iterable[FilmShot], fps: int) -> int:
    """Remux shots into a faststart MP4 whose chapters are the shots, titled by their captions; the number of frames.

    Timestamps are counted anew from 0, so shots may come from anywhere in any stream, in any order, as long as they
    were encoded at the same size. Appears under `path` only when complete. Raises UserError if there is nothing to
    write or the disk refuses.
    """
    path = Path(path)
    pieces = [(shot.caption, list(shot.segments)) for shot in shots]
    segments = [segment for _, shot_segments in pieces for segment in shot_segments]
    chapters, packets = _plan(pieces, fps)
    if not packets:
        raise UserError("There is no film yet: make a shot first.")
    try:
        handle, partial = tempfile.mkstemp(suffix=".mp4", prefix=f".{path.stem}-", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        with (
            av.open(io.BytesIO(segments[0]), format="mpegts") as template,
            av.open(partial, "w", format="mp4", options={"movflags": "+faststart"}) as output,
        ):
            output.set_chapters(chapters)
            stream = output.add_stream_from_template(template.streams.video[0])
            for number, packet in enumerate(packets):
                packet.stream = stream
                packet.time_base = Fraction(1, fps)
                packet.pts = packet.dts = number
                packet.duration = 1
                output.mux(packet)
        os.chmod(partial, 0o644)  # mkstemp makes it private
        os.replace(partial, path)
    except OSError as error:  # PyAV's errors of the file system are OSErrors too
        raise _cannot_write(path, error) from error
    finally:
        Path(partial).unlink(missing_ok=True)
    return len(packets)


def _plan(shots: Iterable[tuple[str, list[bytes]]], fps: int) -> tuple[list[dict], list[av.Packet]]:
    """The chapters (in frames) and every packet of the film, in order. Shots without a frame are left out."""
    chapters, packets = [], []
    for caption, segments in shots:
        start = len(packets)
        for segment in segments:
            packets.extend(_packets(segment))
        if len(packets) > start:
            chapters.append(
                {
                    "id": len(chapters) + 1,
                    "start": start,
                    "end": len(packets),
                    "time_base": Fraction(1, fps),
                    "metadata": {"title": caption},
                }
            )
    return chapters, packets


def _packets(segment: bytes) -> Iterator[av.Packet]:
    with av.open(io.BytesIO(segment), format="mpegts") as container:
        yield from (packet for packet in container.demux(video=0) if packet.size)


def _cannot_write(path: Path, error: OSError) -> UserError:
    return UserError(f"Cannot write {path}: {error.strerror or error}. Choose another place for the film.")

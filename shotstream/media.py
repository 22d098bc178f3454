"""Pixels into film and back: frames -> H.264 segments for the live stream, and pictures beside it.

Owns codec settings, timestamps, the enlarging of small pictures and dissolves; the file that segments become is
`film_file`'s. Knows no model, no session and no page. Everything goes through PyAV, so no ffmpeg program is needed.

A segment can be played on its own (it opens with an IDR frame and carries its own parameter sets) and has no B-frames,
so that a frame is out as soon as it is in.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image

from shotstream.errors import UserError

LARGEST_PICTURE = (832, 512)  # width, height up to which small pictures are enlarged
ONE_THREAD = (
    1  # of libswscale: a fork frees what other threads kept of it, and would wait there for its threads for ever
)
X264_OPTIONS = {"preset": "ultrafast", "tune": "zerolatency", "crf": "18", "threads": "1"}


@dataclass(frozen=True)
class Segment:
    """An encoded piece of the stream: MPEG-TS bytes, seconds, number of frames."""

    data: bytes
    duration: float
    num_frames: int


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
    small = small.reformat(
        format="yuv444p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG, threads=ONE_THREAD
    )
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


def encode_jpeg(frame: np.ndarray) -> bytes:
    """frame [H, W, 3] uint8 -> JPEG bytes."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, format="JPEG", quality=90, subsampling=0)
    return buffer.getvalue()


def still(frame: np.ndarray, max_height: int = 120) -> bytes:
    """frame [H, W, 3] uint8 -> PNG bytes of a small picture: at most `max_height` rows, small frames as they are."""
    height, width = frame.shape[:2]
    if height > max_height:
        size = (max(1, round(width * max_height / height)), max_height)
        frame = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX))
    return encode_png(frame)


def dissolve(last: np.ndarray, frames: np.ndarray, start: int = 0, length: int = 8) -> np.ndarray:
    """Frames [t, H, W, 3] uint8 of a shot whose first `length` fade in from `last` [H, W, 3], the picture before it;
    `start`: the number of the first of `frames` inside the shot. Whole numbers, so the same on every machine."""
    faded = frames.copy()
    for index in range(min(len(frames), max(0, length - start))):
        new = start + index + 1  # parts of `length` + 1
        mixed = frames[index].astype(np.uint32) * new + last.astype(np.uint32) * (length + 1 - new)
        faded[index] = (mixed + (length + 1) // 2) // (length + 1)
    return faded


def nth_frame(segment: bytes, number: int) -> np.ndarray:
    """[H, W, 3] uint8: a frame of a segment, which has so many."""
    with av.open(io.BytesIO(segment), format="mpegts") as container:
        wanted = next(itertools.islice(container.decode(video=0), number, None))
        return wanted.reformat(format="rgb24", threads=ONE_THREAD).to_ndarray()


def packets_of(segment: bytes) -> Iterator[av.Packet]:
    """One for every frame, in order."""
    with av.open(io.BytesIO(segment), format="mpegts") as container:
        yield from (packet for packet in container.demux(video=0) if packet.size)

"""Pixels into film: frames -> H.264 segments for the live stream, segments -> one MP4 with chapters and subtitles.

Owns codec settings, timestamps, the enlarging of small pictures, dissolves and the film file; what a film says of
itself, how captions become subtitles and what a storyboard looks like are other modules'. Knows no model, no session
and no page. Everything goes through PyAV, so no ffmpeg program is needed.

A segment can be played on its own (it opens with an IDR frame and carries its own parameter sets) and has no B-frames,
so that a frame is out as soon as it is in. A film is remuxed from segments: nothing is encoded, let alone generated,
a second time.
"""

from __future__ import annotations

import io
import itertools
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image

from shotstream import captions, provenance
from shotstream.captions import Cue
from shotstream.errors import UserError
from shotstream.note import FilmNote, Steer
from shotstream.provenance import read_note
from shotstream.storyboard import draw_sheet

__all__ = [
    "FilmShot",
    "Segment",
    "SegmentEncoder",
    "dissolve",
    "encode_png",
    "enlarge",
    "enlargement",
    "nth_frame",
    "read_note",
    "still",
    "storyboard",
    "webvtt",
    "write_film",
]

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


@dataclass(frozen=True)
class FilmShot:
    """One chapter of a film: a caption, the shot's segments (MPEG-TS bytes) in order, one for every chunk, and what it
    was told besides while it ran."""

    caption: str
    segments: Iterable[bytes]
    steers: tuple[Steer, ...] = ()

    @property
    def told(self) -> str:
        """All that the shot was told, as one text."""
        return " … then: ".join([self.caption, *(steer.caption for steer in self.steers)])


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


def webvtt(shots: Iterable[FilmShot], fps: int) -> str:
    """The captions of a film as a WebVTT file, timed by the frames of its shots: a cue for whatever a shot was told."""
    return captions.webvtt(_plan(shots)[1], fps)


def storyboard(shots: Iterable[FilmShot]) -> bytes:
    """PNG bytes of a sheet: the middle frame of every shot, its number and what it was told. Raises UserError if there
    is no frame."""
    pieces = ((shot.told, list(shot.segments)) for shot in shots)
    return draw_sheet([(middle_frame(segments), caption) for caption, segments in pieces if segments])


def middle_frame(segments: list[bytes]) -> np.ndarray:
    """[H, W, 3] uint8: that of a shot's segments, none of which is without frames. Only one of them is decoded."""
    counts = [sum(1 for _ in _packets(segment)) for segment in segments]
    ends = np.cumsum(counts)
    middle = int(ends[-1]) // 2
    which = int(np.searchsorted(ends, middle, side="right"))
    return nth_frame(segments[which], middle - int(ends[which]) + counts[which])


def nth_frame(segment: bytes, number: int) -> np.ndarray:
    """[H, W, 3] uint8: a frame of a segment, which has so many."""
    with av.open(io.BytesIO(segment), format="mpegts") as container:
        wanted = next(itertools.islice(container.decode(video=0), number, None))
        return wanted.reformat(format="rgb24", threads=ONE_THREAD).to_ndarray()


def write_film(path: str | Path, shots: Iterable[FilmShot], fps: int, note: FilmNote | None = None) -> int:
    """Remux shots into a faststart MP4; the number of frames. Its chapters are the shots, titled by their captions; a
    subtitle track has these and the steers. With a `note` it gets a poster and says how it was made: `provenance`.

    Timestamps are counted anew from 0, so shots may come from anywhere in any stream, in any order, as long as they
    were encoded at the same size. Appears under `path` only when complete. Raises UserError if there is nothing to
    write or the disk refuses.
    """
    path = Path(path)
    kept = [replace(shot, segments=segments) for shot in shots if (segments := list(shot.segments))]
    chapters, cues, packets = _plan(kept)
    if not packets:
        raise UserError("There is no film yet: make a shot first.")
    try:
        handle, partial = tempfile.mkstemp(suffix=".mp4", prefix=f".{path.stem}-", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        _mux(partial, kept[0].segments, chapters, cues, packets, fps, note)
        if note is not None:
            provenance.add_xmp(Path(partial), note)
            provenance.sign(Path(partial), note)
        os.chmod(partial, 0o644)  # mkstemp makes it private
        os.replace(partial, path)
    except OSError as error:  # PyAV's errors of the file system are OSErrors too
        raise _cannot_write(path, error) from error
    finally:
        Path(partial).unlink(missing_ok=True)
    return len(packets)


def _mux(
    path: str,
    first: list[bytes],
    chapters: list[Cue],
    cues: list[Cue],
    packets: list[av.Packet],
    fps: int,
    note: FilmNote | None,
) -> None:
    """Writes the MP4; `first` are the segments of the first shot, from which the poster is."""
    frame = Fraction(1, fps)
    starts = {cue.start: cue for cue in cues}
    with (
        av.open(io.BytesIO(first[0]), format="mpegts") as template,
        av.open(path, "w", format="mp4", options={"movflags": "+faststart"}) as output,
    ):
        output.set_chapters([_chapter(number, cue, frame) for number, cue in enumerate(chapters, start=1)])
        video = output.add_stream_from_template(template.streams.video[0])
        text = output.add_stream("mov_text", time_base=frame)
        text.codec_context.subtitle_header = captions.text_style(video.width, video.height)
        if note is not None:
            output.metadata.update(provenance.tags(note))
            poster = output.add_mux_stream("mjpeg", width=video.width, height=video.height)
            poster.disposition = Disposition.attached_pic
            output.mux(_timed(_sample(encode_jpeg(middle_frame(first))), poster, frame, 0, 1))
        for number, packet in enumerate(packets):
            if cue := starts.get(number):
                output.mux(_timed(_sample(captions.timed_text(cue.caption)), text, frame, number, cue.end - cue.start))
            output.mux(_timed(packet, video, frame, number, 1))


def _sample(data: bytes) -> av.Packet:
    """A packet that was not encoded here, to be shown without any other."""
    packet = av.Packet(data)
    packet.is_keyframe = True
    return packet


def _timed(packet: av.Packet, stream: av.stream.Stream, frame: Fraction, start: int, length: int) -> av.Packet:
    """The packet, to be shown from frame `start` of the film on, for `length` of them."""
    packet.stream, packet.time_base = stream, frame
    packet.pts = packet.dts = start
    packet.duration = length
    return packet


def _chapter(number: int, cue: Cue, frame: Fraction) -> dict:
    title = captions.fitting(cue.caption)
    return {"id": number, "start": cue.start, "end": cue.end, "time_base": frame, "metadata": {"title": title}}


def _plan(shots: Iterable[FilmShot]) -> tuple[list[Cue], list[Cue], list[av.Packet]]:
    """Where each shot lies in the film, where whatever a shot was told does, and every packet of it, in order. Shots
    without a frame are left out."""
    chapters, cues, packets = [], [], []
    for shot in shots:
        starts = []
        for segment in shot.segments:
            starts.append(len(packets))
            packets.extend(_packets(segment))
        if not starts or starts[0] == len(packets):
            continue
        chapters.append(Cue(starts[0], len(packets), shot.caption))
        told = {0: shot.caption} | {steer.chunk: steer.caption for steer in shot.steers if steer.chunk < len(starts)}
        ends = [*(starts[chunk] for chunk in list(told)[1:]), len(packets)]
        cues += [Cue(starts[chunk], end, words) for (chunk, words), end in zip(told.items(), ends, strict=True)]
    return chapters, cues, packets


def _packets(segment: bytes) -> Iterator[av.Packet]:
    with av.open(io.BytesIO(segment), format="mpegts") as container:
        yield from (packet for packet in container.demux(video=0) if packet.size)


def _cannot_write(path: Path, error: OSError) -> UserError:
    return UserError(f"Cannot write {path}: {error.strerror or error}. Choose another place for the film.")

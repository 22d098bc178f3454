"""A film as files: one MP4 with chapters and subtitles, its captions, its storyboard.

Owns where shots lie in a film and what is laid beside its frames; what a film says of itself, how captions become
subtitles and what a storyboard looks like are other modules'. A film is remuxed from the segments of `media`: nothing
is encoded, let alone generated, a second time.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition

from shotstream import captions, provenance
from shotstream.captions import Cue
from shotstream.errors import UserError
from shotstream.media import encode_jpeg, nth_frame, packets_of
from shotstream.note import FilmNote, Steer
from shotstream.storyboard import draw_sheet


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
    counts = [sum(1 for _ in packets_of(segment)) for segment in segments]
    ends = np.cumsum(counts)
    middle = int(ends[-1]) // 2
    which = int(np.searchsorted(ends, middle, side="right"))
    return nth_frame(segments[which], middle - int(ends[which]) + counts[which])


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
            packets.extend(packets_of(segment))
        if not starts or starts[0] == len(packets):
            continue
        chapters.append(Cue(starts[0], len(packets), shot.caption))
        told = {0: shot.caption} | {steer.chunk: steer.caption for steer in shot.steers if steer.chunk < len(starts)}
        ends = [*(starts[chunk] for chunk in list(told)[1:]), len(packets)]
        cues += [Cue(starts[chunk], end, words) for (chunk, words), end in zip(told.items(), ends, strict=True)]
    return chapters, cues, packets


def _cannot_write(path: Path, error: OSError) -> UserError:
    return UserError(f"Cannot write {path}: {error.strerror or error}. Choose another place for the film.")

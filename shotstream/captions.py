"""Captions as subtitles: WebVTT text beside a film, and timed text inside its MP4.

Owns both formats and what is done to a caption to fit them. Knows no pixels and no files.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

MOST_BYTES = 65_535  # of one text in an MP4: its length is written in two bytes


@dataclass(frozen=True)
class Cue:
    """A caption, and the frames of the film that it belongs to: from `start` up to but without `end`."""

    start: int
    end: int
    caption: str


def webvtt(cues: Iterable[Cue], fps: int) -> str:
    """A WebVTT file. Whatever the captions hold is text: it neither ends a cue nor marks anything up."""
    blocks = ["WEBVTT"]
    for number, cue in enumerate(cues, start=1):
        words = " ".join(cue.caption.split())  # an empty line would end the cue
        text = words.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\0", "\ufffd")
        blocks.append(f"{number}\n{_clock(cue.start, fps)} --> {_clock(cue.end, fps)}\n{text}")
    return "\n\n".join(blocks) + "\n"


def _clock(frame: int, fps: int) -> str:
    milliseconds = (2000 * frame + fps) // (2 * fps)
    seconds, milliseconds = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{seconds:02}.{milliseconds:03}"


def timed_text(caption: str) -> bytes:
    """A sample of an MP4's subtitle track (tx3g): two bytes of length, then UTF-8."""
    data = fitting(caption).encode()
    return len(data).to_bytes(2, "big") + data


def fitting(caption: str) -> str:
    """As much of a caption as one text in an MP4 can hold, cut between two characters."""
    return caption.encode(errors="replace")[:MOST_BYTES].decode(errors="ignore")


def text_style(width: int, height: int) -> bytes:
    """How the subtitle track is to be shown on a picture of this size, in the words (ASS) that FFmpeg turns into the
    track's description: white with a dark rim, centred, at the bottom."""
    size, margin = max(8, height // 20), max(2, height // 40)
    return f"""[Script Info]
ScriptType: v4.00+
PlayResX: {width}
PlayResY: {height}

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, Underline, \
StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, MarginV, Encoding
Style: Default,Sans-Serif,{size},&H00FFFFFF,&H00FFFFFF,&H00281018,&H80281018,0,0,0,0,100,100,0,0,1,1,0,2,{margin},\
{margin},{margin},1

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
""".encode()

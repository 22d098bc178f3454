"""From a video file to the pictures of a shot: when each frame is shown, which one stands for which moment, its pixels.

Owns everything that touches a decoder. A frame's number is its place in the order of showing, which decoders keep even
where a container's timestamps are wrong; timestamps only say how long a frame stays. Knows no latents.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from PIL import Image

from shotstream.errors import UserError
from shotstream.training.annotations import AnnotatedStory
from shotstream.training.data import num_frames

# A local video must not make the decoder fetch anything from elsewhere, which playlists can.
OPEN_OPTIONS = {"protocol_whitelist": "file"}


@dataclass(frozen=True)
class Clock:
    """When each frame of a video is shown, in ticks of `time_base` seconds, ascending; the last one until `end`."""

    ticks: list[int]
    end: int
    time_base: Fraction


def read_clock(story: AnnotatedStory) -> Clock:
    """When each frame of the story's video is shown, without decoding any. Raises `UserError`."""
    try:
        with av.open(story.path, options=OPEN_OPTIONS) as container:
            if not container.streams.video:
                raise UserError(f"{story.video} has no pictures in it.")
            stream = container.streams.video[0]
            packets = [(p.pts, p.duration) for p in container.demux(stream) if p.size and not p.is_discard]
            time_base, rate = _fraction(stream.time_base), _fraction(stream.average_rate)
    except (av.FFmpegError, OSError) as error:
        raise cannot_decode(story) from error
    if any(pts is None for pts, _ in packets):  # a bare stream: frames follow each other evenly
        if not rate:
            raise cannot_decode(story)
        return Clock(list(range(len(packets))), len(packets), 1 / rate)
    packets.sort(key=lambda packet: packet[0])
    ticks = [pts for pts, _ in packets]
    if not ticks:
        raise cannot_decode(story)
    last = packets[-1][1] or (ticks[-1] - ticks[-2] if len(ticks) > 1 else 1)
    return Clock(ticks, ticks[-1] + last, time_base)


def plan_shots(story: AnnotatedStory, clock: Clock, fps: int, max_chunks: int) -> list[list[int]]:
    """For every shot, the numbers of the source frames that are on screen at its moments, 1 / `fps` seconds apart.

    Raises `UserError` for a shot that ends after the video or is shorter than a chunk.
    """
    plan = []
    for shot in story.shots:
        if shot.end > len(clock.ticks):
            raise UserError(f"{shot.name} ends at frame {shot.end}, but the video has {len(clock.ticks)} frames.")
        first = clock.ticks[shot.start]
        end = clock.ticks[shot.end] if shot.end < len(clock.ticks) else clock.end
        step = 1 / (fps * clock.time_base)
        # Timestamps are rounded to ticks, so a frame may seem to come, or a shot to end, a tick too late.
        slack = min(Fraction(1), step / 4)
        length = math.ceil((end - first - slack) / step)
        if length < num_frames(1):
            raise UserError(
                f"{shot.name} has {length} frames at {fps} frames a second: a shot needs {num_frames(1)} or more."
            )
        chunks = min(max_chunks, 1 + (length - num_frames(1)) // (num_frames(2) - num_frames(1)))
        moments = [first + k * step + slack for k in range(num_frames(chunks))]
        plan.append([min(bisect_right(clock.ticks, moment), shot.end) - 1 for moment in moments])
    return plan


def read_shots(story: AnnotatedStory, plan: list[list[int]], height: int, width: int) -> Iterator[np.ndarray]:
    """The pictures of one shot after the other, [t, height, width, 3] uint8: source frames by number, as `plan` has
    them, decoded in one pass. Raises `UserError` for a frame that cannot be decoded."""
    try:
        with av.open(story.path, options=OPEN_OPTIONS) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            decoded = enumerate(container.decode(stream))
            number, frame = -1, None
            for numbers in plan:
                pictures: dict[int, np.ndarray] = {}
                for wanted in sorted(set(numbers)):
                    while number < wanted:
                        number, frame = next(decoded, (math.inf, None))
                    if frame is None:
                        raise UserError(f"Frame {wanted} of {story.video} cannot be decoded: is the file complete?")
                    pictures[wanted] = fit(frame, height, width, _fraction(stream.sample_aspect_ratio) or Fraction(1))
                yield np.stack([pictures[wanted] for wanted in numbers])
    except (av.FFmpegError, OSError) as error:
        raise cannot_decode(story) from error


def fit(frame: av.VideoFrame, height: int, width: int, pixel_aspect: Fraction) -> np.ndarray:
    """The picture [height, width, 3] uint8 that fills the size: upright, its centre, resized by area (larger: cubic).

    `pixel_aspect` is how much wider than high the pixels of the source are.
    """
    pixels = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
    if frame.rotation % 180:
        pixel_aspect = 1 / pixel_aspect
    rows, columns = pixels.shape[:2]
    scale = max(height / rows, width / (columns * float(pixel_aspect)))
    crop_rows, crop_columns = min(rows, height / scale), min(columns, width / scale / float(pixel_aspect))
    left, top = (columns - crop_columns) / 2, (rows - crop_rows) / 2
    resample = Image.Resampling.BOX if scale <= 1 else Image.Resampling.BICUBIC
    box = (left, top, left + crop_columns, top + crop_rows)
    return np.asarray(Image.fromarray(pixels).resize((width, height), resample, box))


def _fraction(value: Any) -> Fraction | None:
    """What PyAV calls a rational; None stands for what the file does not say."""
    return Fraction(value.numerator, value.denominator) if value and value.denominator else None


def cannot_decode(story: AnnotatedStory) -> UserError:
    return UserError(f"The video {story.video} cannot be decoded: is it a whole video file?")

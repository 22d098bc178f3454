"""Whole shots of the toy world as pictures, beats included. Joins stories to the stage and knows nothing else."""

from __future__ import annotations

import numpy as np

from shotstream.toyworld.motion import first_frame
from shotstream.toyworld.plot import ToyShot, segments
from shotstream.toyworld.scene import Scene
from shotstream.toyworld.world import render_segments


def render_take(shot: ToyShot, num_frames: int | None = None) -> np.ndarray:
    """The shot as palette indices [num_frames, HEIGHT, WIDTH] uint8; all of its frames if no number is given."""
    return render_segments(segments(shot), num_frames or first_frame(shot.num_chunks))


def parts(shot: ToyShot) -> list[tuple[slice, Scene]]:
    """The frames of the shot, beat by beat, each with the scene that they show."""
    end = first_frame(shot.num_chunks)
    if shot.beat is None:
        return [(slice(0, end), shot.scene)]
    start = first_frame(shot.beat.chunk)
    return [(slice(0, start), shot.scene), (slice(start, end), shot.beat.scene)]

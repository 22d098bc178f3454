"""The toy world: a deterministic 8-bit puppet theatre of 48x32 pixels, 16 frames a second.

Draws scenes and takes from stages, sprites and motion. One `Scene` says everything that is visible, so truth can be
read back from pixels. Knows nothing of words (see `stories`) or of models.
"""

from __future__ import annotations

import numpy as np

from shotstream.toyworld.backdrops import backdrop
from shotstream.toyworld.motion import Drawing, Pose, Segments, draw, drawing_of, first_frame, pose
from shotstream.toyworld.palette import PALETTE, colour_index
from shotstream.toyworld.scene import (
    ACTIONS,
    CAMERAS,
    COLOURS,
    EXPRESSIONS,
    FPS,
    HEIGHT,
    LENSES,
    MOVES,
    PLACES,
    SHAPES,
    TIMES,
    WIDTH,
    Character,
    Lens,
    Scene,
    settled,
)
from shotstream.toyworld.sprites import TRANSPARENT, silhouette, sprite

__all__ = [
    "ACTIONS",
    "CAMERAS",
    "COLOURS",
    "EXPRESSIONS",
    "FPS",
    "HEIGHT",
    "LENSES",
    "MOVES",
    "PALETTE",
    "PLACES",
    "SHAPES",
    "TIMES",
    "TRANSPARENT",
    "WIDTH",
    "Character",
    "Lens",
    "Scene",
    "backdrop",
    "colour_index",
    "first_frame",
    "pose",
    "render",
    "render_segments",
    "render_shot",
    "settled",
    "silhouette",
    "sprite",
    "to_rgb",
]


def _place(image: np.ndarray, figure: Character, lens_name: str, centre: int, pose: Pose) -> None:
    lens = LENSES[lens_name]
    pixels = sprite(figure.shape, figure.colour, lens_name, figure.expression, pose.gaze, pose.blink)
    left = (WIDTH - lens.size) // 2 + centre + pose.x
    top = lens.feet - lens.size + pose.y
    shadow_left, shadow_right = max(left + 2, 0), min(left + lens.size - 2, WIDTH)
    image[min(lens.feet, HEIGHT - 1), shadow_left:shadow_right] = colour_index("ink")
    x0, x1, y0 = max(left, 0), min(left + lens.size, WIDTH), max(top, 0)
    part = pixels[y0 - top :, x0 - left : x1 - left]
    target = image[y0 : top + lens.size, x0:x1]
    np.copyto(target, part, where=part != TRANSPARENT)


def _picture(drawing: Drawing) -> np.ndarray:
    scene = drawing.scene
    image = backdrop(scene.place, scene.time, drawing.lens, drawing.scroll).copy()
    first = Character(scene.shape, scene.colour, scene.expression)
    if scene.partner is None:
        _place(image, first, drawing.lens, 0, drawing.poses[0])
    else:
        apart = LENSES[drawing.lens].apart
        _place(image, first, drawing.lens, -apart, drawing.poses[0])
        _place(image, scene.partner, drawing.lens, apart, drawing.poses[1])
    return image


def render(scene: Scene, frame: int) -> np.ndarray:
    """One frame of a shot as palette indices [HEIGHT, WIDTH] uint8."""
    return _picture(draw([(0, scene)], drawing_of(frame)))


def render_segments(segments: Segments, num_frames: int) -> np.ndarray:
    """A take whose instruction may change on the way, as palette indices [num_frames, HEIGHT, WIDTH] uint8."""
    pictures = [_picture(draw(segments, drawing)) for drawing in range(drawing_of(num_frames - 1) + 1)]
    return np.stack([pictures[drawing_of(frame)] for frame in range(num_frames)])


def render_shot(scene: Scene, num_frames: int) -> np.ndarray:
    """A whole shot as palette indices [num_frames, HEIGHT, WIDTH] uint8."""
    return render_segments([(0, scene)], num_frames)


def to_rgb(indices: np.ndarray) -> np.ndarray:
    """Palette indices [...] to RGB [..., 3] uint8."""
    return PALETTE[indices]

"""Characters of the toy world as sprites: six silhouettes and faces drawn by hand for each size.

Knows no stage and no motion.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from shotstream.toyworld.palette import colour_index
from shotstream.toyworld.scene import LENSES


def _inside(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Is the point inside the body? x in [-1, 1] from left to right, y in [-1, 1] from top to bottom."""
    match shape:
        case "ball":
            return x**2 + y**2 <= 1.0
        case "cube":
            return (np.abs(x) <= 0.86) & (y >= -0.72)
        case "star":
            angle = np.arctan2(x, -y)
            phase = np.abs(np.mod(angle, 2 * np.pi / 5) - np.pi / 5) / (np.pi / 5)
            return np.hypot(x, y) <= 0.62 + 0.46 * phase**1.3
        case "ghost":
            dome = (x**2 + (y + 0.2) ** 2 <= 0.66) | ((np.abs(x) <= 0.8) & (y > -0.2) & (y < 0.7))
            return dome | ((np.abs(x) <= 0.8) & (y >= 0.7) & (np.mod(x + 0.8, 0.64) < 0.36))
        case "cat":
            head = (x / 1.0) ** 2 + ((y - 0.2) / 0.8) ** 2 <= 1.0
            ears = (y > -1.0) & (y < 0.0) & (np.abs(np.abs(x) - 0.62) < 0.36 * (y + 1.0))
            return head | ears
        case "cone":
            return (np.abs(x) <= 0.08 + 0.46 * (y + 1.0)) & (y <= 1.0)
    raise ValueError(f"unknown shape {shape!r}")


# Each face is drawn by hand: k ink, w white, m mouth, p pupil (moves when the character looks around), . body.
_FACES = {
    ("wide", "neutral"): ("k...k", "k...k", ".....", ".kkk."),
    ("wide", "happy"): ("k...k", ".....", "k...k", "kkkkk", ".kmk."),
    ("wide", "surprised"): ("ww.ww", "wk.kw", ".....", "..m..", "..m.."),
    ("medium", "neutral"): ("ww...ww", "wp...pw", "wp...pw", ".......", ".......", "..kkk.."),
    ("medium", "happy"): ("ww...ww", "wp...pw", "wp...pw", ".......", "k.....k", "kkkkkkk", ".kmmmk.", "..kkk.."),
    ("medium", "surprised"): ("www.www", "wpw.wpw", "www.www", ".......", "..kkk..", "..kmk..", "..kmk..", "..kkk.."),
    ("close", "neutral"): (
        "wwww....wwww",
        "wwww....wwww",
        "wwpp....ppww",
        "wwpp....ppww",
        "wwww....wwww",
        "............",
        "............",
        "............",
        "...kkkkkk...",
    ),
    ("close", "happy"): (
        "wwww....wwww",
        "wwww....wwww",
        "wwpp....ppww",
        "wwpp....ppww",
        "wwww....wwww",
        "............",
        "kk........kk",
        "kkkkkkkkkkkk",
        ".kmmmmmmmmk.",
        "..kmmmmmmk..",
        "...kkkkkk...",
    ),
    ("close", "surprised"): (
        "wwwww..wwwww",
        "wwwww..wwwww",
        "wwppw..wppww",
        "wwppw..wppww",
        "wwwww..wwwww",
        "wwwww..wwwww",
        "............",
        "....kkkk....",
        "...kkmmkk...",
        "...kmmmmk...",
        "...kmmmmk...",
        "...kkmmkk...",
        "....kkkk....",
    ),
}
_FACE_HEIGHT = {"ball": 0.5, "cube": 0.55, "star": 0.5, "ghost": 0.44, "cat": 0.6, "cone": 0.68}
TRANSPARENT = 255


def _draw_face(sprite: np.ndarray, shape: str, size_name: str, expression: str, gaze: int, blink: bool) -> None:
    face = _FACES[size_name, expression]
    inks = {"k": "ink", "p": "ink", "w": "white", "m": "mouth"}
    pixels = [list(row) for row in face]
    if gaze:  # move the pupils inside the eyes; the wide face has only dots for eyes and moves as a whole
        for y, row in enumerate(face):
            for x in [x for x, ink in enumerate(row) if ink == "p"]:
                pixels[y][x] = "w"
            for x in [x for x, ink in enumerate(row) if ink == "p"]:
                if 0 <= x + gaze < len(row) and row[x + gaze] in "wp":
                    pixels[y][x + gaze] = "p"
    size = sprite.shape[0]
    top = int(round(_FACE_HEIGHT[shape] * size - len(face) / 2))
    left = (size - len(face[0])) // 2 + (gaze if size_name == "wide" else 0)
    eyes_end = next(y for y, row in enumerate(face) if set(row) == {"."})
    for y, row in enumerate(pixels):
        for x, ink in enumerate(row):
            if blink and y < eyes_end:
                ink = "k" if y == eyes_end - 1 and face[y][x] != "." else "."
            if ink != ".":
                sprite[top + y, left + x] = colour_index(inks[ink])


@cache
def sprite(shape: str, colour: str, lens: str, expression: str, gaze: int = 0, blink: bool = False) -> np.ndarray:
    """Palette indices [size, size] of a character, `TRANSPARENT` around it."""
    size = LENSES[lens].size
    body = silhouette(shape, size)
    image = np.full((size, size), TRANSPARENT, dtype=np.uint8)
    image[body] = colour_index("body", colour)
    rows, columns = np.mgrid[0:size, 0:size]
    image[body & (columns + rows > 1.45 * size)] = colour_index("shade", colour)
    padded = np.pad(body, 1)
    core = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    image[body & ~core] = colour_index("ink")
    _draw_face(image, shape, LENSES[lens].face, expression, gaze, blink)
    image.setflags(write=False)
    return image


@cache
def silhouette(shape: str, size: int) -> np.ndarray:
    """Bool mask [size, size] of a body, outline included."""
    grid = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = np.meshgrid(grid, grid)
    return _inside(shape, x, y)

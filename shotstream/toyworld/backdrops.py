"""Empty stages of the toy world: sky, far scenery and ground of every place, time and lens, scrolled in a pan.

Knows no characters.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from shotstream.toyworld.palette import colour_index
from shotstream.toyworld.scene import HEIGHT, LENSES, WIDTH


def _hash01(x: np.ndarray, salt: int) -> np.ndarray:
    """Fixed scatter of integers over [0, 1): the same houses stand in the same city in every film."""
    return np.modf(np.abs(np.sin(x * 12.9898 + salt * 78.233) * 43758.5453))[0]


def _skyline(place: str, u: np.ndarray) -> np.ndarray:
    """Height of the far scenery above the horizon, in unzoomed pixels, at scenery column `u`."""
    match place:
        case "forest":
            return 5 + 4 * np.abs(1 - np.mod(u + 2, 6) / 3) + 2 * _hash01(np.floor((u + 2) / 6), 1)
        case "desert":
            return 3.5 + 2.5 * np.sin(u / 7.0 + 0.6)
        case "city":
            return 4 + np.floor(8 * _hash01(np.floor(u / 5), 7))
        case "mountains":
            return 3 + 10 * np.abs(1 - np.mod(u + 5, 20) / 10) * (0.7 + 0.3 * _hash01(np.floor((u + 5) / 20), 3))
        case "meadow":
            return 2.5 + 2 * np.sin(u / 9.0 - 1.0)
    return np.zeros_like(u)  # the sea is flat


@cache
def backdrop(place: str, time: str, lens_name: str, scroll: int = 0) -> np.ndarray:
    """Palette indices [HEIGHT, WIDTH] of an empty stage seen through a lens, the camera moved `scroll` pixels right.

    The ground passes at full speed, the far scenery at half, the sky stays: depth from three flat layers.
    """
    lens = LENSES[lens_name]
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    far_columns, near_columns = columns + scroll // 2, columns + scroll
    bands = np.minimum(rows * 3 // lens.horizon, 2)
    image = np.array([colour_index("sky", time, band) for band in range(3)], dtype=np.uint8)[bands]

    centre_x, centre_y = (39, 6) if time != "sunset" else (9, lens.horizon - 9)
    disc = (columns - centre_x) ** 2 + (rows - centre_y) ** 2 <= lens.disc**2
    if time == "night":  # a crescent, so that night reads at a glance
        disc &= (columns - centre_x + 2) ** 2 + (rows - centre_y + 1) ** 2 > lens.disc**2 * 0.7
        stars = (_hash01(columns + 131 * rows, 5) > 0.982) & (rows < lens.horizon - 8)
        image[stars] = colour_index("light", time)
    image[disc] = colour_index("light", time)

    u = np.floor((far_columns - WIDTH / 2) / lens.zoom)
    height = _skyline(place, u) * lens.zoom
    far = (rows < lens.horizon) & (rows >= lens.horizon - height)
    image[far] = colour_index("far", place, time)
    above = rows - (lens.horizon - height)
    if place == "mountains":
        image[far & (above < 2.5 * lens.zoom) & (height > 6 * lens.zoom)] = colour_index("near", place, time)
    if place == "city":
        cell = int(round(2 * lens.zoom))
        lit = (far_columns % cell == 0) & ((rows - lens.horizon) % cell == 0) & (above > 1)
        share = {"day": 0.25, "sunset": 0.6, "night": 0.7}[time]
        image[far & lit & (_hash01(far_columns // cell + 57 * (rows // cell), 9) < share)] = colour_index("window")

    image[rows >= lens.horizon] = colour_index("near", place, time)
    if place == "beach":
        shore = lens.horizon + int(round(3 * lens.zoom))
        image[(rows >= lens.horizon - 1) & (rows < shore)] = colour_index("far", place, time)
        foam = (rows == shore - 1) & ((near_columns // 3) % 2 == 0)
        image[foam] = colour_index("white")
    step = int(round(4 * lens.zoom))
    dots = (
        (rows > lens.horizon)
        & ((near_columns + 2 * rows) % (2 * step) == 0)
        & ((rows - lens.horizon) % step == step // 2)
    )
    image[dots & (image == colour_index("near", place, time))] = colour_index("dots", place, time)
    image.setflags(write=False)
    return image

"""Which backdrop a picture of the toy world was taken on: place, time, lens and scroll, by the nearest of all.

A picture is first turned into its distance to every palette colour; comparing it with any backdrop or sprite is then a
look-up. Knows nothing of characters but that they cover some pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import product

import numpy as np

from shotstream.toyworld import world

CAP = 40.0  # a pixel that differs more than this is covered by somebody; how much more does not matter
FARTHEST = 40  # drawings in the longest shot: as far as a pan can get at one pixel a drawing
_CANDIDATES = 4
_PIXELS = np.arange(world.HEIGHT * world.WIDTH, dtype=np.int32) * len(world.PALETTE)


@dataclass(frozen=True)
class Backdrop:
    """What `world.backdrop` takes."""

    place: str
    time: str
    lens: str
    scroll: int = 0

    @property
    def camera(self) -> str:
        """The nearest camera distance; the sizes of a zoom in between count as the one that they are closer to."""
        sizes = {name: world.LENSES[name].size for name in world.CAMERAS}
        return min(sizes, key=lambda name: abs(sizes[name] - world.LENSES[self.lens].size))

    def picture(self) -> np.ndarray:
        """Palette indices [HEIGHT, WIDTH]."""
        return world.backdrop(self.place, self.time, self.lens, self.scroll)


def palette_costs(frame: np.ndarray) -> np.ndarray:
    """[H, W, 3] uint8 to float32 [H, W, colours]: capped mean absolute difference to every palette colour."""
    packed = frame.astype(np.int32) @ np.array([65536, 256, 1], dtype=np.int32)
    found, number = np.unique(packed, return_inverse=True)  # few colours, many pixels
    colours = np.stack([found >> 16, found >> 8 & 255, found & 255], axis=1).astype(np.float32)
    cost = np.abs(colours[:, None] - world.PALETTE.astype(np.float32)).mean(axis=2)
    return np.minimum(cost, CAP)[number.reshape(packed.shape)]


def _lookup(backdrop: Backdrop) -> np.ndarray:
    return backdrop.picture().reshape(-1).astype(np.int32) + _PIXELS


@lru_cache(maxsize=1)
def _unscrolled() -> tuple[list[Backdrop], np.ndarray]:
    backdrops = [Backdrop(*name) for name in product(world.PLACES, world.TIMES, world.LENSES)]
    return backdrops, np.stack([_lookup(backdrop) for backdrop in backdrops])


@cache
def _scrolled(place: str, time: str, lens: str) -> tuple[list[Backdrop], np.ndarray]:
    """One backdrop at every scroll that a pan can come to, nearest first: of equal pictures the least moved counts."""
    farthest = int(FARTHEST * world.LENSES[lens].pace)
    backdrops = [Backdrop(place, time, lens, scroll) for scroll in sorted(range(-farthest, farthest + 1), key=abs)]
    return backdrops, np.stack([_lookup(backdrop) for backdrop in backdrops])


def nearest_backdrop(costs: np.ndarray) -> Backdrop:
    """The backdrop that a picture, given as `palette_costs`, was most likely taken on."""
    flat = costs.reshape(-1)
    backdrops, lookups = _unscrolled()
    means = flat[lookups].mean(axis=1)
    order = np.argsort(means, kind="stable")
    best = [(means[i], backdrops[i]) for i in order[:1]]
    for backdrop in [backdrops[i] for i in order if backdrops[i].lens in world.CAMERAS][:_CANDIDATES]:
        moved, lookups = _scrolled(backdrop.place, backdrop.time, backdrop.lens)
        means = flat[lookups].mean(axis=1)
        i = int(means.argmin())
        best.append((means[i], moved[i]))
    return min(best, key=lambda found: found[0])[1]


def follow(costs: np.ndarray, last: Backdrop) -> Backdrop:
    """The backdrop one drawing after `last`, in the same shot: scrolled a little or seen through another lens."""
    near = [0, 1, -1, 2, -2]
    backdrops = [Backdrop(last.place, last.time, last.lens, last.scroll + step) for step in near]
    backdrops += [Backdrop(last.place, last.time, lens) for lens in world.LENSES if lens != last.lens]
    means = costs.reshape(-1)[np.stack([_lookup(backdrop) for backdrop in backdrops])].mean(axis=1)
    return backdrops[int(means.argmin())]

"""What happens in a shot: follows backdrop and character from drawing to drawing and names the action and the move.

Knows from the single frames who is to be followed (see `reader`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shotstream.evaluation.backdrops import Backdrop, follow, palette_costs
from shotstream.toyworld import world

_LANDING = 3  # drawings in the air, falling only, that are the end of an earlier leap
_POSES = ((0, False), (-1, False), (1, False), (0, True))  # gaze, blink


@dataclass(frozen=True)
class Sighting:
    """A character in one drawing: pixels from its place on the backdrop (right, down), and where it looks."""

    x: int
    y: int
    gaze: int


def backdrops_of(costs: list[np.ndarray], place: str, time: str, first: Backdrop) -> list[Backdrop]:
    """The backdrop of every drawing of a shot, given as `palette_costs`."""
    backdrops = [Backdrop(place, time, first.lens, first.scroll)]
    for cost in costs[1:]:
        backdrops.append(follow(cost, backdrops[-1]))
    return backdrops


def costs_of(frames: np.ndarray) -> list[np.ndarray]:
    """`palette_costs` of every drawing: a drawing is held for two frames, one is enough."""
    return [palette_costs(frame) for frame in frames[::2]]


def move_of(backdrops: list[Backdrop]) -> str:
    """The camera's move: a zoom if it ends at another distance, a pan if the scenery has gone by."""
    start, end = (world.CAMERAS.index(backdrop.camera) for backdrop in (backdrops[0], backdrops[-1]))
    if start != end:
        return "zoom_in" if end > start else "zoom_out"
    gone = backdrops[-1].scroll - backdrops[0].scroll
    if abs(gone) < 2:
        return "still"
    return "pan_right" if gone > 0 else "pan_left"


def sightings(
    costs: list[np.ndarray], backdrops: list[Backdrop], figure: world.Character, centre_of: dict[str, int]
) -> list[Sighting]:
    """Where a character stands in every drawing; `centre_of` a lens is its place's distance from the middle."""
    found: list[Sighting] = []
    for cost, backdrop in zip(costs, backdrops, strict=True):
        found.append(_sight(cost, backdrop.lens, figure, centre_of[backdrop.lens], found[-1] if found else None))
    return found


def _sight(cost: np.ndarray, lens_name: str, figure: world.Character, centre: int, last: Sighting | None) -> Sighting:
    lens = world.LENSES[lens_name]
    home = (world.WIDTH - lens.size) // 2 + centre
    reach = range(-lens.walk_range - 3, lens.walk_range + 4) if last is None else range(last.x - 3, last.x + 4)
    xs = np.array([x for x in reach if 0 <= home + x <= world.WIDTH - lens.size] or [0])
    ys = np.array([y for y in range(-lens.jump - 2, 1) if lens.feet - lens.size + y >= 0])
    offsets = (((lens.feet - lens.size + ys)[:, None] * world.WIDTH + home + xs) * len(world.PALETTE)).reshape(-1, 1)
    flat, best = cost.reshape(-1), (np.inf, Sighting(0, 0, 0))
    for gaze, blink in _POSES:
        sprite = world.sprite(figure.shape, figure.colour, lens_name, figure.expression, gaze, blink)
        rows, columns = np.nonzero(sprite != world.TRANSPARENT)
        inside = (rows * world.WIDTH + columns) * len(world.PALETTE) + sprite[rows, columns]
        misfit = flat[offsets + inside].mean(axis=1)
        i = int(misfit.argmin())
        if misfit[i] < best[0]:
            best = (misfit[i], Sighting(int(xs[i % len(xs)]), int(ys[i // len(xs)]), gaze))
    return best[1]


def action_of(track: list[Sighting], backdrops: list[Backdrop]) -> str:
    """The action that a track shows; ways count along the scenery, so that a pan is no walk."""
    gazes = np.array([s.gaze for s in track])
    if (gazes != 0).mean() >= 0.25:
        return "look"
    heights = np.array([s.y for s in track])
    high = heights <= -2
    if (high[1:] & (heights[1:] < heights[:-1])).any() or high.sum() > _LANDING:
        return "jump"
    steps = np.diff([s.x + backdrop.scroll for s, backdrop in zip(track, backdrops, strict=True)])
    way, net = int(np.abs(steps).sum()), int(steps.sum())
    if net and abs(net) >= 0.75 * way:
        return "walk_right" if net > 0 else "walk_left"
    return "dance" if way >= 3 else "stand"

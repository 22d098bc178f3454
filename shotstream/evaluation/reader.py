"""Reads a scene back from pixels. The renderer's own pictures are the truth to compare with, no network is asked.

Place, time and camera: the nearest of all backdrops. Colours: the commonest body colours among pixels that differ from
it. Shape, expression: the best-fitting sprite. Action and move: from the whole shot (see `tracking`). Meant for
pictures of the toy world only, sharp or not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

import numpy as np

from shotstream.evaluation.backdrops import Backdrop, nearest_backdrop, palette_costs
from shotstream.evaluation.tracking import action_of, backdrops_of, costs_of, move_of, sightings
from shotstream.toyworld import world

MIN_BODY_SHARE = 0.3  # of the smallest silhouette: less than that is no character


@dataclass(frozen=True)
class Reading:
    """What one frame, or a whole shot by majority, seems to show; None where no character is there to be read.

    The partner is the one on the right of a two-shot. Action (the first character's) and move need a whole shot; they
    are None in a single frame. The names are those of `world.Scene`.
    """

    place: str
    time: str
    camera: str
    colour: str | None
    shape: str | None
    expression: str | None
    partner_colour: str | None = None
    partner_shape: str | None = None
    partner_expression: str | None = None
    action: str | None = None
    move: str | None = None


@lru_cache(maxsize=1)
def _body_colours() -> np.ndarray:
    """[colours, 2, 3]: each character colour and its shade."""
    parts = [[world.colour_index(part, colour) for part in ("body", "shade")] for colour in world.COLOURS]
    return world.PALETTE[np.array(parts)].astype(np.float32)


def read_frame(frame: np.ndarray) -> Reading:
    """Read one frame [H, W, 3] uint8."""
    return _read_on(frame, nearest_backdrop(palette_costs(frame)))


def _read_on(frame: np.ndarray, backdrop: Backdrop) -> Reading:
    pixels = frame.astype(np.float32)
    reading = Reading(backdrop.place, backdrop.time, backdrop.camera, None, None, None)
    differs = np.abs(pixels - world.to_rgb(backdrop.picture()).astype(np.float32)).mean(axis=-1) > 16.0
    distance = np.linalg.norm(pixels[:, :, None, None] - _body_colours(), axis=-1)  # H W colours 2
    mouth = np.linalg.norm(pixels - world.PALETTE[world.colour_index("mouth")].astype(np.float32), axis=-1)
    closest = distance.min(axis=(2, 3))
    coloured = differs & (closest < 60.0) & (closest < mouth)  # anybody's mouth is nearly a red one's shade
    nearest = np.where(coloured, distance.min(axis=3).argmin(axis=2), -1)
    size = world.LENSES[backdrop.lens].size
    body = MIN_BODY_SHARE * min(world.silhouette(shape, size).sum() for shape in world.SHAPES)
    if coloured.sum() < body:
        return reading
    votes = np.bincount(nearest[coloured], minlength=len(world.COLOURS))
    first, second = (int(i) for i in np.argsort(-votes, kind="stable")[:2])
    own = [nearest == colour for colour in (first, second)]
    if backdrop.lens == "close" or votes[second] < body or abs(_middle(own[0]) - _middle(own[1])) < size:
        return replace(reading, **_read_figure(pixels, differs, coloured, first, backdrop.lens))
    masks = []
    for middle, colour in sorted(((_middle(mask), colour) for mask, colour in zip(own, (first, second), strict=True))):
        near = np.abs(np.arange(world.WIDTH) - middle) < 0.75 * size
        masks.append(((nearest == colour) & near, colour))
    if not all(mask.any() for mask, _ in masks):  # scattered over the picture: nobody's body
        return replace(reading, **_read_figure(pixels, differs, coloured, first, backdrop.lens))
    figures = [_read_figure(pixels, differs, mask, colour, backdrop.lens) for mask, colour in masks]
    return replace(reading, **figures[0], **{f"partner_{name}": value for name, value in figures[1].items()})


def _middle(mask: np.ndarray) -> float:
    """Column that has as many of the pixels to its left as to its right; 0 if there are none."""
    return float(np.median(np.nonzero(mask)[1])) if mask.any() else 0.0


def _read_figure(pixels: np.ndarray, differs: np.ndarray, own: np.ndarray, colour: int, lens: str) -> dict[str, str]:
    """Colour, shape and expression of the character whose coloured pixels are `own`."""
    shape, left, top = _best_silhouette(differs, own, lens)
    name = world.COLOURS[colour]
    expression = _best_expression(pixels, shape, name, lens, left, top)
    return {"colour": name, "shape": shape, "expression": expression}


def _best_silhouette(differs: np.ndarray, coloured: np.ndarray, lens: str) -> tuple[str, int, int]:
    """The shape whose silhouette, somewhere near the coloured pixels, overlaps best; and its left and top."""
    size = world.LENSES[lens].size
    rows, columns = np.nonzero(coloured)
    centre_x = int(round((columns.min() + columns.max() + 1) / 2))
    bottom = int(rows.max()) + 2
    padding = size
    field = np.pad(differs, padding)
    best = (-1.0, world.SHAPES[0], 0, 0)
    for dy, dx in product(range(-2, 3), range(-2, 3)):
        left, top = centre_x - (size + 1) // 2 + dx, bottom - size + dy
        y, x = top + padding, left + padding
        if y < 0 or x < 0 or y + size > field.shape[0] or x + size > field.shape[1]:
            continue
        window = field[y : y + size, x : x + size]
        for shape in world.SHAPES:
            mask = world.silhouette(shape, size)
            overlap = (window & mask).sum() / (window | mask).sum()
            if overlap > best[0]:
                best = (overlap, shape, left, top)
    return best[1], best[2], best[3]


def _best_expression(pixels: np.ndarray, shape: str, colour: str, lens: str, left: int, top: int) -> str:
    """The expression whose sprite, drawn at that spot or a pixel beside it, looks most like the pixels.

    The pixel beside matters at night, when the outline hides in the dark and the silhouette fits less exactly.
    """
    size = world.LENSES[lens].size
    padded = np.pad(pixels, ((size, size), (size, size), (0, 0)), mode="edge")
    spots = product((top - 1, top, top + 1), (left - 1, left, left + 1))
    windows = np.stack([padded[y + size : y + 2 * size, x + size : x + 2 * size] for y, x in spots])

    def misfit(expression: str, gaze: int, blink: bool) -> float:
        sprite = world.sprite(shape, colour, lens, expression, gaze, blink)
        seen = sprite != world.TRANSPARENT
        return float(np.abs(windows[:, seen] - world.PALETTE[sprite[seen]].astype(np.float32)).mean(axis=(1, 2)).min())

    poses = [(expression, gaze, False) for expression in world.EXPRESSIONS for gaze in (-1, 0, 1)]
    poses += [(expression, 0, True) for expression in world.EXPRESSIONS]
    return min(poses, key=lambda pose: misfit(*pose))[0]


def read_samples(frames: np.ndarray, samples: int = 5) -> tuple[Reading, ...]:
    """Read `samples` evenly spread frames of a shot [t, H, W, 3] uint8."""
    picks = np.linspace(0, len(frames) - 1, samples).round().astype(int)
    return tuple(read_frame(frames[i]) for i in picks)


def read_shot(frames: np.ndarray, samples: Sequence[Reading] = ()) -> Reading:
    """Read a shot, or the frames of one beat, [t, H, W, 3] uint8; `samples`: what `read_samples` has read already.

    By majority over the samples, attribute by attribute; camera, action and move from every drawing (the camera is the
    distance that the shot begins with).
    """
    readings = samples or read_samples(frames)
    whole = Reading(**{name: majority([getattr(r, name) for r in readings]) for name in Reading.__dataclass_fields__})
    costs = costs_of(frames)
    backdrops = backdrops_of(costs, whole.place, whole.time, nearest_backdrop(costs[0]))
    whole = replace(whole, camera=backdrops[0].camera, move=move_of(backdrops))
    if whole.colour is None or whole.shape is None or whole.expression is None:
        return whole
    figure = world.Character(whole.shape, whole.colour, whole.expression)
    centre_of = {name: -lens.apart if whole.partner_colour else 0 for name, lens in world.LENSES.items()}
    return replace(whole, action=action_of(sightings(costs, backdrops, figure, centre_of), backdrops))


def majority(values: Sequence[str | None]) -> str | None:
    """The commonest value; the earliest of equals."""
    return Counter(values).most_common(1)[0][0]

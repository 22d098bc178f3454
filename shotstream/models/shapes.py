"""The shapes of picture that a model makes: its own, and those that its folder lists besides, under their names.

Owns what such a list may say and which sizes may be asked for. Knows no model: whoever reads one gives its size and
steps.
"""

from __future__ import annotations

from collections.abc import Mapping

from shotstream.errors import UserError

MAX_SHAPES = 8
MAX_AREA = 4  # times the model's own picture: beyond it nothing it learned holds
MAX_NAME = 24
NAMES = ("landscape", "portrait", "square")

Shapes = Mapping[str, tuple[int, int]]  # width, height


def shape_name(width: int, height: int) -> str:
    """What a picture of this size is."""
    if width == height:
        return "square"
    return "landscape" if width > height else "portrait"


def checked_shapes(listed: object, width: int, height: int, steps: tuple[int, int], source: object) -> Shapes:
    """The shapes of a model of `width` and `height`, its own first. `listed` is what its index has as "shapes", None
    if nothing; `steps` are what a width and a height must be multiples of.

    Raises `UserError` naming `source` for shapes that the model could not make, or that are not what they are called.
    """
    own = {shape_name(width, height): (width, height)}
    if listed is None:
        return own
    if not isinstance(listed, dict):
        raise UserError(f'{source}: shapes must be like {{"landscape": [{width}, {height}]}}.')
    shapes = own | {_checked_name(name, source): _checked_pair(name, size, source) for name, size in listed.items()}
    if len(shapes) > MAX_SHAPES:
        raise UserError(f"{source}: there are {len(shapes)} shapes, at most {MAX_SHAPES} may be.")
    for name, size in shapes.items():
        if name in own and size != own[name]:
            raise UserError(f"{source}: the shape {name} must be the model's own, {width}x{height}.")
        if name in NAMES and name != shape_name(*size):
            raise UserError(f"{source}: the shape {name} is a {shape_name(*size)}: {size[0]}x{size[1]}.")
        if name not in own:
            check_size(f"{source}: the shape {name}", size, (width, height), steps)
    return shapes


def _checked_name(name: str, source: object) -> str:
    if not name.strip() or len(name) > MAX_NAME or not name.isprintable():
        raise UserError(f"{source}: the name of a shape must be a short text.")
    return name


def _checked_pair(name: str, size: object, source: object) -> tuple[int, int]:
    if not isinstance(size, list | tuple) or len(size) != 2 or any(type(side) is not int or side < 1 for side in size):
        raise UserError(f"{source}: the shape {name} must be two whole numbers, [width, height].")
    return size[0], size[1]


def check_size(what: str, size: tuple[int, int], own: tuple[int, int], steps: tuple[int, int]) -> None:
    """Raises `UserError`, a sentence about `what`, for a size (width, height) that a model of its `own` size does not
    make: sides are multiples of `steps`, and neither they nor the area more than `MAX_AREA` times the model's own."""
    for side, step, name in zip(size, steps, ("width", "height"), strict=True):
        if type(side) is not int or side < step or side % step:
            raise UserError(f"{what}'s {name} must be a multiple of {step}, not {str(side)[:40]}.")
    if max(size) > MAX_AREA * max(own) or size[0] * size[1] > MAX_AREA * own[0] * own[1]:
        raise UserError(f"{what} is more than {MAX_AREA} times as large as the model's own, {own[0]}x{own[1]}.")

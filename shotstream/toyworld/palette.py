"""The toy world's 84 colours, by name and by number.

The order is part of every trained autoencoder: colours may be appended, never moved.
"""

from __future__ import annotations

import numpy as np

from shotstream.toyworld.scene import TIMES


def _rgb(code: str) -> tuple[int, int, int]:
    return int(code[0:2], 16), int(code[2:4], 16), int(code[4:6], 16)


_BODY = {
    "red": ("e8323c", "a01830"),
    "orange": ("ff8c1a", "b8500a"),
    "yellow": ("ffdf38", "c09010"),
    "green": ("3cc850", "1c7c3c"),
    "blue": ("3c6cff", "2038a8"),
    "purple": ("a040e0", "601890"),
    "pink": ("ff86c0", "c84888"),
}
_SKY = {
    "day": ("58b0f0", "84ccf8", "b4e4fc"),
    "sunset": ("5c3c8c", "b0508c", "f48c64"),
    "night": ("0c1030", "161c48", "242c60"),
}
_LIGHT = {"day": "fff4b0", "sunset": "ffc860", "night": "e0e4f0"}
# Far scenery, near ground, ground texture.
_GROUND = {
    ("forest", "day"): ("1c6030", "58a848", "408838"),
    ("forest", "sunset"): ("383c38", "707040", "585430"),
    ("forest", "night"): ("0c2828", "1c4038", "14302c"),
    ("beach", "day"): ("2088c8", "f0dc98", "d8bc70"),
    ("beach", "sunset"): ("484c98", "d0a078", "b48060"),
    ("beach", "night"): ("10386c", "606478", "4c5068"),
    ("desert", "day"): ("d89850", "f4c878", "dca858"),
    ("desert", "sunset"): ("984858", "cc8050", "ac6444"),
    ("desert", "night"): ("383054", "585068", "443c58"),
    ("city", "day"): ("606880", "9ca0ac", "848894"),
    ("city", "sunset"): ("3c2c54", "786880", "645470"),
    ("city", "night"): ("080818", "303448", "24283c"),
    ("mountains", "day"): ("8494b4", "f4f8ff", "ccdcf0"),
    ("mountains", "sunset"): ("785878", "ecc4c8", "cc9cac"),
    ("mountains", "night"): ("283058", "7c8cb4", "6474a0"),
    ("meadow", "day"): ("68b838", "98dc50", "fcf8f0"),
    ("meadow", "sunset"): ("807830", "b0a048", "e8b8c8"),
    ("meadow", "night"): ("1c4c30", "2c6440", "6888a8"),
}

_NAMES: dict[object, int] = {}
_COLOURS: list[tuple[int, int, int]] = []


def _add(name: object, code: str) -> None:
    _NAMES[name] = len(_COLOURS)
    _COLOURS.append(_rgb(code))


_add("ink", "181020")
_add("white", "fcfcfc")
_add("mouth", "781c30")
_add("window", "fcd860")
for _colour, (_main, _shade) in _BODY.items():
    _add(("body", _colour), _main)
    _add(("shade", _colour), _shade)
for _time in TIMES:
    for _band, _code in enumerate(_SKY[_time]):
        _add(("sky", _time, _band), _code)
    _add(("light", _time), _LIGHT[_time])
for (_place, _time), _codes in _GROUND.items():
    for _part, _code in zip(("far", "near", "dots"), _codes, strict=True):
        _add((_part, _place, _time), _code)

PALETTE = np.array(_COLOURS, dtype=np.uint8)  # [colours, 3]
PALETTE.setflags(write=False)


def colour_index(*name: str) -> int:
    """Palette index of a named colour, such as `colour_index("body", "red")`."""
    return _NAMES[name[0] if len(name) == 1 else name]

"""A sheet must hold every picture unharmed, and no caption may break it."""

from __future__ import annotations

import io

import numpy as np
import pytest
from complaints import refusal
from PIL import Image, ImageColor, ImageFont

from shotstream.storyboard import BACKGROUND, MAX_LINES, NUMBER, TEXT, draw_sheet, fit, wrap


def sheet_of(shots: list[tuple[np.ndarray, str]]) -> np.ndarray:
    image = Image.open(io.BytesIO(draw_sheet(shots)))
    assert (image.format, image.mode) == ("PNG", "RGB")
    return np.asarray(image)


def picture(seed: int = 0, height: int = 32, width: int = 48) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def flat(level: int, height: int = 32, width: int = 48) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def has_colour(sheet: np.ndarray, colour: str) -> bool:
    return bool((sheet == ImageColor.getrgb(colour)).all(axis=2).any())


@pytest.mark.parametrize(
    ("size", "shown"),
    [((48, 32), (384, 256)), ((768, 512), (384, 256)), ((832, 480), (416, 240)), ((480, 832), (240, 416))],
)
def test_pictures_are_enlarged_or_reduced_by_whole_numbers(size: tuple[int, int], shown: tuple[int, int]):
    assert fit(picture(0, size[1], size[0])).size == shown


def test_every_pixel_of_a_small_picture_is_a_flat_square():
    small = picture()
    sheet = sheet_of([(small, "A red ball jumps.")])
    wanted = small.repeat(8, 0).repeat(8, 1)
    assert np.array_equal(sheet[32 : 32 + 256, 32 : 32 + 384], wanted)


def test_colours_and_columns():
    sheets = {count: sheet_of([(flat(100), "A red ball jumps.")] * count) for count in (1, 2, 4, 5, 9)}
    for sheet in sheets.values():
        assert (sheet[0, 0] == ImageColor.getrgb(BACKGROUND)).all()
        assert has_colour(sheet, TEXT) and has_colour(sheet, NUMBER)
    widths = {count: sheet.shape[1] for count, sheet in sheets.items()}
    assert widths[1] < widths[2] < widths[5] < widths[4]  # five are three and two
    assert widths[5] == widths[9]
    assert sheets[4].shape[0] < sheets[5].shape[0] < sheets[9].shape[0]


WILD = {
    "empty": "",
    "blank": " \n\t ",
    "long": "He walks on and on. " * 1000,
    "one long word": "x" * 20_000,
    "ideographs": "夜の砂漠に星がひとつ。" * 500,
    "right to left": "مرحبا بالعالم " * 50,
    "emoji": "🎬👩‍👩‍👧‍👦☀️" * 300,
    "stacked marks": "Z" + "\u0351" * 5000,
    "control characters": "a\x00b\x1b[31m\u202ec\r\n\r\nd",
    "lone surrogate": "a\ud800b",
    "markup": "<b>bold</b> & {\\b1}",
}


@pytest.mark.parametrize("caption", WILD.values(), ids=WILD.keys())
def test_no_caption_breaks_the_sheet(caption: str):
    """It stays below its own picture: neither the pictures nor the next column change."""
    wild = sheet_of([(flat(90), caption), (flat(160), "Short."), (flat(230), "")])
    tame = sheet_of([(flat(90), "Short."), (flat(160), "Short."), (flat(230), "")])
    assert wild.shape[1] == tame.shape[1] and wild.shape[0] <= tame.shape[0] + 24 * MAX_LINES
    assert np.array_equal(wild[: 32 + 256], tame[: 32 + 256])
    right = 32 + 384 + 14
    assert np.array_equal(wild[: len(tame) - 32, right:], tame[: len(tame) - 32, right:])


def test_lines_fit_and_say_when_there_is_more():
    font = ImageFont.load_default(17)
    for caption in WILD.values():
        lines = wrap(caption, font, 300)
        assert len(lines) <= MAX_LINES and all(font.getlength(line) <= 300 for line in lines)
    assert wrap("A red ball jumps.", font, 300) == ["A red ball jumps."]
    whole = "Wide shot of a red ball that jumps up and down on the beach at night."
    assert " ".join(wrap(whole, font, 300)) == whole
    assert "".join(wrap("x" * 100, font, 300)) == "x" * 100
    assert wrap("walk " * 500, font, 300)[-1].endswith("…")
    assert wrap("walk " * 500, font, 300)[0].startswith("walk walk")


def test_pictures_of_any_shape_share_a_sheet():
    shapes = [(32, 48), (48, 32), (480, 832), (832, 480), (1, 4000), (4000, 1), (1, 1)]
    sheet = sheet_of([(picture(0, *shape), f"{shape}") for shape in shapes])
    assert sheet.shape[1] == 2 * 32 + 4 * 416 + 3 * 28


def test_a_very_long_film_is_cut_and_says_so():
    long, longer = (sheet_of([(flat(100, 1, 400), "x")] * count) for count in (200, 1000))
    assert long.shape[1] == longer.shape[1] and len(long) < len(longer) < len(long) + 100


def test_no_pictures_no_sheet():
    assert "no film yet" in refusal(draw_sheet, [])

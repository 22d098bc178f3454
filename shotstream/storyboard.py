"""A film as one sheet: a picture per shot with its number and caption, to be printed or shown around.

Owns the sheet's looks. Knows no film and no files: pictures and words come in, a PNG comes out.

Pictures are enlarged or reduced by whole numbers only, so that pixel art stays what it is. The font is the one that
comes with Pillow, so that a sheet looks the same everywhere; characters that it lacks appear as boxes.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from shotstream.errors import UserError

BACKGROUND, TEXT, NUMBER, DIM = "#181020", "#f4ecd8", "#ffdf38", "#a89cb0"
MAX_COLUMNS = 4
MAX_SHOTS = 200  # on a sheet: more than that no viewer opens gladly
CELL = 416  # pixels: the longest side of a picture
MARGIN, GAP = 32, 28
TEXT_SIZE, NUMBER_SIZE, LINE = 17, 26, 24
NUMBER_WIDTH = 20  # per digit
MAX_LINES = 5
MAX_READ = 300  # characters of a caption: more never fit


def draw_sheet(shots: Sequence[tuple[np.ndarray, str]]) -> bytes:
    """Pictures [H, W, 3] uint8 and their captions -> PNG bytes. Raises UserError if there are none."""
    if not shots:
        raise UserError("There is no film yet: make a shot first.")
    shown = shots[:MAX_SHOTS]
    pictures = [fit(picture) for picture, _ in shown]
    rows = -(-len(shown) // MAX_COLUMNS)
    columns = -(-len(shown) // rows)  # five shots are three and two
    width = max(max(picture.width for picture in pictures), CELL // 2)
    indent = NUMBER_WIDTH * len(str(len(shown))) + 10
    font = ImageFont.load_default(TEXT_SIZE)
    texts = [wrap(caption, font, width - indent) for _, caption in shown]

    starts = range(0, len(shown), columns)
    picture_heights = [max(picture.height for picture in pictures[i : i + columns]) for i in starts]
    text_heights = [max(NUMBER_SIZE + 8, *(LINE * len(text) for text in texts[i : i + columns])) for i in starts]
    footer = LINE + GAP if len(shots) > len(shown) else 0
    size = (
        2 * MARGIN + columns * width + (columns - 1) * GAP,
        2 * MARGIN + sum(picture_heights) + sum(text_heights) + rows * 10 + (rows - 1) * GAP + footer,
    )
    sheet = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    y = MARGIN
    for row, start in enumerate(starts):
        for column, index in enumerate(range(start, min(start + columns, len(shown)))):
            x = MARGIN + column * (width + GAP)
            picture = pictures[index]
            sheet.paste(picture, (x, y + picture_heights[row] - picture.height))
            below = y + picture_heights[row] + 10
            draw.text((x, below + 18), str(index + 1), NUMBER, ImageFont.load_default(NUMBER_SIZE), anchor="ls")
            for number, line in enumerate(texts[index]):
                draw.text((x + indent, below + 17 + number * LINE), line, TEXT, font, anchor="ls")
        y += picture_heights[row] + text_heights[row] + 10 + GAP
    if footer:
        draw.text((MARGIN, y), f"and {len(shots) - len(shown)} more shots", DIM, font)
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    return buffer.getvalue()


def fit(picture: np.ndarray) -> Image.Image:
    """The picture at the largest size within a cell that a whole number makes of it."""
    image = Image.fromarray(picture)
    longest = max(image.size)
    if longest > CELL:
        return image.reduce(-(-longest // CELL))
    scale = CELL // longest
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def wrap(caption: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Lines of a caption no wider than `width`, at most `MAX_LINES`; the last ends in … if there was more. A word that
    is wider is broken wherever it must, as are scripts that have no spaces."""
    text = caption.encode(errors="replace").decode()
    words = text[:MAX_READ].split()
    lines, more = [""], len(text) > MAX_READ
    while words:
        word = words.pop(0)
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
            words.insert(0, word)
        else:  # too wide for any line
            end = max(1, int(len(word) * width / font.getlength(word)))  # a guess that is near
            while end > 1 and font.getlength(word[:end]) > width:
                end -= 1
            lines[-1] = word[:end]
            lines.append("")
            words[:0] = [word[end:]] if word[end:] else []
        if words and len(lines) > MAX_LINES:
            more = True
            break
    lines = [line for line in lines[:MAX_LINES] if line]
    if more and lines:
        while lines[-1] and font.getlength(lines[-1] + "…") > width:
            lines[-1] = lines[-1][:-1]
        lines[-1] += "…"
    return lines

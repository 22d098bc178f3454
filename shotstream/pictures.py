"""A visitor's picture made ready to be cast: whatever was uploaded or pasted, as the pixels of one frame.

Owns decoding, which trusts nothing, and the fit to the film's shape. Knows no film and no model.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, ImageOps

from shotstream.errors import UserError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MAX_BYTES = 20_000_000
MAX_PIXELS = 50_000_000
PAPER = (255, 255, 255)  # behind what is transparent


def fit_picture(data: bytes, width: int, height: int) -> np.ndarray:
    """[height, width, 3] uint8 of an encoded picture: upright, its first frame if it moves, cut to the shape around its
    middle. A small picture that was enlarged by a whole number comes back as it was.

    Raises `UserError` for what is no picture, damaged, or larger than any photograph.
    """
    if len(data) > MAX_BYTES:
        raise UserError(f"This picture has more than {MAX_BYTES // 1_000_000} MB: choose a smaller one.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is told in our words
            with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise Image.DecompressionBombError
                upright = ImageOps.exif_transpose(_eight_bits(picture))
    except Image.DecompressionBombError as error:
        raise UserError(f"This picture is huge: choose one of at most {MAX_PIXELS // 1_000_000} megapixels.") from error
    except Image.UnidentifiedImageError as error:
        kinds = ", ".join(FORMATS[:-1])
        raise UserError(f"This is not a picture that can be read: use {kinds} or {FORMATS[-1]}.") from error
    except Exception as error:  # the decoders raise nearly anything
        raise UserError("This picture is damaged: save it anew, or choose another.") from error
    return np.asarray(_fitted(_on_paper(upright), width, height))


def _eight_bits(picture: Image.Image) -> Image.Image:
    """16 bits a pixel would be cut off, not scaled, by a conversion to RGB."""
    picture.load()
    if not picture.mode.startswith("I"):
        return picture
    values = np.asarray(picture, dtype=np.float64)
    largest = 65535.0 if values.max(initial=0.0) > 255 else 255.0
    scaled = Image.fromarray((values / largest * 255).clip(0, 255).round().astype(np.uint8))
    scaled.getexif().update(picture.getexif())
    return scaled


def _on_paper(picture: Image.Image) -> Image.Image:
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layer = picture.convert("RGBA")
    paper = Image.new("RGBA", layer.size, (*PAPER, 255))
    return Image.alpha_composite(paper, layer).convert("RGB")


def _fitted(picture: Image.Image, width: int, height: int) -> Image.Image:
    """Cropped around the middle, then resized: by the mean of squares where that is a whole number of pixels, by
    flat squares where a small picture is enlarged, else smoothly."""
    if picture.width * height > width * picture.height:
        cut = (max(1, round(picture.height * width / height)), picture.height)
    else:
        cut = (picture.width, max(1, round(picture.width * height / width)))
    left, top = (picture.width - cut[0]) // 2, (picture.height - cut[1]) // 2
    cropped = picture.crop((left, top, left + cut[0], top + cut[1]))
    if cropped.width % width == 0 and cropped.height % height == 0:
        method = Image.Resampling.BOX
    elif cropped.width <= width // 2:
        method = Image.Resampling.NEAREST
    else:
        method = Image.Resampling.LANCZOS
    return cropped.resize((width, height), method)

"""A visitor's picture made ready to be cast: whatever was uploaded, pasted or kept, as the pixels of one frame.

Owns decoding, which trusts nothing, and the fit to the film's shape. Knows no film and no model.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from shotstream.errors import UserError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MAX_BYTES = 20_000_000
MAX_PIXELS = 50_000_000
PAPER = (255, 255, 255)  # behind what is transparent


def fit_picture(data: bytes | Path, width: int, height: int) -> np.ndarray:
    """[height, width, 3] uint8 of an encoded picture: upright, its first frame if it moves, cut to the shape around its
    middle. A small picture that was enlarged by a whole number comes back as it was.

    Raises `UserError` for what is no picture, damaged, or larger than any photograph.
    """
    data = _read(data) if isinstance(data, Path) else data
    if len(data) > MAX_BYTES:
        raise UserError(f"This picture has more than {MAX_BYTES // 1_000_000} MB: choose a smaller one.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is told in our words
            with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
                if picture.width * picture.height > MAX_PIXELS:  # nothing is decoded yet
                    raise Image.DecompressionBombError
                picture.load()
                upright = _upright(picture)
        return np.asarray(_fitted(_on_paper(_eight_bits(upright)), width, height))
    except Image.DecompressionBombError as error:
        raise UserError(f"This picture is huge: choose one of at most {MAX_PIXELS // 1_000_000} megapixels.") from error
    except Image.UnidentifiedImageError as error:
        kinds = ", ".join(FORMATS[:-1])
        raise UserError(f"This is not a picture that can be read: use {kinds} or {FORMATS[-1]}.") from error
    except MemoryError as error:
        raise UserError("There is not enough memory for this picture: choose a smaller one.") from error
    except Exception as error:  # the decoders raise nearly anything
        raise UserError("This picture is damaged: save it anew, or choose another.") from error


def _read(path: Path) -> bytes:
    """No more of the file than it takes to tell that it is too large."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # a NUL in the path
        reason = getattr(error, "strerror", None) or "this is not a file name"
        raise UserError(f"Cannot read the picture {str(path)[:200]!r}: {reason}; choose another.") from error


def _upright(picture: Image.Image) -> Image.Image:
    """As the camera was held; as it is stored if the note on that is damaged."""
    try:
        held = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # whatever a reader of TIFF can raise
        held = 1
    return ImageOps.exif_transpose(picture) if held in range(2, 9) else picture


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Of sixteen; a conversion to RGB would cut them off."""
    if not picture.mode.startswith("I"):
        return picture
    values = np.asarray(picture, dtype=np.float64)
    return Image.fromarray((values / 257).clip(0, 255).round().astype(np.uint8))


def _on_paper(picture: Image.Image) -> Image.Image:
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layer = picture.convert("RGBA")
    paper = Image.new("RGBA", layer.size, (*PAPER, 255))
    return Image.alpha_composite(paper, layer).convert("RGB")


def _fitted(picture: Image.Image, width: int, height: int) -> Image.Image:
    """Cropped around the middle, then resized: by the mean of squares where they are whole pixels, as when one of our
    own frames is shrunk; by flat squares where a small picture is enlarged by whole numbers; else smoothly."""
    if picture.width * height > width * picture.height:
        cut = (max(1, round(picture.height * width / height)), picture.height)
    else:
        cut = (picture.width, max(1, round(picture.width * height / width)))
    left, top = (picture.width - cut[0]) // 2, (picture.height - cut[1]) // 2
    cropped = picture.crop((left, top, left + cut[0], top + cut[1]))
    if cropped.width % width == 0 and cropped.height % height == 0:
        method = Image.Resampling.BOX
    elif width % cropped.width == 0 and height % cropped.height == 0:
        method = Image.Resampling.NEAREST
    else:
        method = Image.Resampling.LANCZOS
    return cropped.resize((width, height), method)

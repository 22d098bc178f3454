"""Pictures that visitors bring: every kind that there is, and everything that only claims to be one."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from complaints import refusal
from PIL import Image

from shotstream.media import encode_png
from shotstream.pictures import MAX_BYTES, fit_picture


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def halves(width: int = 96, height: int = 64) -> Image.Image:
    """Red on the left, blue on the right."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[:, : width // 2, 0] = 255
    pixels[:, width // 2 :, 2] = 255
    return Image.fromarray(pixels)


def is_red_and_blue(frame: np.ndarray) -> bool:
    left, right = frame[:, :20].mean(axis=(0, 1)), frame[:, -20:].mean(axis=(0, 1))
    return left[0] > 200 > 60 > left[2] and right[2] > 200 > 60 > right[0]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_every_usual_kind(kind: str):
    frame = fit_picture(encoded(halves(), kind), 48, 32)
    assert frame.shape == (32, 48, 3) and frame.dtype == np.uint8 and is_red_and_blue(frame)


@pytest.mark.parametrize("mode", ["P", "RGBA", "CMYK", "1", "L", "LA"])
def test_every_mode(mode: str):
    kind = "JPEG" if mode == "CMYK" else "PNG"
    frame = fit_picture(encoded(halves().convert(mode), kind), 48, 32)
    assert frame.shape == (32, 48, 3)
    assert mode in ("1", "L", "LA") or is_red_and_blue(frame)


def test_sixteen_bits_are_scaled():
    values = np.linspace(0, 65535, 96).astype(np.uint16)[None].repeat(64, 0)
    frame = fit_picture(encoded(Image.fromarray(values)), 48, 32)
    assert frame[0, 0].max() < 10 and frame[0, -1].min() > 245 and 115 < frame[0, 24, 0] < 140


def test_sixteen_dark_bits_stay_dark():
    dark = np.full((64, 96), 200, dtype=np.uint16)  # of 65535: as good as black
    assert fit_picture(encoded(Image.fromarray(dark)), 48, 32).max() <= 1


def test_a_frame_of_our_own_films_comes_back_to_its_pixels():
    small = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    large = small.repeat(16, 0).repeat(16, 1)
    assert np.array_equal(fit_picture(encode_png(large), 48, 32), small)
    assert np.array_equal(fit_picture(encode_png(small), 48, 32), small)
    assert np.array_equal(fit_picture(encoded(Image.fromarray(large), "WEBP", lossless=True), 48, 32), small)


def test_small_pictures_are_enlarged_in_squares_where_they_can_be():
    tiny = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    assert np.array_equal(fit_picture(encode_png(tiny), 48, 32), tiny.repeat(2, 0).repeat(2, 1))
    smooth = fit_picture(encoded(halves(20, 14)), 48, 32)  # 20x13 of it, enlarged 2.4 times
    assert is_red_and_blue(smooth) and len(np.unique(smooth.reshape(-1, 3), axis=0)) > 2


def test_a_rotated_photograph_is_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    lying = halves().transpose(Image.Transpose.ROTATE_90)
    for kind in ("JPEG", "PNG", "WEBP"):
        assert is_red_and_blue(fit_picture(encoded(lying, kind, exif=exif, quality=95), 48, 32))
    deep = Image.fromarray(np.asarray(halves())[..., 0].astype(np.uint16) * 257).transpose(Image.Transpose.ROTATE_90)
    frame = fit_picture(encoded(deep, exif=exif), 48, 32)  # grey, sixteen bits
    assert frame[:, :20].min() > 250 and frame[:, -20:].max() < 5


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_damaged_note_on_how_it_was_held_is_ignored():
    exif = b"Exif\0\0" + b"II*\0" + b"\xff" * 40
    for note in (exif, b"Exif\0\0nonsense", b"Exif\0\0"):
        assert is_red_and_blue(fit_picture(encoded(halves(), "JPEG", exif=note, quality=95), 48, 32))


def test_a_file_is_read_as_what_is_in_it(tmp_path: Path):
    path = tmp_path / "picture.txt"
    path.write_bytes(encoded(halves()))
    assert is_red_and_blue(fit_picture(path, 48, 32))
    assert "No such file" in refusal(fit_picture, tmp_path / "none.png", 48, 32)
    assert "directory" in refusal(fit_picture, tmp_path, 48, 32)
    refusal(fit_picture, Path("a\0b"), 48, 32)
    with path.open("wb") as file:  # nothing but its length
        file.truncate(10 * MAX_BYTES)
    assert "MB" in refusal(fit_picture, path, 48, 32)


def test_odd_shapes_are_cut_around_their_middle():
    wide = Image.new("RGB", (960, 64), "green")
    wide.paste(halves(), (432, 0))
    assert is_red_and_blue(fit_picture(encoded(wide), 48, 32))
    tall = Image.new("RGB", (96, 900), "green")
    tall.paste(halves(), (0, 418))
    assert is_red_and_blue(fit_picture(encoded(tall), 48, 32))
    for size in ((1, 1), (1, 500), (500, 1)):
        assert fit_picture(encoded(Image.new("RGB", size, "red")), 48, 32).shape == (32, 48, 3)


def test_an_animation_is_its_first_frame_and_transparency_is_paper():
    moving = encoded(halves(), "GIF", save_all=True, append_images=[Image.new("RGB", (96, 64), "green")])
    assert is_red_and_blue(fit_picture(moving, 48, 32))
    clear = Image.new("RGBA", (48, 32), (255, 0, 0, 0))
    for kind in ("PNG", "WEBP", "GIF"):
        assert (fit_picture(encoded(clear, kind), 48, 32) == 255).all()
    marked = Image.new("P", (48, 32), 1)
    marked.putpalette([0, 0, 0, 255, 0, 0])
    assert (fit_picture(encoded(marked, transparency=1), 48, 32) == 255).all()


def bomb(width: int, height: int) -> bytes:
    """A PNG that claims to be huge and has nothing inside."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


BAD = {
    "nothing": b"",
    "text": b"hello",
    "markup": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "another kind": encoded(halves(), "TIFF"),
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    "cut off": encoded(halves(), "JPEG")[:300],
    "a flipped middle": encoded(halves())[:60] + b"\xff" * 40 + encoded(halves())[100:],
    "a bomb": bomb(60_000, 60_000),
    "a small bomb": bomb(8000, 8000),
    "too many bytes": b"\x89PNG\r\n\x1a\n" + bytes(MAX_BYTES),
}


@pytest.mark.parametrize("name", ["a bomb", "a small bomb"])
def test_a_bomb_is_told_before_it_is_decoded(name: str):
    assert "megapixels" in refusal(fit_picture, BAD[name], 48, 32)


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_what_is_no_picture_is_refused_in_one_sentence(data: bytes):
    assert "picture" in refusal(fit_picture, data, 48, 32)

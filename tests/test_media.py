"""Segments must play on their own and in a row; a film must hold every frame, in order, with its chapters."""

from __future__ import annotations

import io
import os
import signal
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from shotstream.errors import UserError
from shotstream.media import FilmShot, SegmentEncoder, encode_png, enlargement, still, write_film

FPS = 16


def flat_frames(levels: list[int], height: int = 32, width: int = 48) -> np.ndarray:
    """[t, H, W, 3]: each frame one grey level, so that a decoded frame tells which one it was."""
    return np.stack([np.full((height, width, 3), level, np.uint8) for level in levels])


def noise_frames(count: int, height: int = 32, width: int = 48, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def decode(data: bytes | Path) -> list[av.VideoFrame]:
    with av.open(io.BytesIO(data) if isinstance(data, bytes) else str(data)) as container:
        return list(container.decode(video=0))


def levels_of(frames: list[av.VideoFrame]) -> list[int]:
    return [round(float(frame.to_ndarray(format="rgb24").mean())) for frame in frames]


def boxes(data: bytes) -> list[str]:
    """Names of the top-level boxes of an MP4."""
    names, position = [], 0
    while position < len(data):
        names.append(data[position + 4 : position + 8].decode())
        position += int.from_bytes(data[position : position + 4], "big")
    return names


def test_timestamps_run_on_across_segments():
    encoder = SegmentEncoder(48, 32, FPS, scale=4)
    segments = [encoder.encode(noise_frames(count, seed=count)) for count in (9, 12, 12, 9, 1)]
    times = [frame.time for segment in segments for frame in decode(segment.data)]
    assert times == pytest.approx([n / FPS for n in range(43)], abs=1e-4)
    assert [segment.num_frames for segment in segments] == [9, 12, 12, 9, 1]
    assert sum(segment.duration for segment in segments) == pytest.approx(43 / FPS)


def test_a_segment_is_h264_that_opens_with_its_only_key_frame_and_needs_no_reordering():
    encoder = SegmentEncoder(48, 32, FPS, scale=16)
    encoder.encode(noise_frames(9))
    with av.open(io.BytesIO(encoder.encode(noise_frames(12, seed=1)).data)) as container:
        context = container.streams.video[0].codec_context
        packets = [packet for packet in container.demux(video=0) if packet.size]
        assert (context.name, context.pix_fmt, context.width, context.height) == ("h264", "yuv420p", 768, 512)
        assert [packet.is_keyframe for packet in packets] == [True] + [False] * 11
        assert all(packet.pts == packet.dts for packet in packets)


def test_segments_joined_byte_for_byte_play_as_one_stream():
    encoder = SegmentEncoder(48, 32, FPS, scale=2)
    levels = [20, 60, 100, 140, 180, 220]
    joined = b"".join(encoder.encode(flat_frames([a, b])).data for a, b in zip(levels[::2], levels[1::2], strict=True))
    assert levels_of(decode(joined)) == pytest.approx(levels, abs=2)


@pytest.mark.parametrize("scale", [1, 3, 16])
def test_every_pixel_becomes_a_flat_square_of_its_own_colour(scale: int):
    height, width = 32, 48
    # squares of 2x2 pixels at scale 1, where yuv420p cannot hold single ones
    size = 2 if scale % 2 else 1
    colours = np.random.default_rng(3).integers(0, 256, (height // size, width // size, 3), dtype=np.uint8)
    frame = colours.repeat(size, 0).repeat(size, 1)
    (shown,) = decode(SegmentEncoder(width, height, FPS, scale).encode(frame[None]).data)
    shown = shown.to_ndarray(format="rgb24").astype(int)
    assert shown.shape == (height * scale, width * scale, 3)
    wanted = frame.repeat(scale, 0).repeat(scale, 1).astype(int)
    assert np.abs(shown - wanted).mean() < 6
    if scale == 16:  # flat inside a square, a hard edge between two
        squares = shown.reshape(height, scale, width, scale, 3)
        assert squares.std((1, 3)).mean() < 3


def test_colours_survive_with_a_tagged_colour_space():
    frame = np.zeros((32, 48, 3), np.uint8)
    frame[:, :16], frame[:, 16:32], frame[:, 32:] = (220, 30, 30), (30, 200, 60), (40, 60, 230)
    (shown,) = decode(SegmentEncoder(48, 32, FPS, 8).encode(frame[None]).data)
    assert shown.colorspace == 1  # BT.709, so that no player has to guess from the height
    pixels = shown.to_ndarray(format="rgb24").astype(int)
    for column, colour in ((64, (220, 30, 30)), (192, (30, 200, 60)), (320, (40, 60, 230))):
        assert np.abs(pixels[128, column] - colour).max() <= 6


def test_enlargement_is_whole_and_keeps_full_size_pictures():
    assert enlargement(48, 32) == 16
    assert enlargement(32, 32) == 16
    assert enlargement(832, 480) == 1
    assert enlargement(1280, 720) == 1


def test_odd_sizes_are_refused_in_one_sentence():
    with pytest.raises(UserError, match="33x32"):
        SegmentEncoder(33, 32, FPS, 1)


def test_film_holds_every_frame_once_in_order_with_chapters(tmp_path: Path):
    encoder = SegmentEncoder(48, 32, FPS, 4)
    first = [encoder.encode(flat_frames(list(range(20, 110, 10)))).data, encoder.encode(flat_frames([110] * 12)).data]
    encoder.encode(flat_frames([0] * 5))  # footage that was thrown away: its place in the stream must not show
    second = [encoder.encode(flat_frames([150, 170, 190])).data]
    captions = ["A red ball jumps.", 'Weiß & "quoted" <b>é</b>']
    path = tmp_path / "film.mp4"
    shots = [FilmShot(captions[0], first), FilmShot("never made", []), FilmShot(captions[1], iter(second))]
    assert write_film(path, shots, FPS) == 24
    frames = decode(path)
    assert levels_of(frames) == pytest.approx(list(range(20, 110, 10)) + [110] * 12 + [150, 170, 190], abs=2)
    assert [frame.time for frame in frames] == pytest.approx([n / FPS for n in range(24)], abs=1e-6)
    with av.open(str(path)) as container:
        chapters = container.chapters()
        assert float(container.streams.video[0].average_rate) == FPS
        assert container.streams.video[0].frames == 24
    assert [chapter["metadata"]["title"] for chapter in chapters] == captions
    bounds = [(float(c["start"] * c["time_base"]), float(c["end"] * c["time_base"])) for c in chapters]
    assert bounds == [pytest.approx((0, 21 / FPS), abs=1e-3), pytest.approx((21 / FPS, 24 / FPS), abs=1e-3)]
    names = boxes(path.read_bytes())
    assert names.index("moov") < names.index("mdat")  # plays before it is fully downloaded
    assert os.listdir(tmp_path) == ["film.mp4"]


def test_film_replaces_an_older_one_and_an_empty_film_leaves_it(tmp_path: Path):
    path = tmp_path / "film.mp4"
    encoder = SegmentEncoder(48, 32, FPS)
    write_film(path, [FilmShot("one", [encoder.encode(noise_frames(3)).data])], FPS)
    write_film(path, [FilmShot("two", [encoder.encode(noise_frames(5)).data])], FPS)
    assert len(decode(path)) == 5
    with pytest.raises(UserError, match="no film yet"):
        write_film(path, [FilmShot("three", [])], FPS)
    assert len(decode(path)) == 5


@pytest.mark.parametrize("place", ["missing/film.mp4", "file/film.mp4", "folder"])
def test_unwritable_film_is_one_sentence_and_leaves_nothing_behind(tmp_path: Path, place: str):
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "folder").mkdir()
    shot = FilmShot("one", [SegmentEncoder(48, 32, FPS).encode(noise_frames(3)).data])
    with pytest.raises(UserError, match="Cannot write"):
        write_film(tmp_path / place, [shot], FPS)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_full_disk_is_one_sentence(tmp_path: Path):
    resource = pytest.importorskip("resource", reason="limits on file sizes are a Unix matter")
    segments = [SegmentEncoder(48, 32, FPS, 16).encode(noise_frames(12)).data for _ in range(4)]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write past the limit fails instead of killing us
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(UserError, match="Cannot write"):
            write_film(tmp_path / "film.mp4", [FilmShot("one", segments)], FPS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert os.listdir(tmp_path) == []


def test_png_keeps_every_pixel():
    frame = noise_frames(1)[0]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_png(frame)))), frame)


@pytest.mark.parametrize(("height", "width", "size"), [(32, 48, (48, 32)), (480, 832, (208, 120)), (4000, 2, (1, 120))])
def test_a_still_is_small_and_never_enlarged(height: int, width: int, size: tuple[int, int]):
    assert Image.open(io.BytesIO(still(noise_frames(1, height, width)[0]))).size == size

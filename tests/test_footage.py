"""What a film in the making leaves on the disk, above all when something goes wrong."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from shotstream.errors import UserError
from shotstream.footage import Footage, FrameFolder
from shotstream.media import SegmentEncoder


def add_shots(footage: Footage, lengths: list[int]) -> None:
    encoder = SegmentEncoder(48, 32, 16)
    for number, length in enumerate(lengths):
        footage.begin_shot(f"shot {number}")
        for start in range(0, length, 3):
            frames = np.full((min(3, length - start), 32, 48, 3), 40 * number, np.uint8)
            footage.add(encoder.encode(frames))


def count_frames(path: Path) -> int:
    with av.open(path) as film:
        return sum(1 for _ in film.decode(video=0))


def test_finished_film_leaves_nothing_else(tmp_path):
    with Footage(tmp_path / "film.mp4") as footage:
        add_shots(footage, [5, 7])
        footage.finish(16)
    assert [file.name for file in tmp_path.iterdir()] == ["film.mp4"]
    with av.open(tmp_path / "film.mp4") as film:
        assert [chapter["metadata"]["title"] for chapter in film.chapters()] == ["shot 0", "shot 1"]
    assert count_frames(tmp_path / "film.mp4") == 12


def test_keep_saves_unfinished_shots_too(tmp_path):
    with Footage(tmp_path / "film.mp4") as footage:
        add_shots(footage, [5, 3])
        footage.begin_shot("never came")
        assert footage.keep(16) == f"The film so far (8 frames) is in {tmp_path / 'film.mp4'}."
    assert count_frames(tmp_path / "film.mp4") == 8


def test_stream_is_kept_if_the_film_cannot_be_written(tmp_path):
    output = tmp_path / "film.mp4"
    with Footage(output) as footage:
        add_shots(footage, [6])
        output.mkdir()
        sentence = footage.keep(16)
    [stream] = tmp_path.glob("*.ts")
    assert str(stream) in sentence
    assert count_frames(stream) == 6


def test_a_kept_stream_ends_with_a_whole_segment(tmp_path):
    """What a full disk took only half of is not in it."""
    output = tmp_path / "film.mp4"
    with Footage(output) as footage:
        add_shots(footage, [6])
        [stream] = tmp_path.glob("*.ts")
        whole = stream.read_bytes()
        stream.write_bytes(whole + whole[: len(whole) // 2])
        output.mkdir()
        assert "(6 frames)" in footage.keep(16)
    assert stream.read_bytes() == whole


def test_nothing_made_leaves_nothing_and_an_older_film_alone(tmp_path):
    (tmp_path / "film.mp4").write_bytes(b"older")
    with pytest.raises(RuntimeError), Footage(tmp_path / "film.mp4") as footage:
        assert footage.keep(16) == "No film was made."
        raise RuntimeError
    assert (tmp_path / "film.mp4").read_bytes() == b"older"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", ["none/film.mp4", "film.avi", "film", "folder.mp4", "x" * 300 + ".mp4"])
def test_output_that_cannot_be_is_told_at_the_start(tmp_path, name):
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(UserError, match="Cannot write"):
        Footage(tmp_path / name)


def test_a_device_is_never_replaced_by_a_film(tmp_path):
    (tmp_path / "null.mp4").symlink_to("/dev/null")
    with pytest.raises(UserError, match="something else"):
        Footage(tmp_path / "null.mp4")


def test_frames_are_numbered_through_the_film(tmp_path):
    folder = FrameFolder(tmp_path / "new" / "frames")
    folder.add(np.zeros((2, 4, 6, 3), np.uint8))
    folder.add(np.zeros((1, 4, 6, 3), np.uint8))
    assert sorted(p.name for p in folder.folder.iterdir()) == ["frame00000.png", "frame00001.png", "frame00002.png"]
    with pytest.raises(UserError, match="not empty"):
        FrameFolder(tmp_path / "new" / "frames")

"""Segments must play on their own and in a row; a film must hold every frame, in order, with its chapters."""

from __future__ import annotations

import io
import os
import random
import signal
import sys
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from complaints import refusal
from PIL import Image

from shotstream.errors import UserError
from shotstream.film_file import FilmShot, storyboard, webvtt, write_film
from shotstream.media import SegmentEncoder, dissolve, encode_png, enlargement, still
from shotstream.note import MAX_NOTE_BYTES, FilmNote, ShotNote, Steer
from shotstream.provenance import read_note

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


CAPTIONS = ("A red ball jumps.", 'Weiß {\\b1}\\N "☀" --> <i>& co</i>')
NOTE = FilmNote(
    "toy <world>",
    FPS,
    48,
    32,
    (
        ShotNote(CAPTIONS[0], "The story of Pip & co. ", 3, 2, (Steer(1, "Surprised ☀."),)),
        ShotNote(CAPTIONS[1], "The story of Pip & co. ", 4, 1, dissolve=True, picks=((0, 0),) * 6),
    ),
)


def two_shots(scale: int = 4) -> list[FilmShot]:
    """21 and 3 frames, those of the first in two segments."""
    encoder = SegmentEncoder(48, 32, FPS, scale)
    segments = [encoder.encode(flat_frames(levels)).data for levels in ([40] * 9, [120] * 12, [200] * 3)]
    return [FilmShot(CAPTIONS[0], segments[:2]), FilmShot(CAPTIONS[1], segments[2:])]


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """A film file with a note."""
    path = tmp_path / "film.mp4"
    assert write_film(path, two_shots(), FPS, NOTE) == 24
    return path


def subtitles(path: Path) -> list[tuple[float, float, str]]:
    """Start and end in seconds and text of every cue that shows anything."""
    with av.open(str(path)) as container:
        (stream,) = container.streams.subtitles
        assert stream.codec_context.name == "mov_text"
        found = []
        for packet in container.demux(stream):
            data = bytes(packet)
            if len(data) > 2:
                assert int.from_bytes(data[:2], "big") == len(data) - 2
                start = packet.pts * stream.time_base
                found.append((float(start), float(start + packet.duration * stream.time_base), data[2:].decode()))
        return found


@pytest.mark.parametrize("note", [None, NOTE])
def test_captions_are_a_subtitle_track(tmp_path: Path, note: FilmNote | None):
    path = tmp_path / "film.mp4"
    write_film(path, two_shots(), FPS, note)
    assert subtitles(path) == [(0, 21 / FPS, CAPTIONS[0]), (21 / FPS, 24 / FPS, CAPTIONS[1])]
    steered = replace(two_shots()[0], steers=(Steer(1, "It waits."), Steer(5, "Never seen.")))
    write_film(path, [steered, two_shots()[1]], FPS, note)
    told = [(0, 9 / FPS, CAPTIONS[0]), (9 / FPS, 21 / FPS, "It waits."), (21 / FPS, 24 / FPS, CAPTIONS[1])]
    assert subtitles(path) == told
    with av.open(str(path)) as container:
        assert [chapter["metadata"]["title"] for chapter in container.chapters()] == list(CAPTIONS)
    write_film(path, two_shots(), FPS, note)
    with av.open(str(path)) as container:  # as a player reads them
        shown = [words.dialogue.decode() for words in container.decode(subtitles=0)]
    assert CAPTIONS[0] in shown
    assert levels_of(decode(path)) == pytest.approx([40] * 9 + [120] * 12 + [200] * 3, abs=2)


def test_captions_longer_than_a_text_in_an_mp4_are_cut_between_characters(tmp_path: Path):
    path = tmp_path / "film.mp4"
    shots = [FilmShot("x" + "🎬" * 20_000, shot.segments) for shot in two_shots()]
    write_film(path, shots, FPS)
    for _, _, text in subtitles(path):
        assert text == "x" + "🎬" * ((65_535 - 1) // 4)
    with av.open(str(path)) as container:
        assert [chapter["metadata"]["title"][:2] for chapter in container.chapters()] == ["x🎬"] * 2


def test_a_film_with_a_note_says_how_it_was_made(film: Path):
    assert read_note(film) == NOTE
    with av.open(str(film)) as container:
        assert container.metadata["title"] == "The story of Pip & co."
        assert "AI-made" in container.metadata["comment"] and "toy <world>" in container.metadata["comment"]
        assert [chapter["metadata"]["title"] for chapter in container.chapters()] == list(CAPTIONS)
    data = film.read_bytes()
    names = boxes(data)
    assert names.index("moov") < names.index("mdat") and names[-1] == "uuid"
    packet = data[data.index(b"<?xpacket begin") :].decode()
    assert "newscodes/digitalsourcetype/trainedAlgorithmicMedia" in packet and "toy &lt;world&gt;" in packet
    assert os.listdir(film.parent) == ["film.mp4"]


def test_a_film_with_a_note_has_a_poster_from_its_first_shot(film: Path):
    with av.open(str(film)) as container:
        video, poster = container.streams.video
        assert video.codec_context.name == "h264" and poster.disposition & Disposition.attached_pic
        (packet,) = (packet for packet in container.demux(poster) if packet.size)
        picture = Image.open(io.BytesIO(bytes(packet)))
    assert picture.format == "JPEG" and picture.size == (192, 128)
    assert np.asarray(picture).mean() == pytest.approx(120, abs=3)  # the middle one of 21


def test_a_film_without_a_note_says_nothing(tmp_path: Path):
    path = tmp_path / "film.mp4"
    write_film(path, two_shots(), FPS)
    with av.open(str(path)) as container:
        assert "comment" not in container.metadata and len(container.streams.video) == 1
    assert "holds no note" in refusal(read_note, path)


def test_a_note_survives_remuxing(film: Path):
    again = film.with_name("again.mp4")
    with av.open(str(film)) as source, av.open(str(again), "w") as target:
        target.metadata.update(source.metadata)
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    assert read_note(again) == NOTE


def test_a_long_film_has_a_long_note(tmp_path: Path):
    path = tmp_path / "film.mp4"
    note = FilmNote("m", FPS, 48, 32, tuple(ShotNote("☀" * 5000, "g", seed, 1) for seed in range(200)))
    write_film(path, two_shots(), FPS, note)
    assert path.stat().st_size > 6_000_000 and read_note(path) == note


def test_without_the_packages_for_signing_the_same_note_gives_the_same_bytes(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "c2pa", None)  # importing it now fails
    for name in ("one.mp4", "two.mp4"):
        write_film(tmp_path / name, two_shots(), FPS, NOTE)
    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "two.mp4").read_bytes()
    assert boxes((tmp_path / "one.mp4").read_bytes()).count("uuid") == 1
    assert read_note(tmp_path / "one.mp4") == NOTE


def test_a_signed_film_can_be_checked(film: Path):
    c2pa = pytest.importorskip("c2pa", reason="needs the extra c2pa")
    with c2pa.Reader(str(film)) as reader:
        assert reader.get_validation_state() == "Valid"  # not "Trusted": nobody vouches for the signer
        manifest = reader.get_active_manifest()
    assertions = {assertion["label"]: assertion["data"] for assertion in manifest["assertions"]}
    (action,) = assertions["c2pa.actions.v2"]["actions"]
    assert action["action"] == "c2pa.created" and action["digitalSourceType"].endswith("trainedAlgorithmicMedia")
    assert FilmNote.from_json(assertions["org.shotstream.note"]["note"]) == NOTE
    assert levels_of(decode(film)) == pytest.approx([40] * 9 + [120] * 12 + [200] * 3, abs=2)

    data = bytearray(film.read_bytes())
    data[data.index(b"mdat") + 100] ^= 1
    film.write_bytes(data)
    with c2pa.Reader(str(film)) as reader:
        assert reader.get_validation_state() == "Invalid"


def box(name: bytes, *contents: bytes) -> bytes:
    inside = b"".join(contents)
    return (8 + len(inside)).to_bytes(4, "big") + name + inside


def tagged(note: bytes) -> bytes:
    """The least of an MP4 that holds a note."""
    tag = box(b"ilst", box(b"ldes", box(b"data", bytes(8), note)))
    return box(b"moov", box(b"trak"), box(b"udta", box(b"meta", bytes(4), tag)))


GOOD = NOTE.to_json().encode()
HOSTILE = {
    "empty": b"",
    "text": b"no film at all",
    "zeros": bytes(1000),
    "box of no size": b"\0\0\0\x07free" * 1000,
    "box that ends nowhere": b"\xff\xff\xff\xffmoov",
    "huge box": b"\0\0\0\x01moov" + b"\xff" * 8,
    "large box of no size": b"\0\0\0\x01moov" + bytes(8),
    "many boxes": box(b"free") * 200_000 + tagged(GOOD),
    "nothing in it": box(b"moov"),
    "empty note": tagged(b""),
    "no JSON": tagged(b"A nice film."),
    "note of others": tagged(b'{"format": "other"}'),
    "huge note": tagged(b" " * (MAX_NOTE_BYTES + 1)),
    "note in a track": box(b"moov", box(b"trak", tagged(GOOD))),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_file_without_a_sound_note_is_one_sentence(tmp_path: Path, data: bytes):
    path = tmp_path / "film.mp4"
    path.write_bytes(data)
    assert str(path) in refusal(read_note, path)


def test_what_is_no_file_is_one_sentence(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.mp4")
    for path in (tmp_path, tmp_path / "none.mp4", tmp_path / ("x" * 300), tmp_path / "pipe.mp4", "/dev/zero", "a\0b"):
        assert "Cannot read the film" in refusal(read_note, path)


def test_a_note_is_found_in_boxes_of_any_kind(tmp_path: Path):
    path = tmp_path / "film.mp4"
    large = (1).to_bytes(4, "big") + b"free" + (24).to_bytes(8, "big") + bytes(8)
    last = bytearray(tagged(GOOD))
    last[:4] = bytes(4)  # up to the end of the file
    path.write_bytes(box(b"ftyp") + large + last)
    assert read_note(path) == NOTE


def test_damaged_films_have_the_note_or_none(film: Path):
    """Cut anywhere, and with any bytes flipped: never anything but a note or a sentence."""
    whole = film.read_bytes()
    rng = random.Random(5)
    found = 0
    for _ in range(400):
        data = bytearray(whole[: rng.randrange(len(whole))] if rng.random() < 0.3 else whole)
        for _ in range(rng.randrange(1, 200)):
            if data:
                data[rng.randrange(min(len(data), 8000))] = rng.randrange(256)
        film.write_bytes(data)
        try:
            found += isinstance(read_note(film), FilmNote)
        except UserError as error:
            assert str(film) in str(error)
    assert found < 400


def test_webvtt_is_timed_by_frames_and_holds_no_markup():
    shots = [*two_shots(), FilmShot("never made", []), *two_shots()]
    shots[0] = replace(shots[0], steers=(Steer(1, "It waits."),))
    shots[3] = FilmShot("Two\n\nlines\u2028and\x00 more", shots[3].segments)
    assert webvtt(shots, FPS) == (
        "WEBVTT\n\n"
        "1\n00:00:00.000 --> 00:00:00.563\nA red ball jumps.\n\n"
        "2\n00:00:00.563 --> 00:00:01.313\nIt waits.\n\n"
        '3\n00:00:01.313 --> 00:00:01.500\nWeiß {\\b1}\\N "☀" --&gt; &lt;i&gt;&amp; co&lt;/i&gt;\n\n'
        "4\n00:00:01.500 --> 00:00:02.813\nTwo lines and\ufffd more\n\n"
        '5\n00:00:02.813 --> 00:00:03.000\nWeiß {\\b1}\\N "☀" --&gt; &lt;i&gt;&amp; co&lt;/i&gt;\n'
    )


def test_storyboard_shows_the_middle_of_every_shot():
    sheet = np.asarray(Image.open(io.BytesIO(storyboard([*two_shots(), FilmShot("never made", [])]))).convert("L"))
    flat = [level for level, count in zip(*np.unique(sheet, return_counts=True), strict=True) if count > 50_000]
    assert len(flat) == 3  # the background and two pictures
    assert flat[1:] == pytest.approx([120, 200], abs=2)
    assert storyboard(two_shots()) != storyboard([replace(two_shots()[0], steers=(Steer(1, "x"),)), two_shots()[1]])
    assert replace(two_shots()[0], steers=(Steer(1, "It waits."),)).told == f"{CAPTIONS[0]} … then: It waits."
    assert "no film yet" in refusal(storyboard, [FilmShot("never made", [])])


def test_dissolve_fades_evenly_from_the_last_picture_whatever_the_chunks():
    last, frames = flat_frames([90])[0], flat_frames([180] * 12)
    faded = dissolve(last, frames)
    assert faded[:, 0, 0, 0].tolist() == [100, 110, 120, 130, 140, 150, 160, 170] + [180] * 4
    assert frames.min() == 180  # what was given stays
    pieces = [dissolve(last, frames[start : start + 5], start) for start in (0, 5, 10)]
    assert np.array_equal(np.concatenate(pieces), faded)
    assert np.array_equal(dissolve(last, frames, 0, 0), frames)
    assert np.array_equal(dissolve(last, frames[:0]), frames[:0])
    noise = noise_frames(20)
    assert np.array_equal(dissolve(noise[0], noise[:1].repeat(12, 0), length=300), noise[:1].repeat(12, 0))
    assert dissolve(noise[0], noise, 3, 20).dtype == np.uint8

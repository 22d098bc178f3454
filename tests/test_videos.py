"""A folder of annotated videos as training data: the right frames, the right numbers, a cache that is never wrong.

Most videos here show their own frame number as black and white stripes, so that a frame taken in place of another is
seen at once, in pixels as in latents.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan

from shotstream.context import sample_context
from shotstream.errors import UserError
from shotstream.models.pixel_autoencoder import PixelAutoencoder
from shotstream.models.vae import VAE, WanVAE
from shotstream.training.annotations import AnnotatedShot, AnnotatedStory, read_annotations
from shotstream.training.data import StoryLatents
from shotstream.training.decoding import plan_shots, read_clock, read_shots
from shotstream.training.videos import encode_videos, write_sample

BITS, HEIGHT, WIDTH = 8, 32, 64
SIZE = {"height": HEIGHT, "width": WIDTH, "fps": 16, "max_chunks": 3}
RANGES = ((3, 24), (24, 50), (55, 64), (64, 97), (97, 118))
LENGTHS = [21, 21, 9, 33, 21]  # of whole chunks


def striped(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    bits = np.array([number >> bit & 1 for bit in range(BITS)], dtype=np.uint8) * 255
    return np.broadcast_to(bits.repeat(width // BITS)[None, :, None], (height, width, 3)).copy()


def numbers(pictures: np.ndarray) -> list[int]:
    """[t, H, W, 3] -> the number that each picture shows."""
    t, height, width, _ = pictures.shape
    stripes = pictures.mean(-1).reshape(t, height, BITS, width // BITS).mean((1, 3))
    return [sum(1 << bit for bit in range(BITS) if stripe[bit] > 127) for stripe in stripes]


def write_video(
    path: Path,
    pictures: Sequence[np.ndarray],
    times: Sequence[Fraction | float] | None = None,
    codec: str = "libx264",
    fps: int = 16,
    pixel_aspect: Fraction | None = None,
) -> None:
    """With the encoder's default B-frames, unless it has none."""
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = time_base = Fraction(1, fps if times is None else 48_000)
        if pixel_aspect:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.time_base = time_base
            frame.pts = index if times is None else round(times[index] * 48_000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def story_of(path: Path, *ranges: tuple[int, int]) -> AnnotatedStory:
    shots = (AnnotatedShot(f"Shot {i + 1}", start, end, "it") for i, (start, end) in enumerate(ranges))
    return AnnotatedStory(path.name, path, "", tuple(shots))


def shown(story: AnnotatedStory, fps: int = 16, max_chunks: int = 9) -> list[list[int]]:
    """The frame numbers that can be seen in every shot as training would have it."""
    plan = plan_shots(story, read_clock(story), fps, max_chunks)
    return [numbers(pictures) for pictures in read_shots(story, plan, HEIGHT, WIDTH)]


@pytest.fixture(scope="module")
def pixel() -> PixelAutoencoder:
    torch.manual_seed(0)
    return PixelAutoencoder(encoder_dim=16, encoder_blocks=1, decoder_dim=16, decoder_blocks=1, detail_dim=8).eval()


@pytest.fixture(scope="module")
def wan() -> WanVAE:
    torch.manual_seed(0)
    module = AutoencoderKLWan(
        base_dim=8,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=torch.linspace(-1, 1, 16).tolist(),
        latents_std=torch.linspace(0.5, 3, 16).tolist(),
    )
    return WanVAE(module.eval())


@pytest.fixture(params=["pixel", "wan"])
def vae(request) -> VAE:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "videos"
    (folder / "more").mkdir(parents=True)
    write_video(folder / "clip.mp4", [striped(n) for n in range(120)])
    write_video(folder / "more" / "other.mkv", [striped(n) for n in range(100, 130)])
    shots = [{"start": start, "end": end, "caption": f"number {i}"} for i, (start, end) in enumerate(RANGES)]
    annotate(
        folder,
        [
            {"video": "clip.mp4", "global_caption": "Numbers. ", "shots": shots},
            {"video": "more/other.mkv", "global_caption": "", "shots": [{"start": 0, "end": 30, "caption": "more"}]},
        ],
    )
    return folder


@pytest.fixture
def folder(made_once: Path, tmp_path: Path) -> Path:
    """Two videos of numbered frames, the first with five shots; a test may change them."""
    return shutil.copytree(made_once, tmp_path / "videos")


def annotate(folder: Path, stories: object) -> None:
    (folder / "annotations.json").write_text(json.dumps(stories))


def edit(folder: Path, **changes: object) -> None:
    """Change keys of the first story."""
    stories = json.loads((folder / "annotations.json").read_text())
    stories[0] |= changes
    annotate(folder, stories)


def encode(folder: Path, vae: VAE, **changes: object) -> StoryLatents:
    return encode_videos(folder, vae, cache=folder.parent / "cache", progress=False, **SIZE | changes)


def assert_equal(a: StoryLatents, b: StoryLatents) -> None:
    assert torch.equal(a.latents, b.latents) and torch.equal(a.moving, b.moving) and a.stories == b.stories


@torch.no_grad()
def test_latents_are_those_of_the_annotated_frames(folder, vae):
    data = encode(folder, vae)
    assert data.latents.dtype == torch.float16 and data.latents.isfinite().all()
    assert data.moving.shape == data.latents[:, 0].shape and not data.moving.any()
    assert [len(story) for story in data.stories] == [5, 1]

    def truth(first: int, count: int) -> torch.Tensor:
        frames = np.stack([striped(n) for n in range(first, first + count)])
        return torch.from_numpy(frames).permute(0, 3, 1, 2) / 127.5 - 1

    def whole(frames: torch.Tensor) -> torch.Tensor:
        if vae.spatial_factor == 4:
            return vae.encode_shot(frames)
        raw = vae.module.encode(frames.transpose(0, 1)[None]).latent_dist.mode()[0]
        return ((raw - vae._mean[:, None]) / vae._std[:, None]).transpose(0, 1)

    def same(got: torch.Tensor, expected: torch.Tensor) -> None:
        error, spread = (got.float() - expected).square().mean().sqrt(), expected.std(0).mean()
        assert got.shape == expected.shape and error < 0.1 * spread

    for index, shot in enumerate(data.stories[0]):
        assert shot.caption == f"Numbers. shot{index}:number {index}"
        assert len(shot.latents) == 3 * (1 + (LENGTHS[index] - 9) // 12)
        same(data.latents[shot.latents], whole(truth(RANGES[index][0], LENGTHS[index])))
        if index == 0:
            assert not shot.context and not shot.context_shots
            continue
        picks = sample_context(LENGTHS[:index])
        assert shot.context_shots == [earlier for earlier, _ in picks] and len(picks) == 6
        frames = torch.cat([truth(RANGES[earlier][0] + offset, 1) for earlier, offset in picks])
        same(data.latents[shot.context], vae.encode_frames(frames))
    (other,) = data.stories[1]
    assert other.caption == "shot0:more" and not other.context
    same(data.latents[other.latents], whole(truth(100, 21)))


def test_a_sample_of_the_format_is_the_toy_world(tmp_path, pixel):
    write_sample(tmp_path / "sample", stories=2, seed=1)
    write_sample(tmp_path / "again", stories=2, seed=1)
    stories = json.loads((tmp_path / "sample" / "annotations.json").read_text())
    assert stories == json.loads((tmp_path / "again" / "annotations.json").read_text())
    assert len(stories) == 2
    data = encode_videos(tmp_path / "sample", pixel, cache=tmp_path / "cache", **SIZE, progress=False)
    for story, encoded in zip(stories, data.stories, strict=True):
        for index, (shot, latents) in enumerate(zip(story["shots"], encoded, strict=True)):
            assert latents.caption == f"{story['global_caption']}shot{index}:{shot['caption']}"
            assert len(latents.latents) == (shot["end"] - shot["start"] + 3) / 4
    data.save(tmp_path / "saved")
    assert_equal(StoryLatents.load(tmp_path / "saved"), data)
    with pytest.raises(UserError, match="not empty"):
        write_sample(tmp_path / "sample", stories=1, seed=1)


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.ts", "libx264"), ("a.avi", "libx264"), ("a.avi", "mpeg4"),
     ("a.webm", "libvpx-vp9"), ("a.h264", "libx264")],
)  # fmt: skip
def test_frames_are_counted_as_they_are_shown(tmp_path, name, codec):
    write_video(tmp_path / name, [striped(n) for n in range(60)], codec=codec)
    fps = 16 if name != "a.h264" else round(read_rate(tmp_path / name))  # a bare stream may not say
    assert shown(story_of(tmp_path / name, (0, 21), (23, 33), (39, 60)), fps) == [
        list(range(21)),
        list(range(23, 32)),
        list(range(39, 60)),
    ]


def read_rate(path: Path) -> float:
    with av.open(path) as container:
        return float(container.streams.video[0].average_rate)


def test_other_frame_rates_are_resampled_by_time(tmp_path):
    write_video(tmp_path / "a.mp4", [striped(n) for n in range(90)], fps=30)
    (first, second) = shown(story_of(tmp_path / "a.mp4", (0, 40), (45, 90)))
    assert first == [k * 30 // 16 for k in range(21)]  # what is on screen k / 16 seconds after the cut
    assert second == [45 + k * 30 // 16 for k in range(21)]
    write_video(tmp_path / "slow.mp4", [striped(n) for n in range(20)], fps=8)
    assert shown(story_of(tmp_path / "slow.mp4", (2, 13))) == [[2 + k // 2 for k in range(21)]]


def test_a_variable_frame_rate_is_resampled_by_time(tmp_path):
    times = [Fraction(k, 16) for k in range(10)]  # at 16 a second, then a still of half a second, then at 32
    times += [times[-1] + Fraction(1, 2) + Fraction(k, 32) for k in range(31)]
    write_video(tmp_path / "a.mp4", [striped(n) for n in range(41)], times)
    (shot,) = shown(story_of(tmp_path / "a.mp4", (0, 40)))
    assert shot == [*range(10), *[9] * 7, *range(10, 40, 2)][: len(shot)]
    assert len(shot) == 21
    (shot,) = shown(story_of(tmp_path / "a.mp4", (5, 12)))  # seven frames, but long enough
    assert shot == [5, 6, 7, 8, 9, 9, 9, 9, 9]


def test_a_shot_is_cut_to_whole_chunks(tmp_path):
    write_video(tmp_path / "a.mp4", [striped(n) for n in range(60)])
    story = story_of(tmp_path / "a.mp4", (0, 9), (9, 29), (29, 60))
    assert [len(shot) for shot in shown(story)] == [9, 9, 21]
    assert [len(shot) for shot in shown(story, max_chunks=1)] == [9, 9, 9]


def test_pictures_fill_the_size_from_their_centre(tmp_path):
    left, middle, right = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    wide = np.zeros((64, 256, 3), dtype=np.uint8)  # twice as wide as wanted: a quarter is lost on either side
    wide[:, :64], wide[:, 64:192], wide[:, 192:] = left, middle, right
    write_video(tmp_path / "wide.mp4", [wide] * 9)
    (plan,) = [[0] * 9]
    (pictures,) = read_shots(story_of(tmp_path / "wide.mp4", (0, 9)), [plan], 32, 64)
    assert pictures.shape == (9, 32, 64, 3) and pictures.dtype == np.uint8
    assert np.abs(pictures.astype(int) - middle)[:, :, 4:-4].max() < 12
    # the same file with pixels twice as high as wide is as wide as wanted: nothing is lost
    write_video(tmp_path / "thin.mp4", [wide] * 9, pixel_aspect=Fraction(1, 2))
    (pictures,) = read_shots(story_of(tmp_path / "thin.mp4", (0, 9)), [plan], 32, 64)
    for columns, colour in ((slice(2, 14), left), (slice(18, 46), middle), (slice(50, 62), right)):
        assert np.abs(pictures[:, :, columns].astype(int) - colour).max() < 12


def test_a_phone_held_upright(tmp_path):
    lying = np.zeros((64, 128, 3), dtype=np.uint8)
    lying[:32, :64] = 255, 0, 0  # the top left, which is the top right once it is turned
    write_video(tmp_path / "a.mp4", [lying] * 9)
    as_it_is, quarter_turn = (
        struct.pack(">9i", a, b, 0, c, d, 0, x << 16, 0, 1 << 30)
        for a, b, c, d, x in ((1 << 16, 0, 0, 1 << 16, 0), (0, 1 << 16, -1 << 16, 0, 64))
    )
    film, track = (tmp_path / "a.mp4").read_bytes().split(b"tkhd")  # the display matrix of the track
    (tmp_path / "a.mp4").write_bytes(film + b"tkhd" + track.replace(as_it_is, quarter_turn, 1))
    (pictures,) = read_shots(story_of(tmp_path / "a.mp4", (0, 9)), [[0] * 9], 128, 64)
    expected = np.zeros((128, 64, 3), dtype=int)
    expected[:64, 32:] = 255, 0, 0
    error = np.abs(pictures[0] - expected)
    assert error[8:56, 8:24].max() < 12 and error[8:56, 40:56].max() < 12 and error[72:].max() < 12


def test_unchanged_videos_are_neither_decoded_nor_encoded_again(folder, pixel):
    data = encode(folder, pixel)
    for video in (folder / "clip.mp4", folder / "more" / "other.mkv"):
        stat = video.stat()
        video.write_bytes(bytes(stat.st_size))  # not a video any more: whoever opens it fails
        os.utime(video, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert_equal(encode(folder, pixel), data)
    story = json.loads((folder / "annotations.json").read_text())[0]
    story["shots"][1]["caption"] = "corrected"
    edit(folder, shots=story["shots"])  # a caption is no reason to encode again, but it counts
    assert encode(folder, pixel).stories[0][1].caption == "Numbers. shot1:corrected"
    os.utime(folder / "more" / "other.mkv")
    with pytest.raises(UserError, match=r"more/other\.mkv cannot be decoded"):
        encode(folder, pixel)


def test_whatever_changes_the_latents_is_encoded_again(folder, pixel):
    data = encode(folder, pixel)
    assert encode(folder, pixel, height=64).latents.shape[2:] == (16, 16)
    assert encode(folder, pixel, fps=30).stories != data.stories
    assert len(encode(folder, pixel, max_chunks=1).stories[0][0].latents) == 3
    trained_anew = PixelAutoencoder(**{k: v for k, v in pixel.config.items() if not k.startswith("_")})
    assert not torch.equal(encode(folder, trained_anew).latents, data.latents)
    assert_equal(encode(folder, pixel), data)
    write_video(folder / "clip.mp4", [striped(n + 1) for n in range(120)])
    changed = encode(folder, pixel)
    assert changed.stories == data.stories and not torch.equal(changed.latents, data.latents)
    edit(folder, shots=[{"start": 0, "end": 33, "caption": "one shot"}])
    assert [len(story) for story in encode(folder, pixel).stories] == [1, 1]


def test_a_damaged_cache_is_made_again(folder, pixel):
    data = encode(folder, pixel)
    for file in (folder.parent / "cache").iterdir():
        file.write_bytes(file.read_bytes()[:-1000])
    assert_equal(encode(folder, pixel), data)


def test_a_killed_run_goes_on_where_it_was(tmp_path, pixel):
    write_video(tmp_path / "clip.mp4", [striped(n) for n in range(64)])
    shots = [{"start": 0, "end": 33, "caption": "a"}, {"start": 33, "end": 64, "caption": "b"}]
    (tmp_path / "videos").mkdir()
    for i in range(16):
        (tmp_path / "videos" / f"{i}.mp4").write_bytes((tmp_path / "clip.mp4").read_bytes())
    annotate(tmp_path / "videos", [{"video": f"{i}.mp4", "global_caption": f"{i}.", "shots": shots} for i in range(16)])
    pixel.save_pretrained(tmp_path / "vae")
    code = f"""
from pathlib import Path
from shotstream.models.pixel_autoencoder import PixelAutoencoder
from shotstream.training.videos import encode_videos
vae = PixelAutoencoder.from_pretrained({str(tmp_path / "vae")!r})
encode_videos(Path({str(tmp_path / "videos")!r}), vae, cache=Path({str(tmp_path / "cache")!r}), **{SIZE!r})
"""
    run = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    while run.poll() is None and not list(tmp_path.glob("cache/*.safetensors")):
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    kept = {file: file.stat().st_mtime_ns for file in tmp_path.glob("cache/*.safetensors")}
    assert kept
    data = encode(tmp_path / "videos", pixel)
    assert {file: file.stat().st_mtime_ns for file in kept} == kept  # used as they are
    assert len(data.stories) == 16
    clean = encode_videos(tmp_path / "videos", pixel, cache=tmp_path / "clean", progress=False, **SIZE)
    assert clean.stories == data.stories
    # another process may compute with another number of threads
    torch.testing.assert_close(clean.latents, data.latents, atol=4e-3, rtol=4e-3)


SHOT = {"start": 0, "end": 20, "caption": "it"}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"shots": [SHOT | {"end": 500}]}, "Shot 1 of clip.mp4 ends at frame 500, but the video has 120 frames"),
        ({"shots": [SHOT, SHOT | {"start": 30, "end": 38}]}, "Shot 2 of clip.mp4 has 8 frames at 16 .* needs 9"),
        ({"shots": [SHOT, SHOT | {"start": 15, "end": 38}]}, "Shot 2 .* starts at frame 15, before Shot 1 .* 20"),
        ({"shots": [SHOT | {"start": 30}]}, "Shot 1 of clip.mp4 goes from frame 30 to 20"),
        ({"shots": [SHOT | {"start": -1}]}, "Shot 1 of clip.mp4 goes from frame -1 to 20"),
        ({"shots": [SHOT | {"start": 0.5}]}, "start of Shot 1 of clip.mp4 is '0.5', which is not a whole number"),
        ({"shots": [SHOT | {"end": True}]}, "end of Shot 1 of clip.mp4 is 'True'"),
        ({"shots": [SHOT, {"start": 30, "end": 50}]}, "Shot 2 of clip.mp4 has no caption"),
        ({"shots": [SHOT | {"caption": " "}]}, "Shot 1 of clip.mp4 has no caption"),
        ({"shots": [SHOT | {"caption": 7}]}, "caption of Shot 1 of clip.mp4 is not text"),
        ({"shots": [{"start": 0, "caption": "it"}]}, 'Shot 1 of clip.mp4 has no "end"'),
        ({"shots": ["it"]}, "Shot 1 of clip.mp4 is not an object"),
        ({"shots": []}, "clip.mp4 has no shots"),
        ({"shots": {}}, "clip.mp4 has no shots"),
        ({"global_caption": None}, "global_caption of clip.mp4 is not text"),
        ({"video": "away.mp4"}, "away.mp4 is not in the folder"),
        ({"video": "more"}, "more is not in the folder"),
        ({"video": "../outside.mp4"}, "outside the folder"),
        ({"video": "link.mp4"}, "outside the folder"),
        ({"video": "/etc/passwd"}, "outside the folder"),
        ({"video": "a\0b"}, "not a file name"),
        ({"video": "x" * 5000}, "not a file name"),
        ({"video": 5}, "Story 1 has no name of a video"),
        ({"video": "noise.mp4"}, "noise.mp4 cannot be decoded"),
        ({"video": "empty.mp4"}, "empty.mp4 cannot be decoded"),
        ({"video": "cut.mp4"}, "cut.mp4 cannot be decoded"),
        ({"video": "sound.wav"}, "sound.wav has no pictures"),
    ],
)
def test_what_is_wrong_with_a_story_is_told_in_one_sentence(folder, pixel, changes, sentence):
    (folder / "empty.mp4").touch()
    (folder / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(10_000))
    (folder / "cut.mp4").write_bytes((folder / "clip.mp4").read_bytes()[:2000])
    write_video(folder.parent / "outside.mp4", [striped(0)] * 9)
    (folder / "link.mp4").symlink_to(folder.parent / "outside.mp4")
    with av.open(folder / "sound.wav", "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), dtype=np.int16), format="s16", layout="mono")
        sound.rate = 8000
        container.mux(stream.encode(sound))
    edit(folder, **changes)
    with pytest.raises(UserError, match=sentence) as error:
        encode(folder, pixel)
    assert "\n" not in str(error.value)
    assert not (folder.parent / "cache").exists()  # told before anything was encoded


def test_pictures_that_cannot_be_decoded_are_told_and_the_rest_is_kept(folder, pixel):
    good = (folder / "annotations.json").read_text()
    data = (folder / "clip.mp4").read_bytes()
    start, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    (folder / "bad.mp4").write_bytes(data[:start] + bytes(end - start) + data[end:])  # an index of pictures of nothing
    story = {"video": "bad.mp4", "global_caption": "", "shots": [{"start": 0, "end": 30, "caption": "bad"}]}
    annotate(folder, [*json.loads(good), story])
    with pytest.raises(UserError, match=r"bad\.mp4 cannot be decoded"):
        encode(folder, pixel)
    kept = {file: file.stat().st_mtime_ns for file in (folder.parent / "cache").iterdir()}
    assert len(kept) == 2
    (folder / "annotations.json").write_text(good)
    assert len(encode(folder, pixel).stories) == 2
    assert {file: file.stat().st_mtime_ns for file in (folder.parent / "cache").iterdir()} == kept


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[{]", "not valid JSON \\(line 1"),
        ("[" * 100_000, "not valid JSON"),
        ("[" + "9" * 10_000 + "]", "not valid JSON"),
        ("{}", "not a list of stories"),
        ("[]", "no stories"),
        ("[5]", "Story 1 is not an object"),
        ('[{"video": "a.mp4", "shots": []}]', 'Story 1 has no "global_caption"'),
    ],
)
def test_json_that_is_none(tmp_path, text, sentence):
    (tmp_path / "annotations.json").write_text(text)
    with pytest.raises(UserError, match=sentence):
        read_annotations(tmp_path)


HEADER = "video,shot,start,end,caption,global_caption\n"


def test_csv_says_the_same_as_json(folder):
    stories = read_annotations(folder)
    rows = [f'more/other.mkv,1,0,30,"more",\n']  # noqa: F541
    lines = [f"clip.mp4,{i},{start},{end},number {i},Numbers. \n" for i, (start, end) in enumerate(RANGES)]
    (folder / "annotations.json").unlink()
    (folder / "annotations.csv").write_text("\ufeff" + HEADER + "".join(lines[::-1] + rows))
    from_csv = read_annotations(folder)
    assert [(s.video, s.path, s.global_caption) for s in from_csv] == [
        (s.video, s.path, s.global_caption) for s in stories
    ]
    for a, b in zip(from_csv, stories, strict=True):
        assert [(s.start, s.end, s.caption) for s in a.shots] == [(s.start, s.end, s.caption) for s in b.shots]


def test_a_row_a_video_with_a_story_file_says_the_same_too(folder):
    """As public sets have it, and with everything that can be wrong in it."""
    stories = read_annotations(folder)
    entries = json.loads((folder / "annotations.json").read_text())
    (folder / "annotations.json").unlink()

    def write(rows: list[list[str]]) -> None:
        with (folder / "annotations.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["json_path", "video_path", "frame_number"], *rows])

    rows = []
    for number, entry in enumerate(entries):
        told = {"global_caption": entry["global_caption"] or "A film."}
        told |= {f"shot{i}": shot["caption"] for i, shot in enumerate(entry["shots"], start=1)}
        (folder / f"{number}.json").write_text(json.dumps(told))
        frames = [[shot["start"], shot["end"]] for shot in entry["shots"]]
        rows.append([f"{number}.json", entry["video"], json.dumps(frames)])
    write(rows)
    found = read_annotations(folder)
    assert [story.path for story in found] == [story.path for story in stories]
    assert [[(s.start, s.end, s.caption) for s in story.shots] for story in found] == [
        [(s.start, s.end, s.caption) for s in story.shots] for story in stories
    ]
    told, video, frames = rows[0]
    for wrong, words in (
        (["../0.json", video, frames], "outside the folder"),
        (["9.json", video, frames], "not in the folder"),
        ([told, video, "[[0]]"], "is not a list like"),
        ([told, video], "is not a list like"),
        ([told, video, "[]"], "but frames of 0"),
    ):
        write([wrong])
        with pytest.raises(UserError, match=words):
            read_annotations(folder)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "no column 'video'"),
        (HEADER, "no stories"),
        (HEADER.replace(",caption", ""), "no column 'caption'"),
        (HEADER + "clip.mp4,1,0\n", "Line 2 has fewer fields"),
        (HEADER + "clip.mp4,1,0,20,a,b,c\n", "Line 2 has more fields"),
        (HEADER + 'clip.mp4,1,0,20,"a"b,c\n', "not valid CSV \\(line 2"),
        (HEADER + "clip.mp4,one,0,20,a,b\n", "shot in line 2 is 'one', which is not a whole number"),
        (HEADER + "clip.mp4,1,0,x,a,b\n", "end of Shot 1 of clip.mp4 is 'x'"),
        (HEADER + "clip.mp4,7,0,20,,b\n", "Shot 7 of clip.mp4 has no caption"),
        (HEADER + "clip.mp4,1,0,20,a,b\nclip.mp4,1,20,40,a,b\n", "clip.mp4 has shot 1 twice"),
        (HEADER + "clip.mp4,1,0,20,a,b\nclip.mp4,2,20,40,a,c\n", "Line 3 gives clip.mp4 another global_caption"),
    ],
)
def test_csv_that_is_none(folder, text, sentence):
    (folder / "annotations.json").unlink()
    (folder / "annotations.csv").write_text(text)
    with pytest.raises(UserError, match=sentence):
        read_annotations(folder)


def test_exactly_one_annotation(folder):
    (folder / "annotations.csv").write_text(HEADER)
    with pytest.raises(UserError, match="both annotations.json and annotations.csv"):
        read_annotations(folder)
    with pytest.raises(UserError, match="has no annotations.json or annotations.csv"):
        read_annotations(folder / "more")
    with pytest.raises(UserError, match="There is no folder"):
        read_annotations(folder / "away")
    (folder / "annotations.csv").unlink()
    (folder / "annotations.json").write_bytes(b"[\xff\xfe]")
    with pytest.raises(UserError, match="not UTF-8"):
        read_annotations(folder)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"height": 33}, "at 64x33: .*multiples of 4"),
        ({"width": 0}, "at 0x32"),
        ({"height": 1 << 20}, "up to 4096"),
        ({"fps": 0}, "with 0 frames a second"),
        ({"max_chunks": -1}, "with -1 chunks a shot"),
    ],
)
def test_absurd_numbers(folder, pixel, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        encode(folder, pixel, **changes)


def test_a_cache_that_cannot_be_written(folder, pixel):
    (folder.parent / "cache").write_text("a file")
    with pytest.raises(UserError, match="Cannot write the latents of the videos to .*cache: File exists"):
        encode(folder, pixel)

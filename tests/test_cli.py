"""The command line as a stranger meets it: real processes and files, exit codes, one sentence for every mistake."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from shotstream.__main__ import COMMANDS, main
from shotstream.arguments import Parser, add_model_arguments
from shotstream.engine import Engine
from shotstream.events import Chunk, ShotDone, ShotRequest
from shotstream.film_file import FilmShot, write_film
from shotstream.media import SegmentEncoder, dissolve, enlargement
from shotstream.memory import Memory
from shotstream.note import FilmNote, ShotNote, Steer
from shotstream.provenance import read_note
from shotstream.story import read_story

STORY = {
    "global_caption": "A red square in a desert at dawn. ",
    "shot1": "It waits <b>here</b>.",
    "shot2": "Close-up ☀.",
}
FRAMES_OF_TWO_CHUNKS = 21  # 1 + 4 * (2 chunks of 3 latent frames - 1)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "shotstream", *map(str, arguments)]


def run(*arguments: object, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=240, **options)


def refused(*arguments: object, **options) -> str:
    """Runs a command that must end with exit code 2 and a single sentence, which it returns."""
    result = run(*arguments, **options)
    assert result.returncode == 2, result.stderr
    return only_sentence(result.stderr)


def only_sentence(errors: str) -> str:
    """The one sentence on the error output, besides the progress bar and notes about cut prompts."""
    lines = [line for line in errors.splitlines() if line.strip() and "%|" not in line]
    lines = [line for line in lines if not line.startswith("Note: ")]
    assert len(lines) == 1 and "Traceback" not in lines[0], errors
    return lines[0]


@pytest.fixture
def story(tmp_path: Path) -> Path:
    path = tmp_path / "story.json"
    path.write_text(json.dumps(STORY), encoding="utf-8")
    return path


def pictures(path: Path) -> tuple[list[Fraction], np.ndarray]:
    """Presentation times in seconds and pixels [t, H, W, 3] of a film."""
    with av.open(path) as film:
        frames = list(film.decode(video=0))
    return [frame.pts * frame.time_base for frame in frames], np.stack([f.to_ndarray(format="rgb24") for f in frames])


@pytest.fixture(scope="module")
def made(random_model_folder: Path, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A folder with film.mp4 and frames/, made by the real command, and what the command said."""
    folder = tmp_path_factory.mktemp("made")
    story = STORY | {"comment": "not ours"}
    (folder / "story.json").write_text(json.dumps(story), encoding="utf-8")
    result = run(
        "film", folder / "story.json", "-o", folder / "film.mp4", "--frames", folder / "frames",
        "--model", random_model_folder, "--chunks", 2, "--seed", 3, "--device", "cpu",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return folder, result


def test_film_plays_everywhere(made):
    folder, _ = made
    with av.open(folder / "film.mp4") as film:
        stream = film.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 16 and stream.frames == 2 * FRAMES_OF_TWO_CHUNKS
        assert not film.streams.audio
    data = (folder / "film.mp4").read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")  # a browser starts before it has the whole file


def test_film_has_every_frame_once_at_its_time(made):
    folder, _ = made
    times, _ = pictures(folder / "film.mp4")
    assert times == [Fraction(number, 16) for number in range(2 * FRAMES_OF_TWO_CHUNKS)]


def test_chapters_are_shots_titled_by_their_captions(made):
    folder, _ = made
    with av.open(folder / "film.mp4") as film:
        chapters = film.chapters()
    cut = Fraction(FRAMES_OF_TWO_CHUNKS, 16)
    assert [chapter["metadata"]["title"] for chapter in chapters] == [STORY["shot1"], STORY["shot2"]]
    # MP4 keeps chapters in milliseconds
    assert [round(c["start"] * c["time_base"] * 1000) for c in chapters] == [0, round(cut * 1000)]
    assert [round(c["end"] * c["time_base"] * 1000) for c in chapters] == [round(cut * 1000), round(2 * cut * 1000)]


def test_frames_are_the_film_at_its_own_size(made, random_model_folder):
    folder, _ = made
    files = sorted((folder / "frames").iterdir())
    assert [file.name for file in files] == [f"frame{i:05}.png" for i in range(2 * FRAMES_OF_TWO_CHUNKS)]
    small = np.stack([np.asarray(Image.open(file)) for file in files]).astype(float)
    _, large = pictures(folder / "film.mp4")
    scale = enlargement(small.shape[2], small.shape[1])
    assert scale > 1 and large.shape == (len(files), small.shape[1] * scale, small.shape[2] * scale, 3)
    # random weights make noise whose colour yuv420p cannot keep exactly, but every picture is its own
    middle = large[:, scale // 2 :: scale, scale // 2 :: scale].astype(float)
    distance = np.abs(middle[:, None] - small[None]).mean(axis=(2, 3, 4))
    assert (distance.argmin(axis=1) == np.arange(len(files))).mean() > 0.9


def test_film_tells_speed_and_what_it_left_out(made):
    _, result = made
    assert re.search(r"42 frames", result.stdout)
    assert re.search(r"[\d.]+ FPS end to end", result.stdout) and "first chunk after" in result.stdout
    assert '"comment"' in result.stderr
    assert "4/4" in result.stderr  # the bar counts chunks


def test_same_seed_same_film(made, random_model_folder, story):
    """Its bytes differ if it is signed: a signature is made anew each time."""
    folder, _ = made
    _, first = pictures(folder / "film.mp4")
    for seed, same in ((3, True), (4, False)):
        output = story.with_name(f"{seed}.mp4")
        options = ["--model", random_model_folder, "--chunks", 2, "--seed", seed, "--device", "cpu"]
        assert main([str(word) for word in ("film", story, "-o", output, *options)]) == 0  # `made` in another process
        assert np.array_equal(pictures(output)[1], first) == same
        assert (read_note(output) == read_note(folder / "film.mp4")) == same
    assert sorted(file.name for file in story.parent.iterdir()) == ["3.mp4", "4.mp4", "story.json"]


def test_a_film_is_made_again_from_its_own_file(made, random_model_folder, tmp_path):
    folder, _ = made
    result = run(
        "film", "--from", folder / "film.mp4", "-o", tmp_path / "again.mp4", "--frames", tmp_path / "frames",
        "--captions", "--storyboard", "--model", random_model_folder, "--device", "cpu",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "was made by" not in result.stderr
    assert np.array_equal(pictures(tmp_path / "again.mp4")[1], pictures(folder / "film.mp4")[1])
    for file in (folder / "frames").iterdir():
        assert file.read_bytes() == (tmp_path / "frames" / file.name).read_bytes()
    note = read_note(tmp_path / "again.mp4")
    assert note == read_note(folder / "film.mp4")
    assert [(shot.caption, shot.seed, shot.num_chunks) for shot in note.shots] == [
        (STORY["shot1"], 3, 2),
        (STORY["shot2"], 4, 2),
    ]
    assert {shot.global_caption for shot in note.shots} == {STORY["global_caption"]}
    captions = (tmp_path / "again.vtt").read_text(encoding="utf-8")
    assert captions.startswith("WEBVTT\n") and "It waits &lt;b&gt;here&lt;/b&gt;." in captions
    assert Image.open(tmp_path / "again.png").size[0] > 700  # two pictures beside each other
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["again.mp4", "again.png", "again.vtt", "frames"]


def film_with(path: Path, note: FilmNote) -> Path:
    """A film file that claims to be made as `note` says."""
    segment = SegmentEncoder(48, 32, 16).encode(np.zeros((9, 32, 48, 3), np.uint8))
    write_film(path, [FilmShot("whatever", [segment.data])], 16, note)
    return path


def in_process(*arguments: object) -> tuple[int, str]:
    """Exit code and error output of a command run in this process."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        code = main([*map(str, arguments), "--device", "cpu"])
    return code, errors.getvalue()


DIRECTED = FilmNote(
    "random",
    16,
    48,
    32,
    (
        ShotNote("A red square waits.", "In a desert. ", 5, 3, (Steer(1, "It turns green."), Steer(2, "It is gone."))),
        ShotNote("It comes back.", "At night. ", 2**62, 2, dissolve=True),
        ShotNote("Close-up.", "", 0, 1, (), True, ((0, 0), (0, 0), (0, 32), (1, 0), (1, 20), (1, 20))),
    ),
)


@pytest.fixture(scope="module")
def directed(random_model, random_model_folder, tmp_path_factory) -> tuple[Path, str]:
    """A folder with film.mp4 and frames/ made from that note, and what was said meanwhile."""
    folder = tmp_path_factory.mktemp("directed")
    source = film_with(folder / "source.mp4", replace(DIRECTED, model=random_model.name))
    options = ["-o", folder / "film.mp4", "--frames", folder / "frames", "--model", random_model_folder, "--captions"]
    code, errors = in_process("film", "--from", source, *options)
    assert code == 0, errors
    return folder, errors


def small_pictures(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(file)) for file in sorted(folder.iterdir())])


def test_seeds_lengths_steers_picks_and_dissolves_are_done_again(directed, random_model):
    """Against the engine, asked step by step."""
    folder, errors = directed
    assert "was made by" not in errors
    assert read_note(folder / "film.mp4") == replace(DIRECTED, model=random_model.name)
    told = (folder / "film.vtt").read_text().split("\n\n")[1:]
    assert [cue.split("\n")[2] for cue in told] == [
        *("A red square waits.", "It turns green.", "It is gone."),
        *("It comes back.", "Close-up."),
    ]
    assert told[1].startswith("2\n00:00:00.563 --> 00:00:01.313")

    engine = Engine(random_model)

    def shoot(request: ShotRequest, chunks: int) -> tuple[list[Chunk], Memory | None]:
        """As many chunks, and the memory if the shot is complete."""
        made: list[Chunk] = []
        for event in engine.shoot(request):
            if isinstance(event, ShotDone):
                return made, event.memory
            if isinstance(event, Chunk):
                made.append(event)
                if len(made) == chunks and event.index + 1 < event.num_chunks:
                    break
        return made, None

    told = ShotRequest("In a desert. shot0:A red square waits.", Memory(), 5, 3)
    chunks, _ = shoot(told, 1)
    for caption in ("In a desert. shot0:It turns green.", "In a desert. shot0:It is gone."):
        prefix = torch.cat([chunk.latents for chunk in chunks])
        more, memory = shoot(replace(told, caption=caption, prefix=prefix), 1)
        chunks += more
    first = np.concatenate([chunk.frames for chunk in chunks])
    chunks, memory = shoot(ShotRequest("At night. shot1:It comes back.", memory, 2**62, 2), 2)
    second = dissolve(first[-1], np.concatenate([chunk.frames for chunk in chunks]))
    chunks, _ = shoot(ShotRequest("shot2:Close-up.", memory, 0, 1, picks=DIRECTED.shots[2].picks), 1)
    third = dissolve(second[-1], chunks[0].frames)
    assert np.array_equal(small_pictures(folder / "frames"), np.concatenate([first, second, third]))
    assert len(first) == 33 and len(second) == 21 and len(third) == 9
    untold, _ = shoot(told, 3)  # it does make a difference
    assert not np.array_equal(first[9:], np.concatenate([chunk.frames for chunk in untold])[9:])


def test_a_film_made_again_can_be_made_again(directed, random_model_folder, tmp_path):
    folder, _ = directed
    code, errors = in_process(
        "film", "--from", folder / "film.mp4", "-o", tmp_path / "again.mp4", "--model", random_model_folder
    )
    assert code == 0, errors
    assert np.array_equal(pictures(tmp_path / "again.mp4")[1], pictures(folder / "film.mp4")[1])
    assert read_note(tmp_path / "again.mp4") == read_note(folder / "film.mp4")


def test_a_story_steers_and_goes_on_as_it_is_chosen(random_model_folder, tmp_path):
    story = STORY | {"shot2_then": "It is gone.", "choices": {"Go left": ["Left."], "Go right": ["Right."]}}
    (tmp_path / "story.json").write_text(json.dumps(story), encoding="utf-8")
    options = ["--model", random_model_folder, "-o"]
    code, errors = in_process("film", tmp_path / "story.json", "--chunks", 1, *options, tmp_path / "one.mp4")
    assert code == 0 and '"Go left" or "Go right". Shoot one of them with --choose.' in errors
    assert [(shot.caption, shot.steers) for shot in read_note(tmp_path / "one.mp4").shots][1:] == [(STORY["shot2"], ())]

    chosen = ["--choose", "Go right", *options, tmp_path / "two.mp4", "--frames", tmp_path / "frames"]
    code, errors = in_process("film", tmp_path / "story.json", *chosen)
    assert code == 0 and "--choose" not in errors
    note = read_note(tmp_path / "two.mp4")
    assert [shot.caption for shot in note.shots] == [STORY["shot1"], STORY["shot2"], "Right."]
    assert (note.shots[1].num_chunks, note.shots[1].steers) == (6, (Steer(3, "It is gone."),))
    again = ["--from", tmp_path / "two.mp4", *options, tmp_path / "again.mp4", "--frames", tmp_path / "same"]
    assert in_process("film", *again)[0] == 0
    assert np.array_equal(small_pictures(tmp_path / "frames"), small_pictures(tmp_path / "same"))
    code, errors = in_process("film", tmp_path / "story.json", "--choose", "Go up", *options, tmp_path / "no.mp4")
    assert code == 2 and 'no choice "Go up"' in only_sentence(errors)


def test_another_model_is_told(random_model, random_model_folder, tmp_path):
    source = film_with(tmp_path / "film.mp4", replace(DIRECTED, model="other", shots=DIRECTED.shots[1:2]))
    code, errors = in_process("film", "--from", source, "-o", tmp_path / "again.mp4", "--model", random_model_folder)
    assert code == 0, errors
    (told,) = (line for line in errors.splitlines() if "was made by" in line)
    assert told.startswith("Note: ") and "made by other" in told and random_model.name in told
    assert read_note(tmp_path / "again.mp4").model == random_model.name


def test_an_interrupted_film_can_be_made_again_as_far_as_it_came(made, random_model_folder, tmp_path, exhaust_memory):
    """Chunks that are there are those of a shorter shot."""
    folder, _ = made
    options = ["--model", random_model_folder, "-o"]
    exhaust_memory(17)
    code, errors = in_process("film", "--from", folder / "film.mp4", *options, tmp_path / "half.mp4")
    assert code == 2 and "film so far (30 frames)" in errors
    assert [shot.num_chunks for shot in read_note(tmp_path / "half.mp4").shots] == [2, 1]


def test_a_shorter_shot_is_the_beginning_of_a_longer_one(made, random_model_folder, tmp_path):
    folder, _ = made
    half = film_with(tmp_path / "half.mp4", read_note(folder / "film.mp4").so_far([2, 1]))
    options = ["--model", random_model_folder, "--frames", tmp_path / "frames"]
    code, errors = in_process("film", "--from", half, "-o", tmp_path / "again.mp4", *options)
    assert code == 0, errors
    assert np.array_equal(small_pictures(tmp_path / "frames"), small_pictures(folder / "frames")[:30])


def test_films_that_cannot_be_made_again(made, story, tmp_path):
    folder, _ = made
    film = folder / "film.mp4"
    cast = film_with(tmp_path / "cast.mp4", replace(DIRECTED, cast=True))
    plain = tmp_path / "plain.mp4"
    write_film(
        plain, [FilmShot("one", [SegmentEncoder(48, 32, 16).encode(np.zeros((3, 32, 48, 3), np.uint8)).data])], 16
    )
    output = ["-o", tmp_path / "again.mp4"]
    for source, words in (
        (["--from", cast], "cannot be made again"),
        (["--from", plain], "holds no note"),
        (["--from", story], "holds no note"),
        (["--from", tmp_path / "none.mp4"], "none.mp4"),
        (["--from", film, "--seed", 1], "leave out --seed"),
        (["--from", film, "--chunks", 1], "leave out --seed"),
        ([story, "--from", film], "not allowed with"),
        ([], "story --from"),
    ):
        assert words in refused("film", *source, *output)
    assert not (tmp_path / "again.mp4").exists()


def test_notes_that_no_model_can_follow(random_model_folder, tmp_path):
    """They are sound, but ask for too much: told before anything is made."""
    shot = DIRECTED.shots[1]
    for change, words in (
        ({"width": 50}, "multiple of"),
        ({"width": 16_000, "height": 16_000}, "times as large"),
        ({"shots": (replace(shot, num_chunks=1000),)}, "number of chunks"),
    ):
        source = film_with(tmp_path / "film.mp4", replace(DIRECTED, **change))
        code, errors = in_process("film", "--from", source, "-o", tmp_path / "a.mp4", "--model", random_model_folder)
        sentence = only_sentence(errors)
        assert code == 2 and words in sentence, errors
        assert not (tmp_path / "a.mp4").exists()


def test_a_stranger_needs_no_options(tmp_path):
    """README's line: an example story and the shipped model, from anywhere."""
    example = Path(__file__).parents[1] / "assets" / "stories" / "a-star-in-the-desert.json"
    environment = {name: value for name, value in os.environ.items() if name != "SHOTSTREAM_MODEL"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    result = run("film", example, "-o", "film.mp4", "--chunks", 1, cwd=tmp_path, env=environment)
    assert result.returncode == 0, result.stderr
    times, picture = pictures(tmp_path / "film.mp4")
    assert len(times) == 9 * len(read_story(example).shots)
    assert picture.shape[1:] == (512, 768, 3)


def test_long_prompt_is_cut_and_told(random_model_folder, story):
    story.write_text(json.dumps(STORY | {"shot2": "word " * 2000}), encoding="utf-8")
    output = story.with_name("film.mp4")
    result = run("film", story, "-o", output, "--model", random_model_folder, "--chunks", 1, "--device", "cpu")
    assert result.returncode == 0, result.stderr
    used, limit = map(int, re.search(r"shot 2 has (\d+) tokens, of which the first (\d+)", result.stderr).groups())
    assert used > 2000 > limit


def test_interrupt_keeps_the_film_so_far(random_model_folder, story):
    story.write_text(json.dumps(STORY | {f"shot{i}": "It goes on." for i in range(1, 1001)}), encoding="utf-8")
    output = story.with_name("film.mp4")
    film = command("film", story, "-o", output, "--model", random_model_folder, "--chunks", 2, "--device", "cpu")

    def heed_interrupts() -> None:  # a shell's background jobs, and what they start, are made to ignore them
        signal.signal(signal.SIGINT, signal.default_int_handler)

    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL}
    with subprocess.Popen(film, **pipes, preexec_fn=heed_interrupts) as process:
        try:
            told = ""
            while not re.search(r"\D[3-9]/2000", told):  # three chunks are made
                piece = os.read(process.stderr.fileno(), 4096).decode()
                assert piece, told
                told += piece
            process.send_signal(signal.SIGINT)
            rest = process.communicate(timeout=120)[1].decode()
        finally:
            process.kill()
    assert process.returncode == 130
    assert "Traceback" not in rest
    kept = int(re.search(r"film so far \((\d+) frames\)", rest).group(1))
    times, _ = pictures(output)
    assert len(times) == kept >= 30
    assert sorted(file.name for file in story.parent.iterdir()) == ["film.mp4", "story.json"]


def test_lack_of_memory_keeps_the_film_so_far(random_model_folder, story, exhaust_memory):
    """In this process, so that memory can end in the middle of the first shot's second chunk."""
    output = story.with_name("film.mp4")
    exhaust_memory(7)
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        told = ["film", str(story), "-o", str(output), "--model", str(random_model_folder), "--chunks", "2"]
        assert main([*told, "--device", "cpu"]) == 2
    message = only_sentence(errors.getvalue())
    assert "Not enough memory on cpu" in message and "film so far (9 frames)" in message
    times, _ = pictures(output)
    assert len(times) == 9


def test_full_disk_keeps_the_film_so_far(random_model_folder, story):
    """A limit on the size of files stands in for a full disk: writing fails in the middle, with the same OSError."""
    resource = pytest.importorskip("resource", reason="needs Unix limits")
    story.write_text(json.dumps(STORY | {f"shot{i}": "It goes on." for i in range(1, 101)}), encoding="utf-8")
    limit = 200_000
    message = refused(
        "film", story, "-o", story.with_name("film.mp4"), "--model", random_model_folder, "--chunks", 2,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    assert "Cannot go on writing the film" in message
    kept, name = re.search(r"film so far \((\d+) frames\) is in (.+)\.$", message).groups()
    times, _ = pictures(Path(name))
    assert len(times) == int(kept) >= 9


def test_help_tells_of_every_command(capsys):
    listed = run("--help")
    assert listed.returncode == 0
    for name in COMMANDS:
        assert name in listed.stdout
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        assert ended.value.code == 0
        assert name in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["film", "story.json", "--chunks", "many"], *([name, "--help"] for name in COMMANDS)]
)
def test_help_and_mistakes_import_no_torch(arguments):
    """Told in a tenth of a second, not in ten."""
    script = (
        "import sys; from shotstream.__main__ import main\n"
        f"try: main({arguments!r})\n"
        "except SystemExit: print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert result.stdout.splitlines()[-1] == "False", result.stderr


def test_mistyped_command():
    assert "filn" in refused("filn")
    assert "COMMAND" in refused()


BAD_OPTIONS = {
    "seed is text": (["--seed", "one"], "'one' is not a whole number"),
    "negative seed": (["--seed=-1"], "'-1' is not a whole number"),
    "absurd seed": (["--seed", "9" * 5000], "is not a whole number"),
    "no chunks": (["--chunks", "0"], "'0' is not a whole number"),
    "absurd chunks": (["--chunks", "1000000"], "is not a whole number"),
    "fraction of a chunk": (["--chunks", "1.5"], "is not a whole number"),
    "unknown dtype": (["--dtype", "float13"], "float13"),
    "unknown option": (["--sed", "1"], "--sed"),
}


@pytest.mark.parametrize("options, words", BAD_OPTIONS.values(), ids=BAD_OPTIONS.keys())
def test_bad_numbers_are_told_at_once(story, options, words):
    assert words in refused("film", story, "-o", story.with_name("film.mp4"), *options)


def test_a_space_says_by_variables_what_others_say_by_options(monkeypatch, capsys):
    """A Space starts its program without options."""

    def asked(*options: str) -> argparse.Namespace:
        parser = Parser(prog="app.py")
        add_model_arguments(parser)
        return parser.parse_args(options)

    variables = {"FAST": "3", "COMPILE": "1", "ATTENTION": "_native_math", "EIGHT_BIT": "on", "LOW_VRAM": "no"}
    for name, value in variables.items():
        monkeypatch.setenv(f"SHOTSTREAM_{name}", value)
    args = asked()
    assert (args.fast, args.attention) == (3, "_native_math")
    assert (args.compile, args.eight_bit, args.low_vram, args.int8_text) == (True, True, False, False)
    assert asked("--fast", "0").fast == 0, "an option has the last word"
    for name in variables:
        monkeypatch.setenv(f"SHOTSTREAM_{name}", "")
    args = asked()
    assert (args.fast, args.attention, args.compile, args.eight_bit) == (0, "auto", False, False)
    for name, value in (("FAST", "6"), ("FAST", "most"), ("COMPILE", "maybe"), ("LOW_VRAM", "12 GB")):
        monkeypatch.setenv(f"SHOTSTREAM_{name}", value)
        with pytest.raises(SystemExit) as ended:
            asked()
        told = only_sentence(capsys.readouterr().err)
        assert ended.value.code == 2 and f"SHOTSTREAM_{name}: {value!r} is " in told
        monkeypatch.delenv(f"SHOTSTREAM_{name}")


BAD_FILES = {
    "malformed": (b"{", "not valid JSON"),
    "binary": (bytes(range(256)), "not UTF-8"),
    "huge": (b" " * 1_500_000, "larger than"),
    "no shots": (b'{"global_caption": "a"}', "no shots"),
    "blank prompt": (b'{"global_caption": "a", "shot1": "  "}', "blank"),
}


@pytest.mark.parametrize("data, words", BAD_FILES.values(), ids=BAD_FILES.keys())
def test_bad_stories_are_told_at_once(story, data, words):
    story.write_bytes(data)
    message = refused("film", story, "-o", story.with_name("film.mp4"))
    assert words in message and str(story) in message
    assert [file.name for file in story.parent.iterdir()] == ["story.json"]


def test_missing_story(tmp_path):
    assert "none.json" in refused("film", tmp_path / "none.json")


BAD_MODELS = {
    "no such device": (["--device", "cuda:99"], "cuda"),
    "unknown device": (["--device", "toaster"], "toaster"),
    "more chunks than a shot can have": (["--chunks", "81"], "from 1 to 80"),
    "unknown attention": (["--attention", "best"], "best"),
    "no such folder": (["--model", "none/such/folder"], "none/such/folder"),
    "name too long for any disk": (["--model", "m" * 300], "name too long"),
}


@pytest.mark.parametrize("options, words", BAD_MODELS.values(), ids=BAD_MODELS.keys())
def test_bad_models_and_devices(story, random_model_folder, options, words):
    """In this process: each of these has torch imported before it can be told."""
    output = story.with_name("film.mp4")
    told = ["film", str(story), "-o", str(output), "--model", str(random_model_folder), "--device", "cpu", *options]
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        assert main(told) == 2
    assert words in only_sentence(errors.getvalue())
    assert [file.name for file in story.parent.iterdir()] == ["story.json"]


def test_damaged_weights_name_the_tensor(story, random_model_folder, tmp_path):
    """A tensor of the wrong shape, and one too few: the message names it."""
    for change in ("shape", "missing"):
        folder = tmp_path / change
        shutil.copytree(random_model_folder, folder)
        file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
        tensors = load_file(file)
        wrong = tensors.pop("blocks.1.ffn.0.weight")
        if change == "shape":
            tensors["blocks.1.ffn.0.weight"] = wrong[:-1].clone()
        save_file(tensors, file)
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors):
            output = tmp_path / "film.mp4"
            assert main(["film", str(story), "-o", str(output), "--model", str(folder), "--device", "cpu"]) == 2
        assert "blocks.1.ffn.0.weight" in only_sentence(errors.getvalue())


def test_output_that_nobody_can_take_is_one_sentence(random_model_folder):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here: a Linux device that is always full")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command("bench", "--model", random_model_folder, "--shots", 1, "--chunks", 1, "--json", "--device", "cpu"),
            stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert done.returncode == 2
    assert "No space left" in only_sentence(done.stderr)


def test_unwritable_output_is_told_before_anything_is_made(story, tmp_path):
    """The model does not exist: had it been looked for first, the message would be another."""
    (tmp_path / "folder.mp4").mkdir()
    for output in (tmp_path / "no such folder" / "film.mp4", tmp_path / "folder.mp4", tmp_path / "film.avi"):
        assert f"Cannot write {output}" in refused("film", story, "-o", output, "--model", tmp_path / "no model")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "frame00000.png").write_bytes(b"")
    for frames, words in ((tmp_path / "old", "not empty"), (story, "Cannot write frames")):
        options = ["-o", tmp_path / "film.mp4", "--frames", frames, "--model", tmp_path / "no model"]
        assert words in refused("film", story, *options)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["folder.mp4", "old", "story.json"]

"""`film`: a story file in, an MP4 out; or a film file in, and the same film again.

Owns the order of a film made in one go: check every input, shoot shot after shot as a note says, keep what was made
whatever happens. Knows the engine only by its events and files only through `footage`, `film_file` and `media`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from shotstream.arguments import MAX_FILM_SEED, add_model_arguments, load_model, whole_number
from shotstream.errors import UserError
from shotstream.note import STEERED_CHUNKS, FilmNote, ShotNote, half_way
from shotstream.provenance import read_note
from shotstream.story import Story, read_story

if TYPE_CHECKING:
    import torch

    from shotstream.engine import Engine
    from shotstream.events import Event, ShotRequest
    from shotstream.footage import Footage, FrameFolder
    from shotstream.models.weights import Model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("story", type=Path, nargs="?", help='JSON file: {"global_caption": "...", "shot1": "...", ...}')
    source.add_argument("--from", dest="film", type=Path, metavar="FILM", help="make the film of this file again")
    parser.add_argument("-o", "--output", type=Path, default=Path("film.mp4"), help="(default: film.mp4)")
    parser.add_argument("--frames", type=Path, metavar="DIR", help="also write every frame as a PNG into this folder")
    parser.add_argument("--captions", action="store_true", help="also write the captions beside it, as film.vtt")
    parser.add_argument("--storyboard", action="store_true", help="also write a picture of every shot, as film.png")
    parser.add_argument("--seed", type=whole_number(0, MAX_FILM_SEED), help="(default: 0)")
    parser.add_argument("--chunks", type=whole_number(1, 1000), help="chunks a shot (default: the model's)")
    parser.add_argument("--choose", metavar="NAME", help="go on as this choice of the story does")
    parser.add_argument(
        "--quality",
        choices=("student", "teacher"),
        help="student: as it streams; teacher: the slow model that it learned from (default: student)",
    )
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    story = _read_story(args.story, args.choose) if args.story else None
    note = None if story else _read_note(args)

    from shotstream.footage import Footage, FrameFolder  # not at the top: a bad story is told at once

    with Footage(args.output) as footage:
        frames = FrameFolder(args.frames) if args.frames else None
        started = time.perf_counter()
        model = load_model(args)
        print(f"{model.name} on {model.device}, loaded in {time.perf_counter() - started:.1f} s")
        if story:
            note = plan_film(story, model, args.seed or 0, args.chunks)
        elif note.model != _name(model):
            print(f"Note: {args.film} was made by {note.model}, not {_name(model)}: it will differ.", file=sys.stderr)
        note = replace(note, model=_name(model), fps=model.fps)
        _tell_cut_captions(note, model)
        try:
            clock = _shoot(note, model, footage, frames)
            footage.finish(model.fps, note)
        except KeyboardInterrupt:
            print(f"Stopped. {footage.keep(model.fps, note)}", file=sys.stderr)
            return 130
        except UserError as error:
            raise UserError(f"{error} {footage.keep(model.fps, note)}") from error
        except BaseException:  # a bug or lack of memory is told as it is, but the film so far is not lost
            print(footage.keep(model.fps, note), file=sys.stderr)
            raise
        _write_beside(args, footage, model.fps)
    shots = "1 shot" if len(note.shots) == 1 else f"{len(note.shots)} shots"
    print(f"{args.output}: {shots}, {clock.frames} frames, {clock.frames / model.fps:.1f} s")
    print(clock.report())
    return 0


def plan_film(story: Story, model: Model, seed: int, num_chunks: int | None) -> FilmNote:
    """The note of a film that is yet to be made. Shot i is seeded with `seed + i`; the engine's noise for neighbouring
    seeds has nothing in common. Raises `UserError` for a shot that is told something else half-way by a model that
    makes whole shots."""
    shots = []
    for index, shot in enumerate(story.shots):
        if shot.then is not None and model.guidance is not None:
            raise UserError(f'{_name(model)} makes whole shots: it cannot do "shot{index + 1}_then", leave that out.')
        chunks = num_chunks or (model.default_chunks if shot.then is None else STEERED_CHUNKS)
        steers = half_way(shot.then, chunks)
        shots.append(ShotNote(shot.caption, story.global_caption, seed + index, chunks, steers))
    return FilmNote(_name(model), model.fps, model.width, model.height, tuple(shots))


def shoot_film(engine: Engine, note: FilmNote) -> Iterator[Event]:
    """Shoots the shots of a note one after the other, each remembering those before: all events in order. Dissolves
    are not in them: they are made of pictures."""
    from shotstream.events import ShotDone, ShotRequest
    from shotstream.memory import Memory

    memory = Memory()
    for index, shot in enumerate(note.shots):
        caption, *later = shot.captions(index)
        request = ShotRequest(caption, memory, shot.seed, shot.num_chunks, height=note.height, width=note.width)
        if shot.picks is not None:
            request = replace(request, picks=shot.picks)
        turns = [(steer.chunk, told) for steer, told in zip(shot.steers, later, strict=True)]
        for event in shoot_steered(engine, request, turns):
            if isinstance(event, ShotDone):
                memory = event.memory
            yield event


def shoot_steered(engine: Engine, request: ShotRequest, turns: Sequence[tuple[int, str]]) -> Iterator[Event]:
    """One shot, told another caption from each of `turns` (a chunk, a composed caption) on: the rest of it is asked
    for anew, beginning with what is there."""
    import torch

    from shotstream.events import Chunk

    made: list[torch.Tensor] = []
    for chunk, caption in [*turns, (None, "")]:
        events = engine.shoot(request)
        for event in events:
            yield event
            if isinstance(event, Chunk):
                made.append(event.latents)
                if len(made) == chunk:
                    events.close()
                    request = replace(request, caption=caption, prefix=torch.cat(made))


@dataclass
class Clock:
    """How fast a film came: `frames` so far, seconds from each shot's request to its first encoded chunk, seconds spent
    `aside` on what the film does not need."""

    frames: int = 0
    first_chunks: list[float] = field(default_factory=list)
    aside: float = 0.0
    started: float = field(default_factory=time.perf_counter)
    shot_started: float = field(default_factory=time.perf_counter)

    def chunk_encoded(self, index: int, frames: int) -> None:
        self.frames += frames
        if index == 0:
            self.first_chunks.append(time.perf_counter() - self.shot_started)

    def shot_done(self) -> None:
        self.shot_started = time.perf_counter()

    def report(self) -> str:
        seconds = self.shot_started - self.started - self.aside
        first, *later = self.first_chunks
        return (
            f"{self.frames / seconds:.1f} FPS end to end (text, context, denoising, decoding, H.264: {seconds:.2f} s); "
            f"first chunk after {first:.2f} s" + (f", in later shots {statistics.median(later):.2f} s" if later else "")
        )


def _read_story(path: Path, choice: str | None) -> Story:
    story = read_story(path)
    if choice is not None:
        story = story.decided(choice)
    elif story.undecided:
        print(f"Note: {story.undecided} Shoot one of them with --choose.", file=sys.stderr)
    if story.warning:
        print(f"Note: {story.warning}", file=sys.stderr)
    return story


def _read_note(args: argparse.Namespace) -> FilmNote:
    if args.seed is not None or args.chunks is not None or args.choose is not None:
        raise UserError("Seeds, chunks and choices are in the film's own note: leave out --seed, --chunks, --choose.")
    note = read_note(args.film)
    if note.cast:
        raise UserError(f"{args.film} cannot be made again: it was made from pictures that its note does not hold.")
    return note


def _name(model: Model) -> str:
    """Which model a note names: a teacher makes other pictures than its student."""
    return model.name if model.guidance is None else f"{model.name} (teacher)"


def _tell_cut_captions(note: FilmNote, model: Model) -> None:
    for index, shot in enumerate(note.shots):
        for caption in shot.captions(index):
            used, limit = model.text.count_tokens(caption)
            if used > limit:
                print(
                    f"Note: shot {index + 1} has {used} tokens, of which the first {limit} are used.", file=sys.stderr
                )


def _write_beside(args: argparse.Namespace, footage: Footage, fps: int) -> None:
    from shotstream.film_file import storyboard, webvtt

    if args.captions:
        args.output.with_suffix(".vtt").write_text(webvtt(footage.shots(), fps), encoding="utf-8")
    if args.storyboard:
        args.output.with_suffix(".png").write_bytes(storyboard(footage.shots()))


def _shoot(note: FilmNote, model: Model, footage: Footage, frames: FrameFolder | None) -> Clock:
    from tqdm import tqdm

    from shotstream.engine import Engine
    from shotstream.events import Chunk, ShotDone
    from shotstream.media import SegmentEncoder, dissolve, enlargement

    encoder = SegmentEncoder(note.width, note.height, model.fps, enlargement(note.width, note.height))
    engine = Engine(model)
    clock = Clock()
    number, start, before, last = 0, 0, None, None  # start: frames of the shot so far; before: what it fades in from
    with tqdm(total=sum(shot.num_chunks for shot in note.shots), unit="chunk", desc="shot 1") as bar:
        for event in shoot_film(engine, note):
            if isinstance(event, Chunk):
                if event.index == 0:
                    shot = note.shots[number]
                    start, before = 0, last if shot.dissolve else None
                    bar.set_description(f"shot {number + 1}")
                    footage.begin_shot(shot.caption, shot.steers)
                pictures = event.frames if before is None else dissolve(before, event.frames, start)
                start, last = start + len(pictures), pictures[-1]
                footage.add(encoder.encode(pictures))
                clock.chunk_encoded(event.index, len(pictures))
                bar.update()
                if frames is not None:
                    earlier = time.perf_counter()
                    frames.add(pictures)
                    clock.aside += time.perf_counter() - earlier
            elif isinstance(event, ShotDone):
                number += 1
                clock.shot_done()
    return clock

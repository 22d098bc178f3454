"""`film`: a story file in, an MP4 out.

Owns the order of a film made in one go: check every input, shoot shot after shot, keep what was made whatever happens.
Knows the engine only by its events and files only through `footage`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from shotstream.arguments import MAX_SEED, add_model_arguments, load_model, whole_number
from shotstream.errors import UserError
from shotstream.story import Story, read_story

if TYPE_CHECKING:
    from shotstream.engine import Engine
    from shotstream.events import Event
    from shotstream.footage import Footage, FrameFolder
    from shotstream.models.weights import Model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("story", type=Path, help='JSON file: {"global_caption": "...", "shot1": "...", ...}')
    parser.add_argument("-o", "--output", type=Path, default=Path("film.mp4"), help="(default: film.mp4)")
    parser.add_argument("--frames", type=Path, metavar="DIR", help="also write every frame as a PNG into this folder")
    parser.add_argument("--seed", type=whole_number(0, MAX_SEED), default=0, help="(default: 0)")
    parser.add_argument("--chunks", type=whole_number(1, 1000), help="chunks a shot (default: the model's)")
    parser.add_argument(
        "--quality",
        choices=("student", "teacher"),
        default="student",
        help="student: as it streams; teacher: the slow model that it learned from (default: student)",
    )
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    story = read_story(args.story)
    if story.warning:
        print(f"Note: {story.warning}", file=sys.stderr)

    from shotstream.footage import Footage, FrameFolder  # not at the top: a bad story is told at once

    with Footage(args.output) as footage:
        frames = FrameFolder(args.frames) if args.frames else None
        started = time.perf_counter()
        model = load_model(args)
        print(f"{model.name} on {model.device}, loaded in {time.perf_counter() - started:.1f} s")
        _tell_cut_captions(story, model)
        try:
            clock = _shoot(story, model, footage, frames, args.seed, args.chunks)
            footage.finish(model.fps)
        except KeyboardInterrupt:
            print(f"Stopped. {footage.keep(model.fps)}", file=sys.stderr)
            return 130
        except UserError as error:
            raise UserError(f"{error} {footage.keep(model.fps)}") from error
        except BaseException:  # a bug or lack of memory is told as it is, but the film so far is not lost
            print(footage.keep(model.fps), file=sys.stderr)
            raise
    shots = "1 shot" if len(story.shots) == 1 else f"{len(story.shots)} shots"
    print(f"{args.output}: {shots}, {clock.frames} frames, {clock.frames / model.fps:.1f} s")
    print(clock.report())
    return 0


def shoot_story(engine: Engine, captions: Sequence[str], seed: int, num_chunks: int | None) -> Iterator[Event]:
    """Shoots composed captions one after the other, each shot remembering those before: all events in order.

    Shot i is seeded with `seed + i`; the engine's noise for neighbouring seeds has nothing in common.
    """
    from shotstream.events import ShotDone, ShotRequest
    from shotstream.memory import Memory

    memory = Memory()
    for index, caption in enumerate(captions):
        request = ShotRequest(caption, memory, seed + index, num_chunks)
        for event in engine.shoot(request):
            if isinstance(event, ShotDone):
                memory = event.memory
            yield event


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


def _tell_cut_captions(story: Story, model: Model) -> None:
    for number, caption in enumerate(story.captions, start=1):
        used, limit = model.text.count_tokens(caption)
        if used > limit:
            print(f"Note: shot {number} has {used} tokens, of which the first {limit} are used.", file=sys.stderr)


def _shoot(
    story: Story, model: Model, footage: Footage, frames: FrameFolder | None, seed: int, num_chunks: int | None
) -> Clock:
    from tqdm import tqdm

    from shotstream.engine import Engine
    from shotstream.events import Chunk, ShotDone
    from shotstream.media import SegmentEncoder, enlargement

    engine, encoder, shot = Engine(model), None, 0
    clock = Clock()
    total = (num_chunks or model.default_chunks) * len(story.shots)
    with tqdm(total=total, unit="chunk", desc="shot 1") as bar:
        for event in shoot_story(engine, story.captions, seed, num_chunks):
            if isinstance(event, Chunk):
                if encoder is None:
                    height, width = event.frames.shape[1:3]
                    encoder = SegmentEncoder(width, height, model.fps, enlargement(width, height))
                if event.index == 0:
                    bar.set_description(f"shot {shot + 1}")
                    footage.begin_shot(story.shots[shot].caption)
                footage.add(encoder.encode(event.frames))
                clock.chunk_encoded(event.index, len(event.frames))
                bar.update()
                if frames is not None:
                    before = time.perf_counter()
                    frames.add(event.frames)
                    clock.aside += time.perf_counter() - before
            elif isinstance(event, ShotDone):
                shot += 1
                clock.shot_done()
    return clock

"""What a director relies on, measured: a steered shot does not jump, a long one does not drift, a film of many shots
remembers by whichever policy was chosen.

Owns the stories for that and their figures. Like everything here it reads the truth from pixels of the toy world.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import numpy as np

from shotstream.context import DIRECTED, look_back
from shotstream.engine import Engine
from shotstream.evaluation import metrics
from shotstream.evaluation.estimate import Estimate, over_stories
from shotstream.evaluation.metrics import BACKGROUND, SUBJECT
from shotstream.evaluation.reader import read_shot
from shotstream.evaluation.toyworld import shoot, shot_frames
from shotstream.events import Chunk, ShotRequest
from shotstream.memory import Memory
from shotstream.models.model import Model
from shotstream.story import compose_caption
from shotstream.toyworld.plot import ToyStory
from shotstream.toyworld.stories import leave_out, long_return, long_story, steered

LONG = 28  # chunks of a long shot
FAR = 12  # shots after which the first character returns
BEYOND = 40  # shots: the indicator's phase comes round at the 38th
Progress = Callable[[Iterable[int]], Iterable[int]]


def measure(model: Model, stories: int, seed: int, progress: Progress = iter) -> dict[str, Estimate]:
    """All figures by name, each over `stories` stories (films of `BEYOND` shots over a quarter of them)."""
    engine, rebased = Engine(model), Engine(model, rebased=True)
    found: dict[str, list[float]] = defaultdict(list)
    for number in progress(range(stories)):
        rng = random.Random(f"{seed}/directing/{number}")
        for name, value in {
            **steering_jump(engine, steered(rng), 100 * number),
            **long_shot(engine, leave_out(rng, 1), 100 * number),
            **return_by_policy(engine, long_return(rng, FAR), 100 * number),
        }.items():
            found[name].append(value)
        if number % 4 == 0:
            story = long_story(rng, BEYOND, 1)
            for name, maker in (("absolute", engine), ("rebased", rebased)):
                found[f"beyond_{name}"].append(late_identity(maker, story, 100 * number))
    return {name: estimate for name, values in found.items() if (estimate := over_stories(values))}


def steering_jump(engine: Engine, story: ToyStory, seed: int) -> dict[str, float]:
    """Mean absolute difference of the two frames at the switch of the caption, over that of other neighbours in the
    shot; and the same where the same shot goes on unsteered."""
    (shot,) = story.shots
    captions = [compose_caption(story.global_caption, 0, text) for text in (shot.caption, shot.beat.caption)]
    request = ShotRequest(captions[0], seed=seed, num_chunks=shot.num_chunks)
    switch = shot_frames(shot.beat.chunk)
    told, _ = shoot(engine, request, shot.beat.chunk, captions[1])
    untold, _ = shoot(engine, request)
    return {"jump_steered": _jump(told, switch), "jump_unsteered": _jump(untold, switch)}


def _jump(frames: np.ndarray, switch: int) -> float:
    steps = np.abs(np.diff(frames.astype(np.int16), axis=0)).mean(axis=(1, 2, 3))
    return float(steps[switch - 1] / max(np.delete(steps, switch - 1).mean(), 1e-6))


def long_shot(engine: Engine, story: ToyStory, seed: int) -> dict[str, float]:
    """Are character and place as said, in the first and in the last four of many chunks? And what a late chunk costs,
    over an early one of a full cache."""
    (shot,) = story.shots
    caption = compose_caption(story.global_caption, 0, shot.caption)
    frames, seconds, started = [], [], time.perf_counter()
    for event in engine.shoot(ShotRequest(caption, seed=seed, num_chunks=LONG)):
        if isinstance(event, Chunk):
            frames.append(event.frames)
            seconds.append(time.perf_counter() - started)
            started = time.perf_counter()
    full = engine.model.schedule.max_chunks
    found = {"long_cost": float(np.median(seconds[-7:]) / np.median(seconds[full : full + 7]))}
    for name, part in (("start", frames[:4]), ("end", frames[-4:])):
        reading = read_shot(np.concatenate(part))
        found[f"long_colour_{name}"] = metrics.is_true(reading, shot.scene, ("colour",))
        found[f"long_subject_{name}"] = metrics.is_true(reading, shot.scene, SUBJECT)
        found[f"long_background_{name}"] = metrics.is_true(reading, shot.scene, BACKGROUND)
    return found


def return_by_policy(engine: Engine, story: ToyStory, seed: int) -> dict[str, float]:
    """Is the last shot's character that of the first, by each policy? The film before it is the same for all."""
    memory, captions = Memory(), []
    for index, shot in enumerate(story.shots):
        captions.append(compose_caption(story.global_caption, index, shot.caption))
        if index + 1 < len(story.shots):
            _, memory = shoot(engine, ShotRequest(captions[-1], memory, seed + index, shot.num_chunks))
    found = {}
    last = ShotRequest(captions[-1], memory, seed + FAR, story.shots[-1].num_chunks)
    for policy in DIRECTED:
        frames, _ = shoot(engine, replace(last, picks=look_back(memory.shots, last.caption, policy)))
        reading = read_shot(frames)
        found[f"returns_{policy}"] = metrics.is_true(reading, story.shots[-1].scene, SUBJECT)
        found[f"returns_colour_{policy}"] = metrics.is_true(reading, story.shots[-1].scene, ("colour",))
    return found


def late_identity(engine: Engine, story: ToyStory, seed: int) -> float:
    """The share of the last ten shots of a long film that show the first one's colour and place."""
    memory, hits = Memory(), []
    for index, shot in enumerate(story.shots):
        caption = compose_caption(story.global_caption, index, shot.caption)
        frames, memory = shoot(engine, ShotRequest(caption, memory, seed + index, shot.num_chunks))
        if index >= len(story.shots) - 10:
            hits.append(metrics.is_true(read_shot(frames), shot.scene, ("colour", *BACKGROUND)))
    return float(np.mean(hits))


SAID: Mapping[str, str] = {
    "jump_steered": "Difference of the frames at a change of the caption in mid-shot, over that of other neighbours",
    "jump_unsteered": "The same place in the same shot when nothing changes",
    "long_colour_start": f"Colour as said, chunks 1-4 of {LONG}",
    "long_colour_end": f"Colour as said, the last four of {LONG} chunks",
    "long_subject_start": f"Colour and shape as said, chunks 1-4 of {LONG}",
    "long_subject_end": f"Colour and shape as said, the last four of {LONG} chunks",
    "long_background_start": f"Place and time as said, chunks 1-4 of {LONG}",
    "long_background_end": f"Place and time as said, the last four of {LONG} chunks",
    "long_cost": "Seconds of a late chunk of a long shot, over an early one",
    **{
        f"returns_{part}{policy}": f"Shot {FAR} returns to shot 1: {what} right, memory by {policy}"
        for part, what in (("colour_", "colour"), ("", "colour and shape"))
        for policy in DIRECTED
    },
    "beyond_absolute": f"Colour, place and time right in the last ten of {BEYOND} shots, shots counted on",
    "beyond_rebased": "The same, shots counted anew from the oldest that is looked back at",
}
"""What each figure is, in the order in which a page shows them."""


def markdown(figures: Mapping[str, Estimate]) -> str:
    """The figures as a Markdown table."""
    rows = "\n".join(f"| {SAID[name]} | {figures[name]} |" for name in SAID if name in figures)
    return f"| what a director relies on | |\n|---|---|\n{rows}\n"

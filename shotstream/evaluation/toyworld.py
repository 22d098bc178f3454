"""Shoots held-out toy stories and measures them: does a model do what its captions say, and does it remember?

Owns which stories are shot, and how figures of shots become figures of a model. The rendered truth goes the same way
as a model's films: what it scores is what a perfect model would. Knows no files.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np
import torch

from shotstream.engine import Engine
from shotstream.errors import UserError
from shotstream.evaluation import metrics, scenes
from shotstream.evaluation.cuts import CutDetector
from shotstream.evaluation.estimate import Estimate, over_stories
from shotstream.evaluation.metrics import BACKGROUND, SUBJECT, blips
from shotstream.evaluation.reader import read_shot
from shotstream.events import Chunk, ShotDone, ShotRequest
from shotstream.memory import Memory
from shotstream.models.model import Model
from shotstream.story import compose_caption
from shotstream.toyworld import world
from shotstream.toyworld.stories import ToyStory, leave_out, random_story, returning, steered
from shotstream.toyworld.takes import render_take

__all__ = ["blips", "check_autoencoder", "film_of", "measure", "measure_story", "rendered", "shoot"]

LATENT_FRAMES, TIME_FACTOR = 3, 4  # of a chunk; pixel frames of a latent frame: what the toy world's models have
DETECTED = 50  # stories whose cuts a detector looks for: it takes longer than all the rest
Film = list[np.ndarray]  # a story's shots, [t, H, W, 3] uint8 each
Shooter = Callable[[ToyStory, int], Film]
Progress = Callable[[Iterable], Iterable]


def shoot(engine: Engine, request: ShotRequest, chunk: int = 0, then: str = "") -> tuple[np.ndarray, Memory]:
    """A whole shot [t, H, W, 3] uint8 and the memory after it; told `then`, if given, from chunk `chunk` on."""
    frames, latents, memory = [], [], request.memory
    for event in engine.shoot(request):
        if isinstance(event, Chunk):
            frames.append(event.frames)
            latents.append(event.latents)
            if then and len(latents) == chunk:
                break
        elif isinstance(event, ShotDone):
            memory = event.memory
    if then:
        rest, memory = shoot(engine, replace(request, caption=then, prefix=torch.cat(latents)))
        frames.append(rest)
    return np.concatenate(frames), memory


def film_of(engine: Engine, story: ToyStory, seed: int, without_memory: bool = False) -> Film:
    """A toy story shot by the engine, shot i with noise seed `seed + i`; `without_memory` every shot is made as if it
    were the first."""
    memory, film = Memory(), []
    for index, shot in enumerate(story.shots):
        caption = compose_caption(story.global_caption, index, shot.caption)
        request = ShotRequest(caption, memory, seed + index, shot.num_chunks)
        beat = shot.beat and (shot.beat.chunk, compose_caption(story.global_caption, index, shot.beat.caption))
        frames, after = shoot(engine, request, *beat or ())
        film.append(frames)
        memory = memory if without_memory else after
    return film


def film_of_captions(engine: Engine, captions: Sequence[str], seed: int) -> Film:
    """Composed captions shot one after the other, shot i with noise seed `seed + i`."""
    memory, film = Memory(), []
    for index, caption in enumerate(captions):
        frames, memory = shoot(engine, ShotRequest(caption, memory, seed + index))
        film.append(frames)
    return film


def shot_frames(num_chunks: int) -> int:
    """Pixel frames of a shot of `num_chunks` chunks."""
    return 1 + (LATENT_FRAMES * num_chunks - 1) * TIME_FACTOR


def rendered(story: ToyStory, seed: int = 0) -> Film:
    """The truth: what a perfect model would have shot."""
    return [world.to_rgb(render_take(shot)) for shot in story.shots]


@dataclass(frozen=True)
class Sample:
    """Which stories: the first `stories` three-shot stories of `seed`, whose later captions name neither character nor
    place nor time; `others` stories of each kind in `scenes`; and for drift `drift` stories of `drift_shots` shots, and
    as many single shots of `long_chunks`."""

    seed: int
    stories: int
    drift: int
    others: int = 0
    drift_shots: int = 20
    long_chunks: int = 7


@dataclass(frozen=True)
class Figures:
    """`metrics` by name; `drift`: by name a figure per shot, or per chunk, in order."""

    metrics: dict[str, Estimate]
    drift: dict[str, list[Estimate]]


OTHERS = {
    "everything": (lambda rng: random_story(rng, num_shots=3, num_chunks=2), scenes.of_everything),
    "returning": (returning, scenes.of_return),
    "steered": (steered, scenes.of_steering),
}
"""Stories of the wider world: by name, story of a generator, figures of a story and its film."""

KINDS = ("stories", "shots", "chunks", *OTHERS)  # in the order of their seeds
Job = tuple[str, int]  # a kind of film, and its number
Measured = dict[str, float | None] | list[dict[str, float]]  # a film's figures, or those of each of its parts
Runner = Callable[[Sequence[Job]], Iterable[Measured]]


def measure(run: Runner, sample: Sample, steerable: bool = True) -> Figures:
    """Have all films measured that `sample` asks for. A model that makes whole shots is not `steerable`: it cannot be
    told something else in mid-shot."""
    counts = {"shots": sample.drift, "chunks": sample.drift, "stories": sample.stories}
    counts |= {name: sample.others for name in OTHERS if steerable or name != "steered"}
    jobs = [(kind, number) for kind, count in counts.items() for number in range(count)]
    found: dict[str, list] = defaultdict(list)
    for (kind, _), measured in zip(jobs, run(jobs), strict=True):
        found[kind].append(measured)
    stories = [story for kind in ("stories", *OTHERS) for story in found[kind]]
    figures = {}
    for name in dict.fromkeys(name for story in stories for name in story):
        if estimate := over_stories(story.get(name) for story in stories):
            figures[name] = estimate
    return Figures(figures, _curves("shot", found["shots"]) | _curves("chunk", found["chunks"]))


def one_by_one(shooter: Shooter, sample: Sample, detector: CutDetector | None, progress: Progress = iter) -> Runner:
    """Measures films here, one after the other."""
    return lambda jobs: (measure_film(shooter, sample, detector, job) for job in progress(jobs))


def measure_film(shooter: Shooter, sample: Sample, detector: CutDetector | None, job: Job) -> Measured:
    """Shoot and measure one film."""
    kind, number = job
    place = KINDS.index(kind)
    seed = film_seed(place, number)
    if kind == "stories":
        story = held_out(sample.seed, place, number)
        cuts = detector if number < DETECTED else None
        return measure_story(story, shooter(story, seed), shooter is rendered, cuts)
    if kind == "shots":
        story = held_out(sample.seed, place, number, num_shots=sample.drift_shots)
        return _truths(story, shooter(story, seed))
    if kind == "chunks":
        story = held_out(sample.seed, place, number, num_shots=1, num_chunks=sample.long_chunks)
        ends = [shot_frames(chunk) for chunk in range(1, sample.long_chunks)]
        return _truths(story, np.split(shooter(story, seed)[0], ends))
    make, judge = OTHERS[kind]
    story = make(random.Random(f"{sample.seed}/{place}/{number}"))
    return judge(story, shooter(story, seed))


def held_out(seed: int, kind: int, number: int, num_shots: int = 3, num_chunks: int = 3) -> ToyStory:
    """Story `number` of a set: the same whatever else is measured."""
    return leave_out(random.Random(f"{seed}/{kind}/{number}"), num_shots, num_chunks)


def film_seed(kind: int, number: int) -> int:
    """The first shot's noise seed; later shots count on from it."""
    return 1_000_000 * (kind + 1) + 100 * number


def measure_story(
    story: ToyStory, film: Sequence[np.ndarray], is_truth: bool = False, detector: CutDetector | None = None
) -> dict[str, float | None]:
    """Every figure of one film by name: the mean over its shots or cuts; None where it has none to be judged by.

    `kept_...` are the attributes that later captions leave out: only the memory knows them.
    """
    looks = [metrics.look(frames) for frames in film]
    truth = film if is_truth else rendered(story)
    found: dict[str, list[float]] = defaultdict(list)
    for index, (shot, seen, real) in enumerate(zip(story.shots, looks, truth, strict=True)):
        for name, hit in metrics.adherence(seen.shot, shot.scene).items():
            if index and name in (*SUBJECT, *BACKGROUND):
                found[f"kept_{name}"].append(hit)
            elif name == "move":  # that the camera stands still goes without saying
                found["camera_stands"].append(hit)
            else:
                found["adherence"].append(hit)
                found[f"adherence_{name}"].append(hit)
        found["alone"].append(seen.shot.partner_colour is None)
        found["flicker"].append(blips(seen.frames))
        found["shimmer"].append(metrics.shimmer(seen.frames))
        moved = metrics.motion(seen.frames)
        found["motion"].append(moved)
        found["motion_gap"].append(abs(moved - metrics.motion(real)))
        for part, parts in (("subject", SUBJECT), ("background", BACKGROUND)):
            found[f"intra_{part}"].append(metrics.intra_shot(seen, parts))
            if index and metrics.is_true(shot.scene, story.shots[0].scene, parts):  # it is still the same in truth
                found[f"inter_{part}"].append(metrics.inter_shot(looks[0].shot, seen.shot, parts))
                found[f"inter_{part}_true"].append(metrics.is_true(seen.shot, shot.scene, parts))
        if index:
            found["cut_exact"].append(metrics.cut_is_exact(looks[index - 1], seen))
    if detector and len(film) > 1:
        asked = np.cumsum([len(frames) for frames in film])[:-1].tolist()
        found["cut_detected"].append(metrics.cut_accuracy(asked, detector(np.concatenate(film))))
    return {name: fmean(values) for name, values in found.items()}


def _truths(story: ToyStory, parts: Sequence[np.ndarray]) -> list[dict[str, float]]:
    """Per shot, or per piece of a single shot: are character and place right?"""
    scenes = [shot.scene for shot in story.shots] * (len(parts) // len(story.shots))
    readings = [read_shot(frames) for frames in parts]
    return [
        {
            "subject": metrics.is_true(reading, scene, SUBJECT),
            "colour": metrics.is_true(reading, scene, ("colour",)),
            "background": metrics.is_true(reading, scene, BACKGROUND),
        }
        for reading, scene in zip(readings, scenes, strict=True)
    ]


def _curves(unit: str, stories: Sequence[list[dict[str, float]]]) -> dict[str, list[Estimate]]:
    if not stories:
        return {}
    return {
        f"{name}_by_{unit}": [over_stories(step[name] for step in steps) for steps in zip(*stories, strict=True)]
        for name in stories[0][0]
    }


def check_fits(model: Model) -> None:
    """Raises `UserError` for a model whose pictures are not the toy world's."""
    frames = (model.width, model.height, model.schedule.chunk_frames, model.vae.temporal_factor)
    if frames != (world.WIDTH, world.HEIGHT, LATENT_FRAMES, TIME_FACTOR):
        raise UserError(
            f"{model.name} makes pictures of {model.width}x{model.height}, not the toy world's "
            f"{world.WIDTH}x{world.HEIGHT}: measure it with --real."
        )


@torch.no_grad()
def check_autoencoder(model: Model, clips: int, seed: int) -> dict[str, float]:
    """Reconstruction of real clips, PSNR in dB: over all pixels of clips with one character, over that character's
    alone, and over all pixels of shots from stories of everything (two-shots, camera moves)."""

    def error_of(indices: np.ndarray) -> torch.Tensor:
        frames = torch.from_numpy(world.to_rgb(indices)).permute(0, 3, 1, 2).float() / 127.5 - 1
        latents = model.vae.encode_shot(frames.to(model.device, model.dtype))
        again, _ = model.vae.decode_step(latents, model.vae.start_decoding())
        return ((again.float().cpu() - frames) / 2).square().mean(dim=1)

    rng = random.Random(seed)
    errors: dict[str, list[float]] = defaultdict(list)
    for _ in range(clips):
        scene = leave_out(rng, num_shots=1).shots[0].scene
        indices = world.render_shot(scene, 33)
        error = error_of(indices)
        errors["psnr"].append(error.mean().item())
        stage = world.backdrop(scene.place, scene.time, scene.camera)
        errors["character_psnr"].append(error[torch.from_numpy(indices != stage)].mean().item())
        errors["everything_psnr"].append(error_of(render_take(random_story(rng, 1, 3).shots[0])).mean().item())
    return {name: float(-10 * np.log10(np.mean(values))) for name, values in errors.items()}

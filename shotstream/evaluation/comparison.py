"""The engine beside the straightforward procedure, stage by stage, and beside what the machine can do.

Owns the measuring of both on the same shots and its table. Shots are made in turn, one of each kind, and figures are
medians over rounds: what else the machine does meanwhile falls on both alike. Knows no model by name.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from shotstream.ahead import Overlap
from shotstream.engine import Engine
from shotstream.errors import UserError
from shotstream.evaluation.baseline import Baseline
from shotstream.evaluation.measured_shot import WORLD, shoot
from shotstream.evaluation.rates import Flops, Rates, attended, call_flops, measure_rates
from shotstream.evaluation.speed import STAGES
from shotstream.events import ShotRequest
from shotstream.fast import quicken
from shotstream.ladder import RUNGS
from shotstream.media import SegmentEncoder, enlargement
from shotstream.memory import Memory
from shotstream.models.model import Model
from shotstream.story import compose_caption


@dataclass(frozen=True)
class Side:
    """Median seconds of one way to make a shot: by stage and to the first pixels, one thing after the other; and to the
    end, H.264 included, `by_the_clock`."""

    stages: Mapping[str, float]
    first_pixels: float
    by_the_clock: float


@dataclass(frozen=True)
class Comparison:
    """On a CPU, stages and first pixels are in seconds of processor time, in which nobody else's work counts; `timed`
    says so. `ours.by_the_clock` is of shots with `overlap`. `flops` are of
    all denoising steps of a shot; `apart` is the largest difference between the two films' latents."""

    rounds: int
    chunks: int
    frames: int
    overlap: str  # of `ahead.Overlap`
    timed: str
    ours: Side
    baseline: Side
    rates: Rates
    flops: Flops
    apart: float

    def roofline(self, side: Side) -> float:
        """The denoiser's share of its own roofline: its arithmetic at the machine's rates, by the time it took."""
        return self.rates.seconds(self.flops) / side.stages["denoise"]


def compare(model: Model, rounds: int, chunks: int, height: int, width: int) -> Comparison:
    """Two films of the same captions and seeds, `rounds` shots after a first one that warms up."""
    on_a_cpu = model.device.type == "cpu"
    clock = time.process_time if on_a_cpu else time.perf_counter
    serial, engine = Engine(model, overlap=Overlap.NOTHING, clock=clock), Engine(model)
    baseline, memory = Baseline(model, clock=clock), Memory()
    ours, plain, rates, apart = [], [], None, 0.0
    for number in range(rounds + 1):
        measured = _rates(model, height, width, chunks, clock)
        rates = measured if rates is None else rates.best(measured)  # clocks and neighbours change
        caption = compose_caption(WORLD, number, "It jumps.")
        request = ShotRequest(caption, memory, number, chunks, None, height, width)
        one = shoot(serial, request, clock)
        model.text.forget()
        whole = shoot(engine, request).total
        model.text.forget()
        latents, side = _baseline_shot(baseline, caption, number, chunks, height, width)
        memory = one.memory
        if number:  # the first warmed everything up
            ours.append(Side(one.stages, one.first_pixels, whole))
            plain.append(side)
            apart = max(apart, (torch.cat(one.latents).float() - latents.float()).abs().max().item())
    return Comparison(
        rounds=rounds,
        chunks=chunks,
        frames=one.frames,
        overlap=engine.overlap.value,
        timed=" of processor time" if on_a_cpu else "",
        ours=_medians(ours),
        baseline=_medians(plain),
        rates=rates,
        flops=_shot_flops(model, chunks, height, width),
        apart=apart,
    )


@dataclass(frozen=True)
class Step:
    """A rung of the ladder: what it is, and median seconds of a shot, of its denoising (cache passes included) and of
    all its stages; on a CPU of processor time."""

    name: str
    what: str
    denoiser: float
    all_stages: float


def climb(model: Model, rounds: int, chunks: int, height: int, width: int) -> list[Step]:
    """The same film by every rung of the ladder that this machine can climb, shot by shot in turn."""
    clock = time.process_time if model.device.type == "cpu" else time.perf_counter
    engines, lines = [], []
    for rung in range(len(RUNGS)):
        try:
            quick, line = quicken(model, rung)
        except UserError as error:
            print(f"Note: {RUNGS[rung].name}: {error}", file=sys.stderr)
            continue
        engines.append(Engine(quick, overlap=Overlap.NOTHING, clock=clock))
        lines.append((f"{rung} {RUNGS[rung].name}", line))
    memories, taken = [Memory()] * len(engines), [[] for _ in engines]
    for number in range(rounds + 1):
        caption = compose_caption(WORLD, number, "It jumps.")
        for place, engine in enumerate(engines):
            model.text.forget()
            shot = shoot(engine, ShotRequest(caption, memories[place], number, chunks, None, height, width), clock)
            memories[place] = shot.memory
            if number:
                taken[place].append(shot.stages)
    return [
        Step(
            name,
            line,
            statistics.median(stages["denoise"] + stages.get("cache_pass", 0.0) for stages in shots),
            statistics.median(sum(stages.values()) for stages in shots),
        )
        for (name, line), shots in zip(lines, taken, strict=True)
    ]


def ladder_table(steps: Sequence[Step]) -> str:
    first = steps[0]
    lines = [f"{'seconds a shot':<16}{'denoiser':>10}{'':>9}{'all':>10}{'':>9}"]
    for step in steps:
        denoiser = f"{step.denoiser:10.3f}{first.denoiser / step.denoiser:8.2f}x"
        whole = f"{step.all_stages:10.3f}{first.all_stages / step.all_stages:8.2f}x"
        lines.append(f"{step.name:<16}{denoiser}{whole}  {step.what}")
    return "\n".join(lines)


def _medians(shots: Sequence[Side]) -> Side:
    return Side(
        {name: statistics.median(shot.stages.get(name, 0.0) for shot in shots) for name in STAGES},
        statistics.median(shot.first_pixels for shot in shots),
        statistics.median(shot.by_the_clock for shot in shots),
    )


def _baseline_shot(
    baseline: Baseline, caption: str, seed: int, chunks: int, height: int, width: int
) -> tuple[torch.Tensor, Side]:
    model, clock = baseline.model, baseline.clock
    started, begun = time.perf_counter(), clock()
    shot = baseline.shoot(caption, seed, chunks, height, width)
    shown = clock()
    encoder = SegmentEncoder(width, height, model.fps, enlargement(width, height))
    size = model.schedule.chunk_frames * model.vae.temporal_factor
    for at in range(0, len(shot.frames), size):  # in pieces as long as a chunk's
        encoder.encode(shot.frames[at : at + size])
    stages = shot.seconds | {"h264": clock() - shown}
    return shot.latents, Side(stages, shown - begun, time.perf_counter() - started)


def _shot_flops(model: Model, chunks: int, height: int, width: int) -> Flops:
    calls = [
        call_flops(model.transformer, model.schedule.chunk_frames, seen, *model.latent_size(height, width))
        for seen in attended(model.schedule, chunks)
    ]
    steps = len(model.schedule.steps)
    return Flops(steps * sum(call.matrix for call in calls), steps * sum(call.attention for call in calls))


def _rates(model: Model, height: int, width: int, chunks: int, clock: Callable[[], float]) -> Rates:
    rows, columns = model.transformer.patch_grid(*model.latent_size(height, width))
    seen = attended(model.schedule, chunks)
    tokens, keys = model.schedule.chunk_frames * rows * columns, sum(seen) // len(seen) * rows * columns
    return measure_rates(model.transformer, tokens, keys, model.device, model.dtype, repeats=3, clock=clock)


def table(found: Comparison) -> str:
    """For people: a line per stage of a shot, then the whole, then how near the denoiser is to its roof."""
    ours, plain = found.ours, found.baseline
    lines = [
        f"the same shots made both ways, in turn: {found.rounds} of {found.chunks} chunks; medians, seconds"
        f"{found.timed} a shot; latents at most {found.apart:.0e} apart",
        "",
        f"{'':<28}{'ours':>10}{'baseline':>10}{'ratio':>9}",
    ]

    def line(label: str, mine: float, other: float, note: str = "") -> str:
        ratio = f"{other / mine:8.2f}x" if mine else f"{'-':>9}"
        return f"{label:<28}{mine:10.3f}{other:10.3f}{ratio}{note}"

    for name, (label, _) in STAGES.items():
        lines.append(line(label, ours.stages[name], plain.stages[name]))
    note = {"use": "  H.264 while the next chunk is made", "pixels": "  pixels while the next chunk is made"}
    lines += [
        line("all stages", sum(ours.stages.values()), sum(plain.stages.values())),
        line("first pixels", ours.first_pixels, plain.first_pixels),
        line("end to end, by the clock", ours.by_the_clock, plain.by_the_clock, note.get(found.overlap, "")),
        "",
        f"{'frames a second':<28}{found.frames / ours.by_the_clock:10.2f}{found.frames / plain.by_the_clock:10.2f}",
        f"{'share of own roofline':<28}{found.roofline(ours):10.0%}{found.roofline(plain):10.0%}  "
        f"{found.flops.matrix / 1e9:.1f} GFLOP at {found.rates.matrix / 1e9:.1f} GFLOP/s of a matrix product and "
        f"{found.flops.attention / 1e9:.1f} at {found.rates.attention / 1e9:.1f} of attention",
    ]
    return "\n".join(lines)

"""How fast a model makes shots, and where the time goes.

Owns the measuring and its table. Shoots ordinary shots through the ordinary engine and encodes them as the page does;
of the network it knows only the numbers in its configuration, from which the denoiser's arithmetic is counted.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

from shotstream.context import MAX_CONTEXT_FRAMES
from shotstream.engine import Engine
from shotstream.evaluation import first_picture, rates
from shotstream.evaluation.measured_shot import WORLD, MeasuredShot, shoot
from shotstream.events import ShotRequest
from shotstream.memory import Memory
from shotstream.models.model import Model
from shotstream.story import compose_caption

STAGES = {  # the engine's names, and H.264 which comes after it: (what the table says, counted per)
    "text": ("text encoder", "shot"),
    "context_encode": ("context frames, VAE encode", "shot"),
    "context_pass": ("context pass", "shot"),
    "denoise": ("denoising, all steps", "chunk"),
    "cache_pass": ("cache pass", "chunk but the last"),
    "decode": ("VAE decode", "chunk"),
    "h264": ("H.264", "chunk"),
}


@dataclass(frozen=True)
class Stage:
    """Mean `milliseconds` of a stage per `unit`, and its `share` (0..1) of the whole time."""

    milliseconds: float
    unit: str
    share: float


@dataclass(frozen=True)
class Report:
    """What `bench` found, over `shots` shots of `chunks` chunks: seconds, frames per second, FLOPs."""

    model: str
    device: str
    dtype: str
    width: int
    height: int
    shots: int
    chunks: int
    frames: int
    load_seconds: float
    warm_up_seconds: float
    first_pixels_seconds: float  # median; a shot's request -> its first frames
    first_segment_seconds: float  # median; the same, encoded
    first_picture: dict[str, float]  # where the time to it goes, seconds by part, see `evaluation.first_picture`
    fps: float
    fps_without_vae: float
    stages: dict[str, Stage]
    denoise_call_flops: float  # mean over a shot's chunks, which attend to more and more
    denoise_flops_per_second: float
    matmul_flops_per_second: float
    denoise_share_of_matmul: float


def measure(
    model: Model,
    shots: int,
    chunks: int | None = None,
    height: int | None = None,
    width: int | None = None,
    load_seconds: float = 0.0,
) -> Report:
    """Shoots two short shots as a warm-up (first allocations, every stage once), then `shots` of `chunks` chunks."""
    engine, memory = Engine(model), Memory()
    engine.shoot(ShotRequest(WORLD, memory, 0, chunks, None, height, width))  # not begun: tells now what cannot be made
    started = time.perf_counter()
    for _ in range(2):
        caption = compose_caption(WORLD, len(memory.shots), "It waits.")
        memory = shoot(engine, ShotRequest(caption, memory, 0, min(2, chunks or 2), None, height, width)).memory
    warm_up_seconds = time.perf_counter() - started

    matmul = rates.matrix_rate(model.device, model.dtype)
    measured = []
    for seed in range(shots):
        caption = compose_caption(WORLD, len(memory.shots), "It jumps.")  # never the same twice: text is not cached
        measured.append(shoot(engine, ShotRequest(caption, memory, seed, chunks, None, height, width)))
        memory = measured[-1].memory
    matmul = max(matmul, rates.matrix_rate(model.device, model.dtype))  # before and after: clocks and neighbours change
    parts = first_picture.measure(engine, memory, height, width) if model.guidance is None else {}
    return _summary(model, measured, matmul, load_seconds, warm_up_seconds, parts)


def table(report: Report) -> str:
    """The report for people."""
    lines = [
        f"{report.model} on {report.device}, {report.dtype}, {report.width}x{report.height}: "
        f"{report.shots} shots of {report.chunks} chunks, {report.frames} frames",
        "",
        f"{'loading':<28}{report.load_seconds:10.2f} s",
        f"{'warm-up':<28}{report.warm_up_seconds:10.2f} s     two short shots, not counted below",
        f"{'time to first pixels':<28}{report.first_pixels_seconds:10.3f} s     a shot's request to its first frames",
        f"{'time to first segment':<28}{report.first_segment_seconds:10.3f} s     the same, encoded",
        f"{'end to end':<28}{report.fps:10.2f} FPS   everything below included",
        f"{'without VAE':<28}{report.fps_without_vae:10.2f} FPS",
        "",
    ]
    for name, stage in report.stages.items():
        label = STAGES[name][0]
        lines.append(f"{label:<28}{stage.milliseconds:10.2f} ms  {stage.share:6.1%}  per {stage.unit}")
    if report.first_picture:
        lines += ["", *first_picture.lines(report.first_picture)]
    lines += [
        "",
        f"{'denoiser':<28}{report.denoise_call_flops / 1e9:10.2f} GFLOP a call (mean over a shot's chunks)",
        f"{'':<28}{report.denoise_flops_per_second / 1e9:10.1f} GFLOP/s, {report.denoise_share_of_matmul:.0%} of the "
        f"{report.matmul_flops_per_second / 1e9:.1f} GFLOP/s of a plain matrix product",
    ]
    return "\n".join(lines)


def _summary(
    model: Model,
    measured: list[MeasuredShot],
    matmul: float,
    load_seconds: float,
    warm_up_seconds: float,
    parts: dict[str, float],
) -> Report:
    first, shots = measured[0], len(measured)
    frames, total = sum(shot.frames for shot in measured), sum(shot.total for shot in measured)
    spent = {name: sum(shot.stages.get(name, 0.0) for shot in measured) for name in STAGES}  # one chunk: no cache pass
    times = {"shot": shots, "chunk": shots * first.chunks, "chunk but the last": shots * max(1, first.chunks - 1)}
    chunk_frames, rows, columns = first.latent_size
    if model.guidance is None:
        read = [(chunk_frames, seen) for seen in rates.attended(model.schedule, first.chunks)]
        calls = len(model.schedule.steps) * times["chunk"]
    else:  # the teacher sees a whole shot and its context at once, with the caption and without
        whole = MAX_CONTEXT_FRAMES + chunk_frames * first.chunks
        read, calls = [(whole, whole)], 2 * model.guidance.steps * shots
    call_flops = statistics.mean(
        rates.call_flops(model.transformer, count, seen, rows, columns).total for count, seen in read
    )
    rate = call_flops * calls / spent["denoise"]
    return Report(
        model=model.name,
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        width=first.size[1],
        height=first.size[0],
        shots=shots,
        chunks=first.chunks,
        frames=frames,
        load_seconds=load_seconds,
        warm_up_seconds=warm_up_seconds,
        first_pixels_seconds=statistics.median(shot.first_pixels for shot in measured),
        first_segment_seconds=statistics.median(shot.first_segment for shot in measured),
        first_picture=parts,
        fps=frames / total,
        fps_without_vae=frames / (total - spent["context_encode"] - spent["decode"]),
        stages={
            name: Stage(1000 * spent[name] / times[unit], unit, spent[name] / total)
            for name, (_, unit) in STAGES.items()
        },
        denoise_call_flops=call_flops,
        denoise_flops_per_second=rate,
        matmul_flops_per_second=matmul,
        denoise_share_of_matmul=rate / matmul,
    )

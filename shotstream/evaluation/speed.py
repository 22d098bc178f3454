"""How fast a model makes shots, and where the time goes.

Owns the measuring and its table. Shoots ordinary shots through the ordinary engine and encodes them as the page does;
of the network it knows only the numbers in its configuration, from which the denoiser's arithmetic is counted.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from shotstream.context import MAX_CONTEXT_FRAMES
from shotstream.engine import Engine
from shotstream.evaluation import rates
from shotstream.events import Chunk, ShotDone, ShotRequest
from shotstream.media import SegmentEncoder, enlargement
from shotstream.memory import Memory
from shotstream.models.model import Model
from shotstream.story import compose_caption

WORLD = "A small red robot with round eyes, in a city at dusk, drawn in flat colours. "
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
    first_picture: dict[str, float]  # where the time to it goes, seconds by part, see `evaluation.budget`
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
    from shotstream.evaluation.budget import first_picture  # which shoots by what is here

    engine, memory = Engine(model), Memory()
    engine.shoot(ShotRequest(WORLD, memory, 0, chunks, None, height, width))  # not begun: tells now what cannot be made
    started = time.perf_counter()
    for _ in range(2):
        caption = compose_caption(WORLD, len(memory.shots), "It waits.")
        memory = shoot(engine, ShotRequest(caption, memory, 0, min(2, chunks or 2), None, height, width)).memory
    warm_up_seconds = time.perf_counter() - started

    matmul = rates.matrix_rate(model.device, model.dtype)
    takes = []
    for seed in range(shots):
        caption = compose_caption(WORLD, len(memory.shots), "It jumps.")  # never the same twice: text is not cached
        takes.append(shoot(engine, ShotRequest(caption, memory, seed, chunks, None, height, width)))
        memory = takes[-1].memory
    matmul = max(matmul, rates.matrix_rate(model.device, model.dtype))  # before and after: clocks and neighbours change
    budget = first_picture(engine, memory, height, width) if model.guidance is None else {}
    return _summary(model, takes, matmul, load_seconds, warm_up_seconds, budget)


@dataclass
class Take:
    """One measured shot. Seconds: by stage, from the request to the end, to the first frames, to their encoding."""

    chunks: int
    frames: int
    size: tuple[int, int]  # height, width in pixels
    latent_size: tuple[int, int, int]  # frames of a chunk, rows, columns
    stages: dict[str, float]
    total: float
    first_pixels: float
    first_segment: float
    memory: Memory
    latents: list[torch.Tensor]
    first_data: bytes  # the first chunk's segment


def shoot(engine: Engine, request: ShotRequest, clock: Callable[[], float] = time.perf_counter) -> Take:
    """Makes one shot, encoding every chunk as it comes."""
    encoder, first_pixels, first_segment, h264, frames = None, 0.0, 0.0, 0.0, 0
    latents, first_data = [], b""
    started = clock()
    for event in engine.shoot(request):
        now = clock()
        if isinstance(event, Chunk):
            height, width = event.frames.shape[1:3]
            encoder = encoder or SegmentEncoder(width, height, engine.model.fps, enlargement(width, height))
            data = encoder.encode(event.frames).data
            first_data = first_data or data
            h264 += clock() - now
            frames += len(event.frames)
            latents.append(event.latents)
            if event.index == 0:
                first_pixels, first_segment = now - started, clock() - started
            chunk = event
        elif isinstance(event, ShotDone):
            done = event
    return Take(
        chunks=chunk.num_chunks,
        frames=frames,
        size=(height, width),
        latent_size=(chunk.latents.shape[0], *chunk.latents.shape[2:]),
        stages=done.seconds | {"h264": h264},
        total=clock() - started,
        first_pixels=first_pixels,
        first_segment=first_segment,
        memory=done.memory,
        latents=latents,
        first_data=first_data,
    )


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
        from shotstream.evaluation import budget

        lines += ["", *budget.lines(report.first_picture)]
    lines += [
        "",
        f"{'denoiser':<28}{report.denoise_call_flops / 1e9:10.2f} GFLOP a call (mean over a shot's chunks)",
        f"{'':<28}{report.denoise_flops_per_second / 1e9:10.1f} GFLOP/s, {report.denoise_share_of_matmul:.0%} of the "
        f"{report.matmul_flops_per_second / 1e9:.1f} GFLOP/s of a plain matrix product",
    ]
    return "\n".join(lines)


def _summary(
    model: Model,
    takes: list[Take],
    matmul: float,
    load_seconds: float,
    warm_up_seconds: float,
    budget: dict[str, float],
) -> Report:
    first, shots = takes[0], len(takes)
    frames, total = sum(take.frames for take in takes), sum(take.total for take in takes)
    spent = {name: sum(take.stages.get(name, 0.0) for take in takes) for name in STAGES}  # one chunk: no cache pass
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
        first_pixels_seconds=statistics.median(take.first_pixels for take in takes),
        first_segment_seconds=statistics.median(take.first_segment for take in takes),
        first_picture=budget,
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

"""`bench`: how fast a model is on this machine, and where the time goes.

Owns the measuring and its table. Shoots ordinary shots through the ordinary engine and encodes them as the page does;
of the network it knows only the numbers in its configuration, from which the denoiser's arithmetic is counted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shotstream.arguments import (
    add_model_arguments,
    load_model,
    quickened,
    resolve_device,
    resolve_dtype,
    whole_number,
)
from shotstream.errors import UserError, telling_lack_of_memory
from shotstream.story import compose_caption

if TYPE_CHECKING:
    import torch

    from shotstream.engine import Engine
    from shotstream.events import ShotRequest
    from shotstream.memory import Memory
    from shotstream.models.transformer import ShotTransformer
    from shotstream.models.weights import Model

PUBLISHED_HEIGHT, PUBLISHED_WIDTH = 480, 832
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument(
        "--config", type=Path, help="a transformer's config.json: random weights, with a tiny VAE and text encoder"
    )
    size = "pixels (default: the model's; with --config {})"
    parser.add_argument("--height", type=whole_number(1, 4096), help=size.format(PUBLISHED_HEIGHT))
    parser.add_argument("--width", type=whole_number(1, 4096), help=size.format(PUBLISHED_WIDTH))
    parser.add_argument("--shots", type=whole_number(1, 1000), default=3, help="measured after a warm-up (default: 3)")
    parser.add_argument("--chunks", type=whole_number(1, 1000), help="chunks a shot (default: the model's)")
    parser.add_argument(
        "--size",
        choices=("middle", "published"),
        help="random weights of a middle size (width 512, 8 layers, 448x256), or of all parts at the published size",
    )
    parser.add_argument(
        "--baseline", action="store_true", help="beside the procedure written out the straightforward way"
    )
    parser.add_argument("--ladder", action="store_true", help="by every rung of the ladder of faster ways, see --fast")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    if sum(map(bool, (args.config, args.model, args.size))) > 1:
        raise UserError("Give one of --model, --config and --size, not both.")
    if args.baseline and getattr(args, "quality", "student") != "student":
        raise UserError("--baseline is for models that stream: leave out --quality.")
    if args.ladder and (args.fast or args.baseline):
        raise UserError("--ladder climbs every rung by itself: leave out --fast and --baseline.")
    started = time.perf_counter()
    model = _random_model(args)
    load_seconds = time.perf_counter() - started
    if args.baseline or args.ladder:
        return _compare(args, model)
    report = measure(model, args.shots, args.chunks, args.height, args.width, load_seconds)
    print(json.dumps(asdict(report), indent=2) if args.json else table(report))
    return 0


def _compare(args: argparse.Namespace, model: Model) -> int:
    from shotstream.evaluation import comparison
    from shotstream.events import ShotRequest
    from shotstream.plan import plan_shot

    chunks = args.chunks or model.default_chunks
    height, width = args.height or model.height, args.width or model.width
    plan_shot(ShotRequest(WORLD, num_chunks=chunks, height=height, width=width), model)
    if chunks > model.max_chunks:
        raise UserError(f"The published procedure has no shots longer than {model.max_chunks} chunks.")
    if args.ladder:
        steps = comparison.climb(model, args.shots, chunks, height, width)
        print(json.dumps([asdict(step) for step in steps], indent=2) if args.json else comparison.ladder_table(steps))
        return 0
    found = comparison.compare(model, args.shots, chunks, height, width)
    if args.json:
        print(json.dumps(asdict(found), indent=2))
    else:
        print(f"{model.name} on {model.device}, {str(model.dtype).removeprefix('torch.')}, {width}x{height}")
        print(comparison.table(found))
    return 0


def measure(
    model: Model,
    shots: int,
    chunks: int | None = None,
    height: int | None = None,
    width: int | None = None,
    load_seconds: float = 0.0,
) -> Report:
    """Shoots two short shots as a warm-up (first allocations, every stage once), then `shots` of `chunks` chunks."""
    from shotstream.engine import Engine
    from shotstream.evaluation.budget import first_picture
    from shotstream.events import ShotRequest
    from shotstream.memory import Memory

    engine, memory = Engine(model), Memory()
    engine.shoot(ShotRequest(WORLD, memory, 0, chunks, None, height, width))  # not begun: tells now what cannot be made
    started = time.perf_counter()
    for _ in range(2):
        caption = compose_caption(WORLD, len(memory.shots), "It waits.")
        memory = shoot(engine, ShotRequest(caption, memory, 0, min(2, chunks or 2), None, height, width)).memory
    warm_up_seconds = time.perf_counter() - started

    matmul = matmul_rate(model.device, model.dtype)
    takes = []
    for seed in range(shots):
        caption = compose_caption(WORLD, len(memory.shots), "It jumps.")  # never the same twice: text is not cached
        takes.append(shoot(engine, ShotRequest(caption, memory, seed, chunks, None, height, width)))
        memory = takes[-1].memory
    matmul = max(matmul, matmul_rate(model.device, model.dtype))  # before and after: clocks and neighbours change
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
    from shotstream.events import Chunk, ShotDone
    from shotstream.media import SegmentEncoder, enlargement

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


def transformer_flops(transformer: ShotTransformer, frames: int, attended: int, rows: int, columns: int) -> int:
    """Multiplications and additions of one cached call, see `rates.call_flops`."""
    from shotstream.evaluation.rates import call_flops

    return call_flops(transformer, frames, attended, rows, columns).total


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOPs a second of a plain square matrix product here and now: the best of a few."""
    import torch

    size = 2048 if device.type == "cpu" else 8192
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(6):
        started = time.perf_counter()
        (a @ b)[0, 0].item()  # reading a number waits for the device
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


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


MIDDLE = {"dim": 512, "ffn_dim": 2048, "num_heads": 8, "num_layers": 8, "text_dim": 64, "text_len": 512}
MIDDLE_SIZE = {"height": 256, "width": 448}


def _random_model(args: argparse.Namespace) -> Model:
    """The model to measure, with random weights if only its size is given."""
    if args.size == "published":
        return _published_size(args)
    return _load_random_model(args) if args.config or args.size else load_model(args)


def _published_size(args: argparse.Namespace) -> Model:
    """Raises `UserError` where its weights, some 17 GB in 16 bits, cannot be."""
    from shotstream.budget import empty_model
    from shotstream.models.attention import use_attention
    from shotstream.models.random_model import fill_randomly, networks

    device = resolve_device(args.device)
    dtype = resolve_dtype(args.dtype, device)
    model = empty_model(None, dtype)
    if device.type == "cpu":
        _check_room(sum(p.nbytes for part in networks(model) for p in part.parameters()), "The published size")
    with telling_lack_of_memory(f"on {device} for the published model"):
        model = fill_randomly(model, device)
    model.attention = use_attention(model.transformer, args.attention, device, dtype)
    return quickened(model, args)


def _load_random_model(args: argparse.Namespace) -> Model:
    from shotstream.models.checkpoint import read_json, transformer_config
    from shotstream.models.random_model import save_random_model
    from shotstream.sampler import Schedule

    if args.size:
        config, size = dict(MIDDLE), dict(MIDDLE_SIZE)
    else:
        config = transformer_config(read_json(args.config), args.config)
        size = {"height": PUBLISHED_HEIGHT, "width": PUBLISHED_WIDTH}
        _check_room(_config_bytes(config), args.config)
    size |= {name: value for name in ("height", "width") if (value := getattr(args, name))}
    with tempfile.TemporaryDirectory() as folder:
        args.model = save_random_model(folder, config, schedule=Schedule(), **size)
        return load_model(args)


def _config_bytes(config: dict) -> int:
    """Of a transformer's weights twice: as written, and as read back."""
    import torch

    from shotstream.models.random_model import SMALL
    from shotstream.models.transformer import ShotTransformer

    with torch.device("meta"):
        transformer = ShotTransformer(**SMALL | config)
    return 2 * sum(parameter.nbytes for parameter in transformer.parameters())


def _check_room(need: int, what: object) -> None:
    """Raises `UserError` for weights that this machine cannot hold: some systems kill who only asks for too much."""
    have = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if need > have:
        raise UserError(
            f"{what} describes a model that takes {need / 1e9:.0f} GB of memory to try, and there are {have / 1e9:.0f}."
        )


def _summary(
    model: Model,
    takes: list[Take],
    matmul: float,
    load_seconds: float,
    warm_up_seconds: float,
    budget: dict[str, float],
) -> Report:
    from shotstream.context import MAX_CONTEXT_FRAMES

    first, shots = takes[0], len(takes)
    frames, total = sum(take.frames for take in takes), sum(take.total for take in takes)
    spent = {name: sum(take.stages.get(name, 0.0) for take in takes) for name in STAGES}  # one chunk: no cache pass
    times = {"shot": shots, "chunk": shots * first.chunks, "chunk but the last": shots * max(1, first.chunks - 1)}
    chunk_frames, rows, columns = first.latent_size
    if model.guidance is None:
        attended = [(chunk_frames, MAX_CONTEXT_FRAMES + chunk_frames * (index + 1)) for index in range(first.chunks)]
        calls = len(model.schedule.steps) * times["chunk"]
    else:  # the teacher sees a whole shot and its context at once, with the caption and without
        whole = MAX_CONTEXT_FRAMES + chunk_frames * first.chunks
        attended, calls = [(whole, whole)], 2 * model.guidance.steps * shots
    call_flops = statistics.mean(
        transformer_flops(model.transformer, count, seen, rows, columns) for count, seen in attended
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

"""`plan`: what a model takes of a card before it is loaded, which cards it fits, and what speed there is on paper.

Owns the table of cards and the words. The bytes come from `footprint`, the FLOPs from the shapes alone; nothing here is
measured, and the output says so.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shotstream.arguments import DTYPES, whole_number
from shotstream.errors import UserError

if TYPE_CHECKING:
    import torch

    from shotstream.footprint import Footprint
    from shotstream.models.model import Model

# GiB, as sold; of which the driver leaves a little less, see `room`
CARDS = {
    12: "RTX 3060, 4070",
    16: "RTX 4080, T4",
    24: "RTX 4090, L4, A10G",
    48: "L40S, half an RTX PRO 6000",
    80: "A100, H100",
    96: "RTX PRO 6000",
    141: "H200",
}
MARGIN = 1.03  # for what is not counted: fragments, and convolutions' workspaces
DRIVER = 0.5e9  # bytes that a process takes of a card before it has done anything


@dataclass(frozen=True)
class Speed:
    """A card's data sheet: dense bfloat16 TFLOP/s with float32 sums, and TB/s of its memory."""

    tflops: float
    tbytes: float


SPEEDS = {
    "H200": Speed(989, 4.8),
    "H100": Speed(989, 3.35),
    "RTX PRO 6000": Speed(503, 1.79),
    "RTX 4090": Speed(165, 1.01),
}
UTILISATIONS = (0.4, 0.6)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="FOLDER", help="model folder (default: the published model, from its sizes)")
    parser.add_argument("--height", type=whole_number(1, 4096), help="pixels (default: the model's)")
    parser.add_argument("--width", type=whole_number(1, 4096), help="pixels (default: the model's)")
    parser.add_argument("--chunks", type=whole_number(1, 1000), help="chunks a shot (default: the model's)")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="(default: bfloat16)")
    parser.add_argument("--int8-text", action="store_true", help="with the text encoder in 8 bits")
    parser.add_argument("--cards", action="store_true", help="also the speed of large cards, on paper")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    import torch

    from shotstream.events import ShotRequest
    from shotstream.footprint import measure
    from shotstream.plan import plan_shot

    dtype = getattr(torch, args.dtype)
    model, small = (empty_model(args.model, dtype, low_vram) for low_vram in (False, True))
    if model.guidance is not None:
        raise UserError(f"{model.name} is a teacher, which takes other room than its student: plan for the student.")
    height, width = args.height or model.height, args.width or model.width
    chunks = args.chunks or model.default_chunks
    plan_shot(ShotRequest("x", num_chunks=chunks, height=height, width=width), model)  # tells what cannot be made
    footprints = [measure(each, height, width, chunks, args.int8_text) for each in (model, small)]
    work = shot_work(model, height, width, chunks)
    if args.json:
        print(json.dumps(as_json(model, *footprints, work), indent=2))
        return 0
    print(f"{model.name}, {width}x{height}, {chunks} chunks a shot, {args.dtype}: computed, not measured\n")
    print(table(*footprints))
    if args.cards:
        print("\n" + speed_table(work))
    return 0


def empty_model(folder: str | None, dtype: torch.dtype, low_vram: bool = False) -> Model:
    """The model in `folder`, or the published one, with shapes and no weights. Raises `UserError`."""
    import torch
    from diffusers import AutoencoderKLWan
    from transformers import UMT5Config, UMT5EncoderModel

    from shotstream.models.components import LARGE_ENCODER, count_parameters, empty_encoder, empty_vae
    from shotstream.models.folder import read_numbers
    from shotstream.models.model import Model
    from shotstream.models.published import PUBLISHED, PUBLISHED_SIZE, UMT5_XXL, WAN
    from shotstream.models.text import UMT5Text
    from shotstream.models.transformer import ShotTransformer
    from shotstream.models.vae import LodgedState, WanVAE, network_of
    from shotstream.models.weights import check_fit
    from shotstream.sampler import Schedule

    place = Path(folder) if folder else None
    numbers = read_numbers(place) if place else None
    has_vae, has_encoder = (place is not None and (place / part).is_dir() for part in ("vae", "text_encoder"))
    if numbers and numbers.base != WAN and not (has_vae and has_encoder):
        part = "text_encoder" if has_vae else "vae"
        raise UserError(f"{folder} lacks the folder {part}/: name a model folder that has parts of its own.")
    with torch.device("meta"):
        transformer = _cast(ShotTransformer(**(numbers.transformer if numbers else {})), dtype)
        vae = empty_vae(place / "vae") if has_vae else WanVAE(AutoencoderKLWan())
        encoder = empty_encoder(place / "text_encoder") if has_encoder else UMT5EncoderModel(UMT5Config(**UMT5_XXL))
    _cast(network_of(vae), dtype)
    large = count_parameters(encoder) >= LARGE_ENCODER
    _cast(encoder, torch.bfloat16 if large and dtype == torch.float32 else dtype)
    if low_vram and isinstance(vae, WanVAE):
        vae.lodge = lambda state: LodgedState(state, _forget, _imagine)
    schedule = numbers.schedule if numbers else Schedule()
    size = numbers.size if numbers else PUBLISHED_SIZE
    text = UMT5Text(None, encoder, transformer.config.text_len)  # nothing is tokenised
    check_fit(folder, transformer, vae, text)
    return Model(
        name=numbers.name if numbers else PUBLISHED,
        transformer=transformer,
        vae=vae,
        text=text,
        schedule=schedule,
        guidance=numbers.guidance if numbers else None,
        device=torch.device("meta"),
        dtype=dtype,
        **size,
    )


def _forget(entry: object) -> object:
    """What is not on the card any more: of a tensor only its shape is kept."""
    return entry if entry is None or isinstance(entry, str) else (entry.shape, entry.dtype)


def _imagine(entry: object) -> object:
    import torch

    return torch.empty(entry[0], dtype=entry[1], device="meta") if isinstance(entry, tuple) else entry


def _cast(module: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    import torch

    return torch.nn.Module.to(module, dtype).eval()  # the library's own warns of what it would keep wider: nothing


@dataclass(frozen=True)
class Work:
    """Of one shot: floating-point operations of the transformer (matrix products, attention) and bytes that its calls
    read at least (weights and cache, once a call); `frames` that come of it."""

    linear: int
    attention: int
    bytes_read: int
    frames: int
    fps: int


def shot_work(model: Model, height: int, width: int, chunks: int) -> Work:
    """Four steps and a cache pass a chunk (none after the last), and the context pass. VAE and text are not counted."""
    from shotstream.context import MAX_CONTEXT_FRAMES
    from shotstream.evaluation.rates import attended, call_flops

    transformer, schedule = model.transformer, model.schedule
    rows, columns = model.latent_size(height, width)
    grid = transformer.patch_grid(rows, columns)
    tokens, config = grid[0] * grid[1], transformer.config
    row = 2 * config.num_layers * config.dim * model.dtype.itemsize * tokens  # keys and values of a latent frame
    weights = sum(parameter.nbytes for parameter in transformer.parameters())
    calls = [(MAX_CONTEXT_FRAMES, MAX_CONTEXT_FRAMES, 1)]
    for index, seen in enumerate(attended(schedule, chunks)):
        calls.append((schedule.chunk_frames, seen, len(schedule.steps) + (index + 1 < chunks)))
    linear = attention = read = 0
    for frames, seen, times in calls:
        flops = call_flops(transformer, frames, seen, rows, columns)
        linear, attention = linear + times * flops.matrix, attention + times * flops.attention
        read += times * (weights + seen * row)
    return Work(linear, attention, read, model.shot_frames(chunks), model.fps)


def room(size: int) -> float:
    """Bytes that a program can have of a card of `size` GiB."""
    return 0.99 * size * 2**30 - DRIVER


def fits(footprint: Footprint, small: Footprint) -> dict[int, str]:
    """By card size: "yes", "--low-vram" or "no"."""
    plain, low = MARGIN * footprint.peak(), MARGIN * small.peak(low_vram=True)
    return {size: "yes" if plain <= room(size) else "--low-vram" if low <= room(size) else "no" for size in CARDS}


def table(footprint: Footprint, small: Footprint) -> str:
    """The bytes and the cards, for people."""
    lines = [f"{'':<30}{'GB':>8}"]
    lines += [f"{'weights: ' + name:<30}{size / 1e9:8.3f}" for name, size in footprint.weights.items()]
    lines += [f"{'kept: ' + name:<30}{size / 1e9:8.3f}" for name, size in footprint.kept.items()]
    lines += ["", f"{'at the height of':<20}{'working':>10}{'all of it':>12}{'--low-vram':>12}"]
    low = small.stages(low_vram=True)
    for name, size in footprint.stages().items():
        lines.append(f"{name:<20}{footprint.working[name] / 1e9:10.3f}{size / 1e9:12.3f}{low[name] / 1e9:12.3f}")
    peaks = footprint.peak() / 1e9, small.peak(low_vram=True) / 1e9
    lines += [f"{'peak':<30}{peaks[0]:12.3f}{peaks[1]:12.3f}", ""]
    lines += [f"{size:4} GB  {answer:<12}{CARDS[size]}" for size, answer in fits(footprint, small).items()]
    return "\n".join(lines)


def expected_fps(work: Work, speed: Speed, utilisation: float) -> float:
    """Frames a second if the transformer's arithmetic runs at that share of the data sheet, or its bytes at that share,
    whichever is slower."""
    seconds = max((work.linear + work.attention) / (speed.tflops * 1e12), work.bytes_read / (speed.tbytes * 1e12))
    return work.frames / (seconds / utilisation)


def speed_table(work: Work) -> str:
    """FLOPs, bytes and frames a second on paper."""
    lines = [
        f"Computed from data sheets, not measured: {(work.linear + work.attention) / 1e12:.0f} TFLOP a shot "
        f"({work.linear / 1e12:.0f} in matrix products, {work.attention / 1e12:.0f} in attention), "
        f"{work.bytes_read / 1e12:.2f} TB read, {work.frames} frames; without VAE and text; "
        f"real time is {work.fps} FPS",
        "",
        f"| {'card':<14} | TFLOP/s | TB/s | FPS at 40 % | FPS at 60 % |",
        f"| {'-' * 14} | ------: | ---: | ----------: | ----------: |",
    ]
    for name, speed in SPEEDS.items():
        slow, fast = (expected_fps(work, speed, share) for share in UTILISATIONS)
        lines.append(f"| {name:<14} | {speed.tflops:7.0f} | {speed.tbytes:4.2f} | {slow:11.1f} | {fast:11.1f} |")
    return "\n".join(lines)


def as_json(model: Model, footprint: Footprint, small: Footprint, work: Work) -> dict:
    return {
        "model": model.name,
        "weights": footprint.weights,
        "kept": footprint.kept,
        "stages": footprint.stages(),
        "peak": footprint.peak(),
        "low_vram": {"stages": small.stages(low_vram=True), "peak": small.peak(low_vram=True)},
        "fits": {str(size): answer for size, answer in fits(footprint, small).items()},
        "flops": {"linear": work.linear, "attention": work.attention},
        "bytes_read": work.bytes_read,
        "frames": work.frames,
        "fps": {
            name: {str(share): expected_fps(work, speed, share) for share in UTILISATIONS}
            for name, speed in SPEEDS.items()
        },
    }

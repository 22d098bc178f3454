"""`bench`: how fast a model is on this machine, and where the time goes.

Owns the options and which model is measured, with random weights if only a size is given; how is in `evaluation.speed`.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import asdict
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

if TYPE_CHECKING:
    from shotstream.models.weights import Model

PUBLISHED_HEIGHT, PUBLISHED_WIDTH = 480, 832


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
    if args.ladder and (args.fast or args.eight_bit or args.baseline):
        raise UserError("--ladder climbs every rung by itself: leave out --fast, --eight-bit and --baseline.")
    started = time.perf_counter()
    model = _random_model(args)
    load_seconds = time.perf_counter() - started
    if args.baseline or args.ladder:
        return _compare(args, model)
    from shotstream.evaluation import speed

    report = speed.measure(model, args.shots, args.chunks, args.height, args.width, load_seconds)
    print(json.dumps(asdict(report), indent=2) if args.json else speed.table(report))
    return 0


def _compare(args: argparse.Namespace, model: Model) -> int:
    from shotstream.evaluation import comparison
    from shotstream.evaluation.measured_shot import WORLD
    from shotstream.events import ShotRequest
    from shotstream.plan import plan_shot

    if model.guidance is not None:
        raise UserError(f"{model.name} makes whole shots: leave out --baseline and --ladder, which are for students.")
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


MIDDLE = {"dim": 512, "ffn_dim": 2048, "num_heads": 8, "num_layers": 8, "text_dim": 64, "text_len": 512}
MIDDLE_SIZE = {"height": 256, "width": 448}


def _random_model(args: argparse.Namespace) -> Model:
    """The model to measure, with random weights if only its size is given."""
    if args.size == "published":
        return _published_size(args)
    return _load_random_model(args) if args.config or args.size else load_model(args)


def _published_size(args: argparse.Namespace) -> Model:
    """Raises `UserError` where its weights, some 17 GB in 16 bits, cannot be."""
    from shotstream.cards import empty_model
    from shotstream.models.attention import use_attention
    from shotstream.models.random_model import fill_randomly

    device = resolve_device(args.device)
    dtype = resolve_dtype(args.dtype, device)
    model = empty_model(None, dtype)
    if device.type == "cpu":
        _check_room(sum(p.nbytes for part in model.networks.values() for p in part.parameters()), "The published size")
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

"""`convert`: a checkpoint, the published one or its backbone's, becomes a model folder, in 16 bits, once.

The folder holds what the checkpoint holds, and what the published model says of its pictures and prompts. VAE, text
encoder and tokenizer are named by their repository and loaded from there, so that nothing is on the disk twice.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from shotstream.arguments import whole_number
from shotstream.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint",
        type=Path,
        help='file in the published layout: {"generator": tensors}, or .safetensors of the text-to-video backbone',
    )
    parser.add_argument("folder", type=Path, help="new model folder")
    parser.add_argument(
        "--heads",
        type=whole_number(1, 256),
        help="attention heads, which no shape tells (default: one per 128 of width)",
    )
    parser.add_argument(
        "--base",
        metavar="FOLDER|HUB_ID",
        help="where VAE, text encoder and tokenizer come from, with or without @REVISION (default: Wan2.1-T2V-1.3B)",
    )


def run(args: argparse.Namespace) -> int:
    if args.folder.exists() and (not args.folder.is_dir() or any(args.folder.iterdir())):
        raise UserError(f"{args.folder} exists and is not empty: name a new folder.")

    import torch  # and what needs it, not at the top: a mistake is told at once

    from shotstream.models.checkpoint import load_checkpoint
    from shotstream.models.folder import save_model
    from shotstream.models.published import PUBLISHED_PROMPTING, PUBLISHED_SHAPES, PUBLISHED_SIZE, WAN
    from shotstream.sampler import Schedule

    transformer = load_checkpoint(args.checkpoint, dtype=torch.bfloat16, num_heads=args.heads)
    base = args.base or WAN
    if Path(base).is_dir():
        base = str(Path(base).resolve())
    try:
        save_model(
            args.folder,
            name=args.checkpoint.stem,
            transformer=transformer,
            schedule=Schedule(),
            base=base,
            shapes=PUBLISHED_SHAPES,
            prompting=PUBLISHED_PROMPTING,
            **PUBLISHED_SIZE,
        )
    except BaseException:  # half a folder would be of no use, and in the way of the next try
        shutil.rmtree(args.folder, ignore_errors=True)
        raise
    millions = sum(parameter.numel() for parameter in transformer.parameters()) / 1e6
    print(f"{args.folder}: {millions:.1f} M parameters in bfloat16; the other parts come from {base}.")
    return 0

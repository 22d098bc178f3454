"""`python -m shotstream train STAGE`: from nothing to a model folder, one stage after another.

    autoencoder   pixels to latents and back                         -> OUT/autoencoder
    decoder       its decoder alone once more                        -> OUT/decoder
    latents       stories, rendered or read from videos, encoded     -> OUT/latents, OUT/heldout, OUT/tokenizer
    direct        a causal student without a teacher (the short way) -> OUT/direct
    teacher       stage 1: the bidirectional next-shot teacher       -> OUT/teacher
    pairs         the teacher's paths from noise to shots            -> OUT/pairs
    causal        stage 2.1: the causal student's start              -> OUT/causal
    intra_shot    stage 2.2.1: self-forcing on single shots          -> OUT/intra_shot
    inter_shot    stage 2.2.2: self-forcing on whole stories         -> OUT/inter_shot
    export        all of it in 16 bits in the published layout       -> OUT/model, OUT/students
    all           what the configuration lists, in that order

Each stage goes on from its newest checkpoint under OUT. Knows the order of stages; what they do is in `stages`.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from shotstream.arguments import Parser, whole_number
from shotstream.errors import UserError
from shotstream.training import STAGES

DEFAULT_OUT = "~/.cache/shotstream/CONFIG"


def add_arguments(parser: Parser) -> None:
    parser.add_argument("stage", choices=(*STAGES, "all"), help="what to do")
    parser.add_argument(
        "--config",
        default="toy",
        help="toy: the shipped model (hours); direct: without a teacher; smoke: minutes; paper: the published "
        "settings; or a YAML file (default: toy)",
    )
    parser.add_argument(
        "--start", type=Path, metavar="MODEL", help="model folder whose weights the first stages begin with"
    )
    parser.add_argument(
        "--videos", type=Path, metavar="FOLDER", help="annotated real videos to train on instead of the toy world"
    )
    parser.add_argument("--seed", type=whole_number(0, 2**31), help="other random choices than the configuration's")
    parser.add_argument("--out", type=Path, help=f"folder of the run (default: {DEFAULT_OUT})")


def run(args: argparse.Namespace) -> int:
    try:
        from accelerate import PartialState
        from accelerate.utils import parse_flag_from_env

        from shotstream.training.configuration import load_recipe, with_seed
        from shotstream.training.stages import Stages
    except ImportError as error:
        raise UserError(f"Training needs the package {error.name}: pip install -e '.[training]'.") from error

    for name in ("FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG"):
        if parse_flag_from_env(f"ACCELERATE_USE_{name}"):
            raise UserError(
                f"Launch without ACCELERATE_USE_{name}: `sharded: true` in a stage's course shares its weights out."
            )
    recipe = load_recipe(args.config)
    if args.seed is not None:
        recipe = with_seed(recipe, args.seed)
    if args.videos:
        recipe = replace(recipe, data=replace(recipe.data, videos=str(args.videos)))
    out = (args.out or Path(DEFAULT_OUT.replace("CONFIG", Path(args.config).stem))).expanduser()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Cannot write to {out}: {error.strerror}.") from error
    # others wait while one encodes or looks, for longer than the usual minutes
    PartialState(parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=timedelta(days=7))
    stages = Stages(out, recipe, args.start)
    for stage in recipe.stages if args.stage == "all" else (args.stage,):
        getattr(stages, stage)()
        PartialState().wait_for_everyone()
    return 0

"""Options that several commands share: which model, where it runs, how numbers are read.

Owns their wording and their checks. Imports torch only when an option is used, so that `--help` and a mistyped
option answer at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from shotstream.cores import usable_cores
from shotstream.errors import UserError
from shotstream.ladder import RUNGS

if TYPE_CHECKING:
    import torch

    from shotstream.models.fetching import FetchProgress
    from shotstream.models.weights import Model

MAX_FILM_SEED = 2**32 - 1  # leaves room for one seed a shot below what the engine takes
DTYPES = ("float32", "bfloat16", "float16")


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that tells a mistake in one sentence instead of a page of usage."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """An argparse type: a whole number from `low` to `high`."""

    def convert(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = None
        if number is None or not low <= number <= high:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number from {low} to {high}")
        return number

    return convert


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --model, --device, --dtype, --attention, --fast, --eight-bit and --compile, and what small cards need: all
    that `load_model` reads. The quality is the student's, unless a command has an option for that."""
    parser.set_defaults(quality="student")
    parser.add_argument(
        "--model",
        metavar="FOLDER|HUB_ID",
        help="model folder or Hub id (default: $SHOTSTREAM_MODEL, else the published model with CUDA, "
        "the small shipped one without)",
    )
    add_device_arguments(parser)
    add_memory_arguments(parser)
    rung = whole_number(0, len(RUNGS) - 1)
    parser.add_argument(
        "--fast",
        type=rung,
        default=_variable(parser, "SHOTSTREAM_FAST", rung, 0),
        metavar="N",
        help="a rung of the ladder of faster ways, each with some loss and with those below it: "
        + ", ".join(f"{number}: {step.name}" for number, step in enumerate(RUNGS))
        + " (default: $SHOTSTREAM_FAST, else 0)",
    )
    add_eight_bit_argument(parser)
    _add_switch(
        parser,
        "--compile",
        "SHOTSTREAM_COMPILE",
        "let torch compile the denoiser: minutes at the start, then faster",
    )


def add_eight_bit_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --eight-bit; a Space sets a variable."""
    _add_switch(
        parser,
        "--eight-bit",
        "SHOTSTREAM_EIGHT_BIT",
        "denoiser in 8 bits, with torchao: float8 on cards that compute in it, elsewhere int8 weights, with some loss",
    )


def add_device_arguments(parser: argparse.ArgumentParser, dtype: str | None = None) -> None:
    """Adds --device, --dtype (by default `dtype`, or the device's usual one) and --attention."""
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: a GPU if there is one)")
    usual = dtype or "bfloat16 on a GPU, float32 on a CPU"
    parser.add_argument("--dtype", choices=DTYPES, default=dtype, help=f"(default: {usual})")
    parser.add_argument(
        "--attention",
        default=os.environ.get("SHOTSTREAM_ATTENTION") or "auto",
        help="diffusers attention backend (default: $SHOTSTREAM_ATTENTION, else auto, the fastest that is exact)",
    )


def add_memory_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --low-vram, --int8-text and --preview, for cards that are too small or too slow for the published model; a
    Space sets variables."""
    _add_switch(parser, "--low-vram", "SHOTSTREAM_LOW_VRAM", "keep on the card only what computes at a time")
    _add_switch(parser, "--int8-text", "SHOTSTREAM_INT8_TEXT", "text encoder in 8 bits, with torchao")
    parser.add_argument(
        "--preview",
        metavar="FILE|HUB_ID/FILE",
        default=os.environ.get("SHOTSTREAM_PREVIEW") or None,
        help="a tiny decoder (TAEHV's taew2_1 for the published model) for what is shown, where the VAE is too slow "
        "(default: $SHOTSTREAM_PREVIEW, else none)",
    )


def switched_on(variable: str) -> bool:
    """Whether an environment variable says yes. Raises `UserError` for one that says neither yes nor no."""
    try:
        return _yes_or_no(os.environ.get(variable, ""))
    except argparse.ArgumentTypeError as error:
        raise UserError(f"{variable}: {error}.") from error


def _add_switch(parser: argparse.ArgumentParser, option: str, variable: str, what: str) -> None:
    """Adds an option without a value, which a variable can switch on, too."""
    default = _variable(parser, variable, _yes_or_no, False)
    parser.add_argument(option, action="store_true", default=default, help=f"{what} (default: ${variable})")


def _variable(parser: argparse.ArgumentParser, name: str, convert: Callable[[str], object], default: object) -> object:
    """What an environment variable says, or `default` without one. A bad value ends as that of an option does."""
    try:
        return convert(os.environ[name]) if os.environ.get(name) else default
    except argparse.ArgumentTypeError as error:
        parser.error(f"{name}: {error}")


def _yes_or_no(text: str) -> bool:
    word = text.strip().lower()
    if word not in ("", "0", "false", "no", "off", "1", "true", "yes", "on"):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is neither 1 nor 0")
    return word in ("1", "true", "yes", "on")


def resolve_device(name: str | None) -> torch.device:
    """The device called `name`, or the best one for None. Raises `UserError` for one that this machine lacks."""
    import torch

    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    devices = torch.accelerator.device_count()
    if accelerator is None and torch.cuda.is_available():  # ZeroGPU's, which no more of torch knows of
        accelerator, devices = torch.device("cuda"), torch.cuda.device_count()
    if name is None:
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"Unknown device {name[:40]!r}: use cpu, cuda, cuda:N or mps.") from error
    if device.type == "cpu":
        return torch.device("cpu")
    if accelerator is None or device.type != accelerator.type:
        raise UserError(f"This machine has no {device.type} device: use {accelerator or 'cpu'}.")
    if (device.index or 0) >= devices:
        raise UserError(f"This machine has no {device}: it has {devices} {device.type} device(s).")
    return device


def resolve_dtype(name: str | None, device: torch.device) -> torch.dtype:
    """The dtype called `name`, or the usual one of `device` for None."""
    import torch

    return getattr(torch, name or ("float32" if device.type == "cpu" else "bfloat16"))


def load_model(args: argparse.Namespace, progress: FetchProgress | None = None) -> Model:
    """Loads the model that the options of `add_model_arguments` ask for; `UserError` as told by the loader. What has to
    be fetched is told to `progress`."""
    device = resolve_device(args.device)
    if args.low_vram and (args.compile or args.fast or args.eight_bit):
        raise UserError(
            "--low-vram moves weights about while they are used: leave out --compile, --fast and --eight-bit."
        )
    if device.type == "cpu":
        leave_a_core()
    from shotstream.models import weights

    model = weights.load_model(
        args.model,
        device=device,
        dtype=resolve_dtype(args.dtype, device),
        attention=args.attention,
        quality=args.quality,
        progress=progress,
        low_vram=args.low_vram,
        int8_text=args.int8_text,
        preview=args.preview,
    )
    return quickened(model, args)


def quickened(model: Model, args: argparse.Namespace) -> Model:
    """`model` with what `--fast`, `--eight-bit` and `--compile` ask for; tells of it on standard error."""
    if args.fast or args.eight_bit:
        from shotstream.fast import quicken

        model, line = quicken(model, args.fast, eight_bit=args.eight_bit)
        print(f"Note: faster, with some loss: {line}.", file=sys.stderr)
    if args.compile:
        from shotstream.models.attention import compile_blocks

        print(f"Note: {compile_blocks(model.transformer)}.", file=sys.stderr)
    if model.device.type != "cpu":
        print(f"Note: attention {model.attention}.", file=sys.stderr)
    return model


def leave_a_core() -> None:
    """Computes on all cores but one, unless OMP_NUM_THREADS says otherwise.

    The encoder, the page and often the viewer's browser run beside the model. Threads that wait for each other at the
    end of every operation are tens of times slower once one of them has to share its core.
    """
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, usable_cores() - 1))

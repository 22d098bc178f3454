"""`verify`: replay a recording of the published procedure through the ordinary loader and engine.

Tells on any machine whether its device, dtype and attention backend give the published latents, and how far weights in
8 bits are from them. Owns how far apart they may be; what is compared is `replay`'s.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from shotstream.arguments import add_device_arguments, add_eight_bit_argument, resolve_device, resolve_dtype

STORY_TOLERANCE = 1e-4
CALL_TOLERANCE = 2e-5
HALF_TOLERANCE = 1.5  # last digits of a half precision: what remains of a small mistake is lost among its roundings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("stem", type=Path, help="recording without its endings .json, .pt and .safetensors")
    parser.add_argument(
        "--tolerance",
        type=_tolerance,
        help=f"largest difference allowed (default: {STORY_TOLERANCE:g}, for single calls {CALL_TOLERANCE:g}; in half "
        f"precision {HALF_TOLERANCE:g} of its last digits, root mean square)",
    )
    parser.add_argument("--teacher", type=Path, help="also compare a recorded call of the bidirectional teacher")
    add_device_arguments(parser, dtype="float32")  # what recordings are made in
    add_eight_bit_argument(parser)


def run(args: argparse.Namespace) -> int:
    import torch

    from shotstream.fast import quicken
    from shotstream.recording import read_recording, recorded_model
    from shotstream.replay import differences

    device = resolve_device(args.device)
    dtype = resolve_dtype(args.dtype, device)
    recording = read_recording(args.stem)
    model = recorded_model(recording, device, dtype, args.attention)
    print(f"attention: {model.attention}")
    if args.eight_bit:
        model, told = quicken(model, 0, eight_bit=True)
        print(f"denoiser: {told}")
    half = None if dtype == torch.float32 or args.tolerance else HALF_TOLERANCE * torch.finfo(dtype).eps
    sound = True
    for found in differences(recording, model, args.teacher):
        allowed = args.tolerance or (CALL_TOLERANCE if found.single_call else STORY_TOLERANCE)
        within = found.largest <= allowed if half is None else found.relative <= half  # not a number is not within
        sound &= within
        verdict = "ok" if within else "TOO LARGE"
        print(f"{found.what:<28} {found.largest:9.2e} {found.relative:9.3%}  {verdict}", flush=True)
    if half is not None:
        print(f"{args.dtype}: the root mean square may differ by {half:.3%}; a smaller mistake only float32 shows")
    print("sound" if sound else "not sound: this device, dtype, attention backend or rounding changes the result")
    return 0 if sound else 1


def _tolerance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a positive number")
    return value

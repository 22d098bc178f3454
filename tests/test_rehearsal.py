"""The published model's size without its weights: a random checkpoint in its layout is converted, loaded and run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shotstream.models.random_model import save_random_model

CHUNK = 96, 64  # pixels: the weights are what is large here

WRITE = """
import sys, torch
from shotstream.models.transformer import ShotTransformer
with torch.device("meta"):
    shapes = {name: tensor.shape for name, tensor in ShotTransformer().state_dict().items()}
torch.manual_seed(0)
weights = {name: torch.empty(shape, dtype=torch.bfloat16).normal_(std=0.02) for name, shape in shapes.items()}
torch.save({"generator": {f"model.{name}": tensor for name, tensor in weights.items()}}, sys.argv[1])
print(len(weights), sum(tensor.numel() for tensor in weights.values()))
"""

WATCH = """
import sys, threading, time, torch

def anonymous():
    return sum(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) * 1024

peak, running = 0, True
def watch():
    global peak
    while running:
        peak = max(peak, anonymous())
        time.sleep(0.002)
threading.Thread(target=watch, daemon=True).start()
"""

CONVERT = (
    WATCH
    + """
from shotstream.__main__ import main
from shotstream.models import weights
before, started = anonymous(), time.perf_counter()
assert main(["convert", sys.argv[1], sys.argv[2], "--base", sys.argv[3]]) == 0
print(peak - before, time.perf_counter() - started)
"""
)

RUN = (
    WATCH
    + """
from shotstream.engine import Engine
from shotstream.events import Progress, ShotRequest
from shotstream.models.weights import load_model
before, started = anonymous(), time.perf_counter()
model = load_model(sys.argv[1], dtype=torch.bfloat16)
loaded, load_peak = time.perf_counter() - started, peak - before
size = sum(parameter.nbytes for parameter in model.transformer.parameters())
started = time.perf_counter()
for event in Engine(model).shoot(ShotRequest("a fox in the snow", num_chunks=1)):
    if isinstance(event, Progress) and event.stage == "denoise":
        break
print(size, load_peak, loaded, peak - before, time.perf_counter() - started)
"""
)


def run(code: str, *arguments: object) -> list[float]:
    """What a process of its own prints last."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1200)
    assert result.returncode == 0, result.stderr[-2000:]
    return [float(word) for word in result.stdout.splitlines()[-1].split()]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_the_published_size_is_converted_loaded_and_run(tmp_path, capsys):
    """825 tensors, 1.419 billion numbers, in bfloat16 to spare the disk; needs 6 GB there and 4 GB of memory."""
    checkpoint, folder = tmp_path / "shotstream_merged.pt", tmp_path / "model"
    base = save_random_model(tmp_path / "base", {"text_dim": 4096, "text_len": 512})
    tensors, numbers = run(WRITE, checkpoint)
    assert tensors == 825 and numbers == pytest.approx(1.419e9, rel=1e-3)
    convert_peak, convert_seconds = run(CONVERT, checkpoint, folder, base)
    checkpoint.unlink()
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"width": CHUNK[0], "height": CHUNK[1], "shapes": {}}))
    size, load_peak, load_seconds, whole_peak, call_seconds = run(RUN, folder)
    with capsys.disabled():
        print(
            f"\nfull size, {size / 1e9:.3f} GB of weights in bfloat16: converted in {convert_seconds:.0f} s "
            f"(peak {convert_peak / size:.2f} x), loaded in {load_seconds:.0f} s (peak {load_peak / size:.2f} x), "
            f"one step at {CHUNK[0]}x{CHUNK[1]} in {call_seconds:.1f} s (peak {whole_peak / size:.2f} x)"
        )
    assert size == pytest.approx(2 * 1.419e9, rel=1e-3)
    assert 0.9 < load_peak / size <= whole_peak / size <= 1.3
    assert convert_peak / size <= 1.3

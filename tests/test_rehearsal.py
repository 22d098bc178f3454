"""The published model's size without its weights: a random checkpoint in its layout is converted, loaded and run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from watched import run

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

CONVERT = """
import sys, time
from shotstream.__main__ import main
from shotstream.models import weights
from watched import Watch
watch, started = Watch(), time.perf_counter()
assert main(["convert", sys.argv[1], sys.argv[2], "--base", sys.argv[3]]) == 0
print(watch.peak(), time.perf_counter() - started)
"""

RUN = """
import sys, time, torch
from shotstream.engine import Engine
from shotstream.events import Progress, ShotRequest
from shotstream.models.weights import load_model
from watched import Watch
watch, started = Watch(), time.perf_counter()
model = load_model(sys.argv[1], dtype=torch.bfloat16)
loaded, load_peak = time.perf_counter() - started, watch.peak()
size = sum(parameter.nbytes for parameter in model.transformer.parameters())
started = time.perf_counter()
for event in Engine(model).shoot(ShotRequest("a fox in the snow", num_chunks=1)):
    if isinstance(event, Progress) and event.stage == "denoise":
        break
print(size, load_peak, loaded, watch.peak(), time.perf_counter() - started)
"""


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

"""The published checkpoint: strictly read, in little memory, believed in nothing but tensors, and converted."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import reference
import torch
from complaints import refusal
from reference import publish
from safetensors.torch import load_file, save_file
from watched import run

from shotstream.__main__ import main
from shotstream.models.checkpoint import load_checkpoint
from shotstream.models.published import PUBLISHED_PROMPTING
from shotstream.models.weights import load_model

CONFIG = {key: value for key, value in reference.CONFIG.items() if not key.endswith("_norm")}


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return reference.random_weights(reference.CONFIG)


def test_a_checkpoint_is_loaded_under_its_own_names(weights, tmp_path):
    path = publish(tmp_path / "model.pt", weights)
    for config, heads in ((reference.CONFIG, None), (None, 3)):
        transformer = load_checkpoint(path, config, num_heads=heads)
        state = transformer.state_dict()
        assert set(state) == set(weights)
        assert all(torch.equal(state[name], weights[name]) for name in weights)
        assert {k: transformer.config[k] for k in CONFIG if config or k != "text_len"} == {
            k: v for k, v in CONFIG.items() if config or k != "text_len"
        }
        assert not transformer.training
    assert load_checkpoint(path, CONFIG, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_the_backbone_s_own_file_is_read_too(weights, tmp_path):
    """Safetensors under the same names without a prefix."""
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    assert "no sound safetensors" in refusal(load_checkpoint, path)
    save_file(weights, path)
    state = load_checkpoint(path, num_heads=3).state_dict()
    assert set(state) == set(weights) and all(torch.equal(state[name], weights[name]) for name in weights)
    save_file({name: tensor for name, tensor in weights.items() if name != "head.modulation"}, path)
    assert "lacks the tensor head.modulation" in refusal(load_checkpoint, path, num_heads=3)


@pytest.mark.filterwarnings("ignore:Sparse CSR")  # torch's own opinion of what is refused here
def test_the_first_offending_tensor_is_named(weights, tmp_path):
    path = tmp_path / "model.pt"
    name = "blocks.1.ffn.0.weight"
    cases = {
        "lacks": {key: value for key, value in weights.items() if key != name},
        "shape": weights | {name: torch.zeros(3, 3)},
        "not floating-point": weights | {name: torch.zeros(160, 96, dtype=torch.int64)},
        "not finite": weights | {name: torch.full((160, 96), torch.inf)},
        "not a tensor": weights | {name: 3},
        "not stored": weights | {name: torch.zeros(1, 1).expand(160, 96)},
        "not stored as": weights | {name: torch.zeros(160, 96, device="meta")},
        "is not stored": weights | {name: torch.zeros(160, 96).to_sparse_csr()},
    }
    for complaint, damaged in cases.items():
        message = refusal(load_checkpoint, publish(path, damaged), CONFIG)
        assert name in message and complaint in message, message
    message = refusal(load_checkpoint, publish(path, weights | {"blocks.1.extra": torch.zeros(1)}), CONFIG)
    assert "does not know: blocks.1.extra" in message
    message = refusal(load_checkpoint, publish(path, weights | {"blocks.999.extra": torch.zeros(1)}), num_heads=3)
    assert "does not know: blocks.999.extra" in message
    assert "blocks.2" in refusal(load_checkpoint, publish(path, weights), CONFIG | {"num_layers": 3})


class Payload:
    """What a hostile checkpoint would hold: unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_nothing_but_tensors_is_unpickled(weights, tmp_path):
    path, made = tmp_path / "model.pt", tmp_path / "made"
    message = refusal(load_checkpoint, publish(path, weights | {"x": Payload(made)}), CONFIG)
    assert "more than tensors" in message and "mkdir" in message
    path.write_bytes(pickle.dumps({"generator": Payload(made)}))
    refusal(load_checkpoint, path, CONFIG)
    assert not made.exists()


def test_files_of_another_layout_are_refused(weights, tmp_path):
    path = tmp_path / "model.pt"
    assert "generator" in refusal(load_checkpoint, publish(path, weights, key="model"), CONFIG)
    torch.save([1, 2], path)
    assert "generator" in refusal(load_checkpoint, path, CONFIG)
    torch.save({"generator": weights}, path)
    assert '"model."' in refusal(load_checkpoint, path, CONFIG)
    torch.save({"generator": weights}, path, _use_new_zipfile_serialization=False)
    assert "old file format" in refusal(load_checkpoint, path, CONFIG)
    assert "no checkpoint file" in refusal(load_checkpoint, tmp_path / "none.pt", CONFIG)
    whole = publish(path, weights).read_bytes()
    for damaged in (b"", whole[:1000], whole[: len(whole) // 2], os.urandom(5000)):
        path.write_bytes(damaged)
        refusal(load_checkpoint, path, CONFIG)


@pytest.mark.parametrize(
    "changes",
    [
        {"dim": -1},
        {"dim": 10**9},
        {"dim": 96.0},
        {"num_layers": 10**9},
        {"num_heads": 5},
        {"num_heads": 32},
        {"patch_size": [2, 2, 2]},
        {"patch_size": "122"},
        {"patch_size": [1, [2], 2]},
        {"eps": 0.0},
        {"qk_norm": False},
    ],
    ids=str,
)
def test_absurd_configurations_are_refused(weights, tmp_path, changes):
    refusal(load_checkpoint, publish(tmp_path / "model.pt", weights), reference.CONFIG | changes)


MEASURE = """
import sys, torch
from shotstream.models.checkpoint import load_checkpoint
from watched import Watch

watch = Watch()
load_checkpoint(sys.argv[1], dtype=torch.bfloat16)  # what a process has only once, modules for one, is not counted
watch.begin()
transformer = load_checkpoint(sys.argv[2], dtype=torch.bfloat16)
peak, weights = watch.peak(), sum(p.nbytes for p in transformer.parameters())
print(peak / weights, weights)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_loading_takes_little_more_memory_than_the_weights(tmp_path):
    """In a process of its own, with one thread: a float32 file of 270 MB into bfloat16, watched all the while."""
    big = reference.CONFIG | {"dim": 512, "ffn_dim": 2048, "num_layers": 16, "text_dim": 512, "num_heads": 4}
    paths = []
    for layers in (1, big["num_layers"]):
        weights = reference.random_weights(big | {"num_layers": layers})
        paths.append(str(publish(tmp_path / f"{layers}.pt", weights)))
    ratio, size = run(MEASURE, *paths)
    assert size > 1.3e8
    assert 0.9 < ratio <= 1.3, ratio


def test_conversion_writes_a_model_folder_that_loads(weights, tmp_path, random_model_folder, capsys):
    config = reference.CONFIG | {"text_dim": 32}  # what the random model's text encoder writes
    weights = reference.random_weights(config)
    path = publish(tmp_path / "model.pt", weights)
    out = tmp_path / "converted"
    assert main(["convert", str(path), str(out), "--heads", "3", "--base", str(random_model_folder)]) == 0
    stored = load_file(out / "transformer" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(stored[name], weights[name].to(torch.bfloat16)) for name in weights)
    model = load_model(out)
    assert (model.height, model.width, model.fps, model.max_chunks) == (480, 832, 16, 7)
    assert model.shapes == {"landscape": (832, 480), "portrait": (480, 832), "square": (624, 624)}
    assert model.prompting == PUBLISHED_PROMPTING
    assert model.schedule.timesteps.tolist() == pytest.approx([1000, 957.9288, 888.8889, 737.5886], abs=1e-3)
    capsys.readouterr()
    assert main(["convert", str(path), str(out), "--heads", "3"]) == 2  # never over something
    assert main(["convert", str(path), str(tmp_path / "other")]) == 2  # 96 does not tell its heads
    assert "--heads" in capsys.readouterr().err.splitlines()[-1]
    assert main(["convert", str(path), str(path / "below a file"), "--heads", "3"]) == 2


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file can grow beyond 100 kB, as when a disk is nearly full."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_disk_that_takes_no_more_is_one_sentence(weights, tmp_path, capsys, request):
    path = publish(tmp_path / "model.pt", weights)
    request.getfixturevalue("full_disk")
    assert main(["convert", str(path), str(tmp_path / "converted"), "--heads", "3"]) == 2
    err = capsys.readouterr().err
    assert "Cannot write the model" in err and err.count("\n") == 1, err
    assert not (tmp_path / "converted").exists()  # or the next try would be refused

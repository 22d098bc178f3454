"""The Hub: what is asked of it, and every failure in one sentence."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import reference
import torch
from hub_server import HubServer, serving
from huggingface_hub import errors as hub_errors
from reference import publish
from safetensors.torch import load_file, save_file

from shotstream.models import hub, published
from shotstream.models.fetching import FetchProgress
from shotstream.models.hub import HubFiles
from shotstream.models.weights import SHIPPED, default_source, load_model


def response(status: int) -> httpx.Response:
    return httpx.Response(status, request=httpx.Request("GET", "https://example.org"))


HUB_FAILURES = {
    "gated": (hub_errors.GatedRepoError("x", response=response(403)), "gated"),
    "no repository": (hub_errors.RepositoryNotFoundError("x", response=response(404)), "no model"),
    "no revision": (hub_errors.RevisionNotFoundError("x", response=response(404)), "revision"),
    "no file": (hub_errors.RemoteEntryNotFoundError("x", response=response(404)), "lacks a file"),
    "no connection": (hub_errors.LocalEntryNotFoundError("x"), "network"),
    "offline": (hub_errors.OfflineModeIsEnabled("x"), "HF_HUB_OFFLINE"),
    "server": (hub_errors.HfHubHTTPError("502 Bad Gateway", response=response(502)), "502"),
    "disk full": (OSError(errno.ENOSPC, "No space left on device"), "disk is full"),
    "not allowed": (PermissionError(errno.EACCES, "Permission denied"), "Permission denied"),
    "torn connection": (httpx.ConnectError("x"), "network"),
    "bad name": (hub_errors.HFValidationError("x"), "not the name"),
}


@pytest.mark.parametrize("error, word", HUB_FAILURES.values(), ids=HUB_FAILURES)
def test_every_hub_failure_is_one_sentence(error, word):
    message = hub.tell(error, "someone/model")
    assert word in message and "\n" not in message


def test_without_a_network_a_hub_model_is_one_sentence(tmp_path):
    """A real process with no way out and an empty cache."""
    nowhere = {"HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9", "NO_PROXY": "*"}
    code = "from shotstream.models.hub import download; download('someone/model@main', ['*'])"
    for extra in ({}, {"HF_HUB_OFFLINE": "1"}):
        command = [sys.executable, "-c", code]
        result = subprocess.run(command, capture_output=True, text=True, env=os.environ | nowhere | extra)
        last = result.stderr.strip().splitlines()[-1]
        assert last.startswith("shotstream.errors.UserError: someone/model@main is not on this machine"), result.stderr


# A stand-in for the Hub, real HTTP, real processes: HF_ENDPOINT and HF_HOME are read when the library is imported.

LOAD = """
import sys, torch
from shotstream.models import weights
model = weights.load_model(sys.argv[1], dtype=torch.bfloat16)
numbers = torch.cat([parameter.flatten().double() for parameter in model.text.encoder.parameters()])
print(model.name, model.height, model.width, len(model.shapes), model.text.encoder.dtype, float(numbers.detach().sum()))
"""
CHECKPOINT = published.checkpoint_files(published.PUBLISHED, None, "student")
SMALL, LARGE = published.TEXT_16_FILES, published.TEXT_32_FILES
CONFIG = reference.CONFIG | {"dim": 128, "num_heads": 1, "text_dim": 32}


def lay_out(part: HubFiles, folder: Path, encoder: torch.nn.Module, dtype: torch.dtype) -> None:
    """A text encoder as `part` lists its files: shards with an index."""
    tensors = {name: tensor.to(dtype).contiguous() for name, tensor in encoder.state_dict().items()}
    del tensors["encoder.embed_tokens.weight"]  # as it is published: under one name
    place = folder / "text_encoder"
    shards = sorted(Path(name).name for name in part.files if name.endswith(".safetensors"))
    weight_map = {}
    for number, shard in enumerate(shards):
        some = dict(list(tensors.items())[number :: len(shards)])
        save_file(some, place / shard)
        weight_map |= dict.fromkeys(some, shard)
    (place / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (place / "model.safetensors").unlink(missing_ok=True)


@pytest.fixture
def repositories(tmp_path, random_model_folder) -> dict[str, Path]:
    """The published repositories, small: the layout and the names are theirs, and there is more than is needed."""
    encoder = load_model(random_model_folder).text.encoder
    folders = {part.repo: tmp_path / "hub" / part.repo for part in (CHECKPOINT, SMALL, LARGE)}
    for folder in folders.values():
        folder.mkdir(parents=True)
        (folder / "README.md").write_text("nobody asked for this")
    publish(folders[CHECKPOINT.repo] / "shotstream_merged.pt", reference.random_weights(CONFIG))
    for part, dtype in ((SMALL, torch.bfloat16), (LARGE, torch.float32)):
        shutil.copytree(random_model_folder / "text_encoder", folders[part.repo] / "text_encoder")
        lay_out(part, folders[part.repo], encoder, dtype)
    for part in ("vae", "tokenizer", "transformer"):
        shutil.copytree(random_model_folder / part, folders[LARGE.repo] / part)
    for name in ("special_tokens_map.json", "spiece.model"):
        (folders[LARGE.repo] / "tokenizer" / name).write_text("{}")
    return folders


@pytest.fixture
def hub_server(repositories) -> Iterator[HubServer]:
    pinned = {SMALL.repo: SMALL.revision, LARGE.repo: LARGE.revision}
    with serving(repositories, pinned) as server:
        yield server


def run_load(server: HubServer, tmp_path: Path, *more: str, **extra: str) -> subprocess.CompletedProcess:
    home = {"HF_ENDPOINT": server.address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-c", LOAD, published.PUBLISHED, *more]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | home | extra, timeout=120)


def total(folder: Path) -> float:
    """The sum of all the numbers of the text encoder in `folder`, in bfloat16."""
    tensors = [tensor for path in sorted(folder.glob("*.safetensors")) for tensor in load_file(path).values()]
    return float(torch.cat([tensor.to(torch.bfloat16).flatten().double() for tensor in tensors]).sum())


def test_the_published_model_comes_from_the_hub_and_then_from_the_cache(hub_server, repositories, tmp_path):
    """Only what is needed, the smaller text encoder after it was compared; then without a network."""
    hub_server.breaks["shotstream_merged.pt"] = 100_000  # the connection breaks once
    first = run_load(hub_server, tmp_path)
    assert first.returncode == 0, first.stderr
    name, height, width, shapes, dtype, numbers = first.stdout.split()
    assert (name, height, width, shapes, dtype) == (published.PUBLISHED, "480", "832", "3", "torch.bfloat16")
    expected = total(repositories[SMALL.repo] / "text_encoder")
    assert float(numbers) == pytest.approx(expected, abs=1e-9)
    assert "Fetching KlingTeam/ShotStream: " in first.stderr and " of 2.1 MB" in first.stderr
    wanted = [*CHECKPOINT.files, *published.VAE_FILES.files, *published.TOKENIZER_FILES.files, *SMALL.files]
    whole = {
        path.split("/resolve/")[1].partition("/")[2]
        for kind, path, part in hub_server.asked
        if kind == "GET" and "/resolve/" in path and LARGE.repo not in path
    }
    assert whole == {*CHECKPOINT.files, *SMALL.files}
    assert set(hub_server.fetched()) - {*LARGE.files} == set(wanted) - {*LARGE.files}
    resumed = [part for kind, path, part in hub_server.asked if path.endswith("merged.pt") and kind == "GET"]
    assert len(resumed) == 2 and resumed[0] is None
    large = [
        (path, part)
        for kind, path, part in hub_server.asked
        if kind == "GET" and LARGE.repo in path and path.endswith(".safetensors") and "text_encoder" in path
    ]
    assert large and all(part for _, part in large)  # by ranges only

    hub_server.asked.clear()
    again = run_load(hub_server, tmp_path, HF_HUB_OFFLINE="1")
    assert again.stdout == first.stdout and not again.stderr, again.stderr
    assert not [path for _, path, _ in hub_server.asked if "api/models" in path or "/resolve/" in path]


def test_another_encoder_than_the_large_one_is_not_taken(hub_server, repositories, tmp_path):
    shard = repositories[SMALL.repo] / "text_encoder" / "model-00001-of-00003.safetensors"
    tensors = load_file(shard)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, shard)
    result = run_load(hub_server, tmp_path)
    assert result.returncode == 0, result.stderr
    assert "another one (the tensor " in result.stderr and "the large one is taken" in result.stderr
    assert float(result.stdout.split()[-1]) == pytest.approx(total(repositories[LARGE.repo] / "text_encoder"), abs=1e-9)


def test_without_the_small_encoder_the_large_one_is_taken(hub_server, repositories, tmp_path):
    shutil.rmtree(repositories[SMALL.repo] / "text_encoder")
    result = run_load(hub_server, tmp_path)
    assert result.returncode == 0, result.stderr
    assert "The small text encoder cannot be had" in result.stderr
    assert result.stdout.split()[-2] == "torch.bfloat16"  # in 16 bits from the start, whatever the file has


def test_too_small_a_disk_is_told_before_anything_is_fetched(hub_server, repositories, tmp_path):
    """The checkpoint is said to be larger than any disk."""
    hub_server.sizes["shotstream_merged.pt"] = 10**15
    result = run_load(hub_server, tmp_path)
    last = result.stderr.strip().splitlines()[-1]
    assert "needs 1000000.0 GB more on disk" in last and "HF_HOME" in last, result.stderr
    assert not hub_server.fetched()


def test_no_room_is_asked_for_an_encoder_that_will_not_be_fetched(hub_server, tmp_path):
    """The large one is here already; the small one is said to be larger than any disk."""
    home = os.environ | {"HF_ENDPOINT": hub_server.address, "HF_HOME": str(tmp_path / "home")}
    code = f"import sys; from shotstream.models.hub import download; download('{LARGE.source}', sys.argv[1:])"
    subprocess.run([sys.executable, "-c", code, *LARGE.files], env=home, check=True, capture_output=True, timeout=60)
    hub_server.sizes[Path(SMALL.files[-1]).name] = 10**15
    result = run_load(hub_server, tmp_path)
    assert result.returncode == 0, result.stderr
    assert not set(hub_server.fetched()) & (set(SMALL.files) - set(LARGE.files))


def test_what_an_earlier_download_brought_is_not_fetched_again(hub_server, tmp_path):
    """A process that was stopped after the first of two files."""
    home = os.environ | {"HF_ENDPOINT": hub_server.address, "HF_HOME": str(tmp_path / "home")}
    code = f"import sys; from shotstream.models.hub import download; download('{SMALL.source}', sys.argv[1:])"
    subprocess.run([sys.executable, "-c", code, SMALL.files[2]], env=home, check=True, capture_output=True, timeout=60)
    assert hub_server.fetched() == [SMALL.files[2]]
    hub_server.asked.clear()
    subprocess.run([sys.executable, "-c", code, *SMALL.files], env=home, check=True, capture_output=True, timeout=60)
    assert set(hub_server.fetched()) == set(SMALL.files) - {SMALL.files[2]}


@pytest.mark.parametrize("place", ["main", "a folder"])
def test_a_model_folder_is_the_same_on_the_hub_and_on_the_disk(random_model_folder, tmp_path, place):
    with serving({"someone/model": random_model_folder}) as server:
        source = "someone/model@main" if place == "main" else str(random_model_folder)
        command = [
            sys.executable,
            "-c",
            "import sys; from shotstream.models.weights import load_model;print(load_model(sys.argv[1]).name)",
            source,
        ]
        home = {"HF_ENDPOINT": server.address, "HF_HOME": str(tmp_path / "home")}
        result = subprocess.run(command, capture_output=True, text=True, env=os.environ | home, timeout=120)
        assert result.stdout == "random\n", result.stderr
        assert ("Fetching someone/model: " in result.stderr) == (place == "main")


def test_progress_is_words_for_a_page():
    terminal = io.StringIO()
    progress = FetchProgress(terminal)
    assert progress.line == ""
    progress.expect(5_700_000_000)
    progress.begin("KlingTeam/ShotStream")
    progress.reach(3_200_000_000)
    assert progress.line == "Fetching KlingTeam/ShotStream: 3.2 of 5.7 GB"
    progress.begin("Wan-AI/x")
    progress.reach(2_500_000_000)
    assert progress.line == "Fetching Wan-AI/x: 5.7 of 5.7 GB"
    progress.end()
    assert progress.line == ""
    assert all(line.startswith("Fetching ") for line in terminal.getvalue().splitlines())  # a log: no bars, no colours


def test_a_gpu_gets_the_published_model_unless_told_otherwise(monkeypatch):
    monkeypatch.delenv("SHOTSTREAM_MODEL", raising=False)
    assert default_source(torch.device("cuda")) == "KlingTeam/ShotStream"
    assert default_source(torch.device("cpu")) == SHIPPED
    monkeypatch.setenv("SHOTSTREAM_MODEL", "somewhere")
    assert default_source(torch.device("cuda")) == default_source(torch.device("cpu")) == "somewhere"

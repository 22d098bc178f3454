"""The Hub: what is asked of it, and every failure in one sentence."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import httpx
import pytest
import reference
import torch
from huggingface_hub import errors as hub_errors
from reference import publish

from shotstream.models import hub
from shotstream.models.weights import WAN, load_model


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


def test_the_published_checkpoint_is_one_file_of_its_repository(monkeypatch, tmp_path, random_model_folder):
    """Downloading itself belongs to the Hub's library: what is asked of it, and what is made of the answer."""
    asked = []
    config = reference.CONFIG | {"dim": 128, "num_heads": 1, "text_dim": 32}
    publish(tmp_path / "shotstream_merged.pt", reference.random_weights(config))

    def answer(**wanted):
        asked.append((wanted["repo_id"], wanted["revision"], wanted["allow_patterns"]))
        return tmp_path if "ShotStream" in wanted["repo_id"] else random_model_folder

    monkeypatch.setattr(hub, "snapshot_download", answer)
    model = load_model("KlingTeam/ShotStream@0123abc", dtype=torch.bfloat16)
    assert asked == [
        ("KlingTeam/ShotStream", "0123abc", ["shotstream_merged.pt"]),
        ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", WAN.partition("@")[2], ["vae/*", "text_encoder/*", "tokenizer/*"]),
    ]
    assert (model.name, model.height, model.width) == ("KlingTeam/ShotStream", 480, 832)
    assert model.shapes["square"] == (624, 624) and "camera" in model.prompting.templates
    assert model.transformer.dtype == model.text.encoder.dtype == torch.bfloat16

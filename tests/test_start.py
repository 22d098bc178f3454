"""`app.py` as a process of its own: when its page is there, and what is told before."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from waiting import wait_until

from shotstream.models.weights import SHIPPED

ROOT = Path(__file__).parents[1]


@contextmanager
def started(model: Path, log: Path) -> Iterator[str]:
    """The address of a page of this model, as soon as its process runs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(ROOT / "app.py"), "--device", "cpu", "--model", str(model), "--port", str(port)]
    with open(log, "wb") as file:
        process = subprocess.Popen(command, env=os.environ | {"HF_HUB_OFFLINE": "1"}, stdout=file, stderr=file)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def ask(address: str) -> dict | None:
    """What the page says of its health; None as long as there is none."""
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=30) as answer:
            return json.load(answer)
    except OSError:
        return None


@pytest.fixture
def large_folder(random_model_folder: Path, tmp_path: Path) -> Path:
    """A model of more than a gigabyte, by the size of its files."""
    folder = shutil.copytree(random_model_folder, tmp_path / "large")
    with open(folder / "README.md", "wb") as file:
        file.truncate(2 * 10**9)  # takes no room
    return folder


def test_the_page_is_up_in_a_minute_with_the_shipped_model(tmp_path: Path):
    with started(SHIPPED, tmp_path / "log") as address:
        assert wait_until(lambda: ask(address)) < 60
        assert ask(address)["status"] == "ready"


def test_the_page_is_there_while_a_large_folder_is_loaded(large_folder: Path, tmp_path: Path):
    os.mkfifo(large_folder / "prompting.json")  # read with the weights, as soon as somebody writes
    with started(large_folder, tmp_path / "log") as address:
        wait_until(lambda: ask(address), 120)
        assert ask(address)["status"] == "loading"
        with urllib.request.urlopen(address, timeout=30) as page:
            assert page.status == 200 and b"ShotStream" in page.read()
        (large_folder / "prompting.json").write_text("{}")
        wait_until(lambda: ask(address)["status"] == "ready")


@pytest.mark.parametrize("damaged", ["transformer/config.json", "vae/diffusion_pytorch_model.safetensors"])
def test_a_bad_large_folder_is_told_in_one_line_before_the_page(large_folder: Path, damaged: str):
    size = (large_folder / damaged).stat().st_size
    os.truncate(large_folder / damaged, size // 2)
    command = [sys.executable, str(ROOT / "app.py"), "--device", "cpu", "--model", str(large_folder), "--port", "65533"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2 and not ended.stdout
    assert ended.stderr.startswith("app.py: ") and ended.stderr.count("\n") == 1
    assert str(large_folder) in ended.stderr

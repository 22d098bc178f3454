"""Fixtures that the whole suite shares: what may be skipped, and why."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from shotstream.backends.in_process import InProcessBackend
    from shotstream.models.model import Model


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")


def pytest_configure() -> None:
    if os.environ.get("PYTEST_XDIST_WORKER"):  # of several, each has a core
        import torch

        torch.set_num_threads(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of tensors recorded from the published procedure, which are not part of this repository."""
    folder = os.environ.get("SHOTSTREAM_GOLDEN")
    if not folder:
        pytest.skip("no recorded tensors: set SHOTSTREAM_GOLDEN to their folder")
    return Path(folder)


@pytest.fixture(scope="session")
def random_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model folder in the real layout, 48x32 pixels, with random weights."""
    from shotstream.models.random_model import save_random_model

    return save_random_model(tmp_path_factory.mktemp("model") / "random", vae="PixelAutoencoder")


@pytest.fixture(scope="session")
def random_model(random_model_folder: Path) -> Model:
    """That model, loaded."""
    from shotstream.models.weights import load_model

    return load_model(random_model_folder)


@pytest.fixture(scope="module")
def backend(random_model_folder: Path) -> InProcessBackend:
    """A home of that model, with a line of its own for every module."""
    from shotstream.backends.in_process import InProcessBackend
    from shotstream.models.weights import load_model

    backend = InProcessBackend(lambda: load_model(random_model_folder))
    backend.start()
    backend.wait()
    return backend


@pytest.fixture
def exhaust_memory() -> Iterator[Callable[[int], None]]:
    """Lets the transformer ask for more memory than there is, from its `call`-th call on (counted from 1): what torch
    raises is real. In a new film, the seventh is the first of chunk 2."""
    import torch

    from shotstream.models.layers import Head

    hooks = []

    def exhaust(call: int) -> None:
        calls = 0

        def ask_too_much(module: torch.nn.Module, *_: object) -> None:
            nonlocal calls
            if isinstance(module, Head):  # not the VAE, which may still be busy with the chunk before
                calls += 1
                if calls >= call:
                    torch.empty(1 << 58)

        hooks.append(torch.nn.modules.module.register_module_forward_hook(ask_too_much))

    yield exhaust
    for hook in hooks:
        hook.remove()

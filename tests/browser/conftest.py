"""The real page in a real browser: `app.py` as a process of its own, Chromium without a window."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from browsing import PATIENCE, App, Tab, free_port, running

from shotstream.models.random_model import save_random_model
from shotstream.models.weights import SHIPPED
from shotstream.sampler import Schedule

CHROMIUM_OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if (SHIPPED / "model_index.json").exists():
        return SHIPPED
    schedule = Schedule(default_chunks=3, max_chunks=7)
    return save_random_model(tmp_path_factory.mktemp("model"), vae="PixelAutoencoder", schedule=schedule)


@pytest.fixture(scope="module")
def browser():
    """Chromium, driven by Playwright."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=CHROMIUM_OPTIONS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """The page with the shipped model, or random weights where that is missing; one for all tests, as on a server."""
    yield from running(App(free_port(), tmp_path_factory.mktemp("app"), model_folder(tmp_path_factory)))


@pytest.fixture
def open_tab(browser, app: App) -> Iterator:
    """Opens tabs; afterwards none of them may have anything to complain about."""
    contexts, tabs = [], []

    def open_tab(width: int = 1280, height: int = 800, query: str = "", **options) -> Tab:
        context = browser.new_context(viewport={"width": width, "height": height}, accept_downloads=True, **options)
        tab = Tab(context.new_page())
        tab.watch(app.url)
        context.set_default_timeout(PATIENCE * 1000)
        contexts.append(context)
        tabs.append(tab)
        tab.page.goto(f"{app.url}/{query}")
        tab.page.wait_for_selector("#next-shot textarea")
        tab.wait_until(
            "document.querySelector('#model').textContent.length > 0 && !document.querySelector('#model.loading')"
        )
        return tab

    yield open_tab
    complaints = [complaint for tab in tabs for complaint in tab.complaints]
    for context in contexts:
        context.close()
    assert complaints == []

"""Where no shot can be made: before the model is there a stage plays the poster film, and who finds no seat is told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from browsing import Tab, free_port

from shotstream.backends.in_process import InProcessBackend
from shotstream.models.random_model import save_random_model
from shotstream.models.weights import load_model
from shotstream.provenance import read_note
from shotstream.ui.limits import Limits
from shotstream.ui.page import Page
from shotstream.ui.routes import POSTER
from shotstream.ui.theme import CSS, SCRIPTS, theme


@dataclass
class Stage:
    """A page for one visitor, whose model is there when `come` is set."""

    folder: Path
    port: int
    come: threading.Event = field(default_factory=threading.Event)
    page: Page | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def open(self) -> None:
        self.come.clear()
        backend = InProcessBackend(lambda: self.come.wait() and load_model(self.folder))
        backend.start()
        self.page = Page(backend, limits=Limits(sessions=1))
        self.page.blocks.launch(
            theme=theme(),
            css_paths=[CSS],
            head="".join(f"<script>{script.read_text()}</script>" for script in SCRIPTS),
            ssr_mode=False,
            quiet=True,
            prevent_thread_lock=True,
            server_port=self.port,
            app_kwargs={"routes": self.page.routes},
            _frontend=False,
        )

    def close(self) -> None:
        self.come.set()
        self.page.blocks.close()
        self.page.sessions.close_all()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(save_random_model(tmp_path / "model", vae="PixelAutoencoder"), free_port())
    stage.open()
    yield stage
    stage.close()


def test_the_poster_plays_until_the_model_is_there(stage, browser):
    context = browser.new_context(viewport={"width": 1280, "height": 720})
    tab = Tab(context.new_page())
    tab.page.goto(f"{stage.url}?presenter")
    poster = "document.querySelector('.poster')"
    tab.wait_until(f"{poster}?.currentTime > 0.5")
    size = tab.page.evaluate(f"[{poster}.videoWidth, {poster}.clientWidth]")
    assert size == [768, 1280]
    stage.come.set()
    tab.wait_until(f"!{poster}", 60)
    tab.direct("A red ball jumps.")
    tab.wait_until("document.querySelector('#film video')?.currentTime > 0.3")

    tab.wait_until("document.documentElement.dataset.kept === '1'")
    tab.page.evaluate("window.before = true")
    stage.close()  # and is there again before its model is
    stage.open()
    tab.wait_until(f"!window.before && {poster}?.currentTime > 0.5", 60)
    tab.page.keyboard.press("ArrowRight")  # somebody goes on with what is yet to come
    stage.come.set()
    tab.wait_until(f"!{poster} && document.querySelectorAll('.strip .made').length === 2", 60)
    shown = tab.page.locator(".strip .made .caption").all_text_contents()
    assert shown[0] == "A red ball jumps." and len(shown) == 2
    context.close()


def test_who_finds_no_seat_is_told_and_keeps_the_prompt(stage, browser):
    contexts = [browser.new_context() for _ in range(2)]
    seated, standing = (Tab(context.new_page()) for context in contexts)
    for tab in (seated, standing):
        tab.page.goto(stage.url)
        tab.wait_until("document.querySelector(':is(.strip[data-session]:not([data-session=\"\"]), .notice)')")
    assert "seats are taken" in standing.page.inner_text(".notice")
    standing.direct("A red ball jumps.")
    standing.wait_until("document.querySelector('#next-shot textarea').value === 'A red ball jumps.'")
    assert "did not take it" in standing.page.inner_text("#trouble")
    for context in contexts:
        context.close()


def test_the_poster_is_small_and_says_how_it_was_made():
    assert POSTER.stat().st_size < 1_000_000
    note = read_note(POSTER)
    assert len(note.shots) == 5 and not note.cast and "toy world" in note.model

"""Where no shot can be made: before the model is there a stage plays the poster film, and who finds no seat is told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from browsing import Tab

from shotstream.backends.in_process import InProcessBackend
from shotstream.models.random_model import save_random_model
from shotstream.models.weights import load_model
from shotstream.provenance import read_note
from shotstream.ui.limits import Limits
from shotstream.ui.page import Page
from shotstream.ui.routes import POSTER
from shotstream.ui.theme import CSS, SCRIPTS, theme


@pytest.fixture
def stage(tmp_path) -> Iterator[SimpleNamespace]:
    """A page for one visitor, whose model is there when `come` is set."""
    folder, come = save_random_model(tmp_path / "model", vae="PixelAutoencoder"), threading.Event()
    backend = InProcessBackend(lambda: come.wait() and load_model(folder))
    backend.start()
    page = Page(backend, limits=Limits(sessions=1))
    head = "".join(f"<script>{script.read_text()}</script>" for script in SCRIPTS)
    _, url, _ = page.blocks.launch(
        theme=theme(),
        css_paths=[CSS],
        head=head,
        ssr_mode=False,
        quiet=True,
        prevent_thread_lock=True,
        app_kwargs={"routes": page.routes},
        _frontend=False,
    )
    yield SimpleNamespace(url=url, come=come)
    come.set()
    page.blocks.close()
    page.sessions.close_all()


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

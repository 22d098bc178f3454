"""The picture's shape in a real browser: chosen before the first shot, and the player follows from film to film."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator

import pytest
from browsing import App, free_port, running

from shotstream.models.weights import SHIPPED

SHAPES = {"landscape": [48, 32], "portrait": [32, 48], "square": [32, 32]}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """The page with the shipped model, said to make other shapes too."""
    folder = tmp_path_factory.mktemp("shapes") / "model"
    shutil.copytree(SHIPPED, folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"shapes": SHAPES}))
    yield from running(App(free_port(), tmp_path_factory.mktemp("app"), folder))


def test_a_film_has_the_shape_that_was_chosen_before_its_first_shot(open_tab):
    tab = open_tab(height=1000)
    page = tab.page
    portrait = page.get_by_role("button", name="portrait")
    portrait.click()
    tab.wait_until("document.querySelector('[data-shape=portrait]').getAttribute('aria-pressed') === 'true'")
    tab.direct("A red ball jumps.")
    tab.wait_until("(v => v?.videoHeight > v?.videoWidth)(document.querySelector('#film video'))")
    assert page.get_by_role("button", name="square").is_disabled() and portrait.is_enabled()

    page.click("#new-film")
    tab.wait_until("!document.querySelector('[data-shape=square]').disabled")
    page.evaluate("document.querySelector('#film video').dataset.mark = 'the first'")
    for name, compared in (("square", "==="), ("landscape", "<")):
        page.click(f"[data-shape={name}]")
        tab.direct("A blue cube waits.")
        tab.wait_until(f"(v => v.videoHeight {compared} v.videoWidth)(document.querySelector('#film video'))")
        tab.wait_until("document.querySelectorAll('.strip .made').length === 1")
        page.click("#new-film")
        tab.wait_until(f"!document.querySelector('[data-shape={name}]').disabled")
        tab.wait_until("document.querySelectorAll('.strip .made').length === 0")
    assert page.evaluate("document.querySelector('#film video').dataset.mark") == "the first"
    assert page.evaluate("document.querySelector('#film video').error") is None

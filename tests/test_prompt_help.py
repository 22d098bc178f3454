"""What the page answers about a prompt, whoever asks."""

from __future__ import annotations

import json

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from shotstream.backends.in_process import InProcessBackend
from shotstream.models.random_model import save_random_model
from shotstream.models.weights import load_model
from shotstream.prompting import Prompting
from shotstream.ui.page import Page
from shotstream.ui.prompt_help import MAX_BYTES, NO_ROOM, NO_WORDS, markup

PROMPTING = Prompting("Write <b>well</b>.", {"who": ("cat",)}, {"light": ("at night",)})


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    folder = save_random_model(tmp_path_factory.mktemp("model"), vae="PixelAutoencoder")
    (folder / "prompting.json").write_text(PROMPTING.to_json())
    backend = InProcessBackend(lambda: load_model(folder))
    backend.start()
    backend.wait()
    page = Page(backend)
    page.sessions.open("tab")
    return page


@pytest.fixture(scope="module")
def client(page: Page) -> TestClient:
    return TestClient(Starlette(routes=page.routes))


def ask(client: TestClient, what: str, prompt: str, story: str = "") -> dict:
    return client.post(f"/{what}/tab", content=json.dumps({"story": story, "prompt": prompt})).json()


def test_a_prompt_is_completed_as_far_as_there_is_room(client: TestClient):
    assert ask(client, "complete", "A cat") == {"prompt": "A cat at night.", "told": ""}
    assert ask(client, "complete", "It is happy", story="A cat at night.")["prompt"] == "It is happy"
    assert ask(client, "complete", "cat " * 4000) == {"prompt": "cat " * 4000, "told": NO_ROOM}
    assert ask(client, "complete", "?!")["told"] == NO_WORDS
    assert ask(client, "complete", "a" * 30_000)["prompt"] == "a" * 30_000


def test_a_warning_comes_with_what_is_typed(client: TestClient):
    assert ask(client, "advice", "A cat.") == {"told": ""} == ask(client, "advice", " ")
    assert "of which the model reads the first" in ask(client, "advice", "cat " * 4000)["told"]


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"story": 1, "prompt": ""}', b"[" * 100_000, b"\xff"])
def test_what_is_no_prompt_is_refused(client: TestClient, body: bytes):
    assert client.post("/complete/tab", content=body).status_code == 400


def test_strangers_and_floods_are_refused(client: TestClient):
    assert client.post("/complete/nobody", content=b"{}").status_code == 404
    assert client.post("/advice/tab", content=b" " * (MAX_BYTES + 1)).status_code == 413


def test_a_model_that_says_nothing_gets_no_help(page: Page):
    assert "Complete" not in markup(Prompting()) and "<details" not in markup(Prompting())
    shown = markup(PROMPTING)
    assert "&lt;b&gt;" in shown and "<b>" not in shown and 'data-word="cat"' in shown
    assert page.backend.model.prompting == PROMPTING

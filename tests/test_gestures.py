"""Gestures: what the page's buttons send is read with suspicion and does what its name says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from complaints import refusal
from starlette.applications import Starlette
from starlette.testclient import TestClient

from shotstream.backends.in_process import InProcessBackend
from shotstream.director import Director
from shotstream.ui.gestures import GESTURES, MAX_BYTES, perform, read_gesture
from shotstream.ui.page import Page


@pytest.fixture
def director(backend: InProcessBackend) -> Iterator[Director]:
    director = Director(backend)
    yield director
    director.close()


BAD = {
    "nothing": b"",
    "no JSON": b"{",
    "nesting bomb": b"[" * 50_000,
    "no object": b"[1]",
    "unknown": b'{"do": "explode"}',
    "unhashable": b'{"do": ["cut"]}',
    "binary": b"\xff\xfe",
    "too large": b'{"do": "cut", "x": "' + b"x" * MAX_BYTES + b'"}',
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD)
def test_what_is_no_gesture_is_refused(body: bytes):
    assert "reload it" in refusal(read_gesture, body)


@pytest.mark.parametrize("name", sorted(GESTURES))
@pytest.mark.parametrize("value", [None, "x", 99, -1, 1.5, True, [], {}, 10**30])
def test_fields_of_any_kind_are_done_or_refused_in_one_sentence(director: Director, name: str, value: object):
    fields = dict.fromkeys(
        (
            "key",
            "place",
            "frame",
            "on",
            "caption",
            "story",
            "policy",
            "chunks",
            "dissolve",
            "choice",
            "choices",
            "then",
        ),
        value,
    )
    gesture = read_gesture(json.dumps({"do": name, **fields}).encode())
    try:
        perform(director, gesture)
    except Exception as error:
        assert type(error).__name__ == "UserError" and "\n" not in str(error)
    director.view()


def test_buttons_reach_the_film_of_their_own_tab(backend: InProcessBackend):
    page = Page(backend)
    try:
        mine, other = page.sessions.open("mine"), page.sessions.open("other")
        client = TestClient(Starlette(routes=page.routes))

        def press(session: str, **gesture: object):
            return client.post(f"/direct/{session}", content=json.dumps(gesture))

        assert press("mine", do="policy", policy="anchor").status_code == 204
        assert (mine.director.view().policy, other.director.view().policy) == ("anchor", "recent")
        answer = press("mine", do="retake", key=99)
        assert answer.status_code == 409 and answer.text == mine.notice == "This take is gone."
        assert press("nobody", do="cut").status_code == 404
        words = {"story": "A red ball.", "caption": "It jumps."}
        assert press("mine", do="cut to", **words, chunks=99, dissolve=True).status_code == 409
        assert press("mine", do="cut to", **words, chunks=1, dissolve=True).status_code == 204
        with mine.director._condition:
            assert mine.director._condition.wait_for(lambda: mine.director.memory.shots, 60)
        (take,), take_prompt = mine.director.view().takes, mine.director._head.prompt
        assert (take.caption, take.dissolve, take_prompt.num_chunks) == ("It jumps.", True, 1)
        assert client.post("/direct/mine", content=b"?").status_code == 409
        assert client.get("/direct/mine").status_code == 405
        assert client.get("/take/mine/99").status_code == 409
        assert client.get("/frame/mine/99/0").status_code == 204
        stories = client.get("/stories").json()
        assert len(stories) >= 4 and all("shot1" in story for story in stories.values())
    finally:
        page.sessions.close_all()


def test_every_gesture_of_the_page_is_known():
    """Those that the server draws, and those that the page sends itself."""
    import re

    folder = Path(__file__).parents[1] / "shotstream" / "ui"
    markup = (folder / "render.py").read_text() + (folder / "drawers.py").read_text()
    drawn = re.findall(r"""button\([^,]+, ["']([a-z ]+)["']""", markup)
    drawn += re.findall(r'data-do=\\?"([a-z ]+)', markup + (folder / "page.js").read_text())
    sent = re.findall(r'do: "([a-z ]+)"', (folder / "page.js").read_text())
    assert {"pin", "drop", "policy", "attention", "choose take"} <= set(drawn) and len(drawn) > 13 and len(sent) > 3
    assert set(drawn) | set(sent) <= set(GESTURES)

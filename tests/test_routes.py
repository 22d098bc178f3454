"""What a browser brings and takes along: stories, sessions, pictures; each only ever for the tab that it names."""

from __future__ import annotations

import asyncio
import io
import json
from codecs import BOM_UTF8
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.testclient import TestClient

from shotstream.backends.in_process import InProcessBackend
from shotstream.director import Director
from shotstream.media import encode_png
from shotstream.models.random_model import save_random_model
from shotstream.models.weights import load_model
from shotstream.ui import routes
from shotstream.ui.page import Page

STORY = {"global_caption": "A red ball.", "shot1": "It jumps.", "shot2": "It waits."}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = save_random_model(tmp_path_factory.mktemp("model"), vae="PixelAutoencoder")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"shapes": {"portrait": [32, 48]}}))
    backend = InProcessBackend(lambda: load_model(folder))
    backend.start()
    backend.wait()
    page = Page(backend)
    yield page
    page.sessions.close_all()


@pytest.fixture(scope="module")
def client(page: Page) -> TestClient:
    return TestClient(Starlette(routes=page.routes))


def watch(director: Director, num_takes: int) -> None:
    """Looks on until the film has as many closed takes and nothing else is to be made."""
    with director._condition:
        while len(director.memory.shots) < num_takes or director._next_work():
            while director.next_segment():
                pass
            assert director._condition.wait(60), director.view()
        while director.next_segment():
            pass


def test_a_story_opens_as_a_queue_and_is_kept_as_one(page: Page, client: TestClient):
    director = page.sessions.open("story").director
    answer = client.post("/open/story", content=BOM_UTF8 + json.dumps(STORY).encode())
    assert (answer.status_code, answer.text) == (200, "A red ball.")
    watch(director, 2)
    assert [take.caption for take in director.view().takes] == ["It jumps.", "It waits."]
    assert client.get("/keep/story/story.json").json() == STORY
    assert page.sessions.find("story").notice == ""
    long = {"global_caption": "A red ball.", "mood": "gay"} | {f"shot{n}": f"It jumps {n}." for n in range(1, 24)}
    page.sessions.open("long")
    assert client.post("/open/long", content=json.dumps(long)).status_code == 200
    notice = page.sessions.find("long").notice
    assert '"mood"' in notice and "23 shots are more than can wait: the first 20 are queued." in notice
    page.sessions.close("long")
    captions = client.get("/keep/story/captions.vtt").text
    assert captions.startswith("WEBVTT") and "It waits." in captions
    assert Image.open(io.BytesIO(client.get("/keep/story/storyboard.png").content)).width > 200
    film = client.get("/film/story")
    assert film.status_code == 200 and b"ftyp" in film.content[:16]
    take = client.get(f"/take/story/{director.view().takes[0].key}")
    assert take.status_code == 200 and len(take.content) < len(film.content)


def test_a_session_is_kept_and_opened_in_another_tab(page: Page, client: TestClient, monkeypatch: pytest.MonkeyPatch):
    director = page.sessions.open("here").director
    director.queue_shot("A red ball.", "It jumps.")
    watch(director, 1)
    kept = client.get("/keep/here/session.memory")
    assert kept.status_code == 200
    there = page.sessions.open("there").director
    answer = client.post("/open/there", content=kept.content)
    assert (answer.status_code, answer.text) == (200, "A red ball.")
    assert [take.resumed for take in there.view().takes] == [True]
    assert there.memory.shots[0].latents.equal(director.memory.shots[0].latents)
    for damaged in (kept.content[:-100], b"PK\x03\x04" + kept.content, b"\x00" * 1000, b""):
        refused = client.post("/open/there", content=damaged)
        assert refused.status_code == 409 and "\n" not in refused.text and "/" not in refused.text
        assert len(there.view().takes) == 1
    monkeypatch.setattr(routes, "most_bytes", lambda model: len(kept.content) - 1)
    refused = client.post("/open/there", content=kept.content)
    assert refused.status_code == 413 and len(there.view().takes) == 1
    refused = client.post("/open/there", content=b'{"global_caption": "A ball."}')
    assert refused.status_code == 409 and "no shots" in refused.text


def test_a_picture_is_cast_into_the_film_of_its_tab(page: Page, client: TestClient):
    director = page.sessions.open("cast").director
    assert "no picture" in client.post("/cast/cast", params={"caption": "A ball."}).text
    picture = np.zeros((64, 96, 3), dtype=np.uint8)
    picture[..., 0] = 200
    asked = {"story": "A red ball.", "caption": "The hero."}
    assert client.post("/cast/cast", params=asked, content=encode_png(picture)).status_code == 200
    watch(director, 1)
    (take,) = director.view().takes
    assert take.cast and (director.remembered_frame(take.key, 0) == (200, 0, 0)).all()
    frame = client.get(f"/frame/cast/{take.key}/0")
    assert frame.headers["content-type"] == "image/png"
    assert client.post("/cast/cast", params=asked).status_code == 200  # the film's last picture, which is this one
    watch(director, 2)
    for at in ("", "x", "nan", "inf", "-1", "1e9"):
        refused = client.post("/cast/cast", params=asked | {"at": at})
        assert refused.status_code == 409 and "no time" in refused.text
    assert "no picture" in client.post("/cast/cast", params=asked | {"at": "0"}).text  # the player shows nothing
    director.queue_shot("A red ball.", "It jumps.")
    watch(director, 3)
    assert client.post("/cast/cast", params=asked | {"at": "0.2"}).status_code == 200
    watch(director, 4)
    take, seen = director.view().takes[-1], director.picture_at(0.2)
    assert take.cast and np.array_equal(director.remembered_frame(take.key, 0), seen)
    for data in (b"hello", encode_png(picture)[:60]):
        refused = client.post("/cast/cast", params=asked, content=data)
        assert refused.status_code == 409 and "picture" in refused.text
    assert client.post("/cast/cast", params={"caption": " "}, content=encode_png(picture)).status_code == 409


@pytest.mark.parametrize(
    "kind, status, most, told",
    [("cast", 413, 21, "choose a smaller one"), ("direct", 409, 1, "reload it"), ("advice", 413, 1, "no prompt")],
)
def test_a_body_that_is_too_large_is_not_read_to_its_end(page: Page, kind: str, status: int, most: int, told: str):
    page.sessions.open("large")
    parts, answer = iter(range(most)), []

    async def receive() -> dict:
        next(parts)  # no more of them are asked for
        return {"type": "http.request", "body": bytes(1_000_000), "more_body": True}  # without an end

    async def send(message: dict) -> None:
        answer.append(message)

    scope = {"type": "http", "method": "POST", "path": f"/{kind}/large", "query_string": b"", "headers": []}
    asyncio.run(Starlette(routes=page.routes)(scope, receive, send))
    assert answer[0]["status"] == status and told in answer[1]["body"].decode()


@pytest.mark.parametrize("path", ["/film/x", "/keep/x/story.json", "/take/x/1"])
def test_a_tab_that_is_gone_is_told(client: TestClient, path: str):
    assert (client.get(path).status_code, client.get(path).text) == (404, routes.GONE)


@pytest.mark.parametrize("path", ["/open/x", "/cast/x", "/direct/x"])
def test_nothing_is_taken_for_a_tab_that_is_gone(client: TestClient, path: str):
    assert client.post(path, content=b"{}").status_code == 404


def test_an_empty_film_cannot_be_kept_but_says_so(page: Page, client: TestClient, tmp_path: Path):
    page.sessions.open("empty")
    for path in ("/film/empty", "/keep/empty/story.json", "/keep/empty/storyboard.png"):
        answer = client.get(path)
        assert answer.status_code == 409 and "\n" not in answer.text
    assert client.get("/keep/empty/passwords.txt").status_code == 404
    assert client.get("/keep/empty/session.memory").status_code == 200  # an empty memory is one


def test_a_shape_is_the_models_and_of_a_whole_film(page: Page, client: TestClient, tmp_path: Path):
    director, model = page.sessions.open("shape").director, page.backend.model
    own = (model.width, model.height)
    own_name = next(iter(model.shapes))
    tall = (own[1], own[0])
    assert client.post("/shape/shape/banana").status_code == 404
    assert client.post(f"/shape/nobody/{own_name}").status_code == 404
    assert client.post(f"/shape/shape/{own_name}").status_code == 204 and director.size == own
    director.frame(tall)
    director.queue_shot("A red ball.", "It jumps.")
    watch(director, 1)
    assert director.last_picture().shape == (*own, 3)  # as high as the model's own are wide
    refused = client.post(f"/shape/shape/{own_name}")
    assert refused.status_code == 409 and "start a new film" in refused.text
    director.save(tmp_path / "kept.memory")
    there = page.sessions.open("shape elsewhere").director
    there.resume(tmp_path / "kept.memory")
    there.queue_shot("A red ball.", "It waits.")
    watch(there, 2)
    assert there.size == tall and there.last_picture().shape == (*own, 3)
    assert there.view().message is None
    there.new_film()
    there.frame(own)
    assert there.size == own

"""The page below the browser: markup, pacing, the streaming component, the command line. The rest is in browser/."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from waiting import wait_until

from shotstream.backends.in_process import InProcessBackend
from shotstream.errors import UserError
from shotstream.media import Segment
from shotstream.models.random_model import save_random_model
from shotstream.models.weights import load_model
from shotstream.sampler import Schedule
from shotstream.takes import Prompt
from shotstream.ui import drawers, launch, render
from shotstream.ui.layout import STORIES
from shotstream.ui.limits import Limits
from shotstream.ui.page import Page
from shotstream.ui.player import LivePlayer, Transport
from shotstream.ui.session import LEAD, MOST_LEAD, Session, Sessions
from shotstream.views import ChoiceView, FilmView, FrameView, NodeView, QueuedView, TakeView

MARKUP = "<img src=x onerror=alert(1)> & \"quotes\" 'too'"


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    schedule = Schedule(default_chunks=3, max_chunks=4)
    return save_random_model(tmp_path_factory.mktemp("model"), vae="PixelAutoencoder", schedule=schedule)


@pytest.fixture(scope="module")
def backend(model_folder: Path) -> InProcessBackend:
    backend = InProcessBackend(lambda: load_model(model_folder))
    backend.start()
    backend.wait()
    return backend


def film_view(**changes) -> FilmView:
    take = TakeView(number=1, key=7, caption=MARKUP, has_still=True, seconds=2.1, steers=(MARKUP,), others=(6, 7))
    node = NodeView(key=7, parent=0, number=1, lane=0, caption=MARKUP, has_still=True, on_film=True)
    frame = FrameView(key=7, offset=0, number=1, seconds=0.0, next=True, pinned=True, dropped=False, attention=0.25)
    values = {
        "takes": (take,),
        "tree": (node,),
        "frames": (frame,),
        "waiting": (QueuedView(8, MARKUP, then=MARKUP),),
        "choices": (ChoiceView(MARKUP),),
        "told": MARKUP,
        "fps": 48.2,
        "message": MARKUP,
        "held": True,
        "seconds": {"denoise": 3.0, "cache_pass": 1.0, "decode": 1.0},
    }
    return FilmView(**(values | changes))


def test_what_people_type_is_shown_as_text():
    view = film_view()
    markup = [
        render.status(view),
        render.notes(view, MARKUP),
        render.strip(view, 'x"><b>'),
        render.header(MARKUP),
        render.download('x"><b>'),
        render.subtitle(view),
        render.choices(view),
        drawers.memory(view, 'x"><b>'),
        drawers.futures(view, 'x"><b>'),
    ]
    for html in markup:
        assert "<img src=x" not in html and '"><b>' not in html
    assert "&lt;img src=x onerror=alert(1)&gt; &amp; &quot;quotes&quot;" in render.strip(view, "x")


def test_the_page_says_what_goes_on():
    making = film_view(stage="denoise", chunk=2, num_chunks=3, waiting=())
    assert render.sentence(making) == "Making shot 1"
    assert render.sentence(film_view(stage="turn")) == "Waiting for the camera for shot 1 · 1 queued"
    assert render.sentence(film_view(stage="load")) == "Loading the model for shot 1 · 1 queued"
    idle = film_view(waiting=(), held=False)
    assert render.sentence(idle) == "Waiting for you, on the last picture"
    assert render.sentence(replace(idle, playing=True)) == "Playing: what happens next?"
    assert render.sentence(replace(idle, playing=True, rolls_on=True)) == "Rolling on"
    assert render.sentence(render.EMPTY) == "Waiting for you"
    assert render.sentence(film_view(waiting=(), broken=True)) == "The shot broke off"
    assert render.sentence(film_view()) == "1 held" and "Try again" in render.notes(film_view(), "")
    assert render.where_time_goes(film_view()) == "denoising 80%, pixels 20%"
    assert "48 FPS" in render.status(film_view())
    assert render.curtain(film_view()) == "" and "Pick a story" in render.EMPTY_STAGE


def test_a_segment_goes_to_the_browser_as_it_is():
    player = LivePlayer(streaming=True)
    segment = Segment(b"transport stream", 0.75, 12)
    sent, reference = asyncio.run(player.stream_output(player.postprocess(segment), "run/playlist.m3u8", True))
    assert time.monotonic() - sent.pop("left") < 5
    assert sent == {"data": b"transport stream", "duration": 0.75, "extension": ".ts"}
    assert reference["path"] == "run/playlist.m3u8" and reference["is_stream"]
    assert asyncio.run(player.stream_output(None, "run/playlist.m3u8", False))[0] is None


def test_segments_leave_shortly_before_they_are_needed_and_the_film_goes_on_after_a_rest(backend: InProcessBackend):
    async def watch() -> list[tuple[float, float]]:
        """When each segment of two shots came, and how long it was."""
        session, sent = Session(backend), []
        session.director.queue_shot("", "A cat runs.")
        session.director.queue_shot("", "The cat jumps.")
        started = time.monotonic()
        async for view, _, segment in session.screen():
            if segment:
                sent.append((time.monotonic() - started, segment.duration))
            if len(sent) == 6 and not view.stage:
                session.close()
        return sent

    sent = asyncio.run(watch())
    begin = sent[0][0]
    for number, (at, _) in enumerate(sent):
        before = sum(duration for _, duration in sent[:number])
        assert before - (at - begin) <= LEAD + 0.05  # seconds ahead of a viewer who began at the first segment


def test_segments_leave_earlier_where_their_way_is_long(backend: InProcessBackend):
    sessions = Sessions(backend)
    session = sessions.open("one")
    sessions.late("one", 0.1)
    sessions.late("somebody who left", 9)
    assert session.lead == LEAD
    sessions.late("one", 1.0)
    assert LEAD + 0.3 < session.lead < LEAD + 0.5
    sessions.late("one", 600)  # a tab that slept
    assert session.lead == MOST_LEAD
    for _ in range(8):
        sessions.late("one", 0.1)
    assert session.lead == LEAD
    sessions.close_all()


def test_a_stream_ends_only_when_nothing_plays_and_nothing_is_to_come(
    backend: InProcessBackend, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("shotstream.ui.session.FRESH_AFTER", 0.5)
    monkeypatch.setattr("shotstream.ui.session.STILL", 0.2)
    session = Session(backend)

    async def play(prompts: int, patience: float) -> tuple[float, float]:
        """Seconds until the stream ended, and that it showed."""
        for _ in range(prompts):
            session.director.queue_shot("", "A cat runs.")
        started, shown = time.monotonic(), 0.0
        async with asyncio.timeout(patience):
            async for *_, segment in session.screen():
                shown += segment.duration if segment else 0.0
        return time.monotonic() - started, shown

    async def one_after_the_other() -> None:
        lasted, shown = await play(1, 30)
        assert shown > 2 and lasted > shown + 0.2
        assert not session.director.closed
        assert (await play(1, 30))[1] == pytest.approx(shown)  # the next one goes on
        with pytest.raises(TimeoutError):
            await play(0, 1.5)  # one that showed nothing has nothing to be rid of

    asyncio.run(one_after_the_other())
    session.close()


def test_a_segment_says_how_long_ago_it_left():
    with gr.Blocks() as blocks:
        player = LivePlayer(streaming=True)
    left, _ = asyncio.run(player.stream_output(Segment(b"data", 0.75, 12), "stream", True))
    blocks.pending_streams["tab"]["run"] = {player._id: SimpleNamespace(segments=[{"id": "one", **left}])}
    told: list[tuple[str, float]] = []

    async def app(request: Request) -> PlainTextResponse:
        return PlainTextResponse("data")

    site = Starlette(routes=[Route("/{path:path}", app)])
    client = TestClient(Transport(site, blocks, lambda name, seconds: told.append((name, seconds))))
    time.sleep(0.05)
    answer = client.get(f"/gradio_api/stream/tab/run/{player._id}/one.ts")
    name, milliseconds = answer.headers["Server-Timing"].split(";dur=")
    assert name == "left" and 50 <= float(milliseconds) < 5000
    assert told[0][0] == "tab" and 0.05 <= told[0][1] < 5
    for other in (f"{player._id}/other.ts", "9999/one.ts", f"{player._id}/playlist.m3u8"):
        assert "Server-Timing" not in client.get(f"/gradio_api/stream/tab/run/{other}").headers
    assert len(told) == 1


def test_a_tab_whose_disk_is_slow_keeps_no_other_waiting(backend: InProcessBackend):
    slow = [Session(backend) for _ in range((os.cpu_count() or 1) + 5)]  # more than asyncio has threads of its own
    other = Session(backend)

    async def look() -> None:
        screens = [session.screen() for session in slow]
        with ExitStack() as writing:
            for session, screen in zip(slow, screens, strict=True):
                await anext(screen)
                writing.enter_context(session.director._condition)
                session.tell("It is to look again.")
            waiting = [asyncio.create_task(anext(screen)) for screen in screens]
            view, _, segment = await asyncio.wait_for(anext(other.screen()), 30)
            assert view.takes == () and segment is None
            assert not any(look.done() for look in waiting)
        for _, notice, _ in await asyncio.gather(*waiting):
            assert notice == "It is to look again."

    asyncio.run(look())
    for session in (*slow, other):
        session.close()


def test_a_bug_does_not_end_the_camera(backend: InProcessBackend, caplog: pytest.LogCaptureFixture):
    session = Session(backend)
    with session.director._changing():
        session.director._waiting += [Prompt(1, "", "A cat runs.", after=99)]  # there is no such take
    wait_until(lambda: session.notice)
    assert "KeyError" in session.notice and "99" not in session.notice and "Traceback" in caplog.text
    session.director.queue_shot("", "A cat waits.", 1)
    wait_until(lambda: session.director.memory.shots)
    session.close()


def test_sessions_are_separate_and_end_for_good(backend: InProcessBackend):
    sessions = Sessions(backend)
    one, other = sessions.open("one"), sessions.open("other")
    assert sessions.open("one") is one and one is not other and len(sessions) == 2
    one.director.queue_shot("", "A cat runs.")
    sessions.close("one")
    sessions.close("one")
    assert len(sessions) == 1 and one.director.closed and not other.director.closed
    assert sessions.find("one") is None
    with pytest.raises(UserError, match="closed"):
        sessions.open("one")
    sessions.close_all()
    assert len(sessions) == 0 and other.director.closed


def test_there_are_only_so_many_seats(backend: InProcessBackend):
    sessions = Sessions(backend, Limits(sessions=3))
    for number in range(3):
        sessions.open(str(number))
    with pytest.raises(UserError, match="seats are taken"):
        sessions.open("one too many")
    sessions.close("0")
    assert sessions.open("the next")
    sessions.close_all()


def test_a_film_is_the_one_endpoint_and_all_examples_are_on_the_page(backend: InProcessBackend):
    page = Page(backend)
    config = page.blocks.get_config_file()
    events = [event for event in config["dependencies"] if not event["targets"] or event["targets"][0][1] != "unload"]
    assert {event["api_visibility"] for event in events} == {"private", "public"}
    assert [event["api_name"] for event in events if event["api_visibility"] == "public"] == ["film"]
    text = json.dumps(config)
    assert len(list(STORIES.glob("*.json"))) >= 3
    assert all(render.title(path.stem) in text for path in STORIES.glob("*.json"))


async def last_header(page: Page) -> str:
    """What a tab says of the model once nothing more is to be said."""
    return [header async for header, _ in page.on_model()][-1]


def test_tabs_wait_for_a_model_without_a_thread_each(model_folder: Path):
    """Forty tabs open while the model loads, one is closed meanwhile; all others are told when it is there."""
    go_on = threading.Event()
    backend = InProcessBackend(lambda: go_on.wait() and load_model(model_folder))
    backend.start()
    page = Page(backend)

    async def open_tabs() -> list[str]:
        tabs = [asyncio.ensure_future(last_header(page)) for _ in range(40)]
        before = threading.active_count()
        await asyncio.sleep(0)
        assert threading.active_count() == before and not backend.model
        tabs.pop().cancel()
        await asyncio.sleep(0)
        go_on.set()
        return await asyncio.gather(*tabs)

    assert all("random" in header for header in asyncio.run(open_tabs()))


def test_a_model_card_tells_what_the_model_is(tmp_path: Path):
    assert launch.about(tmp_path) == ""
    card = (
        "---\nlicense: apache-2.0\n---\n\n# Toy world\n\nA *tiny* model trained\nfrom scratch on one CPU. It draws.\n"
    )
    (tmp_path / "README.md").write_text(card)
    assert launch.about(tmp_path) == "A tiny model trained from scratch on one CPU"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--port", "99999"], "99999"),
        (["--port", "door"], "door"),
        (["--device", "abacus"], "abacus"),
        (["--model", "/no/such/folder"], "/no/such/folder"),
        (["--host", "no.such.host.invalid"], "no.such.host.invalid"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_bad_arguments_end_with_2_and_one_sentence(arguments: list[str], told: str, capsys: pytest.CaptureFixture):
    try:
        code = launch.main(arguments)
    except SystemExit as exit:
        code = exit.code
    output = capsys.readouterr()
    assert code == 2
    assert told in output.err and len(output.err.strip().splitlines()) == 1 and output.out == ""


def test_a_port_in_use_is_told(capsys: pytest.CaptureFixture):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert launch.main(["--port", str(port)]) == 2
    assert str(port) in capsys.readouterr().err

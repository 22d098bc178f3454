"""Where shots are made, who may ask for them, what is told of them: choice, seats, limits, health, logs."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import suppress
from contextvars import ContextVar, copy_context
from pathlib import Path

import pytest
import torch
from complaints import refusal
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.testclient import TestClient

from shotstream import logs
from shotstream.backends import cluster
from shotstream.backends.choice import Choice, build, choose_home
from shotstream.backends.in_process import InProcessBackend
from shotstream.backends.turns import Turns
from shotstream.errors import OutOfGpuTime, UserError
from shotstream.events import Chunk, Event, Progress, ShotDone, ShotRequest
from shotstream.models.weights import load_model
from shotstream.ui import render, seat
from shotstream.ui.allowance import A_DAY, Allowance
from shotstream.ui.limits import Limits, read_limits, visitor_of
from shotstream.ui.page import Page
from shotstream.ui.seat import Seat
from shotstream.ui.session import Session, Sessions
from shotstream.views import FilmView

SHOT = ShotRequest(caption="A secret ball.", num_chunks=2)


@pytest.mark.parametrize(
    ("environment", "home", "why"),
    [
        ({}, "in-process", "neither"),
        ({"SPACES_ZERO_GPU": "true"}, "zero-gpu", "ZeroGPU"),
        ({"SPACES_ZERO_GPU": "false"}, "in-process", "neither"),
        ({"RAY_ADDRESS": "ray://host:10001"}, "ray", "RAY_ADDRESS"),
        ({"SHOTSTREAM_BACKEND": "Ray "}, "ray", "SHOTSTREAM_BACKEND"),
        ({"SPACES_ZERO_GPU": "1", "RAY_ADDRESS": "host"}, "zero-gpu", "ZeroGPU"),
        ({"SPACES_ZERO_GPU": "1", "SHOTSTREAM_BACKEND": "in-process"}, "in-process", "SHOTSTREAM_BACKEND"),
    ],
)
def test_the_environment_chooses_the_home(environment: dict[str, str], home: str, why: str):
    choice = choose_home(environment)
    assert choice.home == home and why in choice.why
    assert str(choice).startswith("Shots are made") and "\n" not in str(choice)


@pytest.mark.parametrize("asked", ["moon", "zero-gpu"])
def test_a_home_that_is_not_here_is_told(asked: str):
    with pytest.raises(UserError, match=asked):
        choose_home({"SHOTSTREAM_BACKEND": asked})


@pytest.mark.parametrize(
    ("asked", "told"), [("compile", "set SHOTSTREAM_AOT=1 instead"), ("low_vram", "leave out SHOTSTREAM_LOW_VRAM")]
)
def test_what_zero_gpu_cannot_do_is_told_before_anything_is_loaded(asked: str, told: str):
    """Nothing is compiled in a visitor's seconds, and no memory pinned where there is no card."""
    options = Namespace(**{"compile": False, "low_vram": False, asked: True})
    assert told in refusal(build, Choice("zero-gpu", "this Space has ZeroGPU"), options)


def test_replicas_elsewhere_find_the_files_of_this_machine_and_all_else_as_it_was_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("prompts", "model", "words"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHOTSTREAM_SAFETY", "prompts")
    monkeypatch.setenv("SHOTSTREAM_MODEL", "model")
    monkeypatch.setenv("SHOTSTREAM_BLOCKED_WORDS", "words")
    monkeypatch.setenv("SHOTSTREAM_PREVIEW", "owner/name/preview.safetensors")
    set_there = cluster.surroundings()["runtime_env"]["env_vars"]
    assert set_there["SHOTSTREAM_SAFETY"] == "prompts"
    assert set_there["SHOTSTREAM_MODEL"] == str(tmp_path / "model")
    assert set_there["SHOTSTREAM_BLOCKED_WORDS"] == str(tmp_path / "words")
    assert set_there["SHOTSTREAM_PREVIEW"] == "owner/name/preview.safetensors"
    options = cluster.anywhere(Namespace(model="model", preview=None, device="cpu"))
    assert vars(options) == {"model": str(tmp_path / "model"), "preview": None, "device": "cpu"}


def test_nobody_but_ray_chooses_the_gpu_of_a_replica():
    assert "leave it out" in refusal(cluster.connect, Namespace(device="cuda:1"), 1)


def test_a_line_knows_its_places_and_about_how_long_it_takes():
    now = 0.0
    turns = Turns(lambda: now)
    with suppress(UserError), turns.next():
        raise UserError("A request that cannot be made.")
    with turns.next(urgent=True):
        now += 0.1
    first, second, third = turns.next(), turns.next(), turns.next()
    assert [turn.place for turn in (first, second, third)] == [0, 1, 2]
    assert third.seconds is None  # nobody can know: none was made
    with first:
        now += 4
    first = turns.next()
    now += 3
    assert [turn.seconds for turn in (second, third, first)] == [0, 1, 5]
    urgent = turns.next(urgent=True)
    assert (urgent.place, third.place, first.seconds) == (1, 2, 5)
    with second, urgent:
        pass
    assert (third.place, first.place) == (0, 1)


def test_the_page_tells_the_place_in_the_line():
    waiting = FilmView(stage="turn", place=3, wait=25)
    assert "3 shots before it, about 25 s" in render.sentence(waiting)
    assert "1 shot before it" in render.sentence(FilmView(stage="turn", place=1))
    assert "before" not in render.sentence(FilmView(stage="turn"))


class Absent(Seat):
    """Whose viewer comes and goes as a test says."""

    here = True

    @property
    def watched(self) -> bool:
        return self.here


def test_a_session_without_a_viewer_loses_its_turn(backend: InProcessBackend):
    running = backend.shoot(SHOT)
    next(running)
    mine, other = Absent(backend), Absent(backend)
    waiting, behind = mine.shoot(SHOT), other.shoot(SHOT)
    assert (next(waiting).place, next(behind).place) == (1, 2)
    mine.here = False
    next(waiting)
    assert next(waiting).place == 0  # in no line
    deadline = time.monotonic() + 20
    while next(behind).place != 1:
        assert time.monotonic() < deadline
    mine.here = True
    while (place := next(waiting).place) == 0:
        assert time.monotonic() < deadline
    assert place == 2  # behind those who stayed
    running.close()
    assert isinstance(list(behind)[-1], ShotDone) and isinstance(list(waiting)[-1], ShotDone)


def test_who_is_a_viewer(backend: InProcessBackend, monkeypatch: pytest.MonkeyPatch):
    place = Seat(backend)
    assert place.watched  # a prompt may be faster than the screen
    monkeypatch.setattr(seat, "UNSEEN", 0.0)
    assert not place.watched
    with place.screen():
        assert place.watched
        place.visit(pulse=True)
        monkeypatch.setattr(seat, "ABSENT", 0.0)
        assert not place.watched  # its page gave signs, and gives none any more
    monkeypatch.setattr(seat, "FORSAKEN", 0.0)
    assert place.forsaken


def test_a_session_nobody_looks_at_gives_up_its_seat(backend: InProcessBackend, monkeypatch: pytest.MonkeyPatch):
    sessions = Sessions(backend, Limits(sessions=1))
    stray = sessions.open("stray")
    with pytest.raises(UserError, match="All 1 seats"):
        sessions.open("viewer")
    monkeypatch.setattr(seat, "FORSAKEN", 0.0)
    sessions.open("viewer")
    assert stray.director.closed and len(sessions) == 1
    sessions.close_all()


WHO: ContextVar[str] = ContextVar("who", default="nobody")


class Asking:
    """A camera that notes in whose context it is asked."""

    def __init__(self, backend: InProcessBackend) -> None:
        self.backend, self.who = backend, []

    def shoot(self, request: ShotRequest) -> Iterator[Event]:
        for event in self.backend.shoot(request):
            self.who.append(WHO.get())
            yield event


def test_a_shot_is_asked_for_in_the_context_of_the_latest_visit(backend: InProcessBackend):
    camera = Asking(backend)
    place = Seat(camera)
    for name in ("ann", "bob"):
        context = copy_context()
        context.run(WHO.set, name)
        place.visit(context)
        thread = threading.Thread(target=lambda: list(place.shoot(SHOT)))
        thread.start()
        thread.join(60)
        assert set(camera.who) == {name}
        camera.who.clear()


def test_one_address_has_only_so_many_pages(backend: InProcessBackend):
    sessions = Sessions(backend, Limits(per_visitor=2))
    sessions.open("a", "1.2.3.4"), sessions.open("b", "1.2.3.4")
    with pytest.raises(UserError, match="2 pages are open from your address"):
        sessions.open("c", "1.2.3.4")
    sessions.open("a", "1.2.3.4"), sessions.open("d", "5.6.7.8")
    for name in "efgh":
        sessions.open(name)  # on this machine
    sessions.close("a")
    sessions.open("c", "1.2.3.4")
    sessions.close_all()


@pytest.mark.parametrize(
    ("client", "forwarded", "visitor"),
    [
        ("127.0.0.1", None, ""),
        ("::1", None, ""),
        ("10.1.2.3", None, "10.1.2.3"),
        ("10.1.2.3", "9.8.7.6, 10.0.0.1", "9.8.7.6"),
        ("127.0.0.1", "9.8.7.6", "9.8.7.6"),
        ("testclient", None, ""),
    ],
)
def test_who_counts_as_one_visitor(client: str, forwarded: str | None, visitor: str):
    headers = [(b"x-forwarded-for", forwarded.encode())] if forwarded else []
    assert visitor_of(Request({"type": "http", "client": (client, 1), "headers": headers})) == visitor


def test_limits_come_from_the_environment():
    assert read_limits({}) == Limits(64, 8)
    assert read_limits({"SHOTSTREAM_MAX_SESSIONS": "3", "SHOTSTREAM_MAX_PER_VISITOR": "0"}) == Limits(3, 0)
    for wrong in ("many", "0", "-1", "²", "99999999"):
        with pytest.raises(UserError, match="SHOTSTREAM_MAX_SESSIONS"):
            read_limits({"SHOTSTREAM_MAX_SESSIONS": wrong})


def test_health_tells_loading_ready_and_failed(random_model_folder: Path):
    go_on = threading.Event()
    loading = InProcessBackend(lambda: go_on.wait(30) and load_model(random_model_folder))
    loading.start()
    client = TestClient(Starlette(routes=Page(loading).routes))
    health = client.get("/health")
    assert health.status_code == 200 and health.json()["status"] == "loading" and not health.json()["model"]
    assert client.get("/ready").status_code == 503
    go_on.set()
    loading.wait()
    told = client.get("/ready")
    assert told.status_code == 200 and told.json() == {
        **{"status": "ready", "model": True, "home": "this process", "sessions": 0}
    }

    failing = InProcessBackend(lambda: load_model("/no/such/folder"))
    failing.start()
    with pytest.raises(UserError):
        failing.wait()
    client = TestClient(Starlette(routes=Page(failing).routes))
    assert client.get("/health").status_code == 200
    told = client.get("/ready")
    assert told.status_code == 503 and told.json()["status"] == "failed" and "/no/such/folder" in told.json()["reason"]


def test_a_failure_is_told_to_every_shot_by_an_exception_of_its_own():
    failing = InProcessBackend(lambda: load_model("/no/such/folder"))
    failing.start()
    told = []
    for ask in (failing.wait, failing.wait, lambda: next(failing.shoot(SHOT)), lambda: failing.fps):
        with pytest.raises(UserError, match="/no/such/folder") as caught:
            ask()
        told.append(caught.value)
    assert len(set(map(id, told))) == len(told) and len(set(map(str, told))) == 1


@pytest.mark.parametrize(
    ("frames", "num_chunks", "closes"), [(6, 2, True), (6, 3, False), (6, None, False), (0, 0, False), (None, 2, False)]
)
def test_what_only_closes_a_shot(frames: int | None, num_chunks: int | None, closes: bool):
    prefix = None if frames is None else torch.zeros(frames, 1, 1, 1)
    assert ShotRequest("A ball.", prefix=prefix, num_chunks=num_chunks).only_closes(3) == closes


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    caplog.set_level(logging.INFO, "shotstream")
    yield caplog


def test_a_shot_is_one_line_without_words(
    backend: InProcessBackend, lines: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    place = Seat(backend, "name of a session")
    list(place.shoot(SHOT))
    cancelled = place.shoot(SHOT)
    next(event for event in cancelled if isinstance(event, Chunk))
    cancelled.close()
    with pytest.raises(UserError):
        list(place.shoot(ShotRequest(caption="A secret ball.", num_chunks=0)))
    done, cut, failed = (record.getMessage() for record in lines.records)
    assert re.fullmatch(r"shot done session=\w{6} shot=1 chunks=2 frames=21 waited=\S+ first=\S+ seconds=\S+", done)
    assert cut.startswith("shot cancelled") and "chunks=1" in cut
    assert failed.startswith("shot failed") and 'reason="' in failed
    assert "secret" not in lines.text and "name of a session" not in lines.text
    monkeypatch.setenv(logs.PROMPTS, "1")
    list(place.shoot(SHOT))
    assert 'caption="A secret ball."' in lines.records[-1].getMessage()


def test_an_event_is_one_line_whatever_is_in_it():
    record = logging.LogRecord("shotstream", logging.ERROR, "", 0, "one\ntwo", (), None)
    try:
        raise ZeroDivisionError
    except ZeroDivisionError as error:
        record.exc_info = (type(error), error, error.__traceback__)
    line = logs.OneLine("%(message)s").format(record)
    assert "\n" not in line and line.startswith("one | two | Traceback") and line.endswith("ZeroDivisionError")


def test_gpu_time_is_told_where_it_is_counted(backend: InProcessBackend):
    class Counting(Asking):
        def shoot(self, request: ShotRequest) -> Iterator[Event]:
            if request.caption == "Too long.":
                raise OutOfGpuTime("No.", 60)
            yield Progress("turn", 0, 0, asked=12)
            yield from self.backend.shoot(request)

    async def first_notice(session: Session) -> str:
        async for _, notice, _ in session.screen():
            return notice

    sessions = Sessions(Counting(backend))
    session = sessions.open("a", "1.2.3.4")
    assert asyncio.run(first_notice(session)) == ""
    list(session.seat.shoot(SHOT)), list(session.seat.shoot(SHOT))
    assert "from your address today: 24 s. Hugging Face gives 120 s a day without" in asyncio.run(first_notice(session))
    sessions.close("a")
    other, reloaded = sessions.open("b", "5.6.7.8"), sessions.open("c", "1.2.3.4")
    assert asyncio.run(first_notice(other)) == "" and "today: 24 s" in asyncio.run(first_notice(reloaded))
    with pytest.raises(UserError, match="No"):
        list(reloaded.seat.shoot(ShotRequest("Too long.")))
    list(reloaded.seat.shoot(SHOT))
    assert asyncio.run(first_notice(reloaded)).startswith("GPU time: about 48 s of yours are left today")
    sessions.close_all()


def test_gpu_time_is_counted_anew_after_a_day():
    now = 0.0
    allowance = Allowance(lambda: now)
    allowance.ask(30)
    allowance.refuse(20)
    now += A_DAY - 1
    assert "about 20 s" in allowance.sentence
    now += 1
    assert allowance.sentence == ""
    allowance.ask(12)
    assert "today: 12 s" in allowance.sentence

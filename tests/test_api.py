"""The public endpoint on a real server with the shipped model: by `gradio_client`, by MCP, by the example script."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from waiting import wait_until

from shotstream.backends.in_process import InProcessBackend
from shotstream.models.weights import SHIPPED, load_model
from shotstream.provenance import read_note
from shotstream.ui.api import FILMS_OF_A_VISITOR, KEPT_SECONDS, MAX_CHUNKS, MAX_SHOTS, Shelf
from shotstream.ui.page import Page

ROOT = Path(__file__).parents[1]
AGENT_RUN = ROOT / "assets" / "agent-run"
STORY = {
    "global_caption": "Pixel art. The hero is a red ball.",
    "shot1": "Wide shot: it stands still on the beach by day.",
    "shot2": "Close-up. It looks happy.",
}
LONG = {"global_caption": "A cat.", **{f"shot{number}": "It jumps." for number in range(1, MAX_SHOTS + 2)}}


@dataclass(frozen=True)
class Server:
    """A running page and where it keeps its films."""

    url: str
    folder: Path


@pytest.fixture(scope="module")
def model_folder(random_model_folder: Path) -> Path:
    """The shipped model, or random weights where that is missing."""
    return SHIPPED if (SHIPPED / "model_index.json").exists() else random_model_folder


@pytest.fixture(scope="module")
def server(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The page, as `app.py` opens it."""
    folder = tmp_path_factory.mktemp("gradio")
    backend = InProcessBackend(lambda: load_model(model_folder))
    backend.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        blocks = Page(backend).blocks
        launching = {"server_port": free_port(), "ssr_mode": False, "quiet": True, "_frontend": False}
        _, url, _ = blocks.launch(mcp_server=True, prevent_thread_lock=True, **launching)
        assert blocks.mcp_error is None
        yield Server(url.rstrip("/"), folder)
        blocks.close()


@pytest.fixture
def client(server: Server, tmp_path: Path) -> Client:
    return Client(server.url, download_files=tmp_path, verbose=False)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def frames_of(path: str | Path) -> np.ndarray:
    """[t, H, W, 3] uint8"""
    with av.open(str(path)) as film:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)])


def test_only_the_film_is_public_and_its_arguments_have_names(client: Client):
    api = client.view_api(return_format="dict", print_info=False)
    assert list(api["named_endpoints"]) == ["/film"] and not api["unnamed_endpoints"]
    film = api["named_endpoints"]["/film"]
    assert [p["parameter_name"] for p in film["parameters"]] == ["story", "seed", "chunks"]
    assert [p["parameter_has_default"] for p in film["parameters"]] == [False, True, True]
    types = [p["python_type"]["type"] for p in film["parameters"]]
    assert types == ["dict(str, str)", "int", "None | int"]
    assert [r["python_type"]["type"] for r in film["returns"]] == ["filepath"]
    assert film["description"].startswith("Makes a short film")


def test_a_client_makes_a_film(client: Client, server: Server):
    path = client.predict(STORY, seed=7, chunks=2, api_name="/film")
    assert frames_of(path).shape == (2 * 21, 512, 768, 3)
    with av.open(path) as film:
        chapters = [(c["start"], c["end"], c["metadata"]["title"]) for c in film.chapters()]
        rate = film.streams.video[0].average_rate
    ticks = chapters[-1][1] // 42  # the muxer counts in its own
    assert rate == 16
    assert chapters == [(0, 21 * ticks, STORY["shot1"]), (21 * ticks, 42 * ticks, STORY["shot2"])]
    note = read_note(path)
    assert [(shot.caption, shot.seed, shot.num_chunks) for shot in note.shots] == [
        (STORY["shot1"], 7, 2),
        (STORY["shot2"], 8, 2),
    ]
    assert list(server.folder.glob("films-*/*/film.mp4"))


def test_two_clients_get_each_their_own_film_and_a_seed_makes_the_same_one_again(client: Client):
    other = STORY | {"shot1": "Medium shot: it jumps in the forest at night."}
    jobs = [client.submit(story, chunks=1, api_name="/film") for story in (STORY, other, json.dumps(STORY))]
    one, two, again = (job.result(timeout=240) for job in jobs)
    assert read_note(two).shots[0].caption == other["shot1"]
    assert np.array_equal(frames_of(one), frames_of(again))
    assert not np.array_equal(frames_of(one), frames_of(two))


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (({},), 'no "global_caption"'),
        (({"global_caption": "A cat."},), "no shots"),
        (({"global_caption": "A cat.", "shot2": "It runs."},), 'no "shot1"'),
        (({"global_caption": "A cat.", "shot1": " "},), '"shot1" is blank'),
        (({"global_caption": "A cat.", "shot1": 3},), '"shot1" is not text'),
        ((["A cat."],), "not a JSON object"),
        (("A cat.",), "not valid JSON"),
        ((None,), "not a JSON object"),
        ((LONG,), f"{MAX_SHOTS} at most"),
        ((STORY, -1), '"seed"'),
        ((STORY, 1.5), '"seed"'),
        ((STORY, True), '"seed"'),
        ((STORY, 0, 0), '"chunks"'),
        ((STORY, 0, MAX_CHUNKS + 1), '"chunks"'),
        ((STORY, 0, "two"), '"chunks"'),
    ],
)
def test_a_bad_request_gets_one_sentence(client: Client, request_: tuple, told: str):
    with pytest.raises(AppError) as failure:
        client.predict(*request_, api_name="/film")
    message = str(failure.value)
    assert told in message and len(message.splitlines()) == 1 and message.endswith(".")


def test_nobody_has_all_films_made_at_a_time(server: Server, tmp_path: Path):
    def visitor(address: str) -> Client:
        headers = {"x-forwarded-for": address}
        return Client(server.url, headers=headers, download_files=tmp_path, verbose=False)

    one, other = visitor("192.0.2.1"), visitor("192.0.2.2")
    longest = {name: caption for name, caption in LONG.items() if name != f"shot{MAX_SHOTS + 1}"}
    films = [one.submit(longest, chunks=3, api_name="/film") for _ in range(FILMS_OF_A_VISITOR)]
    wait_until(lambda: all(film.status().code.name == "PROCESSING" for film in films))
    with pytest.raises(AppError, match="being made for you already"):
        one.predict(STORY, chunks=1, api_name="/film")
    assert Path(other.predict(STORY, chunks=1, api_name="/film")).exists()
    assert all(Path(film.result(timeout=240)).exists() for film in films)
    assert Path(one.predict(STORY, chunks=1, api_name="/film")).exists()


def test_a_client_is_told_what_was_left_out(client: Client):
    async def logs() -> list[str]:
        story = STORY | {
            "author": "Mia",
            "shot2": "A zebra.",
            "shot2_then": "An ox.",
            "choices": {"Go left": ["Left."]},
        }
        job = client.submit(story, chunks=1, api_name="/film")
        return [update.log[0] async for update in job if update.type == "status" and update.log]

    told = asyncio.run(logs())
    assert told[0] == 'The story\'s keys "author" are not known and were left out.'
    assert told[1] == 'The story leaves a choice: "Go left". The film ends before it.'
    assert not SHIPPED.exists() or told[2:] == [f"This model does not know: {word}." for word in ("zebra", "ox")]


def test_an_assistant_finds_the_tool_and_uses_it(server: Server, tmp_path: Path):
    mcp = pytest.importorskip("mcp")
    from mcp.client.streamable_http import streamable_http_client

    async def talk() -> tuple:
        async with (
            streamable_http_client(f"{server.url}/gradio_api/mcp/") as (receive, send, _),
            mcp.ClientSession(receive, send) as session,
        ):
            await session.initialize()
            tools = (await session.list_tools()).tools
            made = await session.call_tool("film", {"story": STORY, "chunks": 1})
            refused = await session.call_tool("film", {"story": {"global_caption": "A cat."}})
            return tools, made, refused

    tools, made, refused = asyncio.run(talk())
    assert [tool.name for tool in tools] == ["film"]
    properties = tools[0].inputSchema["properties"]
    assert properties["story"]["type"] == "object" and tools[0].inputSchema["required"] == ["story"]
    assert all(properties[name]["description"] for name in ("story", "seed", "chunks"))
    assert tools[0].description.startswith("Makes a short film")
    assert not made.isError
    film = tmp_path / "film.mp4"
    with urllib.request.urlopen(made.content[0].text, timeout=60) as answer:
        film.write_bytes(answer.read())
    assert len(frames_of(film)) == 2 * 9
    assert refused.isError and "no shots" in refused.content[0].text


def test_films_are_kept_for_an_hour(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    shelf = Shelf()
    old, young = shelf.place(), shelf.place()
    for film in (old, young):
        film.write_bytes(b"film")
    long_ago = time.time() - KEPT_SECONDS - 1
    os.utime(old.parent, (long_ago, long_ago))
    new = shelf.place()
    assert not old.parent.exists() and young.exists() and new.parent.is_dir()


def test_without_mcp_the_page_starts_and_says_so(random_model_folder: Path):
    start = "import sys; sys.modules['mcp'] = None; from shotstream.ui.launch import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", start, "--model", str(random_model_folder), "--port", str(free_port())]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **streams) as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "is playing at" in line:
                break
        process.terminate()
    assert "is playing at" in lines[-1]
    home, without = lines[:-1]
    assert home.startswith("Shots are made in ") and "no tool for assistants" in without and "mcp" in without


# A view into a run of agents


def load_script():
    spec = importlib.util.spec_from_file_location("agent_run_film", AGENT_RUN / "film.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def event(time: str, agent: str, kind: str) -> dict[str, str]:
    return {"time": f"2026-03-02T{time}:00", "agent": agent, "event": kind}


def test_events_become_shots():
    script = load_script()
    events = [event("21:05", "b", "done"), event("08:00", "a", "start"), event("12:30", "b", "fail")]
    assert script.story_of(events) == {
        "global_caption": script.STYLE,
        "shot1": "Medium shot: a yellow star jumps in the meadow in the morning. It is happy.",
        "shot2": "Close-up of the green cube in the forest at noon. It is surprised.",
        "shot3": "Close-up of the green cube in the forest at night. It is happy.",
    }
    crowd = [event("08:00", str(number), "work") for number in range(len(script.CAST) + 1)]
    for bad in ([], crowd, [event("08:00", "a", "sing")], [event("08:00", "a", "work")] * (script.MAX_EVENTS + 1)):
        with pytest.raises(ValueError):
            script.story_of(bad)


def test_the_script_films_a_log(server: Server, tmp_path: Path):
    log = tmp_path / "log.json"
    log.write_text(json.dumps({"events": [event("08:00", "a", "start"), event("09:00", "a", "done")]}))
    run = [sys.executable, str(AGENT_RUN / "film.py"), str(log), "--url", server.url, "-o", str(tmp_path / "run.mp4")]
    finished = subprocess.run(run, capture_output=True, text=True, timeout=240)
    assert finished.returncode == 0, finished.stderr
    assert [shot.caption for shot in read_note(tmp_path / "run.mp4").shots] == [
        "Medium shot: a yellow star jumps in the meadow in the morning. It is happy.",
        "Close-up of the yellow star in the meadow in the morning. It is happy.",
    ]


def test_the_script_says_what_is_wrong(tmp_path: Path):
    broken = tmp_path / "broken.json"
    broken.write_text('{"happened": []}')
    away = ["--url", f"http://127.0.0.1:{free_port()}"]
    for arguments, told in (([str(broken)], "broken.json"), (away, away[1])):
        run = [sys.executable, str(AGENT_RUN / "film.py"), *arguments, "-o", str(tmp_path / "run.mp4")]
        finished = subprocess.run(run, capture_output=True, text=True, timeout=240)
        assert finished.returncode == 1 and told in finished.stderr
        assert len(finished.stderr.splitlines()) == 1 and not (tmp_path / "run.mp4").exists()

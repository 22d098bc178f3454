"""Shots made by replicas: a real cluster of two on this machine, with the shipped model."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("ray.serve", reason="Ray Serve is not installed: pip install -e '.[ray]'")

from shotstream.arguments import add_model_arguments
from shotstream.backends.ray_serve import RayServeBackend  # noqa: E402 - what is imported needs no Ray, the tests do
from shotstream.director import Director  # noqa: E402
from shotstream.engine import Engine  # noqa: E402
from shotstream.errors import UserError  # noqa: E402
from shotstream.events import Chunk, Event, Progress, ShotDone, ShotRequest  # noqa: E402
from shotstream.memory import Memory  # noqa: E402
from shotstream.models.weights import SHIPPED, load_model  # noqa: E402
from shotstream.ui import render  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PARSER = ArgumentParser()
add_model_arguments(PARSER)
OPTIONS = PARSER.parse_args(["--model", str(SHIPPED), "--device", "cpu", "--attention", "native"])
CAPTION = "A red ball called Pip. It jumps up and down at the beach."
PATIENCE = 300  # seconds, on a machine that does other work besides
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def backend() -> Iterator[RayServeBackend]:
    """Two replicas in a cluster of our own, whatever else runs here."""
    before = os.environ.get("RAY_ADDRESS")
    os.environ["RAY_ADDRESS"] = "local"
    backend = RayServeBackend(OPTIONS, 2)
    began = time.monotonic()
    backend.start()
    try:
        assert backend.wait(PATIENCE), "no replicas"
        print(f"two replicas after {time.monotonic() - began:.1f} s")
        yield backend
    finally:
        backend.close()
        os.environ.pop("RAY_ADDRESS")
        if before is not None:
            os.environ["RAY_ADDRESS"] = before


@pytest.fixture(scope="module")
def engine() -> Engine:
    """The same model here."""
    return Engine(load_model(SHIPPED))


def expect_equal(made: list[Chunk], expected: list[Chunk]) -> None:
    """The same chunks, each once; a machine that counts in another order may differ in the last bits."""
    assert [chunk.index for chunk in made] == [chunk.index for chunk in expected]
    for there, here in zip(made, expected, strict=True):
        torch.testing.assert_close(there.latents, here.latents, atol=1e-4, rtol=0)
        assert np.abs(there.frames.astype(int) - here.frames).max() <= 1


def chunks(events: list[Event]) -> list[Chunk]:
    return [event for event in events if isinstance(event, Chunk)]


def in_threads(*work: Callable[[], object]) -> list:
    with ThreadPoolExecutor(len(work)) as pool:
        return [future.result(PATIENCE) for future in [pool.submit(job) for job in work]]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def replica_pids() -> list[int]:
    """The processes with the model below this one."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            names[int(folder.name)] = (folder / "cmdline").read_text()
            status = (folder / "status").read_text()
        except OSError:
            continue
        parents[int(folder.name)] = int(status.split("PPid:")[1].split()[0])

    def is_ours(pid: int) -> bool:
        while pid not in (0, os.getpid()):
            pid = parents.get(pid, 0)
        return pid == os.getpid()

    return [pid for pid, name in names.items() if "ServeReplica:shotstream:Replica" in name and is_ours(pid)]


def seconds_used(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_two_users_get_their_own_films_at_the_same_time(backend: RayServeBackend, engine: Engine):
    spans: list[tuple[float, float]] = []
    together = threading.Barrier(2)

    def film(seed: int, caption: str) -> list[list[Event]]:
        together.wait(PATIENCE)
        memory, shots, began = Memory(), [], time.monotonic()
        for shot in range(2):
            shots.append(list(backend.shoot(ShotRequest(caption, memory, seed + shot))))
            memory = shots[-1][-1].memory
        spans.append((began, time.monotonic()))
        return shots

    users = [(10, CAPTION), (20, "A blue cube called Mo walks through the city at night.")]
    films = in_threads(*(lambda user=user: film(*user) for user in users))
    assert max(began for began, _ in spans) < min(ended for _, ended in spans)
    for shots, (seed, caption) in zip(films, users, strict=True):
        memory = Memory()
        for index, events in enumerate(shots):
            expected = list(engine.shoot(ShotRequest(caption, memory, seed + index)))
            memory = expected[-1].memory
            expect_equal(chunks(events), chunks(expected))
            torch.testing.assert_close(events[-1].shot.latents, memory.shots[-1].latents, atol=1e-4, rtol=0)
        assert [shot.seed for shot in shots[-1][-1].memory.shots] == [seed, seed + 1]


def test_a_shot_that_loses_its_replica_is_finished_by_the_other(backend: RayServeBackend, engine: Engine):
    request = ShotRequest(CAPTION, seed=3, num_chunks=7)
    used = {pid: seconds_used(pid) for pid in replica_pids()}
    assert len(used) == 2
    made: list[Event] = []
    killed = None
    for event in backend.shoot(request):
        made.append(event)
        if isinstance(event, Chunk) and event.index == 2:
            killed_pid = max(used, key=lambda pid: seconds_used(pid) - used[pid])
            os.kill(killed_pid, signal.SIGKILL)
            killed = time.monotonic()
        if isinstance(event, Chunk) and event.index == 3:
            print(f"next chunk {time.monotonic() - killed:.2f} s after the replica was killed")
    expected = list(engine.shoot(request))
    expect_equal(chunks(made), chunks(expected))
    assert made[-1].shot.num_frames == 81 and made[-1].memory.shots == (made[-1].shot,)
    torch.testing.assert_close(made[-1].shot.latents, expected[-1].shot.latents, atol=1e-3, rtol=0)

    wait_for(lambda: len(set(replica_pids()) - {killed_pid}) == 2)  # a new one comes in its place


def test_a_cancelled_shot_frees_its_replica(backend: RayServeBackend):
    long = ShotRequest(CAPTION, seed=4, num_chunks=80)
    both = [backend.shoot(long), backend.shoot(long)]
    for shot in both:  # both replicas are at work
        next(event for event in shot if isinstance(event, Chunk))
    began = time.monotonic()
    both[0].close()
    told = time.monotonic() - began
    with closing(backend.shoot(ShotRequest(CAPTION, seed=5, num_chunks=1))) as shot:
        next(event for event in shot if isinstance(event, Progress) and event.stage != "turn")
    freed = time.monotonic() - began
    both[1].close()
    print(f"cancelling returned after {told:.3f} s, the next shot began after {freed:.2f} s")
    assert told < 1 and freed < 10  # 80 chunks take longer, and the other replica is still at one


def test_when_all_are_busy_shots_wait_in_a_line_that_is_seen_and_no_prompt_is_lost(backend: RayServeBackend):
    from ray.serve.exceptions import BackPressureError

    long = ShotRequest(CAPTION, seed=6, num_chunks=80)
    running = [backend.shoot(long), backend.shoot(long)]
    for shot in running:
        next(event for event in shot if isinstance(event, Chunk))

    handle = backend._replicas.options(stream=True, method_name="shoot")
    others = [handle.remote(long), handle.remote(long)]  # as from another page: they wait in Ray Serve

    def is_full() -> bool:
        answer = handle.remote(long)
        try:
            answer._fetch_future_result_sync(1)
        except BackPressureError:
            return True
        except TimeoutError:
            answer.cancel()
        return False

    wait_for(is_full)  # it holds as many as there are replicas, and no more

    def wait_and_shoot(seed: int) -> list[Event]:
        events = []
        with closing(backend.shoot(ShotRequest(CAPTION, seed=seed, num_chunks=1))) as shot:
            for event in shot:
                events.append(event)
        return events

    directors = [Director(backend) for _ in range(3)]
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(wait_and_shoot, seed) for seed in range(3)]
        for director in directors:
            director.queue_shot("A red ball called Pip.", "It jumps.", num_chunks=1)
            pool.submit(director.shoot_next)
        wait_for(lambda: len(backend.line) == 6 and max(director.view().place for director in directors) >= 4)
        view = max((director.view() for director in directors), key=lambda view: view.place)
        assert view.stage == "turn" and view.message is None
        assert f"Waiting for the camera for shot 1: {view.place} shots before it" in render.sentence(view)
        assert not any(future.done() for future in waiting)
        for other in others:
            other.cancel()
        for shot in running:
            shot.close()
        made = [future.result(PATIENCE) for future in waiting]
    for events in made:
        assert isinstance(events[-1], ShotDone)
        places = [event.place for event in events if isinstance(event, Progress) and event.stage == "turn"]
        assert places == sorted(places, reverse=True) and places[0] > 0  # nobody goes back in the line
    for director in directors:
        assert len(director.memory.shots) == 1 and director.view().message is None
        director.close()
    assert len(backend.line) == 0


def test_what_is_wrong_comes_back_as_one_sentence(backend: RayServeBackend):
    with pytest.raises(UserError, match="^The caption is blank: describe what is to be seen.$"):
        list(backend.shoot(ShotRequest(" ")))
    picture = np.full((backend.model.height, backend.model.width, 3), 200, np.uint8)
    assert backend.cast(picture, "A wall.").offsets == (0,)
    with pytest.raises(UserError, match="multiple of"):
        backend.cast(picture[:12], "A wall.")


def test_the_page_is_served_with_its_replicas(tmp_path: Path):
    """The command in a process of its own, and what a browser would fetch first."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "shotstream", "serve", "--replicas", "1", "--port", str(port), "--device", "cpu"]
    environment = os.environ | {"RAY_ADDRESS": "local", "PYTHONPATH": str(ROOT), "SHOTSTREAM_SAFETY": "prompts"}
    with open(tmp_path / "log", "wb") as log:
        server = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        health = None
        deadline = time.monotonic() + PATIENCE
        while not (health and health["model"]):
            assert server.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10) as answer:
                    health = json.load(answer)
            except OSError:
                time.sleep(0.2)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as answer:
            assert b"ShotStream" in answer.read()
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(60)
    assert code == 0 and "Traceback" not in (tmp_path / "log").read_text()

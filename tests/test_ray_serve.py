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
from contextlib import closing, contextmanager
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from complaints import refusal
from gradio_client import Client
from gradio_client.exceptions import AppError
from waiting import wait_until

pytest.importorskip("ray.serve", reason="Ray Serve is not installed: pip install -e '.[ray]'")

from shotstream.arguments import add_model_arguments  # noqa: E402 - what is imported needs no Ray, the tests do
from shotstream.backends import cluster  # noqa: E402
from shotstream.backends.ray_serve import RayServeBackend  # noqa: E402
from shotstream.director import Director  # noqa: E402
from shotstream.engine import Engine  # noqa: E402
from shotstream.errors import UserError  # noqa: E402
from shotstream.events import Chunk, Event, Progress, ShotDone, ShotRequest  # noqa: E402
from shotstream.memory import Memory  # noqa: E402
from shotstream.models.weights import SHIPPED, load_model  # noqa: E402
from shotstream.serve import application  # noqa: E402
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


def test_a_cluster_that_cannot_be_started_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch):
    """The first test, before there is one. No cluster that others run here may be joined."""
    import ray

    asked, start = [], ray.init

    def init(address: str, **options: object) -> None:
        asked.append(address)
        if address == "auto":
            raise ConnectionError("there is none")
        start(address=address, **options)

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setenv("RAY_ADDRESS", "")  # as good as none
    monkeypatch.setenv("RAY_TMPDIR", "/dev/null")
    told = refusal(cluster.connect, OPTIONS, 1)
    assert asked == ["auto", "local"] and told.startswith("Ray cannot be started on this machine ([Errno 20] Not a dir")


def test_page_and_replicas_ask_for_the_cpus_that_are_counted_and_no_more():
    page = application(OPTIONS, 3)._bound_deployment
    replicas = page.init_args[0]._bound_deployment
    assert sum(part.num_replicas * part.ray_actor_options["num_cpus"] for part in (page, replicas)) == 3


def test_a_shot_whose_replica_is_lost_after_its_end_is_not_made_again(engine: Engine):
    from ray.exceptions import RayActorError

    class Ending:
        """In place of Ray's handle and its answers: one replica, which ends with each shot."""

        def options(self, **_: object) -> Ending:
            return self

        def remote(self, request: ShotRequest) -> Ending:
            self.request = request
            return self

        def __iter__(self) -> Iterator[Event]:
            yield from engine.shoot(self.request)
            raise RayActorError

        def cancel(self) -> None:
            pass

    backend = RayServeBackend(OPTIONS, 1)
    backend.ready.set_result(engine.model)
    backend._replicas = Ending()
    request = ShotRequest(CAPTION, num_chunks=1)
    events = list(backend.shoot(request))
    expect_equal(chunks(events), chunks(list(engine.shoot(request))))
    assert [type(event) for event in events].count(ShotDone) == 1
    with backend.line.next() as turn:
        assert turn.seconds is not None  # how long a shot takes is known by now


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

    wait_until(lambda: len(set(replica_pids()) - {killed_pid}) == 2, PATIENCE)  # a new one comes in its place


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

    wait_until(is_full, PATIENCE)  # it holds as many as there are replicas, and no more

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
        wait_until(
            lambda: len(backend.line) == 6 and max(director.view().place for director in directors) >= 4, PATIENCE
        )
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
    with pytest.raises(
        UserError, match=r"^The shot failed \(AttributeError\): try it again, the film so far is kept.$"
    ):
        list(backend.shoot(ShotRequest(CAPTION, memory=None)))  # a mistake of ours


@contextmanager
def served(folder: Path, command: list[str], **environment: str) -> Iterator[str]:
    """The address of a page that a process of its own serves from `folder`, once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    environment = os.environ | {"RAY_ADDRESS": "local", "PYTHONPATH": str(ROOT)} | environment
    command = [sys.executable, *command, "--port", str(port)]
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)

    def answers() -> bool:
        assert server.poll() is None, (folder / "log").read_text()
        try:
            return bool(state_of(address))
        except OSError:
            return False

    try:
        wait_until(answers, PATIENCE)
        yield address
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(60)
    assert code == 0 and "Traceback" not in (folder / "log").read_text()


def state_of(address: str) -> dict:
    with urllib.request.urlopen(f"{address}/health", timeout=10) as answer:
        return json.load(answer)


def test_the_page_is_served_with_its_replicas_and_under_its_hosts_rules(tmp_path: Path):
    """The command in a process of its own, and what a browser and a program ask for."""
    (tmp_path / "prompts").mkdir()  # is called like a rule, and has nothing to do with it
    command = ["-m", "shotstream", "serve", "--replicas", "1", "--device", "cpu"]
    with served(tmp_path, command, SHOTSTREAM_SAFETY="prompts") as address:
        with urllib.request.urlopen(address, timeout=60) as answer:
            assert b"ShotStream" in answer.read()
        wait_until(lambda: state_of(address)["model"], PATIENCE)
        client = Client(address, verbose=False, download_files=tmp_path)
        story = {"global_caption": "A red ball called Pip.", "shot1": "It jumps."}
        with av.open(client.predict(story, chunks=1, api_name="/film")) as film:
            assert len(list(film.decode(video=0))) == 9
        with pytest.raises(AppError, match="This host does not make what the prompt asks for"):
            client.predict(story | {"shot1": "It is naked."}, chunks=1, api_name="/film")


def test_a_page_of_a_machine_without_a_gpu_opens_before_its_replicas_are_there(tmp_path: Path):
    """Which never come, as there is no GPU for them either; it is ended while they are looked for."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    command = [str(ROOT / "app.py"), "--device", "cuda"]
    with served(tmp_path, command, SHOTSTREAM_BACKEND="ray") as address:
        assert state_of(address)["status"] in ("loading", "failed") and state_of(address)["home"].startswith(
            "Ray Serve"
        )

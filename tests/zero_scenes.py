"""What happens on ZeroGPU, one scene after the other, with the real fork, pickle and cancel code of `spaces`.

A program, since `spaces` decides at its import where it is; `test_zero_gpu.py` runs it and judges what it writes, a
JSON object a scene. The scheduler is a stand-in. Without a GPU, what workers do to begin with CUDA cannot run: there
`spaces` is imported as where torch is not installed, and the model stays on the CPU.
"""

from __future__ import annotations

import contextvars
import json
import logging
import os
import socket
import sys
import tempfile
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path

from waiting import wait_until
from zero_scheduler import Scheduler

ROOT = Path(__file__).parents[1]
TOKEN = "header.eyJ1c2VyIjogInNvbWVib2R5In0.signature"  # {"user": "somebody"}
STORY = "A red ball called Pip is at the seaside."


def import_spaces() -> str:
    """The device that workers will have."""
    if os.path.exists("/dev/nvidiactl"):
        import spaces  # noqa: F401

        return "cuda"
    sys.modules["torch"] = None
    try:
        import spaces  # noqa: F401
    finally:
        del sys.modules["torch"]
    return "cpu"


def visitor() -> contextvars.Context:
    """The context of somebody's request."""
    import gradio as gr
    from gradio.context import LocalContext
    from starlette.requests import Request

    context = contextvars.copy_context()
    headers = [(b"x-ip-token", TOKEN.encode()), (b"x-gradio-user", b"app")]
    context.run(LocalContext.request.set, gr.Request(Request({"type": "http", "headers": headers})))
    return context


def watch(events) -> list:
    """All events, as somebody in a thread of our own gets them."""
    return visitor().run(list, events)


class Scenes:
    def __init__(self, scheduler: Scheduler, device: str) -> None:
        import gradio as gr
        import torch

        from shotstream.backends.zero_gpu import ZeroGpuBackend
        from shotstream.engine import Engine
        from shotstream.logs import log
        from shotstream.models.weights import SHIPPED, load_model

        torch.set_num_threads(1)
        self.scheduler = scheduler
        self.log = tempfile.NamedTemporaryFile("r")  # noqa: SIM115 (until the end; workers write to it, too)
        log.addHandler(logging.FileHandler(self.log.name))
        log.setLevel(logging.INFO)
        self.backend = ZeroGpuBackend(lambda: load_model(SHIPPED, device=device))
        self.backend.start()
        if device == "cpu":
            self.same = Engine(self.backend.model)
        with gr.Blocks() as page:
            pass
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        page.launch(prevent_thread_lock=True, quiet=True, server_port=port, _frontend=False, share=False)

    def request(self, **changes):
        from shotstream.events import ShotRequest

        values = {"caption": f"{STORY}shot0:Close-up. It jumps.", "seed": 5, "num_chunks": 3}
        return ShotRequest(**(values | changes))

    def equal(self) -> dict:
        """Two shots, the second remembering the first, and a picture, are those of an engine in this process."""
        import numpy as np

        from shotstream.events import Chunk, Progress

        first = watch(self.backend.shoot(self.request()))
        second = self.request(caption=f"{STORY}shot1:Wide shot.", memory=first[-1].memory, seed=6, attention=True)
        made, here = watch(self.backend.shoot(second)), list(self.same.shoot(second))
        apart = [
            int(np.abs(a.frames.astype(int) - b.frames.astype(int)).max())
            for a, b in zip(*([e for e in events if isinstance(e, Chunk)] for events in (made, here)), strict=True)
        ]
        picture = [e for e in made if isinstance(e, Chunk)][0].frames[0]
        cast, cast_here = (backend.cast(picture, "A ball.") for backend in (self.backend, self.same))
        done, done_here = made[-1], here[-1]
        return {
            "frames apart": apart,
            "latents apart": float((done.shot.latents - done_here.shot.latents).abs().max()),
            "cast apart": float((cast.latents - cast_here.latents).abs().max()),
            "attention apart": max(map(abs, np.subtract(done.attention, done_here.attention))),
            "steps": sum(isinstance(e, Progress) and e.stage == "denoise" for e in made),
            "asked": [e.asked for e in made if isinstance(e, Progress) and e.asked],
            "durations": [int(call["durationSeconds"]) for call in self.scheduler.of("/schedule")],
            "tokens": [call.get("token") for call in self.scheduler.of("/schedule")],
            "reports": len(self.scheduler.of("/startup-report")),
            "workers": len(set(self.scheduler.workers)),
            "attention": [line.strip() for line in self.log if "attention chosen" in line],
            "on the cpu": done.shot.latents.device.type == "cpu",
        }

    def compiled(self) -> dict:
        """Shots by blocks that a worker compiled, beside those of a model as it was loaded."""
        from shotstream.engine import Engine
        from shotstream.events import Chunk
        from shotstream.models.weights import SHIPPED, load_model

        block = self.backend.model.transformer.blocks[0]
        plain, apart = Engine(load_model(SHIPPED)), []
        first = watch(self.backend.shoot(self.request()))
        for changes in ({"num_chunks": 9}, {"memory": first[-1].memory, "caption": f"{STORY}shot1:It waits."}):
            request = self.request(**changes)
            made, here = (
                [event.latents for event in events if isinstance(event, Chunk)]
                for events in (watch(self.backend.shoot(request)), plain.shoot(request))
            )
            apart.append(max(float((a - b).abs().max()) for a, b in zip(made, here, strict=True)))
        return {"apart": apart, "compiled": type(block.forward).__name__}

    def cancel(self) -> dict:
        """A long shot is closed after its first chunk."""
        from shotstream.events import Chunk

        events = self.backend.shoot(self.request(num_chunks=28))
        next(e for e in events if isinstance(e, Chunk))
        releases = len(self.scheduler.of("/release"))
        began = time.monotonic()
        events.close()
        closed = time.monotonic() - began
        stopped = wait_until(lambda: len(self.scheduler.of("/release")) > releases)
        again = watch(self.backend.shoot(self.request()))
        return {"closed": closed, "stopped": stopped, "afterwards": type(again[-1]).__name__}

    def cancel_while_waiting(self) -> dict:
        """Somebody leaves before there is a GPU."""
        self.scheduler.delay = 3.0
        try:
            events = self.backend.shoot(self.request(num_chunks=28))
            stages = [next(events).stage for _ in range(5)]
            began = time.monotonic()
            events.close()
            closed = time.monotonic() - began
            releases = len(self.scheduler.of("/release"))
            released = wait_until(lambda: len(self.scheduler.of("/release")) > releases)
            return {"stages": stages, "closed": closed, "given back": released}
        finally:
            self.scheduler.delay = 0.0

    def wrong_request(self) -> dict:
        """Nobody's GPU time is asked for what cannot be made."""
        from shotstream.errors import UserError

        asked = len(self.scheduler.of("/schedule"))
        try:
            watch(self.backend.shoot(self.request(caption=" ")))
        except UserError as error:
            return {"told": str(error), "asked": len(self.scheduler.of("/schedule")) - asked}
        return {}

    def quota(self) -> dict:
        """The second shot of a film is refused; asked for again, it is made."""
        director = self.director("It jumps.")
        self.scheduler.refuse = {"left": 7, "wait": 3600}
        director.queue_shot(STORY, "It sleeps.")
        self.work(director)
        refused = self.state(director)
        refused["left"] = self.left_for("It sleeps.")
        self.scheduler.refuse = None
        director.retry()
        self.work(director)
        return {"refused": refused, "retried": self.state(director)}

    def left_for(self, caption: str) -> int | None:
        """Seconds of GPU time that a visitor is told of, whose shot is refused."""
        from shotstream.errors import UserError
        from shotstream.ui.seat import Seat

        seat = Seat(self.backend)
        seat.visit(visitor())
        with suppress(UserError):
            list(seat.shoot(self.request(caption=caption)))
        return seat.allowance.left

    def time_out(self) -> dict:
        """A long second shot is cut off by the platform in the middle."""
        director = self.director("It jumps.")
        self.end_workers()
        director.queue_shot(STORY, "It sleeps.", 28)
        asked = self.backend.gpu_time.seconds
        self.backend.gpu_time.seconds = lambda course: 1
        try:
            platform = threading.Thread(target=self.kill_after_a_chunk, args=(director, 1.0))
            platform.start()
            self.work(director)
            platform.join()
        finally:
            self.backend.gpu_time.seconds = asked
        cut = self.state(director)
        director.cut()
        self.work(director)
        return {"cut off": cut, "closed": self.state(director)}

    def killed(self) -> dict:
        """A worker is lost in the middle of a shot, which then goes on in another as it would have been."""
        director = self.director("It jumps.")
        self.end_workers()
        director.queue_shot(STORY, "It sleeps.", 12)
        wait = threading.Thread(target=self.kill_after_a_chunk, args=(director,))
        wait.start()
        self.work(director)
        wait.join()
        lost = self.state(director)
        director.retry()
        self.work(director)
        take = director._takes[director.view().takes[-1].key]
        request = director._request(take)
        whole = watch(self.backend.shoot(self.request(**{**vars(request), "prefix": None, "attention": False})))[-1]
        apart = float((whole.shot.latents - take.memory.shots[-1].latents).abs().max())
        return {"lost": lost, "retried": self.state(director), "apart": apart, "seeds": [take.seed, whole.shot.seed]}

    def director(self, caption: str):
        from shotstream.director import Director

        director = Director(self.backend)
        director.queue_shot(STORY, caption)
        self.work(director)
        return director

    @staticmethod
    def work(director) -> None:
        def work_and_watch() -> None:
            while director._next_work():
                director.shoot_next()
                while director.next_segment():
                    pass

        visitor().run(work_and_watch)

    @staticmethod
    def state(director) -> dict:
        view = director.view()
        return {
            "message": view.message,
            "takes": [take.caption for take in view.takes],
            "chunks": [director._takes[take.key].num_chunks for take in view.takes],
            "remembered": len(director.memory.shots),
            "waiting": [shot.caption for shot in view.waiting],
            "held": view.held,
        }

    def end_workers(self) -> None:
        """The next call has a fresh one."""
        self.scheduler.kill()
        pid = self.scheduler.workers[-1]
        wait_until(lambda: not Path(f"/proc/{pid}").exists())

    def kill_after_a_chunk(self, director, seconds: float = 0.0) -> None:
        wait_until(lambda: len(director.view().takes) == 2 and director.view().chunk >= 2)
        time.sleep(seconds)
        self.scheduler.kill()


def main() -> None:
    with Scheduler() as scheduler:
        try:
            play(scheduler, Path(sys.argv[1]), sys.argv[2:])
        except BaseException:
            traceback.print_exc()
        scheduler.kill_all()
    os._exit(0)  # no thread of a scene is waited for


def play(scheduler: Scheduler, written: Path, names: list[str]) -> None:
    os.environ |= {"SPACES_ZERO_GPU": "1", "SPACES_ZERO_DEVICE_API_URL": scheduler.url}
    scenes = Scenes(scheduler, import_spaces())
    for name in names:
        began = time.monotonic()
        told = getattr(scenes, name)()
        with open(written, "a") as file:  # what is printed is mixed with what `spaces` prints
            print(json.dumps({"name": name, "seconds": time.monotonic() - began, **told}), file=file)


if __name__ == "__main__":
    main()

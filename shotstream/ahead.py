"""Making the next thing while the last one is used: an iterator that runs in a thread of its own, a little ahead.

Owns the thread, how far it may get, and its end. Knows nothing of what is made.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from enum import Enum
from queue import SimpleQueue
from typing import TypeVar

import torch

from shotstream.cores import usable_cores

T = TypeVar("T")


@dataclass(frozen=True)
class _End:
    error: BaseException | None = None


def run_ahead(items: Generator[T], heavy: Callable[[T], bool], room: int = 1) -> Iterator[T]:
    """The items of a generator, made in a thread while earlier ones are used: in the same order, none lost.

    Of `heavy` items at most `room` wait to be used, besides the one in use; the others pass freely. What the generator
    raises is raised here, in its place. Closing stops it at its next item and waits for that.
    """
    found: SimpleQueue[T | _End] = SimpleQueue()
    free, stopped = threading.Semaphore(room), threading.Event()
    threads = torch.get_num_threads()

    def work() -> None:
        torch.set_num_threads(threads)  # a new thread would begin with as many as there are cores
        error = None
        try:
            for item in items:
                found.put(item)
                if heavy(item):
                    free.acquire()
                if stopped.is_set():
                    break
        except BaseException as raised:  # whatever it is, it is told where the items are used
            error = raised
        finally:
            items.close()
            found.put(_End(error))

    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,), name="run-ahead", daemon=True)
    thread.start()
    try:
        while not isinstance(item := found.get(), _End):
            is_heavy = heavy(item)
            yield item
            del item
            if is_heavy:
                free.release()
        if item.error is not None:
            raise item.error
    finally:
        stopped.set()
        free.release()
        thread.join()


class Overlap(Enum):
    """What happens to a chunk while the next one is made."""

    NOTHING = "nothing"
    USE = "use"  # it is encoded, or whatever else whoever asked for it does with its pixels
    PIXELS = "pixels"  # it is decoded, and used


def what_pays(device: torch.device) -> Overlap:
    """What is faster here. On a CPU all of it where a core is left, else nothing. A GPU is filled by denoising as by
    decoding, but idles while a CPU encodes: on an H200 at the published size a film came at 16.1 FPS with decoding
    beside the next chunk and at 17.2 without, its first pixels after 0.85 and 0.61 s, and an attention backend that is
    chosen for one of them is chosen for the other."""
    if device.type != "cpu":
        return Overlap.USE
    return Overlap.PIXELS if torch.get_num_threads() < usable_cores() else Overlap.NOTHING

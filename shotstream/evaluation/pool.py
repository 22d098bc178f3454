"""Films of a row shot and measured in several processes: on a CPU one film keeps about one core busy.

Owns what a worker needs to know to load its own model. The figures are those of one process, film by film.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache, partial
from multiprocessing import get_context

import torch

from shotstream.errors import UserError
from shotstream.evaluation.cuts import best_detector
from shotstream.evaluation.toyworld import Job, Measured, Progress, Runner, Sample, measure_film, rendered
from shotstream.evaluation.variants import Variant, shooter_of
from shotstream.models.weights import load_model


@dataclass(frozen=True)
class Work:
    """What a worker does: films of `sample` by a variant of the model `source`, or the truth's if that is None."""

    sample: Sample
    variant: Variant | None = None
    source: str | None = None
    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32
    attention: str = "native"


def in_processes(work: Work, workers: int, progress: Progress = iter) -> Runner:
    """Measures films in `workers` processes, in the order asked for."""

    def run(jobs: Sequence[Job]) -> Iterator[Measured]:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            results = pool.map(partial(_do, work), jobs)
            try:
                for _ in progress(jobs):
                    yield next(results)
            except BrokenProcessPool as error:
                raise UserError(
                    "A process that measured films was killed, for lack of memory perhaps: ask for --workers 1."
                ) from error
            finally:
                pool.shutdown(wait=False, cancel_futures=True)  # who interrupts does not wait for films not begun

    return run


def _do(work: Work, job: Job) -> Measured:
    return _ready(work)(job)


@lru_cache(maxsize=1)  # of the worker's own process, which is sent film after film of one row
def _ready(work: Work) -> Callable[[Job], Measured]:
    torch.set_num_threads(1)
    detector = best_detector(work.device)
    if work.variant is None:
        return partial(measure_film, rendered, work.sample, detector)
    model = load_model(work.source, device=work.device, dtype=work.dtype, attention=work.attention)
    return partial(measure_film, shooter_of(model, work.variant), work.sample, detector)

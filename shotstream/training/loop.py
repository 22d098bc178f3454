"""The loop that every stage runs in: progress, curves, and stopping when it goes wrong.

A stage gives one function that takes a step. All randomness of a step is seeded by (seed, step, process), so a resumed
run draws what an uninterrupted one would have drawn. Uses accelerate, so that the same loop runs on one CPU or many
GPUs. Knows no loss, and of a `learner` only that it can be kept.
"""

from __future__ import annotations

import csv
import math
import random
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tqdm import tqdm

from shotstream.errors import UserError
from shotstream.training import checkpoints
from shotstream.training.recipe import Course


def share_of(batch: int, accelerator: Accelerator) -> int:
    """How many of a `batch` over all processes each of them takes. Raises `UserError` if there are not enough."""
    processes = accelerator.num_processes
    if batch < processes:
        raise UserError(f"A batch of {batch} cannot be shared by {processes} processes: start fewer, or enlarge it.")
    return batch // processes


def seed_step(seed: int, step: int, process: int) -> random.Random:
    """Seed torch for this step of this process, and return a generator for its other choices."""
    rng = random.Random(f"{seed}/{step}/{process}")
    torch.manual_seed(rng.getrandbits(63))
    return rng


def run_stage(
    name: str,
    folder: Path,
    course: Course,
    accelerator: Accelerator,
    learners: Mapping[str, checkpoints.Learned],
    take_step: Callable[[int, random.Random], dict[str, float]],
    look: Callable[[int], str] | None = None,
) -> None:
    """Take all steps of a stage, or those that are left after its newest checkpoint in `folder`.

    `learners` are kept under their names. `take_step(step, rng)` returns its losses by name; `look(step)` is called now
    and then and says what it saw. Raises `UserError` naming the step and the last checkpoint when a loss is no number
    or leaves its range.
    """
    main = accelerator.is_main_process
    folder.mkdir(parents=True, exist_ok=True)
    start = checkpoints.resume(folder, learners)
    log = LossLog(folder, start) if main else None
    bar = tqdm(total=course.steps, initial=start, desc=name, unit="step", disable=not main, mininterval=1.0)
    watch = Divergence()
    with bar, log or nullcontext():
        for step in range(start, course.steps):
            losses = take_step(step, seed_step(course.seed, step, accelerator.process_index))
            if wrong := watch.judge(losses):
                newest = checkpoints.newest(folder)
                raise UserError(
                    f"The stage {name} was stopped at step {step + 1}: {wrong}. "
                    + (f"The last good checkpoint is {newest}: " if newest else "There is no checkpoint before it: ")
                    + "go on with a lower learning rate, or another --seed."
                )
            bar.update()
            bar.set_postfix({key: f"{value:.4f}" for key, value in watch.running.items()}, refresh=False)
            if log:
                log.add(step + 1, losses)
            done = step + 1
            if done % course.save_every == 0 or done == course.steps:
                checkpoints.save(folder, done, learners, accelerator)
            if done % course.look_every == 0 or done == course.steps:
                seen = look(done) if look else ""
                if log:
                    log.draw(name)
                    bar.write(f"{name} step {done}: {seen}")


class Divergence:
    """Tells when a loss is not a number any more, or far above what it was."""

    def __init__(self, factor: float = 20.0, settle: int = 50) -> None:
        self.running: dict[str, float] = {}
        self.factor, self.settle, self.seen = factor, settle, 0

    def judge(self, losses: dict[str, float]) -> str | None:
        self.seen += 1
        for name, value in losses.items():
            if not math.isfinite(value):
                return f"the {name} loss is not a number"
            running = self.running.setdefault(name, value)
            if self.seen > self.settle and value > self.factor * running:
                return f"the {name} loss of {value:.3g} is far above its average of {running:.3g}"
            self.running[name] = 0.98 * running + 0.02 * value
        return None


class LossLog:
    """losses.csv, its picture losses.png, and TensorBoard where that is installed."""

    def __init__(self, folder: Path, start: int) -> None:
        self.path, self.picture = folder / "losses.csv", folder / "losses.png"
        rows = [row for row in self.rows_of(self.path) if int(row["step"]) <= start]
        self._write(rows, "w")
        try:
            from torch.utils.tensorboard import SummaryWriter

            self.board: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=start)
        except ImportError:
            self.board = None

    def __enter__(self) -> LossLog:
        return self

    def __exit__(self, *_: object) -> None:
        if self.board:
            self.board.close()  # it keeps the last minutes to itself until then

    @staticmethod
    def rows_of(path: Path) -> list[dict[str, str]]:
        """The whole rows of a losses.csv: a kill may leave half of the last."""
        if not path.exists():
            return []
        with path.open(newline="") as file:
            return [row for row in csv.DictReader(file) if None not in row.values()]

    def _write(self, rows: Iterable[dict[str, Any]], mode: str) -> None:
        with self.path.open(mode, newline="") as file:
            writer = csv.DictWriter(file, ("step", "name", "value"))
            if mode == "w":
                writer.writeheader()
            writer.writerows(rows)

    def add(self, step: int, losses: dict[str, float]) -> None:
        self._write(({"step": step, "name": name, "value": value} for name, value in losses.items()), "a")
        if self.board:
            for name, value in losses.items():
                self.board.add_scalar(name, value, step)

    def draw(self, title: str) -> None:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        curves: dict[str, list[tuple[int, float]]] = {}
        for row in self.rows_of(self.path):
            curves.setdefault(row["name"], []).append((int(row["step"]), float(row["value"])))
        figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
        for name, points in curves.items():
            steps, values = zip(*points, strict=True)
            width = max(1, len(values) // 100)
            means = [
                sum(values[max(0, i - width + 1) : i + 1]) / (i + 1 - max(0, i - width + 1)) for i in range(len(values))
            ]
            axes.plot(steps, means, label=name)
        axes.set(title=title, xlabel="step", ylabel="loss", yscale="log")
        axes.legend()
        figure.savefig(self.picture, dpi=100)
        pyplot.close(figure)

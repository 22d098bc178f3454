"""The loop that every stage runs in: progress, curves, averages, and stopping when it goes wrong.

A stage gives one function that takes a step. All randomness of a step is seeded by (seed, step, process), so a resumed
run draws what an uninterrupted one would have drawn. Uses accelerate, so that the same loop runs on one CPU or many
GPUs. Knows no loss.
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
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from tqdm import tqdm

from shotstream.errors import UserError
from shotstream.training import checkpoints, sharding
from shotstream.training.muon import Muon
from shotstream.training.recipe import Course


class Unit(nn.Module):
    """A network as one unit of training: `forward` runs whatever function it is given on the unit, so that
    data-parallel and sharding wrappers see every call."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, compute: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return compute(self, *args, **options)


class Average(EMAModel):
    """The running average of a module's weights, which stays on their device when it is read back."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        device = self.shadow_params[0].device
        super().load_state_dict(state_dict)
        self.to(device)


class Learner:
    """A module that is being trained, wrapped for wherever it runs, with its optimisers and the average of its
    weights."""

    def __init__(self, accelerator: Accelerator, module: Unit, course: Course, lr: float | None = None) -> None:
        self.accelerator, self.course, self.lr = accelerator, course, lr or course.lr
        shared = course.sharded and accelerator.num_processes > 1
        self.module = sharding.share_out(module, accelerator) if shared else accelerator.prepare(module)
        self.optimisers = [accelerator.prepare(o) for o in _optimisers(self.module, course, self.lr)]
        self.trained = [p for p in self.module.parameters() if p.requires_grad]
        self.ema = Average(self.trained, decay=course.ema)

    @property
    def unwrapped(self) -> Unit:
        return self.accelerator.unwrap_model(self.module)

    def update(self, loss: Tensor | Iterable[Tensor], step: int) -> float:
        """One step down `loss`, or the sum of several; returns its value, which is no number if a gradient is none.

        Several are asked for one after the other, each when the graph of the one before has been let go.
        """
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = self.lr * self.course.rate(step)
            optimiser.zero_grad()
        value = 0.0
        for part in [loss] if isinstance(loss, Tensor) else loss:
            self.accelerator.backward(part)
            value += part.item()
        norm = self.accelerator.clip_grad_norm_(self.trained, self.course.clip)
        for optimiser in self.optimisers:
            optimiser.step()
        self.ema.step(self.trained)
        return value if math.isfinite(sharding.whole(norm)) else math.nan  # before such weights get into a checkpoint

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that has been learned: trained weights, their average, what the optimisers remember. All processes must
        ask, as each may have a part; the tensors are the main one's alone, one after the other in its main memory, as
        no device need hold them all."""
        names = [name for name, p in self.unwrapped.named_parameters() if p.requires_grad]
        average = self.ema.state_dict()
        tensors = {f"weights.{name}": p for name, p in zip(names, self.trained, strict=True)}
        tensors |= {f"average.{name}": p for name, p in zip(names, average.pop("shadow_params"), strict=True)}
        numbers: dict[str, Any] = {"average": average, "optimisers": []}
        for place, optimiser in enumerate(self.optimisers):
            state = optimiser.state_dict()
            for index, entries in state["state"].items():
                tensors |= {f"optimiser{place}.{index}.{key}": torch.as_tensor(entry) for key, entry in entries.items()}
            numbers["optimisers"].append(state["param_groups"])
        gathered = ((name, sharding.whole(tensor)) for name, tensor in tensors.items())
        main = self.accelerator.is_main_process
        kept = [(name, tensor.detach().cpu()) if main else None for name, tensor in gathered]
        return dict(pair for pair in kept if pair), numbers

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Go on from a `state`. Raises whatever torch raises for one of other weights."""
        names = [name for name, p in self.unwrapped.named_parameters() if p.requires_grad]
        for name, parameter in zip(names, self.trained, strict=True):
            weights = tensors[f"weights.{name}"]
            if weights.shape != parameter.shape:
                raise ValueError(f"{name} is {tuple(parameter.shape)}, not {tuple(weights.shape)}")
            parameter.copy_(sharding.part_like(weights, parameter))
        pairs = zip(names, self.trained, strict=True)
        shadow = [sharding.part_like(tensors[f"average.{name}"], parameter) for name, parameter in pairs]
        self.ema.load_state_dict(numbers["average"] | {"shadow_params": shadow})
        for place, (optimiser, groups) in enumerate(zip(self.optimisers, numbers["optimisers"], strict=True)):
            state: dict[int, dict[str, Tensor]] = {}
            parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
            for name, tensor in tensors.items():
                kind, *rest = name.split(".")
                if kind == f"optimiser{place}":
                    index = int(rest[0])
                    state.setdefault(index, {})[rest[1]] = sharding.part_like(tensor, parameters[index])
            optimiser.load_state_dict({"state": state, "param_groups": groups})

    def look(self, look: Callable[[Any, int], str], step: int) -> str:
        """What `look(module, step)` says of the module with averaged weights; it is called in the main process, but
        all must ask."""
        self.ema.store(self.trained)
        self.ema.copy_to(self.trained)
        sharding.gather(self.module)
        try:
            return look(self.unwrapped, step) if self.accelerator.is_main_process else ""
        finally:
            sharding.release(self.module)
            self.ema.restore(self.trained)

    def finish(self) -> Any:
        """The module as it is to be kept: with averaged weights, all of them in every process."""
        self.ema.copy_to(self.trained)
        return self.whole()

    def whole(self) -> Any:
        """The module with all its weights in every process, for good: it is not trained on."""
        sharding.keep_whole(self.module)
        return self.unwrapped


def _optimisers(module: Unit, course: Course, lr: float) -> list[torch.optim.Optimizer]:
    """AdamW, or Muon for the matrices inside blocks and AdamW for embeddings, norms, modulation and the rest."""
    trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    matrices, rest = [], []
    for name, parameter in trained:
        inside = parameter.ndim == 2 and "block" in name and "relative" not in name and "lora" not in name
        (matrices if inside and course.optimiser == "muon" else rest).append(parameter)
    optimisers: list[torch.optim.Optimizer] = []
    if matrices:
        optimisers.append(Muon(matrices, lr=lr, weight_decay=course.weight_decay))
    if rest:
        optimisers.append(torch.optim.AdamW(rest, lr=lr, betas=course.betas[:2], weight_decay=course.weight_decay))
    return optimisers


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

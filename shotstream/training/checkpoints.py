"""Checkpoints of a stage: everything that its learners have learned so far, as safetensors, whole or not at all.

A folder is written beside its place and moved there, so that a kill leaves the one before. The place in the data and
the random numbers need no file: they follow from the step's number (`loop.seed_step`). Knows no loss.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from shotstream.errors import UserError

KEPT = 2


class Learned(Protocol):
    """What can be kept: tensors by name, and numbers as JSON takes them."""

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]: ...

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None: ...


def save(folder: Path, step: int, learners: Mapping[str, Learned], accelerator: Accelerator) -> None:
    """Write the state of `learners` after `step` steps, and let old checkpoints go. One process writes, but all must
    be here.

    Raises `UserError` if the disk refuses.
    """
    states = {name: learner.state() for name, learner in learners.items()}
    if accelerator.is_main_process:
        partial, final = folder / "checkpoint.partial", folder / f"checkpoint-{step:07}"
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            for name, (tensors, numbers) in states.items():
                whole = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
                save_file(whole, partial / f"{name}.safetensors", {"numbers": json.dumps(numbers)})
            shutil.rmtree(final, ignore_errors=True)
            os.replace(partial, final)
        except Exception as error:  # safetensors tells of a full disk in its own words
            raise UserError(f"Cannot write {final}: {str(error)[:200]}.") from error
        for old in _all(folder)[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)
    accelerator.wait_for_everyone()


def resume(folder: Path, learners: Mapping[str, Learned]) -> int:
    """Restore the newest checkpoint, if there is one; returns the number of steps done.

    Raises `UserError` for a checkpoint of another configuration.
    """
    found = newest(folder)
    if found is None:
        return 0
    try:
        for name, learner in learners.items():
            with safe_open(found / f"{name}.safetensors", framework="pt") as file:
                names = file.keys()
                tensors = {key: file.get_tensor(key) for key in names}
                learner.restore(tensors, json.loads((file.metadata() or {})["numbers"]))
    except Exception as error:  # torch and safetensors raise nearly anything for what does not fit
        before = f"{found} to go on from the checkpoint before it, or " if len(_all(folder)) > 1 else ""
        raise UserError(
            f"{found} does not fit this configuration or is damaged: remove {before}{folder} to begin the stage anew."
        ) from error
    return int(found.name.rpartition("-")[2])


def newest(folder: Path) -> Path | None:
    return next(iter(reversed(_all(folder))), None)


def _all(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("checkpoint-*") if path.is_dir())

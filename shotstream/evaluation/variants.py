"""What the table compares: models, and models with a part switched off. Rows are kept as they come.

Owns the list of variants in a YAML file, how each is run, and the JSON file of finished rows: one that is there with
the same weights, switches and stories is not run again, and one whose model has gone stays. Knows no layout of tables.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from shotstream.context import CONTEXT_POLICIES
from shotstream.engine import Engine
from shotstream.errors import UserError
from shotstream.evaluation import toyworld
from shotstream.evaluation.cuts import CutDetector
from shotstream.evaluation.estimate import Estimate, over_stories
from shotstream.evaluation.speed import measure as measure_speed
from shotstream.evaluation.toyworld import Figures, Runner, Sample, Shooter
from shotstream.fast import quicken
from shotstream.ladder import RUNGS
from shotstream.models.model import Model

VERSION = 2  # of what is measured and how: rows of another one are run again
TRUTH = "rendered truth"
BENCH_SHOTS = 3
KINDS = {"bool": (bool, "true or false"), "int": (int, "a whole number"), "str": (str, "text")}


@dataclass(frozen=True)
class Variant:
    """One row: a model folder, and what is switched off in it when its shots are made."""

    name: str
    model: Path
    without_memory: bool = False  # every shot is made as if it were the first
    indicator: bool = True  # the angle that tells queries and keys of different shots apart
    routing: bool = True  # context frames read their own shots' captions, not the new one's
    policy: str = "recent"  # which frames of the film the context is made of: one of `context.CONTEXT_POLICIES`
    fast: int = 0  # the rung of the ladder of faster ways, see `ladder.RUNGS`
    eight_bit: bool = False  # weights of the denoiser in 8 bits, on any rung

    def applied_to(self, model: Model) -> Model:
        """`model` as this row wants it; the one given is left as it is."""
        model, _ = quicken(model, self.fast, eight_bit=self.eight_bit)
        if self.indicator:
            return model
        transformer = copy.copy(model.transformer)
        transformer.register_to_config(cut_angle=0.0)
        return replace(model, transformer=transformer)


@dataclass(frozen=True)
class Row:
    """What was measured of a variant. `fps` and `first_picture` (seconds) are those of `bench`, over rounds of it; the
    truth has none."""

    figures: Figures
    fps: Estimate | None = None
    first_picture: Estimate | None = None


def read_variants(path: Path) -> list[Variant]:
    """The rows that a YAML file lists, model folders relative to it. Raises `UserError` for all that can be wrong."""
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())[:200]}.") from error
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path} must be a list of rows: - {{name: ..., model: FOLDER}}.")
    variants = [_checked(path, number, entry) for number, entry in enumerate(entries, start=1)]
    names = [TRUTH, *(variant.name for variant in variants)]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{path}: the name {twice!r} is taken: give every row its own.")
    return variants


def _checked(path: Path, number: int, entry: object) -> Variant:
    known = {field.name: field.type for field in fields(Variant)}
    if not isinstance(entry, dict) or not {"name", "model"} <= entry.keys():
        raise UserError(f"{path}: row {number} needs a name and a model folder.")
    for key, value in entry.items():
        if key not in known:
            raise UserError(f"{path}: row {number} has {key!r}; known are {', '.join(known)}.")
        kind, words = KINDS.get(known[key], KINDS["str"])
        if type(value) is not kind:
            raise UserError(f"{path}: row {number}: {key} must be {words}.")
    variant = Variant(**entry | {"model": path.parent / Path(entry["model"]).expanduser()})
    if variant.policy not in CONTEXT_POLICIES:
        raise UserError(f"{path}: row {number}: policy is one of {', '.join(CONTEXT_POLICIES)}.")
    if not 0 <= variant.fast < len(RUNGS):
        raise UserError(f"{path}: row {number}: fast is a rung from 0 to {len(RUNGS) - 1}.")
    return variant


def shooter_of(model: Model, variant: Variant) -> Shooter:
    """Films of toy stories by `model` as this row wants it."""
    engine = Engine(variant.applied_to(model), routing=variant.routing, policy=variant.policy)
    return lambda story, seed: toyworld.film_of(engine, story, seed, variant.without_memory)


def fitted(sample: Sample, model: Model) -> Sample:
    """The sample with single shots as long as `model` can make them. Raises `UserError` for a model of other pictures
    than the toy world's."""
    toyworld.check_fits(model)
    return replace(sample, long_chunks=min(sample.long_chunks, model.max_chunks))


def measure_variant(model: Model, variant: Variant, sample: Sample, run: Runner) -> Row:
    """Have a row's films measured by `run`, and how fast the model is, as `bench` tells it."""
    speed = [over_stories([figure]) for figure in speed_of(variant.applied_to(model))]
    return Row(toyworld.measure(run, sample, steerable=model.guidance is None), *speed)


def speed_of(model: Model) -> tuple[float, float]:
    """Frames a second, and seconds to a shot's first picture, as one round of `bench` tells them."""
    report = measure_speed(model, BENCH_SHOTS)
    return report.fps, report.first_pixels_seconds


def measure_truth(sample: Sample, run: Runner) -> Row:
    """The same of the rendered stories: the most that a model can reach."""
    return Row(toyworld.measure(run, sample))


def row_dict(row: Row) -> dict[str, Any]:
    """For JSON: "fps", "first_picture", "metrics" and "drift"."""
    speed = {"fps": row.fps, "first_picture": row.first_picture}
    return {name: figure and asdict(figure) for name, figure in speed.items()} | asdict(row.figures)


class Results:
    """Finished rows by name, each with a key of what it was made from; in memory, or in a JSON file too."""

    def __init__(self, path: Path | None = None) -> None:
        """Reads what is at `path`. Raises `UserError` if that is not such a file: it is not overwritten."""
        self._path = path
        self._rows: dict[str, dict[str, Any]] = {}
        if path is not None and path.exists():
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
                self._rows = dict(content["rows"])
                for name in self._rows:
                    self.get(name)
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(f"{path} is not a file of finished rows: move it away.") from error

    def get(self, name: str) -> Row:
        row = self._rows[name]
        metrics = {key: Estimate(**value) for key, value in row["metrics"].items()}
        drift = {key: [Estimate(**value) for value in values] for key, values in row["drift"].items()}
        return Row(Figures(metrics, drift), *(row[key] and Estimate(**row[key]) for key in ("fps", "first_picture")))

    def key(self, name: str) -> str | None:
        """What the row of that name was made from; None if there is none."""
        return self._rows.get(name, {}).get("key")

    def has(self, name: str, key: str) -> bool:
        """Whether the row is there, made from the same, or from any weights if the `key` knows of none."""
        kept = self.key(name) or ""
        return kept == key or (key.endswith("-") and kept.startswith(key))

    def made(self, name: str, key: str, make: Callable[[], Row]) -> Row:
        """The row as it was kept, if there is such a one (see `has`); else made now, and kept."""
        if not self.has(name, key):
            self._rows[name] = {"key": key} | row_dict(make())
            self._write()
        return self.get(name)

    def set_speed(self, name: str, rounds: list[tuple[float, float]]) -> None:
        """The row of that name with its speed measured anew, see `speed_of`."""
        fps, first_picture = (asdict(over_stories(figures)) for figures in zip(*rounds, strict=True))
        self._rows[name] |= {"fps": fps, "first_picture": first_picture}
        self._write()

    def to_json(self) -> str:
        return json.dumps({"rows": self._rows}, indent=1) + "\n"

    def keep_only(self, names: list[str]) -> None:
        """Forget the rows that are no longer asked for; those that are come in that order."""
        self._rows = {name: self._rows[name] for name in names}
        self._write()

    def _write(self) -> None:
        if self._path is not None:
            write_whole(self._path, self.to_json().encode())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all. Raises `UserError` if the place cannot be written."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror}.") from error


def row_key(variant: Variant | None, sample: Sample, detector: CutDetector | None) -> str:
    """What decides a row's figures, as two short hashes: of the variant's switches (not its name), the stories and the
    detector; and of weights and configurations of the model folder, empty if there is none. None is the rendered
    truth."""
    switches = {k: v for k, v in asdict(variant).items() if k not in ("name", "model")} if variant else None
    for added in ("fast", "eight_bit"):  # later than the rest: rows that are older stay as they are
        if switches and not switches[added]:
            del switches[added]
    settings = {"version": VERSION, "sample": asdict(sample), "detector": detector and detector.name}
    asked = hashlib.sha256(json.dumps(settings | {"switches": switches}, sort_keys=True).encode()).hexdigest()[:16]
    if variant is None:
        return f"{asked}-truth"
    weights = hashlib.sha256()
    files = [path for path in sorted(variant.model.rglob("*")) if path.suffix in (".safetensors", ".json")]
    for path in files:
        weights.update(f"{path.relative_to(variant.model)}\0".encode())
        with path.open("rb") as file:
            weights.update(hashlib.file_digest(file, "sha256").digest())
    return f"{asked}-{weights.hexdigest()[:16] if files else ''}"

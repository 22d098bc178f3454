"""Recipes as YAML files, checked on reading.

The files lie beside this one in `configs/`: `toy` (the shipped model), `smoke` (minutes, for tests), `paper` (the
published settings) and ablations. A file may be `like` another and say only what it has otherwise. Knows no stage's
code.
"""

from __future__ import annotations

from dataclasses import MISSING, asdict, fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from shotstream.errors import UserError
from shotstream.training import STAGES
from shotstream.training.recipe import Course, ModelRecipe, Recipe

SHARES = {"direct": ("sampler_levels", "unknown_words"), "teacher": ("drop_context", "drop_text", "unknown_words")}
TRAINED = ("autoencoder", "direct", "teacher", "causal", "intra_shot", "inter_shot")
CONFIGS = Path(__file__).parent / "configs"


def load_recipe(name: str) -> Recipe:
    """The recipe of a YAML file, or of the file `configs/name.yaml`.

    Raises `UserError` naming the file and the first key that is missing, unknown or of the wrong kind.
    """
    path = _place(name)
    recipe = _build(Recipe, _read(name), str(path))
    _check(recipe, str(path))
    return recipe


def with_seed(recipe: Recipe, seed: int) -> Recipe:
    """The recipe with other random choices in every stage, of the same data and from the same first weights."""
    stages = {name: getattr(recipe, name) for name in TRAINED if getattr(recipe, name)}
    courses = {name: replace(numbers, course=replace(numbers.course, seed=seed)) for name, numbers in stages.items()}
    if stage := courses.get("autoencoder"):
        courses["autoencoder"] = replace(stage, decoder=replace(stage.decoder, seed=seed))
    return replace(recipe, **courses)


def _place(name: str) -> Path:
    return CONFIGS / f"{name}.yaml" if name in shipped_recipes() else Path(name)


def _read(name: str, liked: tuple[str, ...] = ()) -> Any:
    """What a file says, merged into what the file says that it is like."""
    path = _place(name)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"There is no training configuration {name!r}: use {', '.join(shipped_recipes())}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML.") from error
    if not isinstance(content, dict) or "like" not in content:
        return content
    like = str(content.pop("like"))
    if like in (*liked, name):
        raise UserError(f"{path} is like {like!r}, which is like it: one of them must say all.")
    return _merged(_read(like, (*liked, name)), content)


def _merged(old: Any, new: Any) -> Any:
    """`new` over `old`, mapping by mapping."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    return old | {key: _merged(old.get(key), value) for key, value in new.items()}


def shipped_recipes() -> tuple[str, ...]:
    """Names of the configurations beside the code."""
    return tuple(sorted(path.stem for path in CONFIGS.glob("*.yaml")))


def _check(recipe: Recipe, path: str) -> None:
    """Raises `UserError` for numbers that are of the right kind and yet cannot be."""
    if not recipe.stages or not set(recipe.stages) <= set(STAGES):
        raise UserError(f"{path}: stages lists what to run, out of {', '.join(STAGES)}.")
    _check_model(recipe.model, path)
    shares = {f"data.shares.{name}": value for name, value in asdict(recipe.data.shares).items()}
    for stage, names in SHARES.items():
        if numbers := getattr(recipe, stage):
            shares |= {f"{stage}.{name}": getattr(numbers, name) for name in names}
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise UserError(f"{path}: {name} is a share from 0 to 1, not {value}.")
    if numbers := recipe.autoencoder:
        _check_course(numbers.decoder, f"{path}: autoencoder.decoder")
    for stage in TRAINED:
        if numbers := getattr(recipe, stage):
            _check_course(numbers.course, f"{path}: {stage}.course")
            asked = max(count for phase in numbers.course.phases for count in phase.chunks)
            if asked > recipe.model.max_chunks:
                raise UserError(
                    f"{path}: {stage} asks for {asked} chunks, model.max_chunks is {recipe.model.max_chunks}."
                )
    least = {"data.stories": recipe.data.stories, "data.heldout": recipe.data.heldout, "look_at": recipe.look_at}
    if numbers := recipe.causal:
        if max(numbers.chunks, default=1) > recipe.model.max_chunks:
            raise UserError(f"{path}: causal.chunks asks for more than model.max_chunks, {recipe.model.max_chunks}.")
        least |= {"causal.per_file": numbers.per_file, "causal.chunks": len(numbers.chunks)}
        if numbers.true_steps < numbers.course.steps:
            least["causal.pairs"] = numbers.pairs
    if numbers := recipe.teacher:
        least["teacher.sample_steps"] = numbers.sample_steps
    for stage in ("intra_shot", "inter_shot"):
        if numbers := getattr(recipe, stage):
            least |= {f"{stage}.critic_steps": numbers.critic_steps, f"{stage}.shots": numbers.shots}
            if numbers.lora_rank < 0 or (numbers.lora_rank and numbers.lora_alpha < 1) or numbers.critic_lr <= 0:
                raise UserError(
                    f"{path}: {stage} needs a critic_lr above zero, and lora_alpha where it has a lora_rank."
                )
    for name, value in least.items():
        if value < 1:
            raise UserError(f"{path}: {name} must be at least one.")
    if recipe.precision not in ("no", "bf16"):
        raise UserError(f"{path}: precision is no or bf16, not {recipe.precision!r}.")
    if recipe.teacher and recipe.teacher.trained not in ("all", "self_attention"):
        raise UserError(f"{path}: teacher.trained is all or self_attention, not {recipe.teacher.trained!r}.")


def _check_model(model: ModelRecipe, path: str) -> None:
    steps = model.steps
    if not steps or steps[0] != 1000 or any(a <= b for a, b in zip(steps, (*steps[1:], 0), strict=True)):
        raise UserError(f"{path}: model.steps fall from 1000 to above zero, not {list(steps)}.")
    if not 0 < model.shift <= 1000:
        raise UserError(f"{path}: model.shift must be above zero, at most 1000.")
    if model.chunk_frames != 3:
        raise UserError(f"{path}: model.chunk_frames is 3: stories are stored in chunks of three latent frames.")
    if not 1 <= model.default_chunks <= model.max_chunks:
        raise UserError(f"{path}: model.default_chunks must be from 1 to model.max_chunks.")
    if min(model.text_len, model.height, model.width, model.fps) < 1:
        raise UserError(f"{path}: model.text_len, height, width and fps must be at least one.")


def _check_course(course: Course, where: str) -> None:
    if course.steps < 1 or not course.phases or course.phases[-1].end != 1.0:
        raise UserError(f"{where} needs at least one step, and phases of which the last ends at 1.0.")
    if any(p.batch < 1 or not p.chunks or min(p.chunks) < 1 for p in course.phases):
        raise UserError(f"{where}: a phase needs a batch and chunks of at least one.")
    if min(course.save_every, course.look_every, course.warmup) < 1:
        raise UserError(f"{where}: save_every, look_every and warmup must be at least one.")
    if not (0 < course.lr < 10 and 0 <= course.ema < 1 and course.clip > 0 and course.weight_decay >= 0):
        raise UserError(f"{where} needs 0 < lr < 10, 0 <= ema < 1, clip above zero and no negative weight_decay.")
    if len(course.betas) != 2 or not all(0 <= beta < 1 for beta in course.betas):
        raise UserError(f"{where}.betas are two numbers from zero to below one.")
    if course.optimiser not in ("adamw", "muon"):
        raise UserError(f"{where}.optimiser is adamw or muon, not {course.optimiser!r}.")
    if course.sharded and course.optimiser == "muon":
        raise UserError(f"{where} cannot be sharded: muon needs whole matrices. Take adamw, or leave sharded out.")


def _build(kind: Any, value: Any, where: str) -> Any:
    """`value` as YAML gave it, as a `kind`: dataclasses from mappings, tuples from lists, numbers as they are."""
    if isinstance(kind, UnionType):  # a stage's numbers, or none
        return None if value is None else _build(get_args(kind)[0], value, where)
    if is_dataclass(kind):
        if not isinstance(value, dict):
            raise UserError(f"{where} must be a mapping.")
        hints = get_type_hints(kind)
        known = {f.name: f for f in fields(kind)}
        if unknown := [key for key in value if key not in known]:
            raise UserError(f"{where}: {unknown[0]!r} is not known here.")
        for name, f in known.items():
            if name not in value and f.default is MISSING and f.default_factory is MISSING:
                raise UserError(f"{where} lacks {name!r}.")
        return kind(**{key: _build(hints[key], item, f"{where}: {key}") for key, item in value.items()})
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise UserError(f"{where} must be a list.")
        return tuple(_build(get_args(kind)[0], item, where) for item in value)
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if kind in (int, str, bool) and type(value) is kind:
        return value
    if get_origin(kind) is dict and isinstance(value, dict):
        return value
    raise UserError(f"{where} must be a {getattr(kind, '__name__', kind)}, not {value!r:.40}.")

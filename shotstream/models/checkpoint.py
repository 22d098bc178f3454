"""Weights on disk to a module in memory: the published `.pt` layout, safetensors files and folders, all strictly.

Modules are built on the meta device and filled tensor by tensor in their target dtype, so that the file's own dtype
never occupies memory as a whole. Nothing is unpickled but tensors. Knows no model folder and no Hub.
"""

from __future__ import annotations

import json
import math
import pickle
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from shotstream.errors import UserError
from shotstream.models.transformer import ShotTransformer

PREFIX = "model."
WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
MAX_JSON_BYTES = 10_000_000

# What a configuration may claim before a module is built for it.
LIMITS = {
    "dim": 16384,
    "ffn_dim": 131072,
    "num_heads": 256,
    "num_layers": 256,
    "in_dim": 256,
    "out_dim": 256,
    "text_dim": 16384,
    "text_len": 4096,
    "freq_dim": 4096,
}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a model's file. Raises `UserError` naming the file."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise UserError(f"{path} is too large for a configuration file.")
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON.") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} does not hold a JSON object.")
    return value


def transformer_config(config: Mapping[str, Any], source: object) -> dict[str, Any]:
    """The transformer's part of `config`, checked; keys of other tools are left out.

    Raises `UserError` naming `source` and the first number that cannot be.
    """
    chosen: dict[str, Any] = {}
    for key, limit in LIMITS.items():
        if key in config:
            value = config[key]
            if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= limit:
                raise UserError(f"{source}: {key} must be a whole number from 1 to {limit}, not {str(value)[:40]}.")
            chosen[key] = value
    if "eps" in config:
        if not isinstance(config["eps"], float) or not 0 < config["eps"] < 1:
            raise UserError(f"{source}: eps must be a small positive number, not {str(config['eps'])[:40]}.")
        chosen["eps"] = config["eps"]
    if "cut_angle" in config:
        if not isinstance(config["cut_angle"], int | float) or not 0 <= config["cut_angle"] <= 10:
            raise UserError(f"{source}: cut_angle must be a number from 0 to 10, not {str(config['cut_angle'])[:40]}.")
        chosen["cut_angle"] = float(config["cut_angle"])
    if "patch_size" in config:
        patch = config["patch_size"]
        three = isinstance(patch, list | tuple) and len(patch) == 3
        if not three or patch[0] != 1 or any(side not in (1, 2, 4) for side in patch[1:]):
            raise UserError(f"{source}: patch_size must be [1, p, p] with p of 1, 2 or 4, not {str(patch)[:40]}.")
        chosen["patch_size"] = list(patch)
    for key in ("qk_norm", "cross_attn_norm"):
        if config.get(key, True) is not True:
            raise UserError(f"{source}: {key} is switched off, but this transformer always has it.")
    dim, heads = chosen.get("dim", 1536), chosen.get("num_heads", 12)
    if dim % heads or (dim // heads) % 2:
        raise UserError(f"{source}: dim {dim} does not divide into {heads} heads of even size.")
    return chosen


def read_checkpoint(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a file in the published layout, `{"generator": {"model.NAME": tensor}}`, under their NAMEs.

    Memory-mapped: nothing is read before it is used. Raises `UserError` for every other file.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"There is no checkpoint file at {path}.")
    try:
        with warnings.catch_warnings(action="ignore"):  # of kinds of tensors that are refused below
            content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds more than tensors ({_offender(error)}): it was not loaded, as it could run code."
        ) from error
    except Exception as error:  # torch raises nearly anything for a damaged archive
        if "_use_new_zipfile_serialization" in str(error):
            raise UserError(f"{path} is in PyTorch's old file format: load it there and save it again.") from error
        raise UserError(f"{path} is damaged or not a PyTorch checkpoint.") from error
    generator = content.get("generator") if isinstance(content, dict) else None
    if not isinstance(generator, dict) or not generator:
        raise UserError(f'{path} is not in the published layout: it has no dictionary "generator" of tensors.')
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in generator.items():
        if not isinstance(name, str) or not name.startswith(PREFIX):
            raise UserError(f'{path}: {str(name)[:80]!r} is not a tensor name beginning with "{PREFIX}".')
        if not isinstance(tensor, torch.Tensor):
            raise UserError(f"{path}: {name[:80]} is a {type(tensor).__name__}, not a tensor.")
        # a few stored numbers can be declared to be a huge tensor: believe only what the file really holds
        if tensor.is_meta or tensor.layout != torch.strided or tensor.nbytes > tensor.untyped_storage().nbytes():
            raise UserError(f"{path}: {name[:80]} is not stored as plain numbers.")
        tensors[name.removeprefix(PREFIX)] = tensor
    return tensors


def _offender(error: Exception) -> str:
    """What the unpickler stumbled over, out of its long advice."""
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    return found.group(1) if found else "an unknown object"


def infer_config(shapes: Mapping[str, tuple[int, ...]], source: object, num_heads: int | None) -> dict[str, Any]:
    """The configuration that a published checkpoint's shapes tell; heads have 128 channels unless `num_heads` says."""

    def shape(name: str, ndim: int) -> tuple[int, ...]:
        if name not in shapes:
            raise UserError(f"{source} lacks the tensor {name}.")
        if len(shapes[name]) != ndim:
            raise UserError(f"{source}: the tensor {name} has {len(shapes[name])} dimensions instead of {ndim}.")
        return shapes[name]

    dim, in_dim, *patch = shape("patch_embedding.weight", 5)
    layers = {int(found.group(1)) for name in shapes if (found := re.match(r"blocks\.(\d{1,4})\.", name))}
    if num_heads is None and dim % 128:
        raise UserError(f"{source}: its width of {dim} does not tell the number of heads: give it with --heads.")
    return transformer_config(
        {
            "dim": dim,
            "in_dim": in_dim,
            "patch_size": patch,
            "num_heads": num_heads or dim // 128,
            "num_layers": next(layer for layer in count() if layer not in layers),
            "ffn_dim": shape("blocks.0.ffn.0.weight", 2)[0],
            "text_dim": shape("text_embedding.0.weight", 2)[1],
            "freq_dim": shape("time_embedding.0.weight", 2)[1],
            "out_dim": shape("head.head.weight", 2)[0] // math.prod(patch),
        },
        source,
    )


def load_checkpoint(
    path: str | Path,
    config: Mapping[str, Any] | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    num_heads: int | None = None,
) -> ShotTransformer:
    """The transformer in a published checkpoint, or in a `.safetensors` file of the same names without the prefix, as
    the text-to-video backbone's is; `config` is read from its shapes when None.

    Raises `UserError` naming the first tensor that is missing, unknown, of a wrong shape or not finite.
    """

    def load(shapes: Mapping[str, tuple[int, ...]], read: Callable[[str], torch.Tensor]) -> ShotTransformer:
        chosen = infer_config(shapes, path, num_heads) if config is None else transformer_config(config, path)
        with torch.device("meta"):
            transformer = ShotTransformer(**chosen)
        return fill(transformer, shapes, read, path, device, dtype)

    if Path(path).suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
                return load(shapes, file.get_tensor)
        except (SafetensorError, OSError) as error:
            raise UserError(f"There is no sound safetensors file at {path}: {error}.") from error
    tensors = read_checkpoint(path)
    return load({name: tuple(tensor.shape) for name, tensor in tensors.items()}, tensors.__getitem__)


def load_safetensors(
    module: torch.nn.Module, folder: Path, device: torch.device | str, dtype: torch.dtype
) -> torch.nn.Module:
    """Fill `module` (on meta) from a diffusers component folder, one file or shards with an index."""
    with opened_weights(folder, WEIGHTS_NAME) as (shapes, read):
        return fill(module, shapes, read, folder, device, dtype)


@contextmanager
def opened_weights(
    folder: Path, name: str
) -> Iterator[tuple[dict[str, tuple[int, ...]], Callable[[str], torch.Tensor]]]:
    """The shapes of all tensors of a component folder, whose weights are in the file `name` or in shards with an index,
    and what reads one of them. What goes wrong meanwhile is a `UserError`."""
    names = [name]
    index = folder / f"{name}.index.json"
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(n, str) for n in weight_map.values()):
            raise UserError(f"{index} has no map of its weights.")
        names = sorted({Path(name).name for name in weight_map.values()})  # never a file outside the folder
    with ExitStack() as stack:
        owner: dict[str, Any] = {}
        try:
            for name in names:
                if not (folder / name).is_file():
                    raise UserError(f"{folder} lacks the weights file {name}.")
                file = stack.enter_context(safe_open(folder / name, framework="pt"))
                owner |= dict.fromkeys(file.keys(), file)
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name, file in owner.items()}
            yield shapes, lambda name: owner[name].get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise UserError(f"The weights in {folder} are damaged: {error}.") from error


def fill(
    module: torch.nn.Module,
    shapes: Mapping[str, tuple[int, ...]],
    read: Callable[[str], torch.Tensor],
    source: object,
    device: torch.device | str,
    dtype: torch.dtype,
    in_full: Collection[str] = (),
) -> torch.nn.Module:
    """Give the meta `module` its weights, one tensor in flight at a time; in evaluation mode, on `device`.

    `shapes` names what `source` has and `read` brings it. Everything is compared before anything is read. The tensors
    `in_full` stay float32.
    """
    expected = module.state_dict()
    for name, tensor in expected.items():
        if name not in shapes:
            raise UserError(f"{source} lacks the tensor {name}.")
        if shapes[name] != tuple(tensor.shape):
            raise UserError(
                f"{source}: the tensor {name} has the shape {list(shapes[name])}, "
                f"but the model needs {list(tensor.shape)}."
            )
    if unknown := [name for name in shapes if name not in expected]:
        raise UserError(f"{source} has a tensor that the model does not know: {unknown[0][:80]}.")
    weights: dict[str, torch.Tensor] = {}
    for name in expected:
        stored = read(name)
        if not stored.is_floating_point():
            raise UserError(f"{source}: the tensor {name} holds {stored.dtype}, not floating-point numbers.")
        weights[name] = stored.to(device, torch.float32 if name in in_full else dtype, copy=True)
        # the extremes pass NaN on and, unlike isfinite(), need no second tensor in memory
        if not all(math.isfinite(extreme) for extreme in torch.aminmax(weights[name])):
            raise UserError(f"{source}: the tensor {name} holds numbers that are not finite.")
    module.load_state_dict(weights, assign=True, strict=True)
    return module.eval()

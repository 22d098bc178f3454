"""Model folders: what is written is what is read, and whatever is wrong is one sentence."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from complaints import refusal
from safetensors.torch import load_file, save_file

from shotstream.cards import empty_model
from shotstream.errors import UserError
from shotstream.events import ShotRequest
from shotstream.memory import Memory
from shotstream.models.published import PUBLISHED_PROMPTING, PUBLISHED_SHAPES, PUBLISHED_SIZE
from shotstream.models.random_model import save_random_model
from shotstream.models.shapes import checked_shapes, shape_name
from shotstream.models.weights import SHIPPED, load_model
from shotstream.plan import plan_shot
from shotstream.prompting import PROMPTING_NAME, Prompting


@pytest.fixture
def folder(random_model_folder: Path, tmp_path: Path) -> Path:
    """A model folder that may be damaged."""
    return Path(shutil.copytree(random_model_folder, tmp_path / "model"))


@pytest.mark.parametrize("vae", ["AutoencoderKLWan", "PixelAutoencoder"])
def test_a_model_folder_is_read_as_written(tmp_path, vae):
    model = load_model(save_random_model(tmp_path / "m", vae=vae, height=64, width=96))
    assert (model.name, model.height, model.width, model.fps) == ("random", 64, 96, 16)
    assert (model.default_chunks, model.max_chunks) == (2, 4)
    assert model.vae.spatial_factor == {"AutoencoderKLWan": 8, "PixelAutoencoder": 4}[vae]
    stored = load_file(tmp_path / "m" / "transformer" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(tensor, stored[name]) for name, tensor in model.transformer.state_dict().items())


def test_shards_are_read_together(folder):
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    file.unlink()
    names = sorted(tensors)
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        shard = f"diffusion_pytorch_model-{number:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, file.parent / shard)
        weight_map |= dict.fromkeys(part, shard)
    index = file.with_name(file.name + ".index.json")
    index.write_text(json.dumps({"weight_map": weight_map}))
    state = load_model(folder).transformer.state_dict()
    assert all(torch.equal(state[name], tensors[name]) for name in names)
    (file.parent / shard).unlink()
    assert shard in refusal(load_model, folder)
    index.write_text(json.dumps({"weight_map": dict.fromkeys(names, "../../../secret.safetensors")}))
    assert "lacks the weights file secret.safetensors" in refusal(load_model, folder)


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def retouch(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Let `change` do what it wants to the tensors of a safetensors file."""
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


def damage(folder: Path, kind: str) -> str:
    """Break the folder; returns a word that the message must have."""
    scheduler, index = folder / "scheduler" / "scheduler_config.json", folder / "model_index.json"
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    text, norm = folder / "text_encoder" / "model.safetensors", "encoder.final_layer_norm.weight"
    match kind:
        case "no index":
            index.unlink()
            return "model_index.json"
        case "index is no JSON":
            index.write_text("{")
            return "model_index.json"
        case "absurd size":
            edit(index, height=10**9)
            return "height"
        case "no vae":
            shutil.rmtree(folder / "vae")
            return "vae"
        case "unknown vae":
            edit(folder / "vae" / "config.json", _class_name="os.system")
            return "os.system"
        case "absurd vae":
            edit(folder / "vae" / "config.json", decoder_dim="many")
            return "PixelAutoencoder"
        case "endless vae":
            edit(folder / "vae" / "config.json", encoder_blocks=10**9)
            return "encoder_blocks"
        case "vae with a mean too many":
            shutil.rmtree(folder)
            save_random_model(folder)
            edit(folder / "vae" / "config.json", latents_mean=[0.0] * 17)
            return "AutoencoderKLWan"
        case "vae of another width":
            edit(folder / "vae" / "config.json", detail_dim=16)
            return "upsample.0.weight"
        case "cut weights":
            file.write_bytes(file.read_bytes()[:-100])
            return "damaged"
        case "binary noise":
            file.write_bytes(os.urandom(1000))
            return "damaged"
        case "tensor missing":
            tensors = load_file(file)
            del tensors["blocks.0.norm3.bias"]
            save_file(tensors, file)
            return "blocks.0.norm3.bias"
        case "no weights":
            file.unlink()
            return file.name
        case "text encoder cut":
            text.write_bytes(text.read_bytes()[:200])
            return "text_encoder"
        case "text encoder lacks a tensor":
            retouch(text, lambda tensors: tensors.pop(norm))
            return norm
        case "text encoder of another size":
            edit(folder / "text_encoder" / "config.json", d_ff=80)
            return "wi_0.weight"
        case "text encoder not finite":
            retouch(text, lambda tensors: tensors[norm][3].fill_(torch.nan))
            return norm
        case "absurd text encoder":
            edit(folder / "text_encoder" / "config.json", num_layers=100_000)
            return "num_layers"
        case "name that steers a terminal":
            edit(index, name="a\x1b[2Jb")
            return "name"
        case "zero embeddings":
            retouch(text, lambda tensors: [tensor.zero_() for tensor in tensors.values() if tensor.ndim == 2])
            return "all zero"
        case "no tokenizer":
            (folder / "tokenizer" / "tokenizer.json").write_text("{}")
            return "tokenizer"
        case "rising steps":
            edit(scheduler, denoising_steps=[500, 1000])
            return "denoising_steps"
        case "no chunks":
            edit(scheduler, max_chunks=0)
            return "max_chunks"
        case "negative shift":
            edit(scheduler, shift=-1)
            return "shift"
        case "no scheduler":
            scheduler.unlink()
            return "scheduler"
        case "other text width" | "other latents":
            shutil.rmtree(folder)
            save_random_model(folder)
            config = {"text_dim": 16} if kind == "other text width" else {"in_dim": 8, "out_dim": 8}
            narrow = save_random_model(folder.with_name("narrow"), config)
            shutil.rmtree(folder / "transformer")
            shutil.copytree(narrow / "transformer", folder / "transformer")
            return "text" if kind == "other text width" else "8 latent channels"
    raise AssertionError(kind)


DAMAGED_NUMBERS = (
    "index is no JSON|absurd size|no vae|unknown vae|absurd vae|endless vae|vae with a mean too many|"
    "absurd text encoder|name that steers a terminal|rising steps|no chunks|negative shift|no scheduler|"
    "other text width|other latents"
)
DAMAGED_FILES = (
    "no index|vae of another width|cut weights|binary noise|tensor missing|no weights|text encoder cut|"
    "text encoder lacks a tensor|text encoder of another size|text encoder not finite|zero embeddings|no tokenizer"
)


@pytest.mark.parametrize("kind", f"{DAMAGED_NUMBERS}|{DAMAGED_FILES}".split("|"))
def test_a_damaged_folder_is_one_sentence(folder, kind, capfd):
    word = damage(folder, kind)
    capfd.readouterr()
    message = refusal(load_model, folder)
    assert capfd.readouterr() == ("", "")
    assert word in message, message


@pytest.mark.parametrize("kind", DAMAGED_NUMBERS.split("|"))
def test_damaged_numbers_are_one_sentence_without_the_weights_too(folder, kind):
    word = damage(folder, kind)
    message = refusal(empty_model, str(folder), torch.float32)
    assert word in message, message


def test_no_folder_no_device_no_backend(random_model_folder, tmp_path):
    assert "no model folder" in refusal(load_model, tmp_path / "nowhere")
    assert "no model folder" in refusal(load_model, "a/b/c")
    for device in ("gpu", "cuda:99", "", "cpu:x", "meta:1:2"):
        assert "device" in refusal(load_model, random_model_folder, device=device)
    assert "wishful" in refusal(load_model, random_model_folder, attention="wishful")


def test_the_environment_names_the_model(random_model_folder, monkeypatch):
    monkeypatch.setenv("SHOTSTREAM_MODEL", str(random_model_folder))
    assert load_model().name == "random"


def test_loading_is_quiet(random_model_folder, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_model(random_model_folder)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


# Shapes of the picture


def test_a_model_makes_its_own_shape_and_those_that_its_index_lists(folder):
    assert load_model(folder).shapes == {"landscape": (48, 32)}
    listed = {"portrait": [32, 48], "square": [40, 40], "landscape": [48, 32], "cinema": [96, 40]}
    edit(folder / "model_index.json", shapes=listed)
    model = load_model(folder)
    assert model.shapes == {name: tuple(size) for name, size in listed.items()}
    assert list(model.shapes)[0] == "landscape"  # its own is the first
    for width, height in model.shapes.values():
        plan_shot(ShotRequest("a cat", Memory(), 0, width=width, height=height), model)
    edit(folder / "model_index.json", height=48, width=48, shapes={"portrait": [32, 48]})
    assert load_model(folder).shapes == {"square": (48, 48), "portrait": (32, 48)}


BAD_SHAPES = {
    "a list": ([[32, 48]], "shapes"),
    "one number": ({"portrait": [32]}, "two whole numbers"),
    "no number": ({"portrait": ["32", 48]}, "two whole numbers"),
    "a truth": ({"portrait": [True, 48]}, "two whole numbers"),
    "nothing": ({"portrait": [0, 48]}, "two whole numbers"),
    "a fraction": ({"portrait": [32.0, 48]}, "two whole numbers"),
    "between the patches": ({"portrait": [36, 48]}, "multiple of 8"),
    "huge": ({"square": [8 * 10**9, 8 * 10**9]}, "times as large"),
    "long": ({"ribbon": [200, 8]}, "times as large"),
    "a lie": ({"portrait": [40, 32]}, "is a landscape"),
    "another landscape": ({"landscape": [64, 32]}, "must be the model's own"),
    "many": ({f"shape {n}": [40, 8 * n] for n in range(1, 9)}, "at most 8"),
    "no name": ({" ": [32, 48]}, "short text"),
    "a name that steers a terminal": ({"a\x1b[2J": [32, 48]}, "short text"),
    "a name without an end": ({"a" * 100: [32, 48]}, "short text"),
}


@pytest.mark.parametrize("listed, word", BAD_SHAPES.values(), ids=BAD_SHAPES)
def test_shapes_that_cannot_be_are_one_sentence(listed, word):
    message = refusal(checked_shapes, listed, 48, 32, (8, 8), "folder")
    assert word in message and message.startswith("folder: ")


def test_shapes_are_allowed_as_far_as_shots_are(random_model):
    """What the list may say and what a request may ask are the same."""
    for size in ((96, 64), (192, 32), (8, 192), (104, 64), (200, 8), (48, 36)):
        try:
            checked_shapes({"other": list(size)}, 48, 32, (8, 8), "folder")
            listed = True
        except UserError:
            listed = False
        try:
            plan_shot(ShotRequest("a cat", Memory(), 0, width=size[0], height=size[1]), random_model)
            made = True
        except UserError:
            made = False
        assert listed == made == (size in ((96, 64), (192, 32), (8, 192))), size


def test_a_bad_shape_in_a_folder_names_the_folder(folder):
    edit(folder / "model_index.json", shapes={"portrait": [33, 48]})
    assert refusal(load_model, folder).startswith(f"{folder}: the shape portrait")


def test_the_published_shapes_are_what_they_are_called():
    own = PUBLISHED_SIZE["width"], PUBLISHED_SIZE["height"]
    assert checked_shapes(PUBLISHED_SHAPES, *own, (16, 16), "here") == PUBLISHED_SHAPES
    assert [shape_name(*size) for size in PUBLISHED_SHAPES.values()] == ["landscape", "portrait", "square"]


# Prompt help


def test_prompt_help_comes_with_its_folder_and_is_never_needed(folder):
    assert load_model(folder).prompting == Prompting()
    (folder / PROMPTING_NAME).write_text(PUBLISHED_PROMPTING.to_json(), encoding="utf-8")
    assert load_model(folder).prompting == PUBLISHED_PROMPTING
    (folder / PROMPTING_NAME).write_text("{")
    assert load_model(folder).prompting == Prompting()


def test_the_shipped_model_helps_and_has_one_shape():
    model = load_model(SHIPPED)
    assert model.shapes == {"landscape": (48, 32)}
    assert model.prompting.advice and "in the forest" in model.prompting.words["places"]

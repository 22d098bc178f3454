"""`verify`: right recordings pass, wrong ones fail, damaged ones are told in a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import reference
import torch
from safetensors.torch import load_file, save_file

from shotstream.__main__ import main


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shots of one chunk, made by the plain reference in float64."""
    stem = tmp_path_factory.mktemp("recording") / "plain"
    reference.record(stem, shots=3, chunks=1)
    return stem


def copy(recording: Path, folder: Path) -> Path:
    for file in recording.parent.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder / recording.name


def with_teacher(stem: Path) -> list[str]:
    return ["verify", str(stem), "--teacher", str(stem.with_name("teacher.safetensors")), "--device", "cpu"]


def test_the_engine_equals_the_plain_reference(recording, capsys):
    assert main(with_teacher(recording)) == 0
    out = capsys.readouterr().out
    assert "shot 2 latents" in out and "call 0 flow" in out and "teacher flow" in out


@pytest.mark.parametrize("shots", [1, 8])
def test_stories_that_only_begin_or_that_memory_cannot_hold(tmp_path, capsys, shots):
    reference.record(tmp_path / "story", shots=shots, chunks=1, seed=shots)
    assert main(["verify", str(tmp_path / "story"), "--device", "cpu"]) == 0, capsys.readouterr().out


BAD_TEACHERS = {
    "a shot without a caption": {"shot_index": torch.full((9,), 7)},
    "too few frames": {"shot_index": torch.zeros(4, dtype=torch.int64)},
    "other text": {"prompt_embeds": torch.zeros(3, 12, 5)},
    "odd width": {"input": torch.zeros(1, 9, 16, 4, 5), "flow": torch.zeros(1, 9, 16, 4, 5)},
    "no frames": {"input": torch.zeros(9)},
}


@pytest.mark.parametrize("tensors", BAD_TEACHERS.values(), ids=BAD_TEACHERS)
def test_an_unfit_teacher_is_one_sentence(recording, tmp_path, capsys, tensors):
    stem = copy(recording, tmp_path)
    file = stem.with_name("teacher.safetensors")
    save_file(load_file(file) | tensors, file)
    assert main(with_teacher(stem)) == 2
    err = capsys.readouterr().err
    assert "teacher" in err and err.count("\n") == 1


def test_captions_that_cannot_be_told_apart_are_refused(recording, tmp_path, capsys):
    stem = copy(recording, tmp_path)
    description = json.loads(stem.with_suffix(".json").read_text())
    description["captions"][2] = description["captions"][0]
    stem.with_suffix(".json").write_text(json.dumps(description))
    assert main(["verify", str(stem), "--device", "cpu"]) == 2
    assert "same caption" in capsys.readouterr().err


def test_other_numbers_of_everything(tmp_path, capsys):
    config = reference.CONFIG | {"dim": 64, "num_heads": 1, "num_layers": 1, "text_len": 5, "in_dim": 4, "out_dim": 4}
    reference.record(tmp_path / "other", config=config, shots=2, size=(6, 4), chunks=2, seed=3)
    assert main(["verify", str(tmp_path / "other"), "--device", "cpu"]) == 0, capsys.readouterr().out


@pytest.mark.parametrize("name", ["shot2.latents", "shot1.context_latents", "lastshot.call0.flow"])
def test_a_small_difference_is_found(recording, tmp_path, capsys, name):
    stem = copy(recording, tmp_path)
    tensors = load_file(stem.with_suffix(".safetensors"))
    tensors[name].view(-1)[7] += 3e-4
    save_file(tensors, stem.with_suffix(".safetensors"))
    assert main(["verify", str(stem), "--device", "cpu"]) == 1
    assert capsys.readouterr().out.count("TOO LARGE") == 1
    assert main(["verify", str(stem), "--device", "cpu", "--tolerance", "1e-3"]) == 0


def test_another_epsilon_is_found(recording, tmp_path):
    stem = copy(recording, tmp_path)
    description = json.loads(stem.with_suffix(".json").read_text())
    description["config"]["eps"] = 1e-5
    stem.with_suffix(".json").write_text(json.dumps(description))
    assert main(["verify", str(stem), "--device", "cpu"]) == 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_sound_as_far_as_it_can_tell(recording, tmp_path, capsys, dtype):
    """With either kernel of a CPU; and a mistake is found through the roundings."""
    arguments = ["--device", "cpu", "--dtype", dtype]
    for attention in ("native", "_native_math"):
        assert main([*with_teacher(recording), *arguments, "--attention", attention]) == 0, capsys.readouterr().out
        out = capsys.readouterr().out
        assert f"attention: {attention}" in out and f"{dtype}: the root mean square may differ by" in out
    assert main(["verify", str(recording), *arguments, "--tolerance", "1e-4"]) == 1
    stem = copy(recording, tmp_path)
    checkpoint = torch.load(stem.with_suffix(".pt"))
    for name, tensor in checkpoint["generator"].items():
        if name.endswith("self_attn.norm_q.weight"):
            tensor.mul_(1.15)  # the scale of attention
    torch.save(checkpoint, stem.with_suffix(".pt"))
    assert main(["verify", str(stem), *arguments]) == 1
    assert "not sound" in capsys.readouterr().out


@pytest.mark.parametrize("ending", [".json", ".pt", ".safetensors"])
@pytest.mark.parametrize("damage", ["missing", "cut short", "noise"])
def test_damaged_recordings_are_one_sentence(recording, tmp_path, capsys, ending, damage):
    stem = copy(recording, tmp_path)
    file = stem.with_suffix(ending)
    if damage == "missing":
        file.unlink()
    elif damage == "cut short":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    else:
        file.write_bytes(torch.randint(0, 256, (500,), dtype=torch.uint8).numpy().tobytes())
    assert main(["verify", str(stem), "--device", "cpu"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "Traceback" not in err


@pytest.mark.parametrize("name", ["wishful", "sage", "flash"])
def test_a_backend_that_does_not_work_here_is_one_sentence(recording, capsys, name):
    """On the CPU neither the unknown one nor those of other packages and cards."""
    assert main(["verify", str(recording), "--device", "cpu", "--attention", name]) == 2
    err = capsys.readouterr().err
    assert name in err and err.count("\n") == 1, err


def test_another_backend_gives_the_same(recording):
    assert main(["verify", str(recording), "--device", "cpu", "--attention", "_native_math"]) == 0


def test_weights_in_eight_bits_are_told_apart(recording, capsys):
    """They are no published result, but near it."""
    pytest.importorskip("torchao", reason="needs the extra 'int8'")
    arguments = ["verify", str(recording), "--device", "cpu", "--eight-bit"]
    assert main(arguments) == 1
    out = capsys.readouterr().out
    assert "denoiser: int8 weights" in out and out.endswith("rounding changes the result\n")
    assert main([*arguments, "--tolerance", "0.3"]) == 0


def test_the_recorded_story(golden, capsys):
    arguments = [str(golden / "three_shots"), "--teacher", str(golden / "teacher.safetensors"), "--device", "cpu"]
    for dtype in ("float32", "bfloat16"):
        assert main(["verify", *arguments, "--dtype", dtype]) == 0, capsys.readouterr().out
        assert capsys.readouterr().out.count(" ok") == 17

"""The tiny decoder for what is shown: its network against one written out, its files, and what it leaves alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from shotstream.__main__ import main
from shotstream.ahead import Overlap
from shotstream.engine import Engine
from shotstream.errors import UserError
from shotstream.events import Chunk, Progress, ShotRequest
from shotstream.memory import Memory
from shotstream.models.model import Model
from shotstream.models.preview import PreviewDecoder, load_preview
from shotstream.models.random_model import save_random_model
from shotstream.models.weights import load_model

WIDTHS, TIMES = (12, 8, 8, 6), (1, 2, 2)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model whose VAE has the published one's factors: 8 in space, 4 in time."""
    return save_random_model(tmp_path_factory.mktemp("wan") / "random")


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return load_model(folder)


@pytest.fixture(scope="module")
def weights(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder with random weights, in a file that has an encoder's too, as published ones do."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("preview") / "tiny.safetensors"
    decoder = PreviewDecoder(model.vae.latent_channels, WIDTHS, TIMES)
    save_file(decoder.state_dict() | {"encoder.0.weight": torch.zeros(1)}, path)
    return path


def written_out(w: dict[str, torch.Tensor], latents: torch.Tensor) -> torch.Tensor:
    """A whole shot's frames [t, 3, H, W] in 0..1, picture by picture, from the layout's description alone."""

    def conv(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, w[f"decoder.{name}.weight"], w.get(f"decoder.{name}.bias"), padding="same")

    frames = [F.relu(conv("1", torch.tanh(frame[None] / 3) * 3)) for frame in latents]
    for level, times in enumerate(TIMES):
        for block in range(3 + 6 * level, 6 + 6 * level):
            before, after = torch.zeros_like(frames[0]), []
            for frame in frames:
                hidden = F.relu(conv(f"{block}.conv.0", torch.cat([frame, before], dim=1)))
                hidden = conv(f"{block}.conv.4", F.relu(conv(f"{block}.conv.2", hidden)))
                after.append(F.relu(hidden + frame))
                before = frame
            frames = after
        frames = [frame.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3) for frame in frames]
        stretched = [conv(f"{7 + 6 * level}.conv", frame) for frame in frames]
        frames = [part for frame in stretched for part in frame.chunk(times, dim=1)]
        frames = [conv(str(8 + 6 * level), frame) for frame in frames]
    return torch.cat([conv("22", F.relu(frame)) for frame in frames])[3:].clamp(0, 1)


def test_streamed_chunk_by_chunk_it_is_the_network_written_out(model: Model, weights: Path):
    decoder = load_preview(str(weights), model.vae, CPU, torch.float32)
    latents = 2 * torch.randn(7, model.vae.latent_channels, 2, 3)
    state, frames = decoder.start_decoding(), []
    for part in latents.split([3, 1, 3]):
        shown, state = decoder.decode_step(part, state)
        frames.append(shown)
    expected = written_out(load_file(weights), latents) * 2 - 1
    assert expected.shape == (25, 3, 16, 24) and expected.std() > 0.01
    torch.testing.assert_close(torch.cat(frames), expected, atol=1e-5, rtol=0)
    again, _ = decoder.decode_step(latents[3:4], decoder.decode_step(latents[:3], None)[1])
    torch.testing.assert_close(again, frames[1], atol=1e-6, rtol=0)  # a state stays valid


def test_a_film_looks_otherwise_and_is_remembered_the_same(folder: Path, model: Model, weights: Path):
    shown = load_model(folder, preview=str(weights))
    assert shown.name == "random (preview)"
    plain, quick = [], []
    for engine, film in ((Engine(model), plain), (Engine(shown), quick)):
        memory = Memory()
        for number in range(2):
            events = list(engine.shoot(ShotRequest(f"A fox runs.shot{number}:", memory, number, 2)))
            film += [event for event in events if isinstance(event, Chunk)]
            signs = [event.chunk for event in events if isinstance(event, Progress) and event.stage == "remember"]
            assert signs == ([] if film is plain else [0, 1]), "the VAE takes its time, and may be cut short"
            memory = events[-1].memory
            film.append(memory.shots[-1])
    for one, other in zip(plain, quick, strict=True):
        if isinstance(one, Chunk):
            assert one.frames.shape == other.frames.shape and not np.array_equal(one.frames, other.frames)
        assert torch.equal(one.latents, other.latents), "also in shot 2, which looks back at shot 1"


def test_a_shot_that_goes_on_is_decoded_once_by_either_decoder(folder: Path, weights: Path):
    shown = load_model(folder, preview=str(weights))
    request, made = ShotRequest("A fox runs.shot0:", num_chunks=6), []
    decoded = []
    shown.vae.module.decoder.conv_in.register_forward_hook(lambda *_: decoded.append(1))
    engine = Engine(shown, overlap=Overlap.NOTHING)
    for length in (2, 5, 6):
        prefix = torch.cat([chunk.latents for chunk in made]) if made else None
        *events, done = engine.shoot(replace(request, num_chunks=length, prefix=prefix))
        made += [event for event in events if isinstance(event, Chunk)]
    assert len(decoded) == 3 * 6
    steered = replace(request, caption="A fox sleeps.shot0:", prefix=prefix[:12])
    for told, here in ((steered, [*engine.shoot(steered)]), (request, [*made, done])):
        elsewhere = [*Engine(shown, overlap=Overlap.NOTHING).shoot(told)]
        pictures = [[event.frames for event in events if isinstance(event, Chunk)] for events in (here, elsewhere)]
        assert np.array_equal(*map(np.concatenate, pictures))
        assert torch.equal(here[-1].shot.latents, elsewhere[-1].shot.latents)


def test_what_cannot_be_a_preview_is_told_in_a_sentence(model: Model, weights: Path, tmp_path: Path, capsys):
    good = load_file(weights)
    bad = {
        "no layout": {"decoder.1.weight": good["decoder.1.weight"]},
        "a tensor less": {name: tensor for name, tensor in good.items() if name != "decoder.4.conv.0.bias"},
        "not finite": good | {"decoder.1.bias": torch.full((12,), float("nan"))},
        "one scalar": good | {"decoder.7.conv.weight": torch.tensor(1.0)},
        "other channels": PreviewDecoder(5, WIDTHS, TIMES).state_dict(),
        "other times": PreviewDecoder(model.vae.latent_channels, WIDTHS, (1, 1, 2)).state_dict(),
    }
    for name, tensors in bad.items():
        save_file(tensors, tmp_path / f"{name}.safetensors")
    (tmp_path / "text.safetensors").write_text("not weights")
    for name in (*bad, "text"):
        with pytest.raises(UserError, match=r"^[^\n]{20,300}\.$"):
            load_preview(str(tmp_path / f"{name}.safetensors"), model.vae, CPU, torch.float32)
    for source in ("nowhere", "owner/name", "owner/name/../../x.safetensors", "owner/name/*.safetensors", "a/b/c.pth"):
        with pytest.raises(UserError, match="There is no preview decoder"):
            load_preview(source, model.vae, CPU, torch.float32)
    story = Path(__file__).parents[1] / "assets" / "stories" / "a-star-in-the-desert.json"
    assert main(["film", str(story), "-o", str(tmp_path / "film.mp4"), "--preview", str(weights)]) == 2
    assert "this model's VAE 4 and 4 out of 16" in capsys.readouterr().err

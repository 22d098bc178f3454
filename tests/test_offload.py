"""Small cards: the same pictures with less at a time on the device, which is counted here in real tensors."""

from __future__ import annotations

import pytest
import torch

from shotstream.__main__ import main
from shotstream.budget import empty_model
from shotstream.engine import Engine
from shotstream.events import Chunk, ShotRequest
from shotstream.footprint import LiveBytes
from shotstream.memory import Memory
from shotstream.models.random_model import save_random_model
from shotstream.models.weights import load_model


@pytest.fixture(scope="module")
def wan_folder(tmp_path_factory):
    return save_random_model(tmp_path_factory.mktemp("wan") / "model", height=64, width=96)


def frames_of(model) -> torch.Tensor:
    events = Engine(model).shoot(ShotRequest("a cat", Memory(), 1, num_chunks=2))
    return torch.cat([torch.from_numpy(event.frames) for event in events if isinstance(event, Chunk)])


def test_a_small_card_shows_the_same_pictures(wan_folder):
    small, plain = (frames_of(load_model(wan_folder, low_vram=low)).int() for low in (True, False))
    assert torch.equal(small, plain)


def test_the_text_encoder_is_on_the_card_a_block_at_a_time(tmp_path):
    folder = save_random_model(tmp_path / "m", {"text_dim": 256})
    plain, small = load_model(folder).text, load_model(folder, low_vram=True).text
    block = sum(parameter.nbytes for parameter in plain.encoder.encoder.block[0].parameters())
    with torch.no_grad(), LiveBytes() as live:
        embeds = small.encode("a cat in the snow")
    assert torch.equal(embeds, plain.encode("a cat in the snow"))
    assert block <= live.peak <= 1.3 * block
    assert live.now <= 2 * embeds.nbytes  # all went again


@torch.no_grad()
def test_a_lodged_state_is_on_the_card_an_entry_at_a_time(wan_folder):
    """Counted with shapes alone: what lies elsewhere is a shape here."""
    peaks = []
    for low_vram in (False, True):
        vae = empty_model(str(wan_folder), torch.bfloat16, low_vram).vae
        latents = torch.zeros(1, 16, 8, 12, dtype=torch.bfloat16, device="meta")
        _, state = vae.decode_step(latents, vae.start_decoding())
        with LiveBytes() as live:
            frames, state = vae.decode_step(latents, state)
        peaks.append(live.peak)
        if low_vram:
            assert live.now <= 2 * frames.nbytes
            assert not any(isinstance(entry, torch.Tensor) for entry in state)
    assert peaks[1] < 0.9 * peaks[0], peaks


def test_a_text_encoder_in_8_bits_is_nearly_the_same(tmp_path):
    pytest.importorskip("torchao", reason="needs the extra 'int8'")
    folder = save_random_model(tmp_path / "m", {"text_dim": 256})
    exact, rounded = (load_model(folder, dtype=torch.bfloat16, int8_text=int8).text for int8 in (False, True))
    embeds, other = (text.encode("a cat in the snow").float() for text in (exact, rounded))
    assert 0 < (other - embeds).norm() / embeds.norm() < 0.03


def test_weights_that_move_about_are_not_compiled(wan_folder, capsys):
    assert main(["bench", "--model", str(wan_folder), "--low-vram", "--compile"]) == 2
    assert "leave out --compile" in capsys.readouterr().err

"""Small cards: the same pictures with less at a time on the device, which is counted here in real tensors."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from shotstream.__main__ import main
from shotstream.ahead import Overlap
from shotstream.cards import empty_model
from shotstream.engine import Engine
from shotstream.errors import UserError
from shotstream.events import Chunk, ShotRequest
from shotstream.footprint import LiveBytes
from shotstream.memory import Memory
from shotstream.models.random_model import save_random_model
from shotstream.models.weights import load_model


@pytest.fixture(scope="module")
def wan_folder(tmp_path_factory):
    return save_random_model(tmp_path_factory.mktemp("wan") / "model", height=64, width=96)


def frames_of(model) -> torch.Tensor:
    events = Engine(model, overlap=Overlap.NOTHING).shoot(ShotRequest("a cat", Memory(), 1, num_chunks=2))
    return torch.cat([torch.from_numpy(event.frames) for event in events if isinstance(event, Chunk)])


@pytest.fixture(scope="module")
def plain_frames(wan_folder) -> torch.Tensor:
    return frames_of(load_model(wan_folder))


class Card:
    """Tells which of a model's networks, both waiting elsewhere now, have tensors on the card."""

    def __init__(self, model) -> None:
        self.networks = {"vae": model.vae.vae.module, "transformer": model.transformer}
        self._homes = {name: self._places(name) for name in self.networks}

    def _places(self, name: str) -> list[int]:
        return [parameter.data_ptr() for parameter in self.networks[name].parameters()]

    def there(self) -> dict[str, str]:
        found = {}
        for name, homes in self._homes.items():
            came = [place != home for place, home in zip(self._places(name), homes, strict=True)]
            found |= {name: "whole" if all(came) else "in part"} if any(came) else {}
        return found


class LacksMemoryOnce(TorchDispatchMode):
    """There is no room for a copy of `tensor` when it is asked for first: what torch raises is real."""

    def __init__(self, tensor: torch.Tensor) -> None:
        super().__init__()
        self.place: int | None = tensor.data_ptr()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._to_copy.default and args[0].data_ptr() == self.place:
            self.place = None
            torch.empty(1 << 58)
        return func(*args, **(kwargs or {}))


def test_a_small_card_shows_the_same_pictures_and_has_one_network_at_a_time(wan_folder, plain_frames):
    small = load_model(wan_folder, low_vram=True)
    card, seen = Card(small), {"vae": [], "transformer": []}
    for name, network in card.networks.items():
        for part in network.children():
            part.register_forward_hook(lambda *_, name=name: seen[name].append(card.there()))
    assert torch.equal(frames_of(small), plain_frames)
    for name, found in seen.items():
        assert found and all(there == {name: "whole"} for there in found)


@pytest.mark.parametrize("name", ["vae", "transformer"])
def test_a_lack_of_memory_costs_one_shot(wan_folder, plain_frames, name: str):
    small = load_model(wan_folder, low_vram=True)
    card = Card(small)
    *_, last = card.networks[name].parameters()
    with LacksMemoryOnce(last), pytest.raises(UserError, match="Not enough memory"):
        frames_of(small)
    assert card.there() == {}
    assert torch.equal(frames_of(small), plain_frames)


def test_the_text_encoder_is_on_the_card_a_block_at_a_time(tmp_path):
    folder = save_random_model(tmp_path / "m", {"text_dim": 256})
    plain, small = load_model(folder).text, load_model(folder, low_vram=True).text
    block = sum(parameter.nbytes for parameter in plain.encoder.encoder.block[0].parameters())
    with torch.no_grad(), LiveBytes() as live:
        embeds = small.encode("a cat in the snow")
    assert torch.equal(embeds, plain.encode("a cat in the snow"))
    assert block <= live.peak <= 1.3 * block
    assert live.now <= 2 * embeds.nbytes  # all went again

    def lack_memory(*_: object) -> None:
        torch.empty(1 << 58)

    layer = small.encoder.encoder.block[0].layer[-1]
    homes = [parameter.data_ptr() for parameter in layer.parameters()]
    lacking = layer.register_forward_hook(lack_memory)
    with pytest.raises(RuntimeError, match="allocate"):
        small.encode("a dog")
    lacking.remove()
    assert [parameter.data_ptr() for parameter in layer.parameters()] == homes
    assert torch.equal(small.encode("a dog"), plain.encode("a dog"))


@pytest.mark.parametrize("low_vram", [False, True])
def test_on_a_small_card_no_block_of_the_text_encoder_comes_beside_a_shot(wan_folder, low_vram: bool):
    engine = Engine(load_model(wan_folder, low_vram=low_vram))
    with LiveBytes() as live:
        engine.foresee("a fox")
    assert (live.peak == 0) == low_vram


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


@pytest.mark.parametrize("option", ["--compile", "--eight-bit"])
def test_weights_that_move_about_are_neither_compiled_nor_rounded(wan_folder, capsys, option):
    assert main(["bench", "--model", str(wan_folder), "--low-vram", option]) == 2
    assert "leave out --compile, --fast and --eight-bit" in capsys.readouterr().err

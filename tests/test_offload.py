"""Small cards: the same pictures with less at a time on the device, which is counted here in real tensors."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import AutoencoderKLWan

from shotstream.engine import Engine
from shotstream.events import Chunk, ShotRequest
from shotstream.footprint import LiveBytes
from shotstream.memory import Memory
from shotstream.models.random_model import save_random_model
from shotstream.models.vae import WanVAE, slice_decoding
from shotstream.models.weights import load_model


@pytest.fixture(scope="module")
def wan_folder(tmp_path_factory):
    return save_random_model(tmp_path_factory.mktemp("wan") / "model", height=64, width=96)


def frames_of(model) -> torch.Tensor:
    events = Engine(model).shoot(ShotRequest("a cat", Memory(), 1, num_chunks=2))
    return torch.cat([torch.from_numpy(event.frames) for event in events if isinstance(event, Chunk)])


def test_a_small_card_shows_the_same_pictures(wan_folder):
    small, plain = (frames_of(load_model(wan_folder, low_vram=low)).int() for low in (True, False))
    different = (small - plain).abs()  # where the last bit of a float decides how a colour is rounded
    assert different.max() <= 1 and (different > 0).float().mean() < 0.001


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
def test_decoding_in_slices_is_the_same_stream_in_less_memory():
    torch.manual_seed(0)
    module = AutoencoderKLWan(base_dim=8, dim_mult=[1, 1, 1, 1], num_res_blocks=1).eval()
    whole, sliced = WanVAE(module), WanVAE(copy.deepcopy(module))
    slice_decoding(sliced.module.decoder)
    latents = torch.randn(6, 16, 4, 6)
    streams = []
    for vae in (whole, sliced):
        state = vae.start_decoding()
        first, state = vae.decode_step(latents[:3], state)
        second, state = vae.decode_step(latents[3:], state)
        streams.append(torch.cat([first, second]))
    torch.testing.assert_close(streams[1], streams[0], atol=2e-6, rtol=0)


@torch.no_grad()
def test_slices_need_less_memory():
    """Counted with shapes alone, at the proportions and in the dtype of the published VAE."""
    peaks = []
    with torch.device("meta"):
        module = torch.nn.Module.to(AutoencoderKLWan(base_dim=32), torch.bfloat16).eval()
        for slices in (False, True):
            if slices:
                slice_decoding(module.decoder)
            vae = WanVAE(module)
            held = [vae.start_decoding()]
            for _ in range(2):
                with LiveBytes() as live:
                    _, state = vae.decode_step(torch.zeros(1, 16, 8, 12, dtype=torch.bfloat16), held.pop())
                held.append(state)
            peaks.append(live.peak)
    assert peaks[1] < 0.75 * peaks[0], peaks

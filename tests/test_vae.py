"""Streamed decoding equals whole decoding, whichever VAE; its state is a value."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import AutoencoderKLWan

from shotstream.models.pixel_autoencoder import PixelAutoencoder
from shotstream.models.vae import VAE, WanVAE
from shotstream.models.weights import SHIPPED, load_model


@pytest.fixture(scope="module")
def wan() -> WanVAE:
    torch.manual_seed(0)
    module = AutoencoderKLWan(
        base_dim=16,
        dim_mult=[1, 1, 2, 2],
        num_res_blocks=1,
        latents_mean=torch.linspace(-1, 1, 16).tolist(),
        latents_std=torch.linspace(0.5, 3, 16).tolist(),
    )
    return WanVAE(module.eval())


@pytest.fixture(scope="module")
def pixel() -> PixelAutoencoder:
    torch.manual_seed(0)
    module = PixelAutoencoder(encoder_dim=16, encoder_blocks=1, decoder_dim=16, decoder_blocks=1, detail_dim=8)
    module.palette.uniform_(-1, 1)
    return module.eval()


@pytest.fixture(scope="module")
def shipped() -> VAE:
    return load_model(SHIPPED).vae


@pytest.fixture(params=["wan", "pixel", "shipped"])
def vae(request) -> VAE:
    return request.getfixturevalue(request.param)


@torch.no_grad()
def stream(vae: VAE, latents: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    state, frames = vae.start_decoding(), []
    for part in latents.split(sizes):
        decoded, state = vae.decode_step(part, state)
        frames.append(decoded)
    return torch.cat(frames)


@torch.no_grad()
def test_streamed_wan_equals_whole_decoding_bit_for_bit(wan):
    latents = torch.randn(7, 16, 4, 6)
    raw = (latents * wan._std + wan._mean).transpose(0, 1)[None]
    whole = wan.module.decode(raw).sample[0].transpose(0, 1)
    assert whole.shape == (25, 3, 32, 48)
    assert torch.equal(stream(wan, latents, [3, 3, 1]), whole)


@torch.no_grad()
def test_wan_frames_are_encoded_each_alone(wan):
    frames = torch.rand(3, 3, 32, 48) * 2 - 1
    latents = wan.encode_frames(frames)
    assert latents.shape == (3, 16, 4, 6)
    for frame, latent in zip(frames, latents, strict=True):
        mode = wan.module.encode(frame[None, :, None]).latent_dist.mode()[0, :, 0]
        torch.testing.assert_close(latent, (mode - wan._mean) / wan._std, atol=1e-6, rtol=0)


def test_however_it_is_chunked(vae):
    size = (4, 6) if vae.spatial_factor == 8 else (8, 12)
    latents = torch.randn(6, 16, *size)
    whole = stream(vae, latents, [6])
    assert whole.shape == (21, 3, 32, 48)
    assert whole.abs().max() <= 1
    assert torch.equal(stream(vae, latents, [3, 3]), whole)
    assert torch.equal(stream(vae, latents, [1] * 6), whole)


@torch.no_grad()
def test_two_videos_decoded_in_turns_do_not_meet(vae):
    size = (4, 6) if vae.spatial_factor == 8 else (8, 12)
    videos = torch.randn(2, 6, 16, *size)
    alone = [stream(vae, video, [3, 3]) for video in videos]
    states, parts = [vae.start_decoding() for _ in videos], [[], []]
    for start in (0, 3):
        for i, video in enumerate(videos):
            vae.encode_frames(torch.zeros(1, 3, 32, 48))  # another session's context frame in between
            frames, states[i] = vae.decode_step(video[start : start + 3], states[i])
            parts[i].append(frames)
    for i in range(2):
        assert torch.equal(torch.cat(parts[i]), alone[i])


@torch.no_grad()
def test_a_state_can_be_decoded_from_twice(vae):
    size = (4, 6) if vae.spatial_factor == 8 else (8, 12)
    first, second, third = torch.randn(3, 3, 16, *size)
    _, state = vae.decode_step(first, vae.start_decoding())
    before = copy.deepcopy(state)
    once, _ = vae.decode_step(second, state)
    vae.decode_step(third, state)
    again, _ = vae.decode_step(second, state)
    assert torch.equal(once, again)
    if isinstance(state, tuple):
        for a, b in zip(state, before, strict=True):
            assert a is b or (torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b)

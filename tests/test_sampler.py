"""The sampler's numbers, and noise that only depends on what it is named by."""

from __future__ import annotations

import pytest
import torch

from shotstream.sampler import Schedule, add_noise, clean_estimate, seeded_noise


def test_the_published_timesteps():
    expected = torch.tensor([1000, 957.9288, 888.8889, 737.5886])
    torch.testing.assert_close(Schedule().timesteps, expected, atol=1e-4, rtol=0)


def test_sigma_of_a_timestep_is_that_of_the_nearest_grid_entry():
    schedule = Schedule()
    torch.testing.assert_close(schedule.sigma(schedule.timesteps), schedule.timesteps / 1000)
    assert schedule.sigma(torch.tensor(0.0)) == pytest.approx(0.0079, abs=5e-5)
    between = (schedule.sigmas[10] * 0.6 + schedule.sigmas[11] * 0.4) * 1000
    assert schedule.sigma(between) == schedule.sigmas[10]
    assert schedule.sigma(schedule.timesteps.view(2, 2)).shape == (2, 2)


def test_grid_and_steps_equal_the_recorded_ones(golden):
    from safetensors.torch import load_file

    recorded = load_file(golden / "three_shots.safetensors")
    assert torch.equal(Schedule().sigmas, recorded["scheduler.sigmas"])
    assert torch.equal(Schedule().timesteps, recorded["denoising_steps"])


def test_a_true_flow_gives_back_the_clean_latents():
    clean, noise = torch.randn(3, 16, 4, 6), torch.randn(3, 16, 4, 6)
    for sigma in (1.0, 0.7376, 0.0079):
        noisy = add_noise(clean, noise, sigma)
        torch.testing.assert_close(clean_estimate(noisy, noise - clean, sigma), clean, atol=1e-6, rtol=1e-6)
    assert torch.equal(add_noise(clean, noise, 1.0), noise)


def test_latents_stay_float32_whatever_the_network_computes_in():
    assert clean_estimate(torch.zeros(2), torch.ones(2, dtype=torch.bfloat16), 0.5).dtype == torch.float32


def test_noise_depends_on_seed_chunk_and_step_alone():
    shape = (3, 16, 8, 12)
    draws = {
        (seed, chunk, step): seeded_noise(seed)(chunk, step, shape)
        for seed in (0, 1, 2**63 - 1)
        for chunk in (0, 1, 12)
        for step in (0, 1, 3)
    }
    for key, noise in draws.items():
        torch.manual_seed(99)  # the global generator has no say
        assert torch.equal(seeded_noise(key[0])(key[1], key[2], shape), noise)
    flat = torch.stack([noise.flatten() for noise in draws.values()])
    correlation = torch.corrcoef(flat) - torch.eye(len(flat))
    assert correlation.abs().max() < 0.1  # 4608 numbers each: 0.015 is one standard deviation
    assert abs(flat.mean()) < 0.02 and abs(flat.std() - 1) < 0.02


def test_the_seeding_never_changes():
    """Films are remade from their seeds: this draw is part of every saved film."""
    first = seeded_noise(0)(0, 0, (1, 16, 2, 2)).flatten()[:3]
    torch.testing.assert_close(first, torch.tensor([-0.284462, 2.033614, 0.750188]), atol=1e-5, rtol=0)

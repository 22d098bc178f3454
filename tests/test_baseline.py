"""The straightforward procedure makes the engine's film: whatever is compared in speed is the same in outcome."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from shotstream.engine import Engine
from shotstream.evaluation.baseline import Baseline
from shotstream.events import Chunk, ShotRequest
from shotstream.memory import Memory
from shotstream.models.random_model import save_random_model
from shotstream.models.weights import load_model

CAPTIONS = ("a fox in the snow shot0:it runs", "a fox in the snow shot1:close shot", "a fox in the snow shot2:night")


@pytest.mark.parametrize("vae", ["PixelAutoencoder", "AutoencoderKLWan"])
def test_the_straightforward_film_is_the_engines(tmp_path, vae):
    model = load_model(save_random_model(tmp_path, vae=vae))
    engine, baseline, memory = Engine(model), Baseline(model), Memory()
    for seed, caption in enumerate(CAPTIONS):
        events = list(engine.shoot(ShotRequest(caption, memory, seed, 3)))
        memory = events[-1].memory
        chunks = [event for event in events if isinstance(event, Chunk)]
        plain = baseline.shoot(caption, seed, 3, model.height, model.width)
        latents = torch.cat([chunk.latents for chunk in chunks])
        torch.testing.assert_close(plain.latents, latents, atol=1e-4, rtol=0)
        frames = np.concatenate([chunk.frames for chunk in chunks])
        assert plain.frames.shape == frames.shape
        apart = np.abs(plain.frames.astype(int) - frames)
        assert (apart > 1).mean() < 1e-3  # a palette's choice may tip over where two colours are equally likely
        assert plain.seconds.keys() == {"text", "context_encode", "context_pass", "denoise", "cache_pass", "decode"}

"""The published procedure, written out the straightforward way: what the engine's speed is compared with.

Shares the model's weights with the engine and none of its shortcuts: caches are cloned in every layer of every call,
RoPE is taken in float64 complex numbers per call, captions and context frames are encoded anew for every shot, every
chunk is followed by the pass that fills the cache, and pixels come last, the whole shot at once. Each operation is
written as one would write it first. Knows nothing of requests: it keeps its own film.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F

from shotstream.context import MAX_CONTEXT_FRAMES, sample_context
from shotstream.models.layers import Block, RMSNorm
from shotstream.models.model import Model
from shotstream.models.text import clean_caption
from shotstream.models.transformer import ShotTransformer
from shotstream.sampler import seeded_noise
from shotstream.timing import Stopwatch


@dataclass
class BaselineShot:
    """`frames` [t, H, W, 3] uint8, `latents` [f, C, h, w] (CPU) and seconds per stage, named as the engine's."""

    frames: np.ndarray
    latents: torch.Tensor
    seconds: dict[str, float]


@dataclass
class Cache:
    """One layer's keys and values, [1, tokens, heads, head_dim]: of the context, of all of a shot, of its caption."""

    context_keys: torch.Tensor | None = None
    context_values: torch.Tensor | None = None
    local_keys: torch.Tensor | None = None
    local_values: torch.Tensor | None = None
    caption: tuple[torch.Tensor, torch.Tensor] | None = None  # cross-attention's, of the shot itself


@dataclass
class Baseline:
    """A film by the straightforward procedure: `shoot` appends a shot."""

    model: Model
    captions: list[str] = field(default_factory=list)
    film: list[torch.Tensor] = field(default_factory=list)  # [t, 3, H, W] in [-1, 1] of every shot
    clock: Callable[[], float] = time.perf_counter

    @torch.no_grad()
    def shoot(self, caption: str, seed: int, chunks: int, height: int, width: int) -> BaselineShot:
        model, schedule = self.model, self.model.schedule
        watch = Stopwatch(model.device, self.clock)
        self.captions.append(caption)
        number = len(self.film)
        with watch("text"):
            embeds = torch.stack([encode_text(model, text) for text in self.captions])
        with watch("context_encode"):
            context, context_shots = self._context(height, width)
        size = (height // model.vae.spatial_factor, width // model.vae.spatial_factor)
        frames = chunks * schedule.chunk_frames
        cache = [Cache() for _ in model.transformer.blocks]
        rope_shots = [*context_shots, *[max(number, 1)] * frames]
        with watch("context_pass"):
            called = embeds[context_shots]
            predict(model.transformer, context, 0.0, called, cache, 0, rope_shots, frames, is_context=True)
        clean = []
        timesteps = schedule.timesteps
        sigmas = schedule.sigma(timesteps).double().tolist()
        noise = seeded_noise(seed)
        shape = (schedule.chunk_frames, model.vae.latent_channels, *size)
        for chunk in range(chunks):
            start = chunk * schedule.chunk_frames
            for step, (timestep, sigma) in enumerate(zip(timesteps.tolist(), sigmas, strict=True)):
                with watch("denoise"):
                    fresh = noise(chunk, step, shape).to(model.device)
                    x = fresh if step == 0 else ((1 - sigma) * x0 + sigma * fresh.double()).float()  # noqa: F821
                    flow = predict(
                        model.transformer, x.to(model.dtype), timestep, embeds[-1:], cache, start, rope_shots, frames
                    )
                    x0 = x.double() - sigma * flow.double()
            clean.append(x0.float().to(model.dtype))
            with watch("cache_pass"):
                predict(model.transformer, clean[-1], 0.0, embeds[-1:], cache, start, rope_shots, frames)
        with watch("decode"):
            video, _ = model.vae.decode_step(torch.cat(clean), model.vae.start_decoding())
            self.film.append(video)
            pixels = (video.float() * 127.5 + 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        return BaselineShot(pixels, torch.cat(clean).cpu(), watch.seconds())

    def _context(self, height: int, width: int) -> tuple[torch.Tensor, list[int]]:
        """Six latents encoded from the film's pixels, and the shots that they are from."""
        vae = self.model.vae
        if not self.film:
            size = (height // vae.spatial_factor, width // vae.spatial_factor)
            zeros = torch.zeros(MAX_CONTEXT_FRAMES, vae.latent_channels, *size)
            return zeros.to(self.model.device, self.model.dtype), [0] * MAX_CONTEXT_FRAMES
        picks = sample_context([len(shot) for shot in self.film])
        frames = torch.stack([self.film[shot][frame] for shot, frame in picks])
        return vae.encode_frames(frames.to(self.model.dtype)).to(self.model.dtype), [shot for shot, _ in picks]


def encode_text(model: Model, caption: str) -> torch.Tensor:
    """[text_len, text_dim] of a caption, padded before it is encoded; zero at padding."""
    text = model.text
    tokens = text.tokenizer(
        clean_caption(caption), truncation=True, max_length=text.text_len, padding="max_length", return_tensors="pt"
    ).to(text.encoder.device)
    hidden = text.encoder(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state[0]
    hidden = hidden.clone()
    hidden[int(tokens.attention_mask.sum()) :] = 0
    return hidden.to(model.device, model.dtype)


def predict(
    transformer: ShotTransformer,
    latents: torch.Tensor,  # [F, C, h, w]
    timestep: float,
    embeds: torch.Tensor,  # [captions, text_len, text_dim]: one a frame, or one for all
    cache: list[Cache],
    start: int,
    rope_shots: list[int],  # of the context frames, then of the shot's
    shot_frames: int,
    is_context: bool = False,
) -> torch.Tensor:
    """Flow [F, C, h, w] of frames at `start` of the shot (or of its context), whose keys and values go to `cache`."""
    config = transformer.config
    frames = len(latents)
    rows, columns = transformer.patch_grid(*latents.shape[-2:])
    x = F.conv2d(latents, transformer.patch_embedding.weight[:, :, 0], transformer.patch_embedding.bias, stride=2)
    x = x.flatten(2).transpose(1, 2)[None]  # 1 F T dim
    half = config.freq_dim // 2
    times = torch.full((frames,), timestep, dtype=torch.float64, device=x.device)
    angles = times[:, None] * 10000.0 ** (-torch.arange(half, dtype=torch.float64, device=x.device) / half)
    time = transformer.time_embedding(torch.cat([angles.cos(), angles.sin()], dim=-1).to(x.dtype))  # F dim
    modulation = transformer.time_projection(time).view(1, frames, 6, config.dim)
    text = transformer.text_embedding(embeds) if is_context or cache[0].caption is None else None
    freqs = base_freqs(config.dim // config.num_heads, x.device)
    first = start if is_context else MAX_CONTEXT_FRAMES + start
    place = (first, rope_shots[first : first + frames], rows, columns, config.cut_angle)
    for block, layer in zip(transformer.blocks, cache, strict=True):
        x = run_block(block, x, modulation, text, freqs, place, layer, start, shot_frames, is_context)
    shift, scale = (transformer.head.modulation + time[None, :, None]).chunk(2, dim=2)
    x = F.linear(
        layer_norm(x, config.eps) * (1 + scale) + shift, transformer.head.head.weight, transformer.head.head.bias
    )
    x = x.view(frames, rows, columns, 2, 2, -1)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(frames, -1, 2 * rows, 2 * columns)


def run_block(block: Block, x, modulation, text, freqs, place, cache, start, shot_frames, is_context) -> torch.Tensor:
    frames, tokens, dim = x.shape[1:]
    heads = block.self_attn.num_heads
    m = (block.modulation[:, None] + modulation).chunk(6, dim=2)  # 1 F 1 dim each
    eps = block.norm1.eps
    y = (layer_norm(x, eps) * (1 + m[1]) + m[0]).flatten(1, 2)
    attention = block.self_attn
    q = rms_norm(linear(attention.q, y), attention.norm_q).view(1, -1, heads, dim // heads)
    k = rms_norm(linear(attention.k, y), attention.norm_k).view(1, -1, heads, dim // heads)
    v = linear(attention.v, y).view(1, -1, heads, dim // heads)
    q, k = rotate(q, freqs, *place), rotate(k, freqs, *place)
    if is_context:
        cache.context_keys, cache.context_values = k, v
    else:
        if cache.local_keys is None:
            shape = (1, shot_frames * tokens, heads, dim // heads)
            cache.local_keys, cache.local_values = (x.new_zeros(shape) for _ in range(2))
        keys, values = cache.local_keys.clone(), cache.local_values.clone()
        stop = (start + frames) * tokens
        keys[:, start * tokens : stop], values[:, start * tokens : stop] = k, v
        cache.local_keys, cache.local_values = keys, values
        k = torch.cat([cache.context_keys, keys[:, :stop]], dim=1)
        v = torch.cat([cache.context_values, values[:, :stop]], dim=1)
    x = x + linear(attention.o, attend(q, k, v)).view(1, frames, tokens, dim) * m[2]

    attention = block.cross_attn
    if text is None:
        k, v = cache.caption
    else:
        k = rms_norm(linear(attention.k, text), attention.norm_k).view(len(text), -1, heads, dim // heads)
        v = linear(attention.v, text).view(len(text), -1, heads, dim // heads)
        cache.caption = None if is_context else (k, v)
    y = F.layer_norm(x, (dim,), block.norm3.weight, block.norm3.bias, eps).view(len(k), -1, dim)
    q = rms_norm(linear(attention.q, y), attention.norm_q).view(len(k), -1, heads, dim // heads)
    x = x + linear(attention.o, attend(q, k, v)).view_as(x)

    y = layer_norm(x, eps) * (1 + m[4]) + m[3]
    return x + linear(block.ffn[2], F.gelu(linear(block.ffn[0], y), approximate="tanh")) * m[5]


def linear(layer: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, layer.weight, layer.bias)


def layer_norm(x: torch.Tensor, eps: float) -> torch.Tensor:
    return F.layer_norm(x, (x.shape[-1],), eps=eps)


def rms_norm(x: torch.Tensor, norm: RMSNorm) -> torch.Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + norm.eps)).to(x.dtype) * norm.weight


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """[B, tokens, heads, head_dim] each -> [B, tokens, dim]."""
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def base_freqs(head_dim: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """float64 angles per position of time, rows and columns, [1024, pairs] each."""
    spatial = 2 * (head_dim // 6)
    positions = torch.arange(1024, dtype=torch.float64, device=device)
    return tuple(
        torch.outer(positions, 10000.0 ** (-torch.arange(0, dim, 2, dtype=torch.float64, device=device) / dim))
        for dim in (head_dim - 2 * spatial, spatial, spatial)
    )


def rotate(x: torch.Tensor, freqs, first: int, shots: list[int], rows: int, columns: int, cut: float) -> torch.Tensor:
    """RoPE of [1, tokens, heads, head_dim] with the discontinuity indicator, in float64 complex numbers."""
    frames = len(shots)
    time = freqs[0][first : first + frames] + torch.tensor(shots, dtype=torch.float64).to(x.device)[:, None] * cut
    angles = torch.cat(
        [
            time.view(frames, 1, 1, -1).expand(frames, rows, columns, -1),
            freqs[1][:rows].view(1, rows, 1, -1).expand(frames, rows, columns, -1),
            freqs[2][:columns].view(1, 1, columns, -1).expand(frames, rows, columns, -1),
        ],
        dim=-1,
    ).reshape(frames * rows * columns, 1, -1)
    pairs = torch.view_as_complex(x.to(torch.float64).unflatten(-1, (-1, 2)))
    turned = pairs * torch.polar(torch.ones_like(angles), angles)
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)

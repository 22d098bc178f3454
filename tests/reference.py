"""The published procedure once more, written plainly from its description: no caches, no batches, float64.

Slow and obvious on purpose. Whatever the engine does in place, by slices or once per shot is here done anew for every
call over [context | earlier chunks | chunk]. Shares no code with the package.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

CONFIG = {
    "dim": 96,
    "ffn_dim": 160,
    "num_heads": 3,
    "num_layers": 2,
    "text_dim": 24,
    "text_len": 10,
    "freq_dim": 32,
    "in_dim": 16,
    "out_dim": 16,
    "patch_size": [1, 2, 2],
    "qk_norm": True,
    "cross_attn_norm": True,
    "eps": 1e-6,
}


def publish(path: Path, weights: dict[str, object], key: str = "generator") -> Path:
    """Save `weights` in the published layout."""
    torch.save({key: {f"model.{name}": value for name, value in weights.items()}}, path)
    return path


def random_weights(config: dict, seed: int = 0) -> dict[str, Tensor]:
    """float32, under the published names without their prefix."""
    generator = torch.Generator().manual_seed(seed)
    dim, ffn = config["dim"], config["ffn_dim"]
    weights: dict[str, Tensor] = {}

    def linear(name: str, fan_in: int, fan_out: int) -> None:
        weights[f"{name}.weight"] = torch.randn(fan_out, fan_in, generator=generator) / fan_in**0.5
        weights[f"{name}.bias"] = torch.randn(fan_out, generator=generator) * 0.1

    linear("patch_embedding", config["in_dim"] * 4, dim)
    weights["patch_embedding.weight"] = weights["patch_embedding.weight"].view(dim, config["in_dim"], 1, 2, 2)
    linear("text_embedding.0", config["text_dim"], dim)
    linear("text_embedding.2", dim, dim)
    linear("time_embedding.0", config["freq_dim"], dim)
    linear("time_embedding.2", dim, dim)
    linear("time_projection.1", dim, 6 * dim)
    for layer in range(config["num_layers"]):
        block = f"blocks.{layer}"
        weights[f"{block}.modulation"] = torch.randn(1, 6, dim, generator=generator) * 0.3
        for attention in ("self_attn", "cross_attn"):
            for part in "qkvo":
                linear(f"{block}.{attention}.{part}", dim, dim)
            for part in ("norm_q", "norm_k"):
                weights[f"{block}.{attention}.{part}.weight"] = 1 + 0.2 * torch.randn(dim, generator=generator)
        weights[f"{block}.norm3.weight"] = 1 + 0.2 * torch.randn(dim, generator=generator)
        weights[f"{block}.norm3.bias"] = 0.2 * torch.randn(dim, generator=generator)
        linear(f"{block}.ffn.0", dim, ffn)
        linear(f"{block}.ffn.2", ffn, dim)
    weights["head.modulation"] = torch.randn(1, 2, dim, generator=generator) * 0.3
    linear("head.head", dim, config["out_dim"] * 4)
    return weights


def predict(weights: dict, config: dict, latents, timesteps, captions, positions, shots, groups) -> Tensor:
    """Flow [F, C, h, w] of `latents` [F, C, h, w]; per frame a timestep, caption [L, D], position, shot and group.

    A frame attends to all frames of its own and of earlier groups.
    """
    w = {name: tensor.double() for name, tensor in weights.items()}
    frames, _, height, width = latents.shape
    rows, columns, dim, heads, eps = height // 2, width // 2, config["dim"], config["num_heads"], config["eps"]
    head_dim = dim // heads

    def linear(name, x):
        return x @ w[f"{name}.weight"].flatten(1).T + w[f"{name}.bias"]

    def layer_norm(x):
        return (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + eps)

    def rms_norm(name, x):
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * w[f"{name}.weight"]

    def attention(q, k, v):  # [tokens, dim] each
        q, k, v = (x.view(len(x), heads, head_dim).transpose(0, 1) for x in (q, k, v))
        return ((q @ k.mT / math.sqrt(head_dim)).softmax(-1) @ v).transpose(0, 1).flatten(1)

    def turn(x):  # [tokens of all frames, dim]: pairs of channels as complex numbers
        axis = 2 * (head_dim // 6)
        angles = torch.zeros(frames, rows, columns, head_dim // 2, dtype=torch.double)
        for f in range(frames):
            for r in range(rows):
                for c in range(columns):
                    angles[f, r, c] = torch.cat(
                        [
                            positions[f] * 10000.0 ** (-torch.arange(0, n, 2).double() / n) + shots[f] / 6
                            if place is None
                            else place * 10000.0 ** (-torch.arange(0, n, 2).double() / n)
                            for place, n in ((None, head_dim - 2 * axis), (r, axis), (c, axis))
                        ]
                    )
        pairs = torch.view_as_complex(x.view(len(x), heads, head_dim // 2, 2).contiguous())
        turned = pairs * torch.polar(torch.ones_like(angles), angles).view(len(x), 1, head_dim // 2)
        return torch.view_as_real(turned).flatten(1)

    x = linear("patch_embedding", F.unfold(latents.double(), 2, stride=2).transpose(1, 2))  # F T dim
    half = config["freq_dim"] // 2
    frequency = 10000.0 ** (-torch.arange(half).double() / half)
    angles = torch.tensor(timesteps).double()[:, None] * frequency
    time = linear("time_embedding.0", torch.cat([angles.cos(), angles.sin()], 1))
    time = linear("time_embedding.2", F.silu(time))  # F dim
    modulation = linear("time_projection.1", F.silu(time)).view(frames, 1, 6, dim)
    tokens = rows * columns
    for layer in range(config["num_layers"]):
        block = f"blocks.{layer}"
        m = (w[f"{block}.modulation"] + modulation).unbind(2)
        y = (layer_norm(x) * (1 + m[1]) + m[0]).flatten(0, 1)
        q = turn(rms_norm(f"{block}.self_attn.norm_q", linear(f"{block}.self_attn.q", y)))
        k = turn(rms_norm(f"{block}.self_attn.norm_k", linear(f"{block}.self_attn.k", y)))
        v = linear(f"{block}.self_attn.v", y)
        attended = []
        for f in range(frames):
            own = slice(f * tokens, (f + 1) * tokens)
            seen = torch.tensor([g <= groups[f] for g in groups]).repeat_interleave(tokens)
            attended.append(attention(q[own], k[seen], v[seen]))
        x = x + linear(f"{block}.self_attn.o", torch.stack(attended)) * m[2]
        y = layer_norm(x) * w[f"{block}.norm3.weight"] + w[f"{block}.norm3.bias"]
        attended = []
        for f in range(frames):
            text = F.gelu(linear("text_embedding.0", captions[f].double()), approximate="tanh")
            text = linear("text_embedding.2", text)
            attended.append(
                attention(
                    rms_norm(f"{block}.cross_attn.norm_q", linear(f"{block}.cross_attn.q", y[f])),
                    rms_norm(f"{block}.cross_attn.norm_k", linear(f"{block}.cross_attn.k", text)),
                    linear(f"{block}.cross_attn.v", text),
                )
            )
        x = x + linear(f"{block}.cross_attn.o", torch.stack(attended))
        y = layer_norm(x) * (1 + m[4]) + m[3]
        x = x + linear(f"{block}.ffn.2", F.gelu(linear(f"{block}.ffn.0", y), approximate="tanh")) * m[5]
    shift, scale = (w["head.modulation"] + time[:, None, None, :]).unbind(2)
    x = linear("head.head", layer_norm(x) * (1 + scale) + shift)
    x = x.view(frames, rows, columns, 2, 2, -1)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(frames, -1, height, width)


@dataclass
class Shot:
    """What one call of `shoot` made, and what it looked back at."""

    latents: Tensor
    context: Tensor
    context_shots: list[int]


def shoot(weights, config, prompts, earlier: list[tuple[Tensor, Tensor]], encode, noise, chunks: int) -> Shot:
    """Shot number len(earlier). `prompts` [L, D] of every shot so far and this one; `earlier` (frames, _) in order;
    `encode` one frame [3, H, W] -> [C, h, w]; `noise(chunk, step)` -> [3, C, h, w]."""
    number = len(earlier)
    if number:
        context, context_shots = look_back([len(frames) for frames, _ in earlier])
        film = torch.cat([frames for frames, _ in earlier])
        context = torch.stack([encode(film[frame]) for frame in context])
    else:
        context, context_shots = torch.zeros((6, *noise(0, 0).shape[1:])), [0] * 6
    rope_shot = max(number, 1)
    grid = [8 * s / (1 + 7 * s) for s in np.linspace(1, 0, 1001)[:-1]]
    sigmas = [grid[1000 - step] for step in (1000, 740, 500, 260)]
    done: list[Tensor] = []
    for chunk in range(chunks):
        x = noise(chunk, 0).double()
        for step, sigma in enumerate(sigmas):
            if step:
                x = (1 - sigma) * x + sigma * noise(chunk, step).double()
            frames = torch.cat([context.double(), *done, x])
            count = 3 * (chunk + 1)
            flow = predict(
                weights,
                config,
                frames,
                [0.0] * (len(frames) - 3) + [1000 * sigma] * 3,
                [prompts[s] for s in context_shots] + [prompts[number]] * count,
                list(range(len(frames))),
                context_shots + [rope_shot] * count,
                [0] * 6 + [1 + i // 3 for i in range(count)],
            )
            x = x - sigma * flow[-3:]
        done.append(x)
    return Shot(torch.cat(done), context, context_shots)


def look_back(lengths: list[int]) -> tuple[list[int], list[int]]:
    """Six frame numbers of the whole film and the shots they are in."""
    frames, shots = [], []
    start = 0
    for index, length in enumerate(lengths):
        slots = 6 // len(lengths)
        if index >= len(lengths) - 6 % len(lengths):
            slots += 1
        picks = np.linspace(start, start + length - 1, slots) if slots > 1 else np.array([start] * slots)
        frames += [int(frame) for frame in np.round(picks)]
        shots += [index] * slots
        start += length
    return frames, shots


def record(stem: Path, *, config: dict = CONFIG, shots: int = 2, size=(4, 6), chunks: int = 2, seed: int = 0) -> None:
    """Write a recording (`.json`, `.pt`, `.safetensors`) of a random story in the layout that `verify` reads, and the
    teacher's beside it (`teacher.safetensors`)."""
    generator = torch.Generator().manual_seed(seed)
    weights = random_weights(config, seed)
    torch.save({"generator": {f"model.{name}": tensor for name, tensor in weights.items()}}, stem.with_suffix(".pt"))
    channels = config["in_dim"]
    to_latent = torch.randn(channels, 3, generator=generator)
    to_pixel = torch.randn(3, channels, generator=generator) / channels**0.5
    prompts = torch.randn(shots, config["text_len"], config["text_dim"], generator=generator)
    tensors = {"vae.encode": to_latent, "vae.decode": to_pixel}

    def encode(frame: Tensor) -> Tensor:
        return torch.einsum("cp,phw->chw", to_latent.double(), F.avg_pool2d(frame, 8))

    def decode(latents: Tensor) -> Tensor:
        frames = []
        for index, latent in enumerate(latents):
            for _ in range(4 if index else 1):
                dim = 1 - 0.01 * (len(frames) % 4)
                frame = (torch.einsum("pc,chw->phw", to_pixel.double(), latent).tanh() * dim).clamp(-1, 1)
                frames.append(frame.repeat_interleave(8, -1).repeat_interleave(8, -2))
        return torch.stack(frames)

    earlier = []
    for shot in range(shots):
        initial = torch.randn(3 * chunks, channels, *size, generator=generator)
        renoise = torch.randn(chunks, 3, 3, channels, *size, generator=generator)

        def noise(chunk: int, step: int, initial=initial, renoise=renoise) -> Tensor:
            return renoise[chunk, step - 1] if step else initial[3 * chunk : 3 * chunk + 3]

        made = shoot(weights, config, prompts, earlier, encode, noise, chunks)
        earlier.append((decode(made.latents), made.latents))
        tensors |= {
            f"prompt_embeds.{shot}": prompts[shot].clone(),
            f"shot{shot}.initial_noise": initial[None],
            f"shot{shot}.renoise": renoise,
            f"shot{shot}.context_latents": made.context[None].float(),
            f"shot{shot}.context_shot_index": torch.tensor(made.context_shots, dtype=torch.int32),
            f"shot{shot}.latents": made.latents[None].float(),
        }
    frames = torch.cat([made.context.double(), torch.randn(3, channels, *size, generator=generator).double()])
    flow = predict(
        weights,
        config,
        frames,
        [0.0] * 6 + [737.5] * 3,
        [prompts[s] for s in made.context_shots] + [prompts[shots - 1]] * 3,
        list(range(9)),
        made.context_shots + [max(shots - 1, 1)] * 3,
        [0] * 6 + [1] * 3,
    )
    tensors["lastshot.call0.input"] = frames[None, 6:].float()
    tensors["lastshot.call0.timestep"] = torch.full((1, 3), 737.5)
    tensors["lastshot.call0.flow"] = flow[None, 6:].float()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, stem.with_suffix(".safetensors"))
    description = {
        "config": config,
        "latent_size": list(size),
        "captions": [f"A fox. shot{shot}:It runs." for shot in range(shots)],
        "num_frames_per_chunk": 3,
        "timestep_shift": 8.0,
        "denoising_step_list": [1000, 740, 500, 260],
        "max_context_frames": 6,
    }
    stem.with_suffix(".json").write_text(json.dumps(description))
    _record_teacher(stem.with_name("teacher.safetensors"), weights, config, prompts, frames, made.context_shots)


def _record_teacher(path: Path, weights, config, prompts, frames: Tensor, context_shots: list[int]) -> None:
    """One bidirectional forward on the same weights: everything sees everything, all at one timestep."""
    shots = context_shots + [len(prompts) - 1] * (len(frames) - len(context_shots))
    flow = predict(
        weights,
        config,
        frames,
        [888.9] * len(frames),
        [prompts[shot] for shot in shots],
        list(range(len(frames))),
        shots,
        [0] * len(frames),
    )
    recorded = {
        "input": frames[None].float(),
        "flow": flow[None].float(),
        "shot_index": torch.tensor(shots),
        "prompt_embeds": prompts,
        "timestep": torch.tensor([888.9]),
    }
    save_file(recorded, path)

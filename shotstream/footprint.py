"""How many bytes a shot takes: weights, caches, decoder state, and what computing needs besides.

Owns the rehearsal of a shot in the engine's order with tensors that have shapes and no numbers (torch's meta device),
in which every allocation is counted. So nothing is loaded to learn whether it would fit. Knows no cards. What a GPU's
libraries take for themselves (workspaces, fragments) is not counted.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from shotstream.context import MAX_CONTEXT_FRAMES
from shotstream.models.cache import ShotCache
from shotstream.models.model import Model
from shotstream.models.text import CACHED_CAPTIONS
from shotstream.pixels import states_kept

KEPT_FRAMES = 7  # of a shot, at most, that later shots may look back at
EARLIER_CAPTIONS = MAX_CONTEXT_FRAMES  # at most one for each context frame


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors made inside it: those alive `now`, and the `peak` since `mark` was called."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def mark(self) -> None:
        self.peak = self.now

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = {_key(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and (key := _key(leaf)) not in inputs and key not in self._known:
                storage = leaf.untyped_storage()
                self._known.add(key)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._gone, key, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return out

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def _key(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


class FusedAttention(TorchFunctionMode):
    """For tensors without numbers torch has only the attention that writes out all scores, which no GPU runs."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return _attend(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **options: Any) -> torch.Tensor:
    """What a fused attention over [..., heads, tokens, head_dim] allocates: its output, token by token, and sums."""
    if not (query.is_meta or isinstance(query, FakeTensor)):
        return F.scaled_dot_product_attention(query, key, value, **options)
    query.new_empty(query.shape[:-1], dtype=torch.float32)
    *batch, heads, tokens, _ = query.shape
    return query.new_empty((*batch, tokens, heads, value.shape[-1])).transpose(-2, -3)


@dataclass(frozen=True)
class Footprint:
    """Bytes. `weights` by part; `kept` through a shot, by name; `working`, the most that a stage needs besides, of
    which its input and output are a part; `block` is the largest block of the text encoder."""

    weights: dict[str, int]
    kept: dict[str, int]
    working: dict[str, int]
    block: int

    def stages(self, low_vram: bool = False) -> dict[str, int]:
        """What is on the device at the height of every stage. The frames of a shot wait elsewhere to be encoded."""
        captions, state, frames = (self.kept[name] for name in ("captions", "VAE state", "frames"))
        always = self.kept["caches"] + self.kept["known captions"]
        transformer, vae, text = (self.weights[name] for name in ("transformer", "vae", "text_encoder"))
        if low_vram:  # one at a time on the card, the state only while it is decoded
            present = {
                "text": transformer + self.block + always,
                "captions": transformer + always,
                "context": transformer + always + captions,
                "denoise": transformer + always + captions,
                "decode": vae + always + captions,
                "encode": vae + always + captions + frames,
            }
        else:
            everything = transformer + vae + text + always
            present = {"text": everything, "captions": everything, "context": everything + captions}
            present |= dict.fromkeys(("denoise", "decode", "encode"), everything + captions + state)
            present["encode"] += frames
        return {name: present[name] + self.working[name] for name in self.working}

    def peak(self, low_vram: bool = False) -> int:
        return max(self.stages(low_vram).values())


def measure(model: Model, height: int, width: int, num_chunks: int, int8_text: bool = False) -> Footprint:
    """What a shot of `num_chunks` chunks, with six earlier shots to look back at, takes; with `int8_text`, if the text
    encoder were rounded. The tensors of `model` are on its device: on "meta" nothing is computed."""
    text_size = _size_in_8_bits if int8_text else _size
    weights = {name: _size(network) for name, network in model.networks.items()}
    weights["text_encoder"] = text_size(model.text.encoder)
    block = max(text_size(block) for block in model.text.encoder.encoder.block)
    kept: dict[str, int] = {}
    working: dict[str, int] = {}
    with torch.no_grad(), FusedAttention(), LiveBytes() as live:
        _rehearse(model, height, width, num_chunks, live, kept, working)
    if int8_text:  # a layer is computed in the encoder's own dtype
        working["text"] += max(layer.weight.nbytes for layer in _linear_layers(model.text.encoder))
    return Footprint(weights, kept, working, block)


def _rehearse(
    model: Model, height: int, width: int, num_chunks: int, live: LiveBytes, kept: dict, working: dict
) -> None:
    """The engine's calls of a last chunk, in its order; see `Engine`."""
    transformer, schedule, vae = model.transformer, model.schedule, model.vae
    device, dtype, frames = model.device, model.dtype, schedule.chunk_frames
    size = model.latent_size(height, width)

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        before = live.now
        live.mark()
        yield
        working[name] = max(working.get(name, 0), live.peak - before)

    config = transformer.config
    cache = ShotCache.allocate(transformer, size, schedule.max_chunks * frames, device, dtype)
    kept["caches"] = live.now
    known = torch.zeros(CACHED_CAPTIONS, config.text_len, config.text_dim, device=device, dtype=dtype)
    kept["known captions"] = known.nbytes
    with stage("text"):
        model.text.encoder(torch.zeros(1, config.text_len, dtype=torch.long, device=device))

    embeds = torch.zeros(EARLIER_CAPTIONS + 1, config.text_len, config.text_dim, device=device, dtype=dtype)
    with stage("captions"):
        captions = transformer.embed_captions(embeds)
        local = min(num_chunks, schedule.max_chunks) * frames
        shots = torch.zeros(MAX_CONTEXT_FRAMES + local, device=device)
        phases = transformer.phases(torch.arange(len(shots), device=device), shots, size, device)
    # the phases are computed in float64 and kept in float32
    kept["captions"] = live.now - kept["caches"] - kept["known captions"]
    with stage("context"):
        context = torch.zeros(1, MAX_CONTEXT_FRAMES, vae.latent_channels, *size, device=device, dtype=dtype)
        routes = torch.arange(MAX_CONTEXT_FRAMES, device=device)
        transformer.forward_cached(
            context,
            torch.zeros(1, 1, device=device),
            captions.routed(routes),
            phases.frames(0, MAX_CONTEXT_FRAMES, cache.frame_tokens),
            cache.context_windows(),
        )
        del context
    with stage("denoise"):
        first = MAX_CONTEXT_FRAMES + local - frames
        chunk = torch.zeros(1, frames, vae.latent_channels, *size, device=device, dtype=dtype)
        flow = transformer.forward_cached(
            chunk,
            torch.zeros(1, 1, device=device),
            captions.last(),
            phases.frames(first, first + frames, cache.frame_tokens),
            cache.chunk_windows(local),
        )
        (chunk.double() - flow.double()).float()  # the sampler's
        del flow
    before = live.now
    state = vae.start_decoding()
    for _ in range(2):  # the first one fills the state
        with stage("decode"):
            pictures, state = vae.decode_step(chunk[0], state)
            pictures = pictures.float() * 127.5
        picture = pictures[:1].to(dtype, copy=True)
        del pictures
    kept["VAE state"] = states_kept(num_chunks) * (live.now - before - picture.nbytes)
    kept["frames"] = KEPT_FRAMES * picture.nbytes
    with stage("encode"):
        vae.encode_frames(picture)


def _size(module: torch.nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def _size_in_8_bits(module: torch.nn.Module) -> int:
    """Linear layers have a byte a weight, and a row of them a scale in float32 and a zero point."""
    spared = sum(layer.weight.nbytes - layer.weight.numel() - 5 * len(layer.weight) for layer in _linear_layers(module))
    return _size(module) - spared


def _linear_layers(module: torch.nn.Module) -> Iterator[torch.nn.Linear]:
    return (layer for layer in module.modules() if isinstance(layer, torch.nn.Linear))

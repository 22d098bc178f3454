"""What a denoising call asks of a GPU besides its arithmetic: kernels and bytes, counted without one.

Owns the counting, and a call of the engine's transformer and of the baseline's at any size on tensors that have shapes
and no memory. They claim to be on a GPU, so that torch takes apart what it takes apart there, and no further. Matrix
products and attention are left out: they are the same arithmetic on both sides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from shotstream.context import MAX_CONTEXT_FRAMES
from shotstream.evaluation import baseline
from shotstream.footprint import FusedAttention
from shotstream.models.cache import ShotCache
from shotstream.models.transformer import ShotTransformer

MATRIX_PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "linear", "convolution"}
FREE = {"empty", "empty_like", "empty_strided", "new_empty", "device", "_unsafe_view", "detach", "lift_fresh"}


@dataclass
class Count:
    """Outside matrix products and attention: `kernels` launched, `bytes` read and written, kernels by `name`."""

    kernels: int = 0
    bytes: int = 0
    matrix_products: int = 0
    name: Counter[str] = field(default_factory=Counter)


class _Counting(TorchDispatchMode):
    def __init__(self, count: Count) -> None:
        super().__init__()
        self.count = count

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if name in FREE or _is_view(function):
            return result
        if name in MATRIX_PRODUCTS:
            self.count.matrix_products += 1
            return result
        self.count.kernels += 1
        self.count.name[name] += 1
        written = {id(tensor): tensor for tensor in tree_leaves(result) if isinstance(tensor, torch.Tensor)}
        read = [tensor for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, torch.Tensor)]
        if name == "copy_":
            read = read[1:]  # the place copied to is written only
        self.count.bytes += sum(_bytes(tensor) for tensor in [*written.values(), *read])
        return result


def _is_view(function: torch._ops.OpOverload) -> bool:
    """Whether what it returns is its argument seen otherwise: nothing is launched."""
    returns = function._schema.returns
    return bool(returns) and all(r.alias_info is not None and not r.alias_info.is_write for r in returns)


def _bytes(tensor: torch.Tensor) -> int:
    """Each element once, however often it is repeated."""
    distinct = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        distinct *= size if stride else 1
    return distinct * tensor.element_size()


@contextmanager
def counted() -> Iterator[Count]:
    """Counts what is called inside; attention leaves an empty result of its shape, which is free."""
    count = Count()
    with FusedAttention(), _Counting(count):
        yield count


@dataclass(frozen=True)
class Size:
    """Of one call: transformer numbers that differ from the published ones, the picture in latents, frames of a chunk
    and of the whole shot, and where in the shot the chunk begins."""

    latent_size: tuple[int, int] = (60, 104)
    chunk_frames: int = 3
    shot_frames: int = 21
    start: int = 18


def count_calls(
    config: dict | None = None, size: Size = Size(), dtype: torch.dtype = torch.bfloat16, device: str = "cuda"
) -> tuple[Count, Count]:
    """(the engine's, the baseline's) count of one denoising call, by default of the last chunk at the published size;
    `config` replaces numbers of the transformer."""
    with FakeTensorMode(), torch.no_grad(), torch.device(device):
        usual = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            transformer = ShotTransformer(**config or {})
        finally:
            torch.set_default_dtype(usual)
        return _count(engines_call(transformer, size, dtype)), _count(_baselines_call(transformer, size, dtype))


def _count(call: Callable[[], object]) -> Count:
    with counted() as count:
        call()
    return count


def engines_call(transformer: ShotTransformer, size: Size, dtype: torch.dtype) -> Callable[[], object]:
    config = transformer.config
    device = transformer.head.modulation.device
    cache = ShotCache.allocate(transformer, size.latent_size, size.shot_frames, device, dtype)
    shots = torch.ones(MAX_CONTEXT_FRAMES + size.shot_frames)
    phases = transformer.phases(torch.arange(len(shots)), shots, size.latent_size, device)
    captions = transformer.embed_captions(torch.empty(1, config.text_len, config.text_dim, dtype=dtype))
    times = transformer.times(torch.empty(1, 1))
    stop = size.start + size.chunk_frames
    latents = torch.empty(1, size.chunk_frames, config.in_dim, *size.latent_size, dtype=dtype)
    own = phases.frames(MAX_CONTEXT_FRAMES + size.start, MAX_CONTEXT_FRAMES + stop, cache.frame_tokens)
    windows = cache.chunk_windows(stop)
    return lambda: transformer.forward_cached(latents, times, captions, own, windows)


def _baselines_call(transformer: ShotTransformer, size: Size, dtype: torch.dtype) -> Callable[[], object]:
    config = transformer.config
    rows, columns = transformer.patch_grid(*size.latent_size)
    heads = (config.num_heads, transformer.head_dim)

    def tokens(frames: int) -> torch.Tensor:
        return torch.empty(1, frames * rows * columns, *heads, dtype=dtype)

    text = torch.empty(1, config.text_len, *heads, dtype=dtype)
    cache = [
        baseline.Cache(
            *(tokens(frames) for frames in (MAX_CONTEXT_FRAMES, MAX_CONTEXT_FRAMES)),
            *(tokens(size.shot_frames) for _ in range(2)),
            (text, text),
        )
        for _ in range(config.num_layers)
    ]
    latents = torch.empty(size.chunk_frames, config.in_dim, *size.latent_size, dtype=dtype)
    embeds = torch.empty(1, config.text_len, config.text_dim, dtype=dtype)
    shots = [0] * MAX_CONTEXT_FRAMES + [1] * size.shot_frames
    return lambda: baseline.predict(transformer, latents, 500.0, embeds, cache, size.start, shots, size.shot_frames)

"""Which attention is taken: what does not come to attention is never chosen, and is told in a sentence."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from diffusers.models import attention_dispatch
from torch import Tensor

from shotstream.errors import UserError
from shotstream.models.attention import candidates, use_attention, use_first
from shotstream.models.kernels import NATIVE, attend
from shotstream.models.transformer import ShotTransformer

CPU = torch.device("cpu")
CONFIG = {"dim": 96, "ffn_dim": 96, "num_heads": 3, "num_layers": 2, "text_dim": 16, "text_len": 4, "freq_dim": 32}
Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]


@pytest.fixture
def transformer() -> ShotTransformer:
    return ShotTransformer(**CONFIG)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Kernel], None]:
    """Gives diffusers another kernel under one of its names, as if a package of this name were installed."""

    def install(name: str, attention: Kernel) -> None:
        def attend_so(query, key, value, attn_mask=None, scale=None):
            return attention(query, key, value)

        place = attention_dispatch.AttentionBackendName(name)
        registry = attention_dispatch._AttentionBackendRegistry
        monkeypatch.setitem(registry._backends, place, attend_so)
        monkeypatch.setitem(registry._constraints, place, [])
        monkeypatch.setitem(registry._supported_arg_names, place, {"query", "key", "value"})
        monkeypatch.setattr(attention_dispatch, "_check_attention_backend_requirements", lambda backend: None)

    return install


def used(transformer: ShotTransformer) -> set[str]:
    return {attention.backend for block in transformer.blocks for attention in (block.self_attn, block.cross_attn)}


WRONG: dict[str, Kernel] = {
    "heads in another order": lambda q, k, v: attend(q, k, v).flip(2),
    "another scale": lambda q, k, v: attend(q * 1.1, k, v),
    "a key too few": lambda q, k, v: attend(q, k[:, :-1], v[:, :-1]),
    "causal": lambda q, k, v: attend(q, k[:, : q.shape[1]], v[:, : q.shape[1]]),
    "no numbers": lambda q, k, v: attend(q, k, v) * float("nan"),
    "zeros": lambda q, k, v: torch.zeros_like(q),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_what_is_not_attention_is_not_taken(transformer, kernel, wrong, dtype):
    """By name it is refused, and of several that are offered the next one is."""
    kernel("_native_flash", wrong)
    with pytest.raises(UserError) as told:
        use_attention(transformer, "_native_flash", CPU, dtype)
    assert "differs from attention written out" in str(told.value) and "\n" not in str(told.value)
    assert used(transformer) == {NATIVE}
    offered = (("_native_flash", "wrong"), *candidates(CPU, dtype))
    line = use_first(transformer, offered, CPU, dtype)
    assert line.startswith(f"{NATIVE}: torch's own for cpu (The attention backend '_native_flash' does not work here")
    assert used(transformer) == {NATIVE}
    with pytest.raises(UserError, match="No attention backend works on cpu"):
        use_first(transformer, offered[:1], CPU, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_another_way_to_the_same_is_taken(transformer, dtype):
    assert use_attention(transformer, "_native_math", CPU, dtype) == "_native_math, as asked for"
    assert used(transformer) == {"_native_math"}
    assert use_first(transformer, (("_native_math", "plain"),), CPU, dtype) == "_native_math: plain"


def rounded(x: Tensor) -> Tensor:
    """To 3 digits after the point, as float8 has them."""
    return x.to(torch.float8_e4m3fn).to(x.dtype)


def test_eight_bits_are_taken_by_name_alone_and_told(transformer, kernel):
    """And no more is forgiven them than eight bits."""

    def in_eight_bits(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(rounded(q), rounded(k), rounded(v))

    kernel("sage", in_eight_bits)
    line = use_attention(transformer, "sage", CPU, torch.bfloat16)
    assert line.startswith("sage, as asked for; in eight bits, it differs by ") and 2 < float(line.split()[-1][:-1]) < 6
    with pytest.raises(UserError):
        use_first(transformer, (("sage", "in eight bits"),), CPU, torch.bfloat16)
    kernel("_native_flash", in_eight_bits)
    with pytest.raises(UserError, match="and may by"):
        use_attention(transformer, "_native_flash", CPU, torch.bfloat16)
    kernel("sage", WRONG["heads in another order"])
    with pytest.raises(UserError, match="and may by"):
        use_attention(transformer, "sage", CPU, torch.bfloat16)

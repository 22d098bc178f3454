"""Small cards: weights that are on the card only while they compute.

Owns where weights wait and when they come. The results are those of everything being there all the time, as nothing
but the place of numbers changes. Knows what the two large modules are called, not what they compute.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import UMT5EncoderModel

from shotstream.models.vae import VAE, LodgedState, WanVAE


class Waiting:
    """A module whose weights wait in main memory, pinned there if there is a GPU, and are on `device` from when they
    `come` until they `leave`."""

    def __init__(self, module: torch.nn.Module, device: torch.device) -> None:
        self.device = device
        self._home = [(tensor, _wait(tensor.data, device)) for tensor in (*module.parameters(), *module.buffers())]
        self.leave()

    def come(self) -> None:
        """All of them or, if memory lacks, none."""
        if self._is_here:
            return
        try:
            for tensor, home in self._home:
                tensor.data = home.to(self.device, non_blocking=True, copy=True)
        except Exception:
            self.leave()
            raise
        self._is_here = True

    def leave(self) -> None:
        for tensor, home in self._home:
            tensor.data = home
        self._is_here = False

    @contextmanager
    def present(self) -> Iterator[None]:
        self.come()
        try:
            yield
        finally:
            self.leave()


def _wait(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    tensor = tensor.to("cpu")
    return tensor.pin_memory() if device.type == "cuda" else tensor


def stream_encoder(encoder: UMT5EncoderModel, device: torch.device) -> None:
    """Lets a text encoder that is in main memory compute on `device`, a block at a time: of the embeddings only the
    rows of a caption go there, of the rest never more than one block's weights."""
    stack = encoder.encoder
    stack.embed_tokens.register_forward_hook(lambda module, inputs, rows: rows.to(device))
    stack.embed_tokens.register_forward_pre_hook(lambda module, inputs: (inputs[0].to("cpu"),))
    for block in (*stack.block, stack.final_layer_norm):
        waiting = Waiting(block, device)
        block.register_forward_pre_hook(lambda *_, waiting=waiting: waiting.come())
        block.register_forward_hook(lambda *_, waiting=waiting: waiting.leave(), always_call=True)


class GuestVAE:
    """A `VAE` that takes turns with the transformer on a small card: while one computes, the other waits. The
    transformer comes when it is called, so that whatever became of the call before leaves nothing to be mended."""

    def __init__(self, vae: VAE, module: torch.nn.Module, transformer: torch.nn.Module, device: torch.device) -> None:
        self.vae, self.device = vae, device
        self.latent_channels = vae.latent_channels
        self.spatial_factor, self.temporal_factor = vae.spatial_factor, vae.temporal_factor
        self._weights, self._transformer = Waiting(module, device), Waiting(transformer, device)
        for part in transformer.children():  # of which a call begins with one
            part.register_forward_pre_hook(lambda *_: self._transformer.come())

    def encode_frames(self, frames: torch.Tensor) -> torch.Tensor:
        self._transformer.leave()
        with self._weights.present():
            return self.vae.encode_frames(frames)

    def start_decoding(self) -> Any:
        return self.vae.start_decoding()

    def decode_step(self, latents: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        self._transformer.leave()
        with self._weights.present():
            return self.vae.decode_step(latents, state)

    def save_pretrained(self, folder: Any) -> None:
        self.vae.save_pretrained(folder)


def lodge_state(vae: WanVAE, device: torch.device) -> None:
    """Lets a decoding state wait in main memory: on `device` is the entry that is worked on."""

    def moved(entry: Any, place: torch.device) -> Any:
        return entry.to(place) if isinstance(entry, torch.Tensor) else entry

    vae.lodge = lambda state: LodgedState(
        state, lambda entry: moved(entry, torch.device("cpu")), lambda entry: moved(entry, device)
    )

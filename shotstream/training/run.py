"""What the stages of a training run take and leave: the files in the run's folder, and where networks begin.

Knows files; which stage takes what is in `stages`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import set_seed
from torch import Tensor
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

from shotstream.errors import UserError
from shotstream.models.checkpoint import transformer_config
from shotstream.models.model import Model
from shotstream.models.pixel_autoencoder import PixelAutoencoder
from shotstream.models.transformer import ShotTransformer
from shotstream.models.vae import VAE, network_of
from shotstream.models.weights import load_model
from shotstream.sampler import Schedule
from shotstream.training.batches import ShotBatch, ShotDealer
from shotstream.training.data import StoryLatents, probe_of
from shotstream.training.recipe import Course, Recipe
from shotstream.training.rollout import drawn_noise, roll_out
from shotstream.training.sheets import Look, Sample
from shotstream.training.trainee import Trainee, embed_frozen, frozen, tokens_of
from shotstream.training.vocabulary import build_text_encoder

SAME_ENCODER = 0.05  # of a latent's deviation: more than rounding, less than a training step or two


class Run:
    """`out` is the run's folder, `start` a model folder whose weights the first stages begin with (needed where the
    recipe trains on real videos: their VAE and text encoder are not trained here)."""

    def __init__(self, out: Path, recipe: Recipe, start: Path | None = None) -> None:
        self.out, self.recipe, self.start = out, recipe, start
        model = recipe.model
        self.schedule = Schedule(
            model.shift, model.steps, model.chunk_frames, model.default_chunks, max_chunks=model.max_chunks
        )
        set_seed(recipe.data.seed)

    @property
    def is_main(self) -> bool:
        """Is this the one process that writes files?"""
        return PartialState().is_main_process

    def accelerator(self) -> Accelerator:
        """A new one for every stage: it remembers what it prepared."""
        return Accelerator(mixed_precision=self.recipe.precision)

    def numbers(self, stage: str) -> Any:
        """The recipe's numbers of a stage. Raises `UserError` if it has none."""
        numbers = getattr(self.recipe, stage)
        if numbers is None:
            raise UserError(f"This configuration has no numbers for the stage {stage}.")
        return numbers

    def made(self, part: str, stage: str) -> Path:
        """Where an earlier stage left `part`. Raises `UserError` if it did not."""
        path = self.out / part
        if not path.exists():
            start = "" if self.start else ", or give the model to --start from if it was made of one"
            raise UserError(f"{path} is missing: run the stage {stage} first{start}.")
        return path

    @cached_property
    def base(self) -> Model | None:
        """The model to start from, if any, in float32."""
        return load_model(self.start) if self.start else None

    @property
    def vae(self) -> VAE:
        """The autoencoder of this run, its decoder refined if that was done, or that of the model to start from; on
        this process's device."""
        stage = "decoder" if (self.out / "decoder" / "vae").is_dir() else "autoencoder"
        if self.base and not (self.out / stage / "vae").is_dir():
            return cast_vae(self.base.vae, device=PartialState().device)
        return frozen(self.read(PixelAutoencoder, f"{stage}/vae", stage)).to(PartialState().device)

    def read(self, kind: Any, part: str, stage: str, **options: Any) -> Any:
        """What `stage` left as `part`. Raises `UserError` if it is missing or damaged."""
        folder = self.made(part, stage)
        try:
            return kind.from_pretrained(folder, **options)
        except Exception as error:  # the libraries raise nearly anything
            raise UserError(f"{folder} is damaged: run the stage {stage} again.") from error

    @cached_property
    def tokenizer(self):
        return self.read(PreTrainedTokenizerFast, "tokenizer", "latents")

    def text_encoder(self, stage: str = "teacher") -> UMT5EncoderModel:
        """The text encoder that was trained with `stage`, the first denoiser of its line, or that of the model to
        start from; on this process's device, as later stages use it."""
        folder = self.out / stage / "text_encoder"
        if not folder.is_dir() and self.base:
            return self.base_text_encoder()
        encoder = self.read(UMT5EncoderModel, f"{stage}/text_encoder", stage)
        return frozen(encoder).to(PartialState().device)

    def base_text_encoder(self) -> UMT5EncoderModel:
        """That of the model to start from, for use as it is; in 16 bits where the rest computes in them.

        Raises `UserError` if there is none, or if it does not know this run's words.
        """
        if not self.base or self.tokenizer.get_vocab() != self.base.text.tokenizer.get_vocab():
            raise UserError(
                "Without teacher.joint_text a model to --start from is needed, "
                "whose text encoder knows the words of these stories."
            )
        dtype = torch.bfloat16 if self.recipe.precision == "bf16" else torch.float32
        return frozen(self.base.text.encoder).to(PartialState().device, dtype)

    def dealer(self, part: str = "latents", course: Course | None = None) -> ShotDealer:
        """The stories of `part`, which have shots for all of `course`. Raises `UserError` if they were encoded for
        another autoencoder or picture size, or are too short."""
        folder, model, vae = self.made(part, "latents"), self.recipe.model, self.vae
        stories = StoryLatents.load(folder)
        shape = (vae.latent_channels, model.height // vae.spatial_factor, model.width // vae.spatial_factor)
        if tuple(stories.latents.shape[1:]) != shape:
            raise UserError(
                f"The latents in {folder} have the shape {tuple(stories.latents.shape[1:])}, this configuration's "
                f"{shape}: run the stage latents again."
            )
        if stories.probe is not None:
            probe = probe_of(vae, model.height, model.width, PartialState().device)
            if (stories.probe.float() - probe.float()).abs().max() > SAME_ENCODER:
                raise UserError(f"{folder} was encoded by another autoencoder: run the stage latents again.")
        dealer = ShotDealer(stories, self.tokenizer, self.schedule.chunk_frames, model.text_len)
        dealer.check(course.phases if course else ())
        return dealer

    def transformer(self, stage: str, part: str = "transformer") -> ShotTransformer:
        """What `stage` left, for training on. Raises `UserError` if it is missing or damaged."""
        return self._remembering(self.read(ShotTransformer, f"{stage}/{part}", stage, torch_dtype=torch.float32))

    def _remembering(self, transformer: ShotTransformer) -> ShotTransformer:
        if self.recipe.gradient_checkpointing:
            transformer.enable_gradient_checkpointing()
        return transformer

    def first_transformer(self, text_dim: int) -> ShotTransformer:
        """The model's to start from, else an untrained one. Raises `UserError` for numbers that are not known, or that
        the model to start from has otherwise."""
        if self.base:
            return self._remembering(self.fitting(deepcopy(self.base.transformer), self.start))
        torch.manual_seed(self.recipe.data.seed)
        made = ShotTransformer(**self._config(), text_dim=text_dim, text_len=self.recipe.model.text_len)
        return self._remembering(made)

    def fitting(self, made: ShotTransformer, place: Path | None) -> ShotTransformer:
        """`made`, from `place`, with the recipe's angle of the indicator, which is no weight. Raises `UserError` if any
        other number is not the recipe's."""
        config = self._config()
        angle = config.pop("cut_angle", made.config.cut_angle)
        for key, value in (config | {"text_len": self.recipe.model.text_len}).items():
            if (has := made.config[key]) != value:
                raise UserError(f"{place} has {key} {has}, this configuration {value}: they must be the same.")
        made.register_to_config(cut_angle=angle)
        return made

    def _config(self) -> dict[str, Any]:
        """The recipe's numbers of the transformer. Raises `UserError` for one that is not known."""
        told = self.recipe.model.transformer
        config = transformer_config(told, "model.transformer")
        if unknown := [key for key in told if key not in config]:
            raise UserError(f"model.transformer: {unknown[0]!r} is not known here.")
        return config

    def first_text_encoder(self) -> UMT5EncoderModel:
        """The model's to start from, with rows for words that are new to it, else an untrained one."""
        torch.manual_seed(self.recipe.data.seed)
        if not self.base:
            return build_text_encoder(len(self.tokenizer))
        encoder, known = self.base.text.encoder, self.base.text.tokenizer.get_vocab()
        words = self.tokenizer.get_vocab()
        if words == known:
            return deepcopy(encoder)
        extended = build_text_encoder(len(self.tokenizer))
        weights = encoder.state_dict()
        for name, tensor in extended.state_dict().items():
            if "embed_tokens" in name or name == "shared.weight":
                for word in words.keys() & known.keys():
                    tensor[words[word]] = weights[name][known[word]]
                weights[name] = tensor
        extended.load_state_dict(weights)
        return extended

    def negative(self, text_encoder: UMT5EncoderModel) -> Tensor:
        """[text_len, text_dim] of the unconditional branch: the negative prompt's, or zeros, as dropped text is."""
        model = self.recipe.model
        tokens = tokens_of(self.tokenizer, [model.negative_prompt], model.text_len).to(text_encoder.device)
        embeds = embed_frozen(text_encoder, tokens)[0]
        return embeds if model.negative_prompt else torch.zeros_like(embeds)

    def look(self, stage: str, text_encoder: UMT5EncoderModel | None) -> Look:
        """A look at a student by its own rollout."""

        def sample(trainee: Trainee, batch: ShotBatch) -> Tensor:
            embeds = embed_frozen(trainee.text_encoder or text_encoder, batch.tokens)
            noise = drawn_noise(batch, self.schedule.chunk_frames)
            return roll_out(trainee.transformer, batch, embeds, self.schedule, noise)

        return self.look_by(sample, stage)

    def look_by(self, sample: Sample, stage: str) -> Look:
        """A look at held-out shots by any sampler."""
        recipe = self.recipe
        folder = self.out / stage / "sheets"
        return Look(self.vae, self.dealer("heldout"), sample, folder, recipe.look_at, read=not recipe.data.videos)

    def keep(self, stage: str, trained: Trainee) -> None:
        """Leave the weights of `stage` for later ones."""
        if not self.is_main:
            return
        write_whole(trained.transformer, self.out / stage / "transformer")
        if trained.text_encoder is not None:
            write_whole(trained.text_encoder, self.out / stage / "text_encoder")


def write_whole(part: Any, folder: Path) -> None:
    """Save a network or tokenizer in `folder`, see `whole_folder`. Raises `UserError` if the disk refuses."""
    with whole_folder(folder) as partial:
        part.save_pretrained(partial)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into that takes the place of `folder` at the end. A kill leaves the one before, the new one,
    or, in the moment between, none, which the stage makes anew from its checkpoint; never half of one.

    Raises `UserError` if the disk refuses.
    """
    partial = folder.with_name(folder.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        yield partial
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    except UserError:
        raise
    except Exception as error:  # safetensors tells of a full disk in its own words
        raise UserError(f"Cannot write {folder}: {str(error)[:200]}.") from error


def cast_vae(vae: VAE, **place: Any) -> VAE:
    """`vae` on another device or in another dtype."""
    network_of(vae).to(**place)
    return vae

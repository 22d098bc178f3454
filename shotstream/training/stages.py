"""The stages of a training run, each from what earlier ones left in the run's folder to what later ones need.

Knows files and the order of things; how a stage trains is in its own module.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from torch import Tensor

from shotstream.errors import UserError
from shotstream.models.folder import save_model
from shotstream.models.pixel_autoencoder import PixelAutoencoder
from shotstream.models.transformer import ShotTransformer
from shotstream.prompting import Prompting, unknown_words
from shotstream.sampler import Guidance
from shotstream.toyworld.prompting import toyworld_prompting
from shotstream.training import autoencoder, causal, direct, inter_shot, intra_shot, teacher
from shotstream.training.batches import ShotBatch
from shotstream.training.data import encode_stories, probe_of
from shotstream.training.learner import Learner
from shotstream.training.run import Run, cast_vae, whole_folder, write_whole
from shotstream.training.self_forcing import SelfForcing
from shotstream.training.trainee import Trainee, embed_frozen, frozen
from shotstream.training.videos import encode_videos
from shotstream.training.vocabulary import build_tokenizer

HELDOUT_SEED = 999_001
SMALL = 100e6  # parameters of a model that may go where files are kept below ten megabytes
DENOISERS = ("inter_shot", "intra_shot", "causal", "direct")  # the best first


class Stages(Run):
    """One method a stage."""

    def autoencoder(self) -> None:
        numbers = self.numbers("autoencoder")
        torch.manual_seed(self.recipe.data.seed)
        model = self.base.vae.float() if self.base else autoencoder.new_autoencoder(**numbers.sizes)
        trained = autoencoder.train(model, numbers, self.out / "autoencoder", self.accelerator())
        if self.is_main:
            write_whole(trained, self.out / "autoencoder" / "vae")

    def decoder(self) -> None:
        if self.base and not (self.out / "autoencoder" / "vae").is_dir():
            model = self.base.vae.float()
        else:
            model = self.read(PixelAutoencoder, "autoencoder/vae", "autoencoder")
        numbers = self.numbers("autoencoder")
        trained = autoencoder.train(model, numbers, self.out / "decoder", self.accelerator(), decoder_only=True)
        if self.is_main:
            write_whole(trained, self.out / "decoder" / "vae")

    def latents(self) -> None:
        if not self.is_main:
            return  # the others wait for it
        data, model, vae = self.recipe.data, self.recipe.model, self.vae
        keep_words = self.base and data.videos
        tokenizer = self.base.text.tokenizer if keep_words else build_tokenizer(model.text_len)
        write_whole(tokenizer, self.out / "tokenizer")
        if data.videos:
            stories = encode_videos(
                Path(data.videos).expanduser(),
                vae,
                height=model.height,
                width=model.width,
                fps=model.fps,
                max_chunks=model.max_chunks,
                cache=self.out / "videos",
            )
            stories, heldout = stories.split(data.heldout)
        else:
            heldout = encode_stories(vae, data.heldout, HELDOUT_SEED, data.shares)
            stories = encode_stories(vae, data.stories, data.seed, data.shares)
        probe = probe_of(vae, model.height, model.width, PartialState().device)
        replace(heldout, probe=probe).save(self.out / "heldout")
        replace(stories, probe=probe).save(self.out / "latents")

    def direct(self) -> None:
        text_encoder = self.first_text_encoder()
        student = Trainee(self.first_transformer(text_encoder.config.d_model), text_encoder)
        look, accelerator = self.look("direct", None), self.accelerator()
        numbers, folder = self.numbers("direct"), self.out / "direct"
        dealer = self.dealer(course=numbers.course)
        self.keep("direct", direct.train(student, dealer, self.schedule, numbers, folder, accelerator, look))

    def teacher(self) -> None:
        numbers = self.numbers("teacher")
        frozen_text = None if numbers.joint_text else self.base_text_encoder()
        if numbers.from_direct and "direct" in self.recipe.stages and self._has("direct"):
            text_encoder = self.text_encoder("direct").requires_grad_(True)
            transformer = self.fitting(self.transformer("direct"), self.out / "direct")
        else:
            text_encoder = frozen_text or self.first_text_encoder()
            transformer = self.first_transformer(text_encoder.config.d_model)
        trainee = Trainee(transformer, text_encoder if numbers.joint_text else None)

        def sample(trained: Trainee, batch: ShotBatch) -> Tensor:
            encoder = trained.text_encoder or frozen_text
            embeds, negative = embed_frozen(encoder, batch.tokens), self.negative(encoder)
            return list(teacher.trajectory(trained.transformer, batch, embeds, negative, self.schedule, numbers))[-1]

        look = self.look_by(sample, "teacher")
        trained = teacher.train(
            trainee,
            frozen_text,
            self.dealer(course=numbers.course),
            self.schedule,
            numbers,
            self.out / "teacher",
            self.accelerator(),
            look,
        )
        self.keep("teacher", trained)

    def _has(self, stage: str) -> bool:
        return (self.out / stage / "transformer").is_dir()

    def pairs(self) -> None:
        text_encoder = self.text_encoder()
        causal.store_pairs(
            frozen(self.transformer("teacher")).to(PartialState().device),
            text_encoder,
            self.negative(text_encoder),
            self.dealer(),
            self.schedule,
            self.numbers("causal"),
            self.numbers("teacher"),
            self.out / "pairs",
            self.accelerator(),
        )

    def causal(self) -> None:
        text_encoder, dealer = self.text_encoder(), self.dealer()
        numbers, student = self.numbers("causal"), self.transformer("teacher")
        maker = causal.maker_of(
            student, text_encoder, self.negative(text_encoder), dealer, self.schedule, self.numbers("teacher")
        )
        if not numbers.indicator:
            student.register_to_config(cut_angle=0.0)
        trained = causal.train(
            Trainee(student),
            text_encoder,
            dealer,
            self.schedule,
            numbers,
            self.numbers("direct") if numbers.true_steps else None,
            self.made("pairs", "pairs") if numbers.true_steps < numbers.course.steps else self.out / "pairs",
            maker,
            self.out / "causal",
            self.accelerator(),
            self.look("causal", text_encoder),
        )
        self.keep("causal", trained)

    def intra_shot(self) -> None:
        numbers, accelerator = self.numbers("intra_shot"), self.accelerator()
        student, critic = self.transformer(self._before("intra_shot")), self.transformer("teacher")
        networks = self._networks(numbers, student, critic, accelerator)
        look = self.look("intra_shot", networks.text_encoder)
        dealer, folder = self.dealer(course=numbers.course), self.out / "intra_shot"
        trained = intra_shot.train(networks, dealer, numbers, folder, accelerator, look)
        critic = networks.critic.whole().transformer
        if self.is_main:
            write_whole(critic, folder / "critic")
        self.keep("intra_shot", trained)

    def inter_shot(self) -> None:
        numbers, accelerator = self.numbers("inter_shot"), self.accelerator()
        before = self._before("inter_shot")
        student = self.transformer(before)
        torch.manual_seed(numbers.course.seed)  # the updates begin at random
        adapted = inter_shot.Adapted(student, numbers.lora_rank, numbers.lora_alpha) if numbers.lora_rank else None
        critic = self.transformer(*(("intra_shot", "critic") if before == "intra_shot" else ("teacher",)))
        networks = self._networks(numbers, student, critic, accelerator)
        look = self.look("inter_shot", networks.text_encoder)
        dealer, folder = self.dealer(course=numbers.course), self.out / "inter_shot"
        trained = inter_shot.train(networks, dealer, self.vae, numbers, folder, accelerator, look)
        self.keep("inter_shot", Trainee(adapted.merged()) if adapted else trained)

    def _before(self, stage: str) -> str:
        """The stage whose student `stage` goes on with: the last before it in the recipe that trains one."""
        earlier = self.recipe.stages[: self.recipe.stages.index(stage)] if stage in self.recipe.stages else ()
        students = [name for name in earlier if name in DENOISERS]
        return students[-1] if students else "causal"

    def _networks(
        self, numbers: Any, student: ShotTransformer, critic: ShotTransformer, accelerator: Accelerator
    ) -> SelfForcing:
        text_encoder = self.text_encoder()
        return SelfForcing(
            student=Learner(accelerator, Trainee(student), numbers.course),
            critic=Learner(accelerator, Trainee(critic), numbers.course, numbers.critic_lr),
            teacher=frozen(self.transformer("teacher")).to(accelerator.device),
            text_encoder=text_encoder,
            negative=self.negative(text_encoder),
            schedule=self.schedule,
            guidance=numbers.guidance,
        )

    def export(self) -> None:
        """The best student as OUT/model, the teacher as OUT/model/teacher, every student as OUT/students/STAGE to be
        compared: what there is of them."""
        if not self.is_main:
            return
        students = [name for name in DENOISERS if self._has(name)]
        if not students and not self._has("teacher"):
            raise UserError(f"{self.out} has no trained student or teacher: run the stages before export first.")
        name = self.recipe.model.name
        with whole_folder(self.out / "model") as folder:
            if students:
                self._write(folder, name, students[0])
            if self._has("teacher"):
                numbers = self.numbers("teacher")
                guidance = Guidance(numbers.sample_steps, numbers.guidance, self.recipe.model.negative_prompt)
                self._write(folder / "teacher", f"{name}, teacher", "teacher", guidance)
        print(f"written: {self.out / 'model'}, the weights of stage {(students or ['teacher'])[0]}")
        for student in students if len(students) > 1 else ():
            with whole_folder(self.out / "students" / student) as folder:
                self._write(folder, f"{name}, {student}", student)

    def _write(self, folder: Path, name: str, stage: str, guidance: Guidance | None = None) -> None:
        model = self.recipe.model
        transformer = self.transformer(stage).half()
        save_model(
            folder,
            name=name,
            transformer=transformer,
            schedule=self.schedule,
            height=model.height,
            width=model.width,
            fps=model.fps,
            guidance=guidance,
            vae=cast_vae(self.vae, dtype=torch.float16),
            text_encoder=self.text_encoder("direct" if stage == "direct" else "teacher").half(),
            tokenizer=self.tokenizer,
            prompting=self._prompting(),
            max_shard_size="8MB" if transformer.num_parameters() < SMALL else "5GB",
        )
        for path in folder.glob("*/config.json"):  # diffusers notes where it read the weights on this machine
            config = json.loads(path.read_text())
            config.pop("_name_or_path", None)
            path.write_text(json.dumps(config, indent=2) + "\n")

    def _prompting(self) -> Prompting | None:
        """Of real videos a model learns no other words than the one it started from had."""
        if self.recipe.data.videos:
            return self.base.prompting if self.base else None
        return toyworld_prompting(lambda phrase: not unknown_words(phrase, self.tokenizer))

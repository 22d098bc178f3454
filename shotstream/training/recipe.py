"""Every number of the recipe: one value per stage. Knows no stage's code, and no files (see `configuration`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from shotstream.toyworld.plot import Shares


@dataclass(frozen=True)
class Phase:
    """A part of a stage: until `end` (a share of all steps) batches of `batch` shots over all processes, each batch as
    many chunks long as one of `chunks`; only first shots if `first`."""

    batch: int
    chunks: tuple[int, ...]
    end: float = 1.0
    first: bool = False


@dataclass(frozen=True)
class Course:
    """How a stage learns. Rates warm up, stay, and fall linearly to zero from the share `decay_from` of all steps.
    Several processes share the weights out if `sharded` (FSDP), else each has all of them."""

    steps: int
    lr: float
    phases: tuple[Phase, ...]
    optimiser: str = "adamw"  # or "muon": that for the matrices of blocks, AdamW for the rest
    betas: tuple[float, ...] = (0.9, 0.98)
    weight_decay: float = 0.01
    warmup: int = 1
    decay_from: float = 1.0
    clip: float = 1.0
    ema: float = 0.99
    save_every: int = 200
    look_every: int = 400
    seed: int = 0
    sharded: bool = False

    def phase(self, step: int) -> Phase:
        """The phase that `step` falls in."""
        return next(phase for phase in self.phases if step < phase.end * self.steps)

    def rate(self, step: int) -> float:
        """Share of the full learning rate at `step`."""
        left = 1.0 if self.decay_from >= 1 else (1 - step / self.steps) / (1 - self.decay_from)
        return min(1.0, (step + 1) / self.warmup, left)


@dataclass(frozen=True)
class AutoencoderRecipe:
    """The pixel-art autoencoder, in groups of four frames (twice as many single frames); `decoder` goes on with its
    decoder alone once latents are fixed. Noise in units of a latent's deviation."""

    course: Course
    decoder: Course
    sizes: dict[str, Any] = field(default_factory=dict)  # of the network, where not its defaults
    latent_noise: float = 0.2
    decoder_noise: float = 0.15
    prior_weight: float = 2e-3
    character_weight: float = 3.0


@dataclass(frozen=True)
class DirectRecipe:
    """The short way to a student, without a teacher. `sampler_levels`: share of noise levels drawn from the sampler's
    own; `history_noise`: largest deviation of noise on context and clean chunks."""

    course: Course
    sampler_levels: float = 0.5
    history_noise: float = 0.15
    character_weight: float = 3.0
    unknown_words: float = 0.02


@dataclass(frozen=True)
class TeacherRecipe:
    """Stage 1 (paper section 3.2). `trained`: "all" or "self_attention". `from_direct`: begin with the weights of the
    stage `direct`, which to a small model is what the paper's pretrained backbone is to it. `bell` weighs noise levels
    as published, down to zero at both ends: for a backbone that knows pictures, not where composing one from noise is
    to be learned."""

    course: Course
    trained: str = "all"
    from_direct: bool = False
    bell: bool = True
    joint_text: bool = False  # train the text encoder too: the small model's is not pretrained
    drop_context: float = 0.1
    drop_text: float = 0.1
    context_noise: float = 0.0  # largest deviation of noise on context frames
    character_weight: float = 1.0
    unknown_words: float = 0.0
    sample_steps: int = 50
    guidance: float = 6.0


@dataclass(frozen=True)
class CausalRecipe:
    """Stage 2.1, causal initialisation: how many trajectories are stored, in files of `per_file`, and how the student
    learns from them; with the teacher's `indicator` of cuts, or without one from here on (an ablation).

    The first `true_steps` are on real shots instead, as in the stage `direct` and with its numbers: a small teacher's
    few trajectories say less of the world than the shots do. The published recipe has none."""

    course: Course
    pairs: int = 0
    true_steps: int = 0
    per_file: int = 8
    chunks: tuple[int, ...] = (7,)
    indicator: bool = True


@dataclass(frozen=True)
class SelfForcingRecipe:
    """Stages 2.2.1 and 2.2.2 (paper section 3.4): `course` is the generator's. `shots`: longest story that is rolled
    out (inter-shot). `lora_rank` zero trains all weights."""

    course: Course
    critic_lr: float
    critic_steps: int = 5
    guidance: float = 3.0
    shots: int = 5
    lora_rank: int = 0
    lora_alpha: int = 0


@dataclass(frozen=True)
class DataRecipe:
    """Toy stories with these `shares` of the wider world, or a folder of `videos` with its annotation."""

    stories: int = 5000
    heldout: int = 80
    seed: int = 1
    videos: str = ""
    shares: Shares = Shares()


@dataclass(frozen=True)
class ModelRecipe:
    """The transformer's configuration where it is trained from nothing, the sampler, the picture; the caption of the
    teacher's unconditional branch ("": zeros in place of an embedding)."""

    name: str
    transformer: dict[str, Any] = field(default_factory=dict)
    negative_prompt: str = ""
    text_len: int = 64
    shift: float = 8.0
    steps: tuple[int, ...] = (1000, 740, 500, 260)
    chunk_frames: int = 3
    default_chunks: int = 7
    max_chunks: int = 7
    height: int = 480
    width: int = 832
    fps: int = 16


@dataclass(frozen=True)
class Recipe:
    """`stages`: what `all` runs, in order. A stage's numbers may be left out if it is not to be run."""

    stages: tuple[str, ...]
    model: ModelRecipe
    data: DataRecipe = DataRecipe()
    autoencoder: AutoencoderRecipe | None = None
    direct: DirectRecipe | None = None
    teacher: TeacherRecipe | None = None
    causal: CausalRecipe | None = None
    intra_shot: SelfForcingRecipe | None = None
    inter_shot: SelfForcingRecipe | None = None
    precision: str = "no"  # "bf16" on a GPU
    gradient_checkpointing: bool = False
    look_at: int = 40  # held-out shots of each kind that sample sheets and read-back figures show

"""The losses of the training's stages: what is hidden from the model makes no difference, what is trained changes, and
a student moves to its teacher, not away."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator

from shotstream.models.transformer import ShotTransformer
from shotstream.sampler import Schedule
from shotstream.training import causal, direct, teacher
from shotstream.training.autoencoder import new_autoencoder
from shotstream.training.batches import ShotBatch, ShotDealer
from shotstream.training.data import encode_stories
from shotstream.training.learner import Learner
from shotstream.training.recipe import Course, DirectRecipe, Phase, TeacherRecipe
from shotstream.training.self_forcing import SelfForcing
from shotstream.training.trainee import Trainee
from shotstream.training.vocabulary import build_tokenizer

COURSE = Course(steps=2, lr=1e-2, phases=(Phase(2, (1,)),), save_every=10, look_every=10)
SCHEDULE = Schedule(shift=3.0)


@pytest.fixture(scope="module")
def dealer() -> ShotDealer:
    torch.manual_seed(0)
    vae = new_autoencoder(encoder_dim=8, encoder_blocks=1, decoder_dim=8, decoder_blocks=1, detail_dim=8)
    return ShotDealer(encode_stories(vae, 12, seed=0, progress=False), build_tokenizer(stories=200), 3, 64)


@pytest.fixture(scope="module")
def batch(dealer) -> ShotBatch:
    """Two later shots of two chunks."""
    later = [(story, i) for story, i in dealer.items if i and dealer.length(story[i]) >= 2]
    return dealer.collate(later[:2], 2)


def small(seed: int) -> ShotTransformer:
    torch.manual_seed(seed)
    transformer = ShotTransformer(dim=24, ffn_dim=48, num_layers=1, num_heads=2, freq_dim=8, text_dim=8, text_len=64)
    torch.nn.init.normal_(transformer.head.head.weight)  # it begins at zero, where nothing before it matters
    return transformer


def embeds_of(batch: ShotBatch, seed: int = 0) -> torch.Tensor:
    return torch.randn(len(batch.tokens), 64, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("dropped", "hidden"),
    [
        ({"drop_text": 1.0}, lambda batch, embeds: (batch, -embeds)),
        ({"drop_context": 1.0}, lambda batch, embeds: (replace(batch, context=-batch.context), embeds)),
        ({"drop_context": 1.0}, lambda batch, embeds: (replace(batch, context_shot=batch.context_shot + 1), embeds)),
    ],
)
def test_what_the_teacher_is_not_told_makes_no_difference(batch, dropped, hidden):
    trainee, embeds = Trainee(small(0)), embeds_of(batch)

    def loss(batch, embeds, **dropped) -> float:
        torch.manual_seed(1)
        numbers = TeacherRecipe(COURSE, **{"drop_text": 0.0, "drop_context": 0.0} | dropped)
        return teacher.loss_of(trainee, batch, embeds, SCHEDULE, numbers).item()

    with torch.no_grad():
        assert loss(batch, embeds, **dropped) == pytest.approx(loss(*hidden(batch, embeds), **dropped), rel=1e-6)
        assert loss(batch, embeds) != pytest.approx(loss(*hidden(batch, embeds)), rel=1e-6)


@pytest.mark.parametrize("trained", ["all", "self_attention"])
def test_only_what_is_to_be_trained_changes(dealer, tmp_path, trained):
    transformer = small(0)
    before = {name: p.clone() for name, p in transformer.named_parameters()}
    numbers = TeacherRecipe(COURSE, trained=trained)
    text = _Words()
    teacher.train(Trainee(transformer), text, dealer, SCHEDULE, numbers, tmp_path, Accelerator())
    changed = {name for name, p in transformer.named_parameters() if not torch.equal(p, before[name])}
    if trained == "all":
        assert changed >= {"patch_embedding.weight", "blocks.0.ffn.0.weight", "blocks.0.self_attn.q.weight"}
    else:
        assert changed == {name for name in before if ".self_attn." in name}


class _Words(torch.nn.Module):
    """A text encoder in the smallest form: a number per word."""

    class config:
        pad_token_id = 0

    def forward(self, input_ids, attention_mask):
        class Out:
            last_hidden_state = input_ids[..., None].float().expand(-1, -1, 8).sin()

        return Out


@torch.no_grad()
def test_a_change_in_mid_shot_is_learnt_as_the_engine_meets_it(dealer):
    """There the past is told anew what the present is told: no frame is learnt from beside a past of other words."""
    changing = [(story, i) for story, i in dealer.items if i and len({story[i].caption_at(f) for f in range(9)}) == 2]
    batch = dealer.collate(changing[:1], 3)
    student, numbers = Trainee(small(0)), DirectRecipe(COURSE, unknown_words=0.0)

    def loss(batch: ShotBatch, seed: int) -> float:
        torch.manual_seed(seed)
        return direct.loss_of(student, batch, SCHEDULE, numbers, _Words()).item()

    def reworded(row: int) -> ShotBatch:
        tokens = batch.tokens.clone()
        tokens[row, 0] += 1
        return replace(batch, tokens=tokens)

    read = []
    for seed in range(12):
        told = loss(batch, seed)
        read.append(tuple(loss(reworded(batch.caption[0, frame]), seed) != told for frame in (0, -1)))
    assert set(read) == {(True, False), (False, True)}


@torch.no_grad()
def test_the_causal_start_is_regressed_as_it_is_written(batch):
    """Chunk by chunk: each from a stored point of its own, seeing earlier ones as noisy as they are."""
    transformer, embeds = small(0), embeds_of(batch)
    states = torch.randn(2, 5, 6, *batch.target.shape[2:])
    torch.manual_seed(4)
    found = causal.loss_of(Trainee(transformer), batch, states, embeds, SCHEDULE)

    torch.manual_seed(4)
    levels = torch.randint(4, (2, 2)).tolist()
    errors = []
    for item in range(2):
        frames = [states[item, levels[item][chunk], 3 * chunk : 3 * chunk + 3] for chunk in range(2)]
        for chunk in range(2):
            seen = 3 * (chunk + 1)
            noisy = torch.cat(frames[: chunk + 1])
            times = [0.0] * 6 + [SCHEDULE.timesteps[levels[item][c]].item() for c in range(chunk + 1) for _ in range(3)]
            kinds = [-1] * 6 + [c for c in range(chunk + 1) for _ in range(3)]
            mask = torch.tensor([[key <= query for key in kinds] for query in kinds])
            flow = transformer(
                torch.cat([batch.context[item], noisy])[None],
                torch.tensor([times]),
                embeds[None],
                batch.caption_index[item : item + 1, : 6 + seen],
                torch.arange(6 + seen),
                batch.shot_index[item, : 6 + seen],
                mask,
            )[0, -3:]
            sigma = times[-1] / 1000
            errors.append((noisy[-3:] - sigma * flow - states[item, -1, seen - 3 : seen]).square().mean().item())
    assert found.item() == pytest.approx(sum(errors) / len(errors), rel=1e-4)


def always(value: float) -> ShotTransformer:
    """A network whose flow is the same number everywhere."""
    transformer = small(0)
    with torch.no_grad():
        transformer.head.head.weight.zero_()
        transformer.head.head.bias.fill_(value)
    return transformer


@pytest.mark.parametrize(("real", "fake"), [(1.0, -1.0), (-1.0, 1.0)])
def test_a_student_moves_to_its_teacher_and_away_from_the_critic(batch, real, fake):
    """Clean is noisy minus flow: a teacher of greater flow than the critic's wants smaller samples."""
    accelerator, student, embeds = Accelerator(), always(0.0), embeds_of(batch)
    networks = SelfForcing(
        student=Learner(accelerator, Trainee(student), COURSE),
        critic=Learner(accelerator, Trainee(always(fake)), COURSE),
        teacher=always(real).requires_grad_(False),
        text_encoder=None,
        negative=torch.zeros(64, 8),
        schedule=SCHEDULE,
        guidance=3.0,
    )

    def sample() -> float:
        torch.manual_seed(3)
        return networks.rolled_out(batch, embeds, None).mean().item()

    before = sample()
    networks.teach_student(batch, embeds, 1, 0)
    assert (sample() - before) * (real - fake) < -1e-4


def test_the_critic_learns_how_the_student_s_shots_are(batch):
    accelerator, embeds = Accelerator(), embeds_of(batch)
    networks = SelfForcing(
        student=Learner(accelerator, Trainee(always(0.0)), COURSE),
        critic=Learner(accelerator, Trainee(always(0.0)), COURSE),
        teacher=always(0.0),
        text_encoder=None,
        negative=torch.zeros(64, 8),
        schedule=SCHEDULE,
        guidance=3.0,
    )
    clean = torch.full_like(batch.target, 2.0)  # flow is noise minus clean: on the average two less than nothing
    losses = [networks.teach_critic(batch, embeds, clean, 0) for _ in range(60)]
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    assert networks.critic.unwrapped.transformer.head.head.bias.mean() < -0.1
    assert torch.equal(networks.student.unwrapped.transformer.head.head.bias, torch.zeros(64))

"""`plan`: what is computed is what is allocated, and what it says of cards follows from it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from shotstream.__main__ import main
from shotstream.ahead import Overlap
from shotstream.cards import CARDS, MARGIN, SPEEDS, empty_model, expected_fps, fits, room, shot_work
from shotstream.engine import Engine
from shotstream.events import Chunk, ShotDone, ShotRequest
from shotstream.footprint import Footprint, LiveBytes, measure
from shotstream.memory import Memory
from shotstream.models.cache import ShotCache
from shotstream.models.random_model import save_random_model
from shotstream.models.vae import LodgedState
from shotstream.models.weights import load_model
from shotstream.sampler import Schedule

HEIGHT, WIDTH = 64, 96
GIB = 2**30


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Large enough that its tensors and not the interpreter's small change are what is measured."""
    config = {"dim": 256, "ffn_dim": 768, "num_heads": 4, "num_layers": 4, "text_dim": 128, "text_len": 64}
    place = tmp_path_factory.mktemp("cards") / "model"
    return save_random_model(
        place, config, schedule=Schedule(default_chunks=2, max_chunks=4), height=HEIGHT, width=WIDTH
    )


@pytest.fixture(scope="module")
def computed(folder) -> Footprint:
    return measure(empty_model(str(folder), torch.float32), HEIGHT, WIDTH, 4)


def test_weights_caches_and_state_are_exactly_those_allocated(folder, computed):
    model = load_model(folder)
    sizes = {
        "transformer": sum(parameter.nbytes for parameter in model.transformer.parameters()),
        "vae": sum(parameter.nbytes for parameter in model.vae.module.parameters()),
        "text_encoder": sum(parameter.nbytes for parameter in model.text.encoder.parameters()),
    }
    assert computed.weights == sizes
    cache = next(value for value in vars(Engine(model)).values() if isinstance(value, ShotCache))
    assert computed.kept["caches"] == cache.keys.nbytes + cache.values.nbytes
    with torch.no_grad():
        _, state = model.vae.decode_step(torch.randn(3, 16, HEIGHT // 8, WIDTH // 8), model.vae.start_decoding())
    held = sum(entry.nbytes for entry in state if isinstance(entry, torch.Tensor))
    assert computed.kept["VAE state"] == pytest.approx(held, rel=0.02)
    with LiveBytes() as live:
        for number in range(100):
            model.text.encode(f"shot {number}")
    assert computed.kept["known captions"] == live.now


def test_a_text_encoder_in_8_bits_takes_what_is_computed(folder):
    """The numbers of a rounded layer, which torch counts as if it were none, and what it is computed in."""
    pytest.importorskip("torchao", reason="needs the extra 'int8'")
    computed = measure(empty_model(str(folder), torch.bfloat16), HEIGHT, WIDTH, 1, int8_text=True)
    text = load_model(folder, dtype=torch.bfloat16, int8_text=True).text
    size = 0
    for weight in (*text.encoder.parameters(), *text.encoder.buffers()):
        parts = [getattr(weight, name, None) for name in ("qdata", "scale", "zero_point")]
        size += sum(part.nbytes for part in parts) if parts[0] is not None else weight.nbytes
    assert computed.weights["text_encoder"] == size
    with LiveBytes() as live:
        text.encode("word " * 200)
    assert 0.7 * computed.working["text"] < live.peak <= computed.working["text"]


def six_shots(engine: Engine) -> Memory:
    memory = Memory()
    for index in range(6):
        events = engine.shoot(ShotRequest(f"a cat in shot {index}", memory, index, num_chunks=1))
        memory = [event for event in events if isinstance(event, ShotDone)][0].memory  # to its end: a cache goes back
    return memory


def there_before(footprint: Footprint) -> int:
    """Bytes of an engine that has made no shot yet, and of captions that this film does not have."""
    return footprint.kept["caches"] + footprint.kept["known captions"]


def test_the_engine_s_own_tensors_peak_where_it_says(folder):
    """A real shot that looks back at six others, with every tensor counted, wherever the engine makes it; within a
    tenth. What libraries take for themselves is not counted: on a CPU, convolutions copy into other layouts."""
    engine = Engine(load_model(folder), overlap=Overlap.NOTHING)  # the count is of one thread
    memory = six_shots(engine)
    with LiveBytes() as live:
        for _ in engine.shoot(ShotRequest("a fox", memory, 7, num_chunks=9)):
            pass
    computed = measure(empty_model(str(folder), torch.float32), HEIGHT, WIDTH, 9)  # with all the states that there are
    beside = computed.peak() - sum(computed.weights.values()) - there_before(computed)
    beside += sum(frame.nbytes for frame in engine._warm.pixels._kept.values())  # not on a card
    assert live.peak == pytest.approx(beside, rel=0.1)


def test_every_stage_of_a_small_card_takes_what_it_says(folder):
    """The same where weights come and go, stage by stage, with a card's tensors counted. A state lies outside of torch,
    as it lies outside of the card."""
    model = load_model(folder, low_vram=True)
    model.vae.vae.lodge = lambda state: LodgedState(state, _to_host, _from_host)
    engine = Engine(model, overlap=Overlap.NOTHING)
    memory, peaks = six_shots(engine), {}
    with LiveBytes() as live:
        for part in (model.vae.vae.module.encoder, model.vae.vae.module.decoder):  # its weights came, all others went
            part.register_forward_pre_hook(lambda *_: live.mark())
        for event in engine.shoot(ShotRequest("a fox", memory, 7, num_chunks=2)):
            stage = "decode" if isinstance(event, Chunk) else getattr(event, "stage", "encode")
            peaks[stage] = max(peaks.get(stage, 0), live.peak)
            live.mark()
    footprint = measure(empty_model(str(folder), torch.float32, low_vram=True), HEIGHT, WIDTH, 2)
    said = footprint.stages(low_vram=True)
    said["context"] = max(said["context"], said.pop("captions"))
    # neither is on a card: a CPU's weights that are joined, and frames that wait to be looked back at
    joined = sum(part.nbytes for block in model.transformer.blocks for part in block.self_attn._joint)
    frames = sum(frame.nbytes for frame in engine._warm.pixels._kept.values())
    for stage in ("context", "denoise", "decode"):
        beside = there_before(footprint) - joined - (frames if stage == "decode" else 0)
        assert peaks[stage] + beside == pytest.approx(said[stage], rel=0.05), stage
    for stage in ("text", "encode"):  # where it is counted that not all that was there before is gone yet
        assert peaks[stage] + there_before(footprint) - joined < said[stage]


def _to_host(entry: object) -> object:
    return entry.numpy().copy() if isinstance(entry, torch.Tensor) else entry


def _from_host(entry: object) -> object:
    return torch.from_numpy(entry).clone() if isinstance(entry, np.ndarray) else entry


def test_cards_follow_from_the_bytes():
    footprint = Footprint(
        {"transformer": 3 * GIB, "vae": GIB, "text_encoder": 11 * GIB},
        {"caches": 6 * GIB, "known captions": GIB, "captions": 0, "VAE state": 2 * GIB, "frames": 0},
        {"denoise": GIB, "decode": 2 * GIB},
        GIB // 2,
    )
    assert footprint.peak() == 26 * GIB
    answers = fits(footprint, footprint)
    assert list(answers) == list(CARDS) == [12, 16, 24, 48, 80, 96, 141]
    assert answers[48] == answers[141] == "yes" and answers[12] == answers[16] == answers[24] == "--low-vram"
    assert MARGIN * footprint.peak(low_vram=True) <= room(12)


@pytest.mark.parametrize("name, seconds", [("RTX 4090", 1265e12 / 165e12), ("H200", 1265e12 / 989e12)])
def test_speed_on_paper_is_that_of_the_slower_of_arithmetic_and_memory(name, seconds):
    work = shot_work(empty_model(None, torch.bfloat16), 480, 832, 7)
    assert work.linear + work.attention == pytest.approx(1265e12, rel=0.01)
    assert work.frames == 81
    assert expected_fps(work, SPEEDS[name], 0.5) == pytest.approx(81 / seconds / 2, rel=0.01)


def test_the_published_model_on_paper(capsys):
    """From the numbers alone: the sizes that its files have, the caches that the paper's sizes make."""
    assert main(["plan", "--json", "--chunks", "1", "--height", "480", "--width", "832"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["weights"]["transformer"] == pytest.approx(2 * 1.419e9, rel=0.001)
    assert said["weights"]["text_encoder"] == pytest.approx(11.36e9, rel=0.001)
    assert said["kept"]["caches"] == pytest.approx((5.62 + 1.61) * GIB, rel=0.002)
    assert said["kept"]["VAE state"] == pytest.approx(1.8 * GIB, rel=0.05)
    assert said["fits"]["12"] == "--low-vram" and said["fits"]["48"] == "yes"


def test_a_folder_is_planned_and_a_mistake_is_one_sentence(folder, capsys):
    assert main(["plan", "--model", str(folder), "--cards"]) == 0
    out = capsys.readouterr().out
    assert "computed, not measured" in out and "| H200" in out and "--low-vram" in out
    assert main(["plan", "--model", str(folder), "--cards", "--int8-text"]) == 0
    assert capsys.readouterr().out != out
    assert main(["plan", "--model", str(folder / "nowhere")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["plan", "--model", str(folder), "--height", "33"]) == 2
    told = capsys.readouterr().err
    assert "multiple of" in told and told.count("\n") == 1

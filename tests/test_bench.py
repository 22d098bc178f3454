"""`bench`: the arithmetic it claims is the arithmetic done, and its figures agree with each other."""

from __future__ import annotations

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from shotstream.cards import empty_model
from shotstream.evaluation import first_picture, speed
from shotstream.evaluation.measured_shot import WORLD, shoot
from shotstream.evaluation.rates import call_flops
from shotstream.models import kernels
from shotstream.models.cache import ShotCache
from shotstream.models.random_model import fill_randomly
from shotstream.models.rope import rope_phases
from shotstream.models.transformer import ShotTransformer

NUMBERS = {"dim": 96, "ffn_dim": 160, "num_heads": 2, "num_layers": 3, "text_dim": 32, "text_len": 12, "freq_dim": 32}


@pytest.mark.parametrize("stop", [3, 9])
def test_counted_flops_are_those_that_torch_sees(stop, monkeypatch):
    rows, columns, context, frames = 4, 6, 6, 3
    transformer = ShotTransformer(**NUMBERS)
    grid = transformer.patch_grid(rows, columns)
    device = torch.device("cpu")
    cache = ShotCache.allocate(transformer, (rows, columns), 9, device, torch.float32)
    with torch.no_grad():
        caption = transformer.embed_captions(torch.randn(1, 12, 32))
        times = transformer.times(torch.full((1, 1), 500.0))
    phases = rope_phases(torch.arange(6 + stop - frames, 6 + stop), torch.ones(frames), grid, 48, device)
    on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # which the counter does not know
    counter = FlopCounterMode(
        display=False, custom_mapping={on_cpu: lambda q, k, v, *_, out_shape=None, **__: sdpa_flop_count(q, k, v)}
    )
    monkeypatch.setattr(kernels, "one_dnn_linear", lambda: None)  # whose products the counter does not know either
    with torch.no_grad(), counter:
        transformer.forward_cached(
            torch.randn(1, frames, 16, rows, columns), times, caption, phases,
            cache.chunk_windows(stop),
        )  # fmt: skip
    assert call_flops(transformer, frames, context + stop, rows, columns).total == counter.get_total_flops()


def test_published_size_is_what_the_facts_say():
    """A full-size call on the last chunk of a shot, in the middle of which about 36 TFLOP were counted elsewhere."""
    with torch.device("meta"):
        transformer = ShotTransformer()
    middle = call_flops(transformer, 3, 6 + 12, 60, 104).total
    assert 25e12 < middle < 45e12


def test_figures_agree_with_each_other(random_model):
    report = speed.measure(random_model, shots=2, chunks=2)
    assert (report.shots, report.chunks, report.frames) == (2, 2, 42)
    assert (report.width, report.height) == (48, 32)
    assert 0 < report.first_pixels_seconds < report.first_segment_seconds
    assert 0 < report.fps < report.fps_without_vae
    assert list(report.stages) == list(speed.STAGES)
    assert all(stage.milliseconds > 0 for stage in report.stages.values())
    assert 0.5 < sum(stage.share for stage in report.stages.values()) < 2.1  # Python is besides; some stages overlap
    assert list(report.first_picture) == list(first_picture.PARTS)
    assert all(seconds >= 0 for seconds in report.first_picture.values())
    assert report.first_picture["denoise"] > 0 and report.first_picture["transport"] > 0
    total = report.frames / report.fps * 1000
    times = {"shot": 2, "chunk": 4, "chunk but the last": 2}
    for stage in report.stages.values():
        assert stage.milliseconds * times[stage.unit] == pytest.approx(stage.share * total)
    assert report.denoise_share_of_matmul == pytest.approx(
        report.denoise_flops_per_second / report.matmul_flops_per_second
    )
    text = speed.table(report)
    assert all(label in text for label, _ in speed.STAGES.values())
    assert f"{report.fps:.2f} FPS" in text


def test_bare_config_with_one_chunk_and_another_size(tmp_path, capsys):
    from shotstream.__main__ import main

    config = tmp_path / "config.json"
    config.write_text(json.dumps(NUMBERS))
    options = ["--height", "32", "--width", "64", "--chunks", "1", "--shots", "1", "--device", "cpu"]
    assert main(["bench", "--config", str(config), "--json", *options]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["width"], report["height"], report["frames"]) == (64, 32, 9)
    assert report["stages"]["cache_pass"]["milliseconds"] == 0  # the last chunk leaves nothing behind


@pytest.mark.parametrize(
    "content, options, words",
    [
        ("{}", ["--model", "somewhere"], "not both"),
        ("[", [], "not valid JSON"),
        ('{"dim": -1}', [], "dim"),
        ('{"dim": 97, "num_heads": 2}', [], "does not divide"),
        (json.dumps(NUMBERS), ["--height", "33"], "height"),
        (json.dumps(NUMBERS), ["--chunks", "81", "--height", "32", "--width", "32"], "chunks"),
    ],
)
def test_bad_input_is_told_in_one_sentence(tmp_path, capsys, content, options, words):
    from shotstream.__main__ import main

    config = tmp_path / "config.json"
    config.write_text(content)
    assert main(["bench", "--config", str(config), "--device", "cpu", *options]) == 2
    message = capsys.readouterr().err
    assert words in message and message.count("\n") == 1


def test_beside_the_plain_procedure(random_model_folder, capsys):
    from shotstream.__main__ import main

    options = ["--model", str(random_model_folder), "--shots", "1", "--chunks", "2", "--device", "cpu"]
    assert main(["bench", "--baseline", "--json", *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["apart"] < 1e-4 and found["frames"] == 21
    for side in ("ours", "baseline"):
        assert list(found[side]["stages"]) == list(speed.STAGES) and all(s > 0 for s in found[side]["stages"].values())
        assert 0 < found[side]["first_pixels"] < sum(found[side]["stages"].values()) * 1.5
    assert found["ours"]["first_pixels"] < found["baseline"]["first_pixels"]
    assert main(["bench", "--baseline", *options]) == 0
    assert "share of own roofline" in capsys.readouterr().out
    assert main(["bench", "--ladder", *options]) == 0
    out = capsys.readouterr().out
    assert "0 exact" in out and "4 2 steps" in out
    for other in ("--baseline", "--eight-bit"):
        assert main(["bench", "--ladder", other, *options]) == 2


@pytest.mark.slow
def test_a_shot_costs_the_same_late_in_a_film_and_memory_stays_flat():
    """Shots 2 to 30 of the shipped model, in processor time. That depends on what else runs: so the second is made once
    more beside each of the last ten. And what the process holds."""
    import resource
    import statistics
    import time

    from shotstream.ahead import Overlap
    from shotstream.engine import Engine
    from shotstream.events import ShotRequest
    from shotstream.memory import Memory
    from shotstream.models.weights import load_model
    from shotstream.story import compose_caption

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two that wait for each other on a busy machine use processor time
    engine, memory = Engine(load_model(), overlap=Overlap.NOTHING), Memory()
    seconds, ratios, held, second = [], [], [], None
    for number in range(30):
        request = ShotRequest(compose_caption(WORLD, number, "It jumps."), memory, number, 2)
        take = shoot(engine, request, time.process_time)
        memory = take.memory
        seconds.append(take.total)
        held.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        second = request if number == 1 else second
        if number >= 20:
            ratios.append(take.total / shoot(engine, second, time.process_time).total)
    torch.set_num_threads(threads)
    early, late, ratio = map(statistics.median, (seconds[1:11], seconds[20:30], ratios))
    print(f"processor seconds a shot: 2 to 11 {early:.2f}, 21 to 30 {late:.2f}, {ratio:.2f} times the second's")
    print(f"{held[1]:.0f} to {held[-1]:.0f} MiB")
    assert ratio < 1.15, ratios
    assert held[-1] - held[6] < 30, held  # MiB; a shot's memory is some KiB


def test_shapes_alone_become_a_model_that_shoots(random_model_folder):
    """What `--size published` measures, at a size that fits here."""
    model = fill_randomly(empty_model(str(random_model_folder), torch.float32), torch.device("cpu"))
    report = speed.measure(model, shots=1, chunks=2)
    assert report.frames == 21 and report.fps > 0
    encoder = model.text.encoder
    assert encoder.get_input_embeddings() is encoder.encoder.embed_tokens
    assert torch.isfinite(model.text.encode("a red fox")).all()

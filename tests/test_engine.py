"""The engine: one shot is the same however it is made, whoever makes another meanwhile, and wherever it was stopped."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from waiting import wait_until

from shotstream.ahead import Overlap
from shotstream.context import look_back
from shotstream.engine import Engine
from shotstream.errors import UserError
from shotstream.events import Chunk, Event, Progress, ShotDone, ShotRequest
from shotstream.memory import Memory
from shotstream.models.model import Model
from shotstream.models.random_model import save_random_model
from shotstream.models.weights import load_model
from shotstream.plan import plan_shot
from shotstream.sampler import seeded_noise
from shotstream.timing import Stopwatch

CAPTIONS = ("a fox in the snow shot0:it runs", "a fox in the snow shot1:close shot", "a fox in the snow shot2:night")


@pytest.fixture(scope="module")
def engine(random_model) -> Engine:
    return Engine(random_model)


def chunks_of(events: list[Event]) -> list[Chunk]:
    return [event for event in events if isinstance(event, Chunk)]


def latents_of(events: list[Event]) -> torch.Tensor:
    return torch.cat([chunk.latents for chunk in chunks_of(events)])


def frames_of(events: list[Event]) -> np.ndarray:
    return np.concatenate([chunk.frames for chunk in chunks_of(events)])


def film(engine: Engine, lengths: tuple[int, ...] = (2, 3), seed: int = 0) -> Memory:
    memory = Memory()
    for caption, chunks in zip(CAPTIONS, lengths, strict=False):
        memory = list(engine.shoot(ShotRequest(caption, memory, seed, chunks)))[-1].memory
    return memory


def assert_same_memory(a: Memory, b: Memory, **tolerance) -> None:
    for x, y in zip(a.shots, b.shots, strict=True):
        assert (x.caption, x.seed, x.num_frames, x.offsets) == (y.caption, y.seed, y.num_frames, y.offsets)
        torch.testing.assert_close(x.latents, y.latents, **tolerance)


def test_the_events_of_a_shot(engine):
    events = list(engine.shoot(ShotRequest(CAPTIONS[0], num_chunks=3)))
    assert [chunk.index for chunk in chunks_of(events)] == [0, 1, 2]
    assert [chunk.frames.shape for chunk in chunks_of(events)] == [(9, 32, 48, 3), (12, 32, 48, 3), (12, 32, 48, 3)]
    assert all(chunk.frames.dtype == np.uint8 and chunk.num_chunks == 3 for chunk in chunks_of(events))
    assert all(chunk.latents.shape == (3, 16, 8, 12) for chunk in chunks_of(events))
    steps = [(e.chunk, e.step) for e in events if isinstance(e, Progress) and e.stage == "denoise"]
    assert steps == [(chunk, step) for chunk in range(3) for step in range(4)]
    done = events[-1]
    assert isinstance(done, ShotDone) and done.memory.shots == (done.shot,)
    assert done.shot.num_frames == 33 and done.shot.offsets[0] == 0 and done.shot.offsets[-1] == 32
    assert done.shot.latents.shape == (len(done.shot.offsets), 16, 8, 12)
    assert np.array_equal(done.shot.thumbnails, frames_of(events)[list(done.shot.offsets)])
    stages = {"text", "context_encode", "context_pass", "denoise", "cache_pass", "decode"}
    assert set(done.seconds) == stages and all(seconds > 0 for seconds in done.seconds.values())


@pytest.mark.parametrize("overlap", [Overlap.USE, Overlap.PIXELS])
def test_overlapping_changes_when_things_are_made_and_nothing_else(random_model, overlap):
    serial, ahead = Engine(random_model, overlap=Overlap.NOTHING), Engine(random_model, overlap=overlap)
    request = ShotRequest(CAPTIONS[2], film(serial), 11, 6, attention=True)
    one, other = list(serial.shoot(request)), list(ahead.shoot(request))
    assert torch.equal(latents_of(one), latents_of(other)) and np.array_equal(frames_of(one), frames_of(other))
    assert_same_memory(one[-1].memory, other[-1].memory, atol=0, rtol=0)
    assert one[-1].attention == other[-1].attention and one[-1].seconds.keys() == other[-1].seconds.keys()
    kinds = [
        [(type(e), getattr(e, "index", None), getattr(e, "step", None)) for e in events] for events in (one, other)
    ]
    assert kinds[0] == kinds[1]
    rest = list(ahead.shoot(replace(request, prefix=latents_of(one)[:6])))
    torch.testing.assert_close(latents_of(rest), latents_of(one)[6:], atol=2e-4, rtol=0)


@pytest.mark.parametrize("overlap", Overlap)
def test_a_chunk_is_used_while_the_next_one_is_made_and_no_more(random_model, overlap):
    begun = set()

    def noise(chunk: int, step: int, shape: tuple[int, ...]) -> torch.Tensor:
        begun.add(chunk)
        return torch.zeros(shape)

    for event in Engine(random_model, overlap=overlap).shoot(ShotRequest(CAPTIONS[0], num_chunks=4), noise=noise):
        if isinstance(event, Chunk):
            following = min(event.index + 1, 3)
            if overlap is not Overlap.NOTHING:
                wait_until(lambda: following in begun)  # noqa: B023
            assert max(begun) == event.index if overlap is Overlap.NOTHING else max(begun) <= event.index + 2


def test_default_length_and_one_chunk(engine, random_model):
    assert len(chunks_of(list(engine.shoot(ShotRequest(CAPTIONS[0]))))) == random_model.default_chunks
    events = list(engine.shoot(ShotRequest(CAPTIONS[0], num_chunks=1)))
    assert len(frames_of(events)) == 9 and events[-1].shot.num_frames == 9


def test_pixels_leave_before_the_cache_pass_and_the_last_pass_is_not_made(random_model):
    engine, calls = Engine(random_model, overlap=Overlap.NOTHING), 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    hook = random_model.transformer.head.register_forward_hook(count)
    try:
        at_chunk = []
        for event in engine.shoot(ShotRequest(CAPTIONS[0], num_chunks=3)):
            if isinstance(event, Chunk):
                at_chunk.append(calls)
    finally:
        hook.remove()
    assert at_chunk == [5, 10, 15]  # context pass and four steps; then a cache pass and four steps each
    assert calls == 15


def test_same_seed_same_film_other_seed_other_film(engine, random_model):
    request = ShotRequest(CAPTIONS[1], film(engine), 5, 2)
    once, again = (list(maker.shoot(request)) for maker in (engine, Engine(random_model)))
    assert torch.equal(latents_of(once), latents_of(again))
    assert np.array_equal(frames_of(once), frames_of(again))
    assert_same_memory(once[-1].memory, again[-1].memory, atol=0, rtol=0)
    other = latents_of(list(engine.shoot(replace(request, seed=6))))
    assert (other - latents_of(once)).abs().mean() > 0.1


def test_the_shot_depends_on_caption_and_on_the_film_so_far(engine):
    memory = film(engine)
    base = latents_of(list(engine.shoot(ShotRequest(CAPTIONS[2], memory, 1, 1))))
    for other in (
        ShotRequest(CAPTIONS[1], memory, 1, 1),
        ShotRequest(CAPTIONS[2], Memory(memory.shots[:1]), 1, 1),
        ShotRequest(CAPTIONS[2], film(engine, seed=3), 1, 1),
    ):
        assert (latents_of(list(engine.shoot(other))) - base).abs().max() > 1e-3


@pytest.mark.parametrize("done", [1, 2, 3])
def test_a_shot_continued_equals_one_made_at_once(engine, done):
    request = ShotRequest(CAPTIONS[2], film(engine), 11, 4)
    whole = list(engine.shoot(request))
    prefix = latents_of(whole)[: 3 * done]
    rest = list(engine.shoot(replace(request, prefix=prefix)))
    assert [chunk.index for chunk in chunks_of(rest)] == list(range(done, 4))
    torch.testing.assert_close(latents_of(rest), latents_of(whole)[3 * done :], atol=1e-4, rtol=0)
    assert np.array_equal(frames_of(rest), frames_of(whole)[1 + 4 * (3 * done - 1) :])
    assert_same_memory(rest[-1].memory, whole[-1].memory, atol=1e-4, rtol=0)


def test_a_long_shot_costs_the_same_for_every_chunk_and_can_be_continued_anywhere(engine, random_model):
    """The model was trained for four chunks: from the fifth on a chunk attends to the first, the last and itself."""
    request = ShotRequest(CAPTIONS[2], film(engine), 11, 9)
    read = []

    def look(_, args: tuple, options: dict) -> None:
        read.append(args[5].keys.shape[1])

    hook = random_model.transformer.blocks[0].register_forward_pre_hook(look, with_kwargs=True)
    whole = list(engine.shoot(request))
    hook.remove()
    tokens = engine._idle.frame_tokens
    per_chunk = [read[1 + 5 * chunk] // tokens for chunk in range(9)]  # after the context pass, five calls a chunk
    assert per_chunk == [6 + 3 * n for n in (1, 2, 3, 4, 3, 3, 3, 3, 3)] and len(read) == 1 + 9 * 5 - 1
    assert len(frames_of(whole)) == 1 + 4 * 26 and whole[-1].shot.offsets[-1] == 104
    for done in (4, 5, 8):
        rest = list(engine.shoot(replace(request, prefix=latents_of(whole)[: 3 * done])))
        torch.testing.assert_close(latents_of(rest), latents_of(whole)[3 * done :], atol=2e-4, rtol=0)
        assert_same_memory(rest[-1].memory, whole[-1].memory, atol=2e-4, rtol=0)
    short = list(engine.shoot(replace(request, num_chunks=4)))
    assert torch.equal(latents_of(short), latents_of(whole)[:12])  # a shot that fits is as it was


class Counted:
    """Calls of a model's transformer, and latent frames that its VAE decoded, since they were last asked for."""

    def __init__(self, model: Model) -> None:
        self.calls = self.latents = 0
        self.hooks = [
            model.transformer.head.register_forward_hook(self.called),
            model.vae.decoder.register_forward_hook(self.decoded),
        ]

    def called(self, *_: object) -> None:
        self.calls += 1

    def decoded(self, *_: object) -> None:
        self.latents += 1

    def since(self) -> tuple[int, int]:
        counts, self.calls, self.latents = (self.calls, self.latents), 0, 0
        return counts


@pytest.fixture
def counted(random_model) -> Iterator[Counted]:
    counted = Counted(random_model)
    yield counted
    for hook in counted.hooks:
        hook.remove()


@pytest.mark.parametrize("overlap", Overlap)
def test_rolling_on_costs_the_same_however_long_the_shot_is(random_model, counted, overlap):
    engine = Engine(random_model, overlap=overlap)
    request = ShotRequest(CAPTIONS[2], film(engine), 11, 22)
    whole = list(engine.shoot(request))
    counted.since()
    made, costs = [], []
    for length in range(2, 23, 2):
        prefix = torch.cat([chunk.latents for chunk in made]).clone() if made else None  # as it comes off a disk
        rolled = list(engine.shoot(replace(request, num_chunks=length, prefix=prefix)))
        made += chunks_of(rolled)
        costs.append(counted.since())
    # the pass that its last chunk was spared, four steps, a pass, four steps; the first had the context pass instead
    assert costs == [(10, 6)] * 11
    assert torch.equal(latents_of(made), latents_of(whole)) and np.array_equal(frames_of(made), frames_of(whole))
    assert_same_memory(rolled[-1].memory, whole[-1].memory, atol=0, rtol=0)


def test_steering_a_long_shot_costs_no_more_and_comes_to_what_it_would_elsewhere(random_model, counted):
    engine = Engine(random_model, overlap=Overlap.NOTHING)
    request = ShotRequest(CAPTIONS[2], film(engine), 11, 22)
    layers, most = len(random_model.transformer.blocks), random_model.schedule.max_chunks
    for made, shown in ((5, 4), (22, 20), (22, 19)):
        whole = latents_of(list(engine.shoot(replace(request, num_chunks=made))))
        for _ in engine.shoot(replace(request, num_chunks=made + 2, prefix=whole)):
            pass  # the last thing asked for, whose chunks nobody saw
        steered = replace(request, caption=CAPTIONS[1], num_chunks=shown + 1, prefix=whole[: 3 * shown])
        counted.since()
        here = list(engine.shoot(steered))
        calls, decoded = counted.since()
        assert calls <= 1 + 1 + layers + 4 and decoded <= 3 * 4, "context, refilling, the steps; back to a known state"
        elsewhere = list(Engine(random_model, overlap=Overlap.NOTHING).shoot(steered))
        assert counted.since() == (calls, 3 * (shown + 1)) and most < shown + 1
        assert torch.equal(latents_of(here), latents_of(elsewhere))
        assert np.array_equal(frames_of(here), frames_of(elsewhere))
        assert_same_memory(here[-1].memory, elsewhere[-1].memory, atol=0, rtol=0)


def test_what_is_warm_is_used_for_the_very_same_shot_only(random_model, counted):
    engine = Engine(random_model, overlap=Overlap.NOTHING)
    memory = film(engine)
    request = ShotRequest(CAPTIONS[2], memory, 11, 2)
    prefix = latents_of(list(engine.shoot(request)))
    other = prefix.clone()
    other[-1, 0, 0, 0] += 1
    changes = {
        "another caption": {"caption": CAPTIONS[1]},
        "other frames looked back at": {"picks": ((0, 0),) * 6},
        "another film": {"memory": film(Engine(random_model), seed=3)},
        "a longer film": {"memory": film(Engine(random_model), lengths=(2, 3, 1))},
        "a number that differs": {"prefix": other},
        "somebody else's shot between": {},
        "the same": {},
    }
    for name, change in changes.items():
        list(engine.shoot(request))
        if name == "somebody else's shot between":
            list(engine.shoot(ShotRequest(CAPTIONS[0], seed=7, num_chunks=1)))
        going_on = replace(request, num_chunks=3, **({"prefix": prefix} | change))
        counted.since()
        here, cost = list(engine.shoot(going_on)), counted.since()
        elsewhere = list(Engine(random_model, overlap=Overlap.NOTHING).shoot(going_on))
        assert (cost[0] < counted.since()[0]) == (name == "the same")
        tolerance = {"atol": 2e-4 if name == "the same" else 0, "rtol": 0}
        torch.testing.assert_close(latents_of(here), latents_of(elsewhere), **tolerance)
        assert_same_memory(here[-1].memory, elsewhere[-1].memory, **tolerance)


def test_a_long_shot_that_is_cut_is_remembered_without_being_decoded_again(random_model, counted):
    engine = Engine(random_model, overlap=Overlap.NOTHING)
    request = ShotRequest(CAPTIONS[2], film(engine), 11, 16)
    shot = engine.shoot(request)
    made = [next(event for event in shot if isinstance(event, Chunk)) for _ in range(14)]
    shot.close()
    for length in (13, 12, 10):
        cut = replace(request, num_chunks=length, prefix=latents_of(made)[: 3 * length])
        counted.since()
        here = list(engine.shoot(cut))
        assert counted.since()[1] == 0
        elsewhere = list(Engine(random_model, overlap=Overlap.NOTHING).shoot(cut))
        assert_same_memory(here[-1].memory, elsewhere[-1].memory, atol=0, rtol=0)
        assert np.array_equal(here[-1].shot.thumbnails, elsewhere[-1].shot.thumbnails)


def test_chosen_context_frames_are_looked_back_at(engine):
    memory = film(engine)
    own = list(engine.shoot(ShotRequest(CAPTIONS[2], memory, 1, 1)))
    same = list(engine.shoot(ShotRequest(CAPTIONS[2], memory, 1, 1, picks=look_back(memory.shots))))
    assert torch.equal(latents_of(own), latents_of(same))
    other = list(engine.shoot(ShotRequest(CAPTIONS[2], memory, 1, 1, picks=((0, 0),) * 6)))
    assert not torch.allclose(latents_of(own), latents_of(other), atol=1e-3)
    for picks in (((0, 0),) * 5, ((0, 1),) * 6, ((2, 0),) * 6, ((1, 0), *((0, 0),) * 5), ((0, True),) * 6):
        with pytest.raises(UserError, match="looks back at 6 frames"):
            engine.shoot(ShotRequest(CAPTIONS[2], memory, picks=picks))


def test_attention_to_the_context_adds_up(engine, random_model):
    """Against attention written out for the first layer's first head: one key after the other."""
    memory = film(engine)
    request = ShotRequest(CAPTIONS[2], memory, 1, 2, attention=True)
    done = list(engine.shoot(request))[-1]
    assert len(done.attention) == 6 and all(share > 0 for share in done.attention) and sum(done.attention) < 1
    whole = list(engine.shoot(replace(request, attention=False)))
    assert whole[-1].attention is None
    asked_later = list(engine.shoot(replace(request, prefix=latents_of(whole))))
    assert chunks_of(asked_later) == [] and asked_later[-1].attention == pytest.approx(done.attention, abs=1e-5)
    assert list(engine.shoot(ShotRequest(CAPTIONS[0], num_chunks=1, attention=True)))[-1].attention is None


def test_a_cast_picture_is_a_shot_of_one_frame(engine, random_model):
    picture = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    cast = engine.cast(picture, "A fox.shot0:")
    assert (cast.num_frames, cast.offsets) == (1, (0,)) and np.array_equal(cast.thumbnails[0], picture)
    expected = random_model.vae.encode_frames(torch.from_numpy(picture).permute(2, 0, 1)[None] / 127.5 - 1)
    torch.testing.assert_close(cast.latents, expected, atol=1e-5, rtol=0)
    shot = list(engine.shoot(ShotRequest(CAPTIONS[1], Memory((cast,)), num_chunks=1)))
    assert shot[-1].memory.shots[0] is cast
    with pytest.raises(UserError, match="multiple of"):
        engine.cast(picture[:31], "A fox.")
    with pytest.raises(UserError, match="blank"):
        engine.cast(picture, " ")
    lacking = random_model.vae.encoder.register_forward_hook(lambda *_: torch.empty(1 << 58))
    try:
        with pytest.raises(UserError, match=r"^Not enough memory on cpu to look at this picture: [^\n]*\.$"):
            engine.cast(picture, "A fox.")
    finally:
        lacking.remove()


def test_a_shot_ended_early_is_remembered_as_it_is(engine):
    whole = list(engine.shoot(ShotRequest(CAPTIONS[0], num_chunks=4)))
    cut = list(engine.shoot(ShotRequest(CAPTIONS[0], num_chunks=2, prefix=latents_of(whole)[:6])))
    assert chunks_of(cut) == []
    assert cut[-1].shot.num_frames == 21
    short = list(engine.shoot(ShotRequest(CAPTIONS[0], num_chunks=2)))
    assert_same_memory(cut[-1].memory, short[-1].memory, atol=1e-4, rtol=0)


def test_two_interleaved_sessions_equal_separate_ones(random_model):
    engine = Engine(random_model)
    memories = [film(engine, seed=1), film(engine, lengths=(1,), seed=2)]
    requests = [ShotRequest(CAPTIONS[i + 1], memories[i], seed=i, num_chunks=2 + i) for i in range(2)]
    alone = [list(engine.shoot(request)) for request in requests]

    iterators: list[Iterator[Event]] = [engine.shoot(request) for request in requests]
    together: list[list[Event]] = [[], []]
    while any(iterators):
        for i, iterator in enumerate(iterators):
            event = next(iterator, None) if iterator else None
            if event is None:
                iterators[i] = None
            else:
                together[i].append(event)
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(latents_of(one), latents_of(other))
        assert np.array_equal(frames_of(one), frames_of(other))
        assert_same_memory(one[-1].memory, other[-1].memory, atol=0, rtol=0)


def test_shots_from_several_threads_equal_separate_ones(engine):
    requests = [ShotRequest(CAPTIONS[i], film(engine, lengths=(1,) * i), seed=i, num_chunks=2) for i in range(3)]
    alone = [list(engine.shoot(request)) for request in requests]
    with ThreadPoolExecutor(len(requests)) as pool:
        together = list(pool.map(lambda request: list(engine.shoot(request)), requests))
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(latents_of(one), latents_of(other))
        assert_same_memory(one[-1].memory, other[-1].memory, atol=0, rtol=0)


def test_a_saved_memory_gives_a_byte_identical_next_shot(engine, tmp_path):
    memory = film(engine)
    memory.save(tmp_path / "film")
    request = ShotRequest(CAPTIONS[2], memory, 4, 2)
    first = list(engine.shoot(request))
    second = list(engine.shoot(replace(request, memory=Memory.load(tmp_path / "film"))))
    assert frames_of(first).tobytes() == frames_of(second).tobytes()
    assert torch.equal(latents_of(first), latents_of(second))


def tensors_alive() -> int:
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


@pytest.mark.parametrize("overlap", Overlap)
def test_cancelling_anywhere_frees_everything(random_model, overlap):
    engine = Engine(random_model, overlap=overlap)
    request = ShotRequest(CAPTIONS[0], num_chunks=2)
    events = len(list(engine.shoot(request)))
    before, cache = tensors_alive(), engine._idle
    for stop in range(events):
        shot = engine.shoot(request)
        for _ in range(stop):
            next(shot)
        shot.close()
        assert engine._idle is cache  # the place of the caches is ready for the next shot
    del shot
    list(engine.shoot(request))  # in the place of what the one before left
    assert tensors_alive() == before
    assert not [thread for thread in threading.enumerate() if thread.name == "run-ahead"]


@pytest.mark.parametrize("overlap", Overlap)
def test_a_failure_in_a_shot_gives_the_caches_back(random_model, overlap):
    engine = Engine(random_model, overlap=overlap)

    def broken(*_: object) -> torch.Tensor:
        raise RuntimeError("no noise today")

    cache = engine._idle
    with pytest.raises(RuntimeError, match="no noise today"):
        list(engine.shoot(ShotRequest(CAPTIONS[0]), noise=broken))
    assert engine._idle is cache


@pytest.mark.parametrize("overlap", Overlap)
def test_lack_of_memory_in_a_shot_is_one_sentence_and_gives_the_caches_back(random_model, exhaust_memory, overlap):
    engine = Engine(random_model, overlap=overlap)
    cache = engine._idle
    exhaust_memory(7)
    shot = engine.shoot(ShotRequest(CAPTIONS[0], num_chunks=2))
    events = []
    with pytest.raises(UserError, match=r"^Not enough memory on cpu to go on with this shot: [^\n]*\.$"):
        for event in shot:
            events.append(event)
    assert engine._idle is cache
    # on its way to its pixels, a chunk takes memory too
    assert overlap is Overlap.PIXELS or len(chunks_of(events)) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only a CUDA device tells when it is waited for")
def test_nothing_inside_a_chunk_waits_for_the_device(random_model_folder):
    engine = Engine(load_model(random_model_folder, device="cuda", dtype=torch.bfloat16))
    memory = film(engine, lengths=(2,))  # and everything has been used once
    plan = plan_shot(ShotRequest(CAPTIONS[1], memory, 0, 3), engine.model)
    made = engine._make_shot(plan, seeded_noise(0), *engine._take(plan), Stopwatch(engine.model.device))
    for item in made:
        torch.cuda.set_sync_debug_mode("error" if isinstance(item, Progress) and item.stage != "text" else "default")
    torch.cuda.set_sync_debug_mode("default")


def test_shots_that_are_skipped_do_not_count(engine):
    """The discontinuity indicator knows no gaps; what is looked back at without one is counted as in the paper."""
    memory = film(engine, lengths=(2, 1, 2))
    first = Memory(memory.shots[:1])
    request = ShotRequest("a fox again", memory, 5, 2, picks=look_back(first.shots))
    skipping, plain = (latents_of(list(engine.shoot(replace(request, memory=shots)))) for shots in (memory, first))
    torch.testing.assert_close(skipping, plain, atol=0, rtol=0)
    latest = tuple((shot + 1, frame) for shot, frame in look_back(memory.shots[1:]))
    plan = plan_shot(replace(request, picks=latest), engine.model)
    assert plan.context_shots == (1, 1, 1, 2, 2, 2) and plan.rope_shot == 3


def test_caches_are_allocated_once(engine):
    cache = engine._idle
    pointers = cache.keys.data_ptr(), cache.values.data_ptr()
    film(engine, lengths=(4, 1, 2))
    assert engine._idle is cache
    assert (cache.keys.data_ptr(), cache.values.data_ptr()) == pointers


def test_a_chunks_calls_have_the_same_shapes_and_places_in_every_shot(random_model):
    """What a recorded sequence of kernels asks for: nothing but numbers changes from shot to shot."""
    block, calls = random_model.transformer.blocks[0], []

    def note(_: torch.nn.Module, inputs: tuple) -> None:
        x, modulation, (keys, _), phases, mask, window = inputs
        places = window.keys.data_ptr(), window.values.data_ptr(), window.place
        calls.append((x.shape, modulation.shape, keys.shape, phases.turns.shape, mask, window.keys.shape, places))

    hook = block.register_forward_pre_hook(note)
    try:
        film(Engine(random_model, overlap=Overlap.NOTHING), lengths=(3, 3, 3))
    finally:
        hook.remove()
    shots = [calls[at : at + len(calls) // 3] for at in range(0, len(calls), len(calls) // 3)]
    assert len(shots) == 3 and len(shots[0]) == 1 + 3 * len(random_model.schedule.steps) + 2
    assert shots[1][1:] == shots[2][1:] == shots[0][1:], "but the context, which has captions of its own in every shot"


def test_another_picture_size(engine):
    memory = Memory()
    for caption in CAPTIONS[:2]:
        events = list(engine.shoot(ShotRequest(caption, memory, num_chunks=1, height=64, width=24)))
        assert events[0] is not None and frames_of(events).shape == (9, 64, 24, 3)
        memory = events[-1].memory
    with pytest.raises(UserError, match="another model or picture size"):
        engine.shoot(ShotRequest(CAPTIONS[2], memory))


def test_noise_can_be_handed_in(engine):
    asked = []

    def noise(chunk: int, step: int, shape: tuple[int, ...]) -> torch.Tensor:
        asked.append((chunk, step, shape))
        return torch.full(shape, 0.1 * chunk + 0.01 * step)

    list(engine.shoot(ShotRequest(CAPTIONS[0], num_chunks=2), noise=noise))
    assert asked == [(chunk, step, (3, 16, 8, 12)) for chunk in range(2) for step in range(4)]


@pytest.mark.parametrize(
    "changes",
    [
        {"caption": ""},
        {"caption": " \n\t"},
        {"seed": -1},
        {"seed": 2**63},
        {"seed": 1.5},
        {"num_chunks": 0},
        {"num_chunks": -3},
        {"num_chunks": 81},
        {"num_chunks": 10**9},
        {"height": 33},
        {"height": 0},
        {"width": -48},
        {"height": 8, "width": 10**7},
        {"height": 128, "width": 192},
        {"picks": ((0, 0),) * 6},
        {"prefix": torch.zeros(3, 16, 8)},
        {"prefix": torch.zeros(3, 16, 8, 13)},
        {"prefix": torch.zeros(4, 16, 8, 12)},
        {"prefix": torch.zeros(15, 16, 8, 12)},
        {"prefix": torch.full((3, 16, 8, 12), torch.nan)},
        {"prefix": torch.zeros(3, 16, 8, 12, dtype=torch.int32)},
    ],
    ids=str,
)
def test_absurd_requests_are_one_sentence(engine, changes):
    with pytest.raises(UserError) as caught:
        engine.shoot(replace(ShotRequest(CAPTIONS[0]), **changes))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_the_same_story_through_a_wan_vae(tmp_path: Path):
    model = load_model(save_random_model(tmp_path / "wan"))
    engine = Engine(model)
    memory = film(engine, lengths=(2, 1))
    events = list(engine.shoot(ShotRequest(CAPTIONS[2], memory, 0, 2)))
    assert frames_of(events).shape == (21, 32, 48, 3)
    rest = list(engine.shoot(ShotRequest(CAPTIONS[2], memory, 0, 2, prefix=latents_of(events)[:3])))
    assert np.abs(frames_of(rest).astype(int) - frames_of(events)[9:]).max() <= 1
    assert_same_memory(rest[-1].memory, events[-1].memory, atol=1e-4, rtol=0)
    long = list(engine.shoot(ShotRequest(CAPTIONS[2], memory, 0, 5)))
    told = ShotRequest(CAPTIONS[1], memory, 0, 5, prefix=latents_of(long)[:12])  # from a state that was kept on the way
    here, elsewhere = (list(maker.shoot(told)) for maker in (engine, Engine(model)))
    assert torch.equal(latents_of(here), latents_of(elsewhere))
    assert np.array_equal(frames_of(here), frames_of(elsewhere))
    assert_same_memory(here[-1].memory, elsewhere[-1].memory, atol=0, rtol=0)


def test_in_bfloat16_memory_is_bfloat16_and_a_shot_still_continues(random_model_folder):
    model = load_model(random_model_folder, dtype=torch.bfloat16)
    engine = Engine(model)
    memory = film(engine, lengths=(1,))
    assert memory.shots[0].latents.dtype == torch.bfloat16
    whole = list(engine.shoot(ShotRequest(CAPTIONS[1], memory, 0, 2)))
    rest = list(engine.shoot(ShotRequest(CAPTIONS[1], memory, 0, 2, prefix=latents_of(whole)[:3])))
    assert torch.equal(latents_of(rest), latents_of(whole)[3:])

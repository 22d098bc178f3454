"""A film's state machine, driven by the real engine on a small model with random weights.

`on_change` runs in the thread that makes shots, so a test that acts in it stops or closes at an exact chunk: no sleeps.
"""

from __future__ import annotations

import io
import json
import random
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from complaints import refusal
from waiting import wait_until

from shotstream.backends.in_process import InProcessBackend
from shotstream.backends.turns import Turns
from shotstream.director import Director
from shotstream.errors import UserError
from shotstream.events import Chunk, Event, ShotRequest
from shotstream.film import shoot_film
from shotstream.memory import MemoryFile, ShotMemory, read_file, write_file
from shotstream.models.random_model import save_random_model
from shotstream.models.weights import load_model
from shotstream.note import Steer
from shotstream.provenance import read_note
from shotstream.queueing import MAX_WAITING
from shotstream.sampler import Schedule
from shotstream.saving import check_model, most_bytes, read_session
from shotstream.story import Choice, Shot, Story
from shotstream.takes import path_to
from shotstream.ui import render

STORY = "A red ball called Pip."
FIRST, LATER = 9, 12  # frames of a shot's first and later chunks


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> InProcessBackend:
    schedule = Schedule(default_chunks=3, max_chunks=4)
    folder = save_random_model(tmp_path_factory.mktemp("model"), vae="PixelAutoencoder", schedule=schedule)
    backend = InProcessBackend(lambda: load_model(folder))
    backend.start()
    backend.wait()
    return backend


class Recorder:
    """Passes requests on to a real backend and remembers them; fails at the shots it is told to."""

    def __init__(
        self, backend: InProcessBackend, fail_at: tuple[int, ...] = (), error: Exception | None = None
    ) -> None:
        self.backend, self.fail_at, self.error = backend, fail_at, error
        self.requests: list[ShotRequest] = []
        self.foreseen: list[str] = []
        self.early = False  # fails before anything was made

    @property
    def fps(self) -> int:
        return self.backend.fps

    @property
    def model_name(self) -> str:
        return self.backend.model_name

    @property
    def model(self):
        return self.backend.model

    def foresee(self, caption: str) -> None:
        self.foreseen.append(caption)
        self.backend.foresee(caption)

    def cast(self, picture: np.ndarray, caption: str) -> ShotMemory:
        return self.backend.cast(picture, caption)

    def shoot(self, request: ShotRequest) -> Iterator[Event]:
        self.requests.append(request)
        for event in self.backend.shoot(request):
            yield event
            if len(self.requests) - 1 in self.fail_at and (self.early or hasattr(event, "frames")):
                raise self.error


@pytest.fixture
def recorder(backend: InProcessBackend) -> Recorder:
    return Recorder(backend)


@pytest.fixture
def director(recorder: Recorder) -> Iterator[Director]:
    director = Director(recorder)
    yield director
    director.close()


def show_all(director: Director) -> list[bytes]:
    return [segment.data for segment in iter(director.next_segment, None)]


def work(director: Director) -> list[bytes]:
    """Does and shows all that there is to do; the segments."""
    shown = []
    while director._next_work():
        assert director.shoot_next()
        shown += show_all(director)
    return shown + show_all(director)


def shoot(director: Director, *captions: str) -> list[bytes]:
    """Queues, makes and shows shots; their segments."""
    shown = []
    for caption in captions:
        director.queue_shot(STORY, caption)
        shown += work(director)
    return shown


def film(director: Director) -> list[int]:
    """Keys of its takes."""
    return [take.key for take in director.view().takes]


def at_chunk(director: Director, number: int, act: Callable[[], None]) -> None:
    """Arranges that `act` happens once, as soon as the running shot has `number` chunks on disk."""
    done = []

    def on_change() -> None:
        if not done and director.view().chunk == number + 1:
            done.append(True)
            act()

    director._on_change = on_change


def frame_times(segments: list[bytes], fps: int) -> list[int]:
    """Timestamps of all frames, in frames."""
    times = []
    for segment in segments:
        with av.open(io.BytesIO(segment)) as container:
            times += [round(frame.time * fps) for frame in container.decode(video=0)]
    return times


def test_shots_are_made_in_order_and_each_remembers_those_before(director: Director, recorder: Recorder):
    shoot(director, "It jumps.", "Close-up.", "Night falls.")
    captions = [request.caption for request in recorder.requests]
    assert captions == [f"{STORY}shot0:It jumps.", f"{STORY}shot1:Close-up.", f"{STORY}shot2:Night falls."]
    assert [len(request.memory.shots) for request in recorder.requests] == [0, 1, 2]
    assert [shot.caption for shot in director.memory.shots] == captions
    assert len({request.seed for request in recorder.requests}) == 3
    view = director.view()
    assert [take.caption for take in view.takes] == ["It jumps.", "Close-up.", "Night falls."]
    assert all(take.finished and not take.stopped and take.has_still for take in view.takes)
    assert [director.still(take.key)[:4] for take in view.takes] == [b"\x89PNG"] * 3
    assert director.still(view.takes[-1].key + 1) is None
    assert view.stage == "" and view.fps > 0 and view.message is None


def test_an_edited_story_applies_to_later_shots(director: Director, recorder: Recorder):
    shoot(director, "It jumps.")
    director.queue_shot("A blue cube.", "It waits.")
    director.shoot_next()
    assert recorder.requests[1].caption == "A blue cube.shot1:It waits."
    assert recorder.requests[1].memory.shots[0].caption == f"{STORY}shot0:It jumps."


def test_one_timeline_through_shots_stops_failures_and_new_films(director: Director, recorder: Recorder):
    shown = shoot(director, "One.")

    def stop_after_showing_one() -> None:
        shown.append(director.next_segment().data)
        director.stop()

    at_chunk(director, 2, stop_after_showing_one)
    shown += shoot(director, "Two.")
    recorder.fail_at, recorder.error = (len(recorder.requests),), UserError("The camera broke.")
    shown += shoot(director, "Three.")
    recorder.fail_at = ()
    director.new_film()
    shown += shoot(director, "Four.")
    times = frame_times(shown, recorder.fps)
    assert times == list(range(times[0], times[0] + len(times)))


def test_stop_keeps_what_was_shown_and_remembers_exactly_that(director: Director, recorder: Recorder):
    shoot(director, "One.")
    at_chunk(director, 2, lambda: (director.next_segment(), director.stop()))
    director.queue_shot(STORY, "Two.")
    director.queue_shot(STORY, "Three.")
    director.shoot_next()
    view = director.view()
    assert [take.caption for take in view.takes] == ["One.", "Two."]
    assert (
        view.takes[1].stopped
        and view.takes[1].finished
        and view.takes[1].seconds == pytest.approx(FIRST / recorder.fps)
    )
    assert view.waiting == () and view.stage == "" and view.message is None
    assert work(director) == []
    assert [shot.num_frames for shot in director.memory.shots][1:] == [FIRST]
    shoot(director, "Three.")
    assert recorder.requests[-1].caption == f"{STORY}shot2:Three."


def test_a_shot_stopped_before_anything_was_shown_never_happened(director: Director, recorder: Recorder):
    at_chunk(director, 1, director.stop)
    director.queue_shot(STORY, "One.")
    director.shoot_next()
    assert director.view().takes == () and director.memory.shots == ()
    shoot(director, "Two.")
    assert recorder.requests[-1].caption == f"{STORY}shot0:Two."


def test_stop_drops_finished_footage_that_nobody_saw(director: Director):
    director.queue_shot(STORY, "One.")
    director.shoot_next()
    director.next_segment()
    director.stop()
    (take,) = director.view().takes
    assert take.stopped and show_all(director) == []


def test_a_failing_shot_is_told_and_the_film_so_far_stays(director: Director, recorder: Recorder, tmp_path: Path):
    first = shoot(director, "One.")
    recorder.fail_at, recorder.error = (1,), UserError("The camera broke.")
    director.queue_shot(STORY, "Two.")
    director.queue_shot(STORY, "Three.")
    director.shoot_next()
    view = director.view()
    assert view.message == "The camera broke." and view.held and view.stage == ""
    assert [shot.caption for shot in view.waiting] == ["Three."]  # but it is not made before somebody says so
    show_all(director)
    frames = director.export(tmp_path / "film.mp4")
    assert frames == len(frame_times(first, recorder.fps)) + FIRST
    director.queue_shot(STORY, "Four.")  # nobody asked for the rest of it
    work(director)
    assert [shot.num_frames for shot in director.memory.shots][:2] == [FIRST + 2 * LATER, FIRST]
    assert director.view().message is None
    assert [take.caption for take in director.view().takes][2:] == ["Three.", "Four."]


def test_a_shot_that_broke_off_goes_on_as_it_would_have(director: Director, recorder: Recorder):
    recorder.fail_at, recorder.error = (0,), UserError("The camera broke.")
    director.queue_shot(STORY, "One.")
    work(director)
    view = director.view()
    assert view.broken and view.takes[0].stopped and "Try again" in render.notes(view, "")
    assert director._next_work() is None  # what there is of it is closed when it is clear that it does not go on
    director.retry()
    work(director)
    (take,) = director._takes.values()
    whole = list(recorder.backend.shoot(recorder.requests[0]))[-1].shot
    assert recorder.requests[1].seed == recorder.requests[0].seed and recorder.requests[1].num_chunks == 3
    torch.testing.assert_close(take.memory.shots[0].latents, whole.latents, atol=1e-4, rtol=0)
    assert not take.stopped and director.view().message is None


def test_a_shot_that_came_to_nothing_waits_again(director: Director, recorder: Recorder):
    shoot(director, "One.")
    recorder.fail_at, recorder.error, recorder.early = (1,), UserError("The camera broke."), True
    director.queue_shot(STORY, "Two.")
    director.queue_shot(STORY, "Three.")
    work(director)
    view = director.view()
    assert view.message == "The camera broke." and view.held
    assert [shot.caption for shot in view.waiting] == ["Two.", "Three."] and len(view.takes) == 1
    director.queue_shot(STORY, "Four.")  # who goes on directing means that it should go on
    work(director)
    assert [take.caption for take in director.view().takes] == ["One.", "Two.", "Three.", "Four."]
    assert not director.view().held


def test_lack_of_memory_costs_one_shot(director: Director, exhaust_memory: Callable[[int], None], tmp_path: Path):
    shoot(director, "One.")
    exhaust_memory(7)
    director.queue_shot(STORY, "Two.")
    director.shoot_next()
    view = director.view()
    assert view.message.startswith("Not enough memory on cpu") and view.message.count(".") == 1
    assert len(director.memory.shots) == 1 and view.takes[1].stopped
    work(director)
    assert director.export(tmp_path / "film.mp4") == FIRST + 2 * LATER + FIRST


def test_a_full_disk_costs_one_shot(director: Director, tmp_path: Path):
    """A limit on the size of files stands in for a full disk: writing fails with the same OSError."""
    resource = pytest.importorskip("resource", reason="needs Unix limits")
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    at_chunk(director, 1, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard)))
    director.queue_shot(STORY, "One.")
    try:
        director.shoot_next()
        with pytest.raises(UserError, match="Cannot write"):
            director.export(tmp_path / "film.mp4")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert "cannot be kept on disk" in director.view().message and director.view().stage == ""
    assert len(list(director._reel.folder.glob("*.ts"))) == 1
    assert director.export(tmp_path / "film.mp4") == FIRST


def test_a_bug_costs_one_shot_and_shows_no_traceback(director: Director, recorder: Recorder):
    recorder.fail_at, recorder.error = (0,), ZeroDivisionError("secret detail")
    director.queue_shot(STORY, "One.")
    assert director.shoot_next()
    assert "ZeroDivisionError" in director.view().message and "secret" not in director.view().message
    work(director)
    assert shoot(director, "Two.")


def test_a_new_film_forgets_everything(director: Director, recorder: Recorder, tmp_path: Path):
    shoot(director, "One.", "Two.")
    director.new_film()
    assert director.view().takes == () and director.memory.shots == ()
    with pytest.raises(UserError, match="no film yet"):
        director.export(tmp_path / "film.mp4")
    shoot(director, "Three.")
    assert recorder.requests[-1].caption == f"{STORY}shot0:Three."
    assert recorder.requests[-1].memory.shots == ()


def test_new_film_in_the_middle_of_a_shot(director: Director, recorder: Recorder):
    at_chunk(director, 1, lambda: (director.next_segment(), director.new_film()))
    director.queue_shot(STORY, "One.")
    director.shoot_next()
    assert director.view().takes == () and director.memory.shots == ()
    assert len(recorder.requests) == 1  # nothing is spent on remembering what was forgotten


@pytest.mark.parametrize("error", [None, UserError("The camera broke.")])
def test_what_becomes_of_closing_a_shot_is_nothing_to_another_film(recorder: Recorder, error: UserError | None):
    class Camera(Recorder):
        def shoot(self, request: ShotRequest) -> Iterator[Event]:
            for event in super().shoot(request):
                if len(self.requests) == 2:  # the first was cut, this one closes it
                    events.append(event)
                    director.new_film()
                    if error is not None:
                        raise error
                yield event

    events: list[Event] = []
    director = Director(Camera(recorder.backend))
    at_chunk(director, 2, lambda: (director.next_segment(), director.stop()))
    director.queue_shot(STORY, "One.")
    director.shoot_next()
    director.shoot_next()
    assert len(events) == 1  # and it ends there
    assert director.view().message is None and director.view().takes == () and director.memory.shots == ()
    director.close()


def test_a_shot_that_cannot_be_read_again_costs_one_shot(director: Director, recorder: Recorder):
    recorder.fail_at, recorder.error = (0,), UserError("The camera broke.")
    director.queue_shot(STORY, "One.")
    work(director)
    (take,) = director._takes.values()
    take.footage[0].source.write_bytes(b"damaged")
    director.retry()
    work(director)
    view = director.view()
    assert "cannot be read" in view.message and view.broken and len(recorder.requests) == 1
    shoot(director, "Two.")
    view = director.view()
    assert [take.caption for take in view.takes] == ["One.", "Two."] and take.lost
    assert view.message.startswith("The film cannot remember its last shot (What this shot goes on from")


def test_close_cancels_frees_the_disk_and_ends_the_thread(recorder: Recorder):
    director = Director(recorder)
    folder = director._reel.folder
    at_chunk(director, 1, director.close)
    director.queue_shot(STORY, "One.")
    director.shoot_next()
    assert not folder.exists() and director.memory.shots == ()
    assert director.shoot_next() is False
    director.close()


def test_export_holds_what_is_made_with_a_chapter_a_shot(director: Director, recorder: Recorder, tmp_path: Path):
    shown = shoot(director, "One <b>", "Two")
    director.queue_shot(STORY, "Three")
    director.shoot_next()  # nobody has seen it yet
    path = tmp_path / "film.mp4"
    num_frames = director.export(path)
    with av.open(str(path)) as container:
        assert [chapter["metadata"]["title"] for chapter in container.chapters()] == ["One <b>", "Two", "Three"]
    assert num_frames == len(frame_times(shown + show_all(director), recorder.fps))


def test_a_directed_film_can_be_made_again_from_its_note(director: Director, backend: InProcessBackend, tmp_path: Path):
    """With a steered shot, a dissolve and chosen context frames; the engine is told what the note says."""
    director.remember_by("anchor")
    shoot(director, "One.", "Two.")
    director.steer("Now it sleeps.")
    work(director)
    director.queue_shot(STORY, "Three.", 2, dissolve=True)
    work(director)
    director.export(tmp_path / "film.mp4")
    note = read_note(tmp_path / "film.mp4")
    assert [shot.num_chunks for shot in note.shots] == [3, 6, 2] and note.shots[2].dissolve
    assert [(steer.chunk, steer.caption) for steer in note.shots[1].steers] == [(3, "Now it sleeps.")]
    *_, done = shoot_film(backend, note)
    for made, made_again in zip(director.memory.shots, done.memory.shots, strict=True):
        assert made.caption == made_again.caption and made.num_frames == made_again.num_frames
        torch.testing.assert_close(made.latents, made_again.latents, atol=1e-4, rtol=0)
    assert "One." in director.captions() and director.storyboard()[:4] == b"\x89PNG"
    assert director.story().shots == (Shot("One."), Shot("Two.", "Now it sleeps."), Shot("Three."))


def test_footage_runs_ahead_of_the_viewer_by_one_shot_at_most(director: Director):
    director.queue_shot(STORY, "One.")
    director.queue_shot(STORY, "Two.")
    director.shoot_next()
    assert director._next_work() is None
    director.next_segment()
    assert director._next_work() is not None


@pytest.mark.parametrize("caption", ["", "   \n", "\x00\x07", "x" * 50_000])
def test_prompts_that_cannot_be_shot_are_refused_in_one_sentence(director: Director, caption: str):
    with pytest.raises(UserError):
        director.queue_shot(STORY, caption)
    assert director.view().waiting == ()


def test_a_queue_has_an_end(director: Director):
    for number in range(MAX_WAITING):
        director.queue_shot(STORY, f"Shot {number}.")
    with pytest.raises(UserError, match="waiting already"):
        director.queue_shot(STORY, "One too many.")


def test_a_model_that_cannot_be_loaded_is_told_at_every_shot():
    def load():
        raise UserError("No such model.")

    backend = InProcessBackend(load)
    backend.start()
    with pytest.raises(UserError, match="No such model"):
        backend.wait()
    director = Director(backend)
    director.queue_shot("", "One.")
    director.shoot_next()
    assert director.view().message == "No such model."
    director.close()


# The queue


def test_what_waits_can_be_edited_moved_and_removed_until_it_starts(director: Director, recorder: Recorder):
    keys = [director.queue_shot(STORY, caption) for caption in ("One.", "Two.", "Three.", "Four.")]
    director.edit(keys[1], "Zwei.")
    director.move(keys[3], 0)
    director.remove(keys[2])
    assert [(shot.key, shot.caption) for shot in director.view().waiting] == [
        (keys[3], "Four."),
        (keys[0], "One."),
        (keys[1], "Zwei."),
    ]
    work(director)
    assert [take.caption for take in director.view().takes] == ["Four.", "One.", "Zwei."]
    for act in (lambda: director.edit(keys[0], "Late."), lambda: director.move(keys[0], 0)):
        with pytest.raises(UserError, match="does not wait any more"):
            act()
    with pytest.raises(UserError, match="blank"):
        director.edit(director.queue_shot(STORY, "Five."), " ")
    assert director.view().waiting[0].caption == "Five."


@pytest.mark.parametrize("num_chunks", [0, -1, 81])
def test_lengths_that_no_shot_can_have_are_refused(director: Director, num_chunks: int):
    with pytest.raises(UserError, match="1 to 80 chunks"):
        director.queue_shot(STORY, "One.", num_chunks)


# The running shot


def test_a_cut_ends_the_shot_and_the_next_prompt_comes(director: Director):
    at_chunk(director, 2, lambda: (director.next_segment(), director.cut()))
    director.queue_shot(STORY, "One.")
    director.queue_shot(STORY, "Two.")
    work(director)
    view = director.view()
    assert [take.caption for take in view.takes] == ["One.", "Two."]
    assert view.takes[0].stopped and not view.takes[1].stopped
    assert [shot.num_frames for shot in director.memory.shots] == [FIRST, FIRST + 2 * LATER]


def test_a_cut_to_something_comes_before_all_that_waits(director: Director, recorder: Recorder):
    director.queue_shot(STORY, "One.")
    director.shoot_next()
    director.next_segment()
    director.queue_shot(STORY, "Two.")
    director.shoot_next()  # is ready, and nobody saw it
    director.queue_shot(STORY, "Three.")
    director.cut_to(STORY, "Now.", 2, dissolve=True)
    assert [shot.caption for shot in director.view().waiting] == ["Now.", "Two.", "Three."]
    work(director)
    view = director.view()
    assert [take.caption for take in view.takes] == ["One.", "Now.", "Two.", "Three."]
    assert [shot.num_frames for shot in director.memory.shots][:2] == [FIRST, FIRST + LATER] and view.takes[1].dissolve

    at_chunk(director, 1, lambda: (director.next_segment(), [director.queue_shot(STORY, "x") for _ in range(20)]))
    director.queue_shot(STORY, "Five.")
    director.shoot_next()
    with pytest.raises(UserError, match="The shot was cut, .* 20 shots are waiting"):
        director.cut_to(STORY, "Never.")
    assert director.view().takes[-1].seconds == pytest.approx(FIRST / recorder.fps)
    assert len(director.view().waiting) == MAX_WAITING
    for words, length in ((" ", None), ("Now.", 81)):  # nothing is cut to what cannot be
        director.remove(director.view().waiting[0].key)
        before = director.view()
        with pytest.raises(UserError):
            director.cut_to(STORY, words, length)
        assert director.view() == before


def test_a_cut_while_the_next_shot_is_ready_makes_that_one_again(director: Director, recorder: Recorder):
    """It remembered the whole of a shot that now is shorter."""
    director.queue_shot(STORY, "One.")
    director.queue_shot(STORY, "Two.")
    director.shoot_next()
    director.next_segment()
    director.shoot_next()  # the second shot is made while the first plays
    seed = recorder.requests[-1].seed
    director.cut()
    assert [shot.caption for shot in director.view().waiting] == ["Two."]
    work(director)
    assert [take.caption for take in director.view().takes] == ["One.", "Two."]
    assert recorder.requests[-1].seed == seed
    assert recorder.requests[-1].memory.shots[0].num_frames == FIRST


def test_steering_changes_the_caption_from_the_next_chunk_on(director: Director, recorder: Recorder):
    shown: list[bytes] = []

    def steer_after_one() -> None:
        shown.append(director.next_segment().data)
        director.steer("Now it sleeps.")

    at_chunk(director, 2, steer_after_one)
    director.queue_shot(STORY, "It jumps.")
    shown += work(director)
    (take,) = director.view().takes
    assert take.caption == "It jumps." and take.steers == ("Now it sleeps.",) and not take.stopped
    steered = recorder.requests[1]
    assert steered.caption == f"{STORY}shot0:Now it sleeps." and steered.seed == recorder.requests[0].seed
    assert len(steered.prefix) == 3 and steered.num_chunks == 4  # the usual three chunks of time for it
    assert director.memory.shots[0].num_frames == FIRST + 3 * LATER
    times = frame_times(shown, recorder.fps)
    assert times == list(range(FIRST + 3 * LATER))
    assert "--> 00:00:00.563\nIt jumps.\n\n2\n00:00:00.563 -->" in director.captions()  # after nine frames
    assert director.captions().endswith("\nNow it sleeps.\n")


def test_a_shot_is_told_something_else_half_way(director: Director, recorder: Recorder, tmp_path: Path):
    director.begin_story(Story(STORY, (Shot("It jumps.", "It sleeps."), Shot("It waits."))))
    first, _ = (shot.key for shot in director.view().waiting)
    assert director.view().waiting[0].then == director.story().shots[0].then == "It sleeps."
    director.edit(first, "It dances.")
    director.move(first, 1)
    director.move(first, 0)
    told = []

    def show() -> None:
        while director.next_segment():
            told.append(director.view().told)

    director._on_change = show
    work(director)
    captions = [f"{STORY}shot0:It dances.", f"{STORY}shot0:It sleeps.", f"{STORY}shot1:It waits."]
    assert [request.caption for request in recorder.requests] == captions
    half, rest, _ = recorder.requests
    assert half.num_chunks == rest.num_chunks == 6 and len(rest.prefix) == 9 and half.seed == rest.seed
    take = director.view().takes[0]
    assert take.steers == ("It sleeps.",) and not take.stopped
    assert [shot.num_frames for shot in director.memory.shots] == [FIRST + 5 * LATER, FIRST + 2 * LATER]
    assert told == ["It dances."] * 3 + ["It sleeps."] * 3 + ["It waits."] * 3  # of what is seen, not what is to come
    told.clear()
    director.replay(take.key)
    show()
    assert told == ["It dances."] * 3 + ["It sleeps."] * 3 + ["It waits."] * 3
    director.export(tmp_path / "film.mp4")
    assert read_note(tmp_path / "film.mp4").shots[0].steers == (Steer(3, "It sleeps."),)


def test_who_steers_first_replaces_what_was_yet_to_be_told(director: Director, recorder: Recorder, tmp_path: Path):
    steers = []

    def steer_after_one() -> None:
        director.export(tmp_path / "film.mp4")  # of what there is
        steers.append(read_note(tmp_path / "film.mp4").shots[0].steers)
        director.next_segment()
        director.steer("It waits.")

    at_chunk(director, 1, steer_after_one)
    director.queue_shot(STORY, "It jumps.", num_chunks=4, then="It sleeps.")
    work(director)
    assert steers == [()]
    assert [request.caption[-9:] for request in recorder.requests] == ["It jumps.", "It waits."]
    assert director._takes[film(director)[0]].steers == [Steer(1, "It waits.")]
    director.new_film()
    recorder.fail_at, recorder.error = (len(recorder.requests),), UserError("The camera broke.")
    director.queue_shot(STORY, "It jumps.", num_chunks=4, then="It sleeps.")
    work(director)
    director.queue_shot(STORY, "On.")  # the shot that broke off was told nothing else
    work(director)
    assert director.view().takes[0].steers == ()
    assert [shot.caption for shot in director.memory.shots] == [f"{STORY}shot0:It jumps.", f"{STORY}shot1:On."]


def test_a_steer_before_the_first_chunk_counts_from_the_second_on(director: Director, recorder: Recorder):
    recorder.early = True
    done = []
    director._on_change = lambda: done or (director._making and (done.append(1), director.steer("It waits.")))
    director.queue_shot(STORY, "It jumps.")
    work(director)
    captions = [request.caption[-9:] for request in recorder.requests if request.prefix is not None]
    assert captions[-1] == "It waits." and director._takes[film(director)[0]].steers == [Steer(1, "It waits.")]
    assert director.memory.shots[0].caption == f"{STORY}shot0:It waits."


def test_a_shot_that_ended_can_be_steered_on(director: Director, recorder: Recorder):
    shoot(director, "It jumps.")
    director.steer("It sleeps.")
    assert frame_times(work(director), recorder.fps)[0] == FIRST + 2 * LATER
    assert [shot.num_frames for shot in director.memory.shots] == [FIRST + 5 * LATER]
    assert len(director.view().takes) == 1
    director.new_film()
    with pytest.raises(UserError, match="no shot to steer"):
        director.steer("It sleeps.")


def test_a_shot_rolls_on_until_something_waits(director: Director, recorder: Recorder, backend: InProcessBackend):
    decoded = []
    hook = backend._engine.model.vae.decoder.register_forward_hook(lambda *_: decoded.append(1))
    director.keep_rolling(True)
    director.queue_shot(STORY, "It jumps.")
    for _ in range(4):
        director.shoot_next()
        show_all(director)
    hook.remove()
    assert len(decoded) == 3 * 9  # none twice: what comes back from the disk is what was made
    assert director.view().rolls_on and len(director.view().takes) == 1
    assert [request.num_chunks for request in recorder.requests] == [None, 5, 7, 9]
    director.queue_shot(STORY, "It sleeps.")
    director.shoot_next()
    assert [take.caption for take in director.view().takes] == ["It jumps.", "It sleeps."]
    director.keep_rolling(False)
    work(director)
    assert [shot.num_frames for shot in director.memory.shots] == [FIRST + 8 * LATER, FIRST + 2 * LATER]


def test_a_rolling_shot_waits_for_the_viewer_and_ends_at_a_cut(director: Director):
    director.keep_rolling(True)
    director.queue_shot(STORY, "It jumps.")
    director.shoot_next()
    assert director._next_work() is None  # more than two seconds lie ahead
    director.next_segment()
    director.shoot_next()
    assert director._next_work() is None
    director.next_segment()
    assert director.view().rolls_on
    director.cut()
    work(director)
    assert director._next_work() is None and director.memory.shots[0].num_frames == FIRST + LATER
    assert not director.view().rolls_on


def pictures(director: Director, key: int) -> np.ndarray:
    """[t, H, W, 3] int of a take's first chunk, as small as it was made."""
    with av.open(io.BytesIO(director._reel.load(director._takes[key].footage[0]).data)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(frames)[:, 8::16, 8::16].astype(int)


def test_a_dissolve_begins_with_the_picture_before_it(director: Director):
    shoot(director, "One.")
    director.queue_shot(STORY, "Two.", dissolve=True)
    work(director)
    one, two = film(director)
    last = director._reel.last_picture(director._takes[one].footage[-1]).astype(int)
    distance = [np.abs(picture - last).mean() for picture in pictures(director, two)]
    assert distance[0] < distance[3] < distance[7] and distance[0] < 0.3 * distance[7]


# Steps back and aside


def test_a_retake_has_new_noise_and_the_old_take_stays(director: Director, recorder: Recorder):
    shoot(director, "One.", "Two.", "Three.")
    one, two, three = film(director)
    director.retake(two)
    work(director)
    retaken = film(director)[1]
    assert film(director) == [one, retaken]
    first, again = (r for r in recorder.requests if r.caption == f"{STORY}shot1:Two.")
    assert first.seed != again.seed and [len(r.memory.shots) for r in (first, again)] == [1, 1]
    assert director.view().takes[1].others == (two, retaken) and director.view().branched
    director.retake(two, "Zwei.")
    work(director)
    assert [take.caption for take in director.view().takes] == ["One.", "Zwei."]
    requests = len(recorder.requests)
    director.choose_take(two)  # with all that came after it, and nothing is made again
    assert film(director) == [one, two, three] and len(director.memory.shots) == 3
    work(director)
    assert len(recorder.requests) == requests


def test_what_waits_behind_the_last_shot_waits_behind_its_retake_and_what_is_left_behind_is_told(director: Director):
    shoot(director, "One.", "Two.")
    one, two = film(director)
    director.queue_shot(STORY, "Three.")
    again = director.retake(two)
    assert [shot.caption for shot in director.view().waiting] == ["Two.", "Three."]
    work(director)
    assert told(director) == ["One.", "Two.", "Three."] and film(director)[1] == again
    for number in range(4, 9):
        director.queue_shot(STORY, f"Shot {number}.")
    director.retake(two)
    (waiting,), message = director.view().waiting, director.view().message
    assert waiting.caption == "Two." and "“Shot 4.”, “Shot 5.”, “Shot 6.” and 2 more" in message
    director.rewind(one)
    assert "not made: “Two.”." in director.view().message
    director.queue_shot(STORY, "Other.")
    assert director.view().message is None
    director.choose_take(two)
    assert "“Other.”" in director.view().message


def test_rewind_goes_on_from_an_older_memory_and_both_futures_stay(director: Director, recorder: Recorder):
    shoot(director, "One.", "Two.", "Three.")
    one, two, three = film(director)
    director.rewind(one)
    assert len(director.memory.shots) == 1
    shoot(director, "Other.")
    assert recorder.requests[-1].caption == f"{STORY}shot1:Other."
    other = film(director)[-1]
    tree = {node.key: (node.parent, node.lane, node.number, node.on_film) for node in director.view().tree}
    assert tree == {
        one: (0, 0, 1, True),
        two: (one, 0, 2, False),
        three: (two, 0, 3, False),
        other: (one, 1, 2, True),
    }
    director.choose_take(two)
    assert film(director) == [one, two, three]
    director.choose_take(other)
    assert film(director) == [one, other]
    director.rewind(0)
    assert film(director) == [] and director.memory.shots == ()
    shoot(director, "Elsewhere.")
    assert recorder.requests[-1].caption == f"{STORY}shot0:Elsewhere."
    with pytest.raises(UserError, match="gone"):
        director.rewind(99)


CROSSROADS = Story(
    STORY,
    (Shot("It walks."), Shot("It looks around.")),
    (Choice("Left", ("Left.", "Far left.")), Choice("Right", ("Right.",))),
)


def taken(director: Director) -> list[bool]:
    return [choice.taken for choice in director.view().choices]


def told(director: Director) -> list[str]:
    """Captions of its takes."""
    return [take.caption for take in director.view().takes]


def test_a_story_of_which_not_all_may_wait_leaves_no_choices(director: Director):
    director.queue_shot(STORY, "Before.")  # its film is left
    director.begin_story(replace(CROSSROADS, shots=tuple(Shot(f"Shot {number}.") for number in range(MAX_WAITING))))
    assert taken(director) == [False, False] and len(director.view().waiting) == MAX_WAITING
    director.begin_story(replace(CROSSROADS, shots=(*CROSSROADS.shots, *[Shot("On.")] * MAX_WAITING)))
    assert director.view().choices == () and len(director.view().waiting) == MAX_WAITING
    assert director.view().waiting[0].caption == "It walks."


def test_a_story_whose_last_shot_is_gone_offers_no_choice(director: Director):
    director.begin_story(CROSSROADS)
    director.shoot_next()
    director.next_segment()
    director.stop()
    assert director.view().choices == ()
    with pytest.raises(UserError, match="its story was left"):
        director.decide(0)
    work(director)
    assert told(director) == ["It walks."]


def test_another_shot_in_the_place_of_the_storys_last_is_not_taken_for_it(director: Director):
    director.begin_story(CROSSROADS)
    work(director)
    director.rewind(film(director)[0])
    shoot(director, "Elsewhere.", "Far from it.")
    director.decide(0)
    assert taken(director) == [True, False]  # at once, and only the one
    assert [shot.retake for shot in director.view().waiting] == [False, False]
    work(director)
    assert told(director) == ["It walks.", "It looks around.", "Left.", "Far left."]


def test_what_is_left_of_a_choice_stands_where_the_story_ended(director: Director):
    director.begin_story(CROSSROADS)
    work(director)
    director.decide(1)
    work(director)
    director.decide(0)
    director.remove(director.view().waiting[0].key)
    work(director)
    assert told(director) == ["It walks.", "It looks around.", "Far left."]
    director.retake(film(director)[1])
    work(director)
    assert director.story().choices == CROSSROADS.choices and told(director) == ["It walks.", "It looks around."]


def test_a_choice_branches_the_film_and_what_both_have_is_made_once(
    director: Director, recorder: Recorder, tmp_path: Path
):
    director.begin_story(CROSSROADS)
    assert director.story() == CROSSROADS
    work(director)
    assert director.story() == CROSSROADS
    assert [choice.name for choice in director.view().choices] == ["Left", "Right"] and taken(director) == [False] * 2
    with pytest.raises(UserError, match="gone"):
        director.decide(2)
    director.decide(0)
    director.decide(0)  # it is coming
    work(director)
    assert told(director) == ["It walks.", "It looks around.", "Left.", "Far left."]
    assert taken(director) == [True, False] and director.story().choices == ()
    shoot(director, "It waits.")  # goes on with what was decided
    director.decide(1)
    work(director)
    assert told(director) == ["It walks.", "It looks around.", "Right."] and taken(director) == [False, True]
    assert recorder.requests[-1].caption == f"{STORY}shot2:Right." and len(recorder.requests) == 6
    tree = [(node.number, node.lane) for node in director.view().tree]
    assert tree == [(1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (3, 1)]
    director.decide(0)
    assert len(work(director)) == 6  # both of its shots are shown again
    director.queue_shot(STORY, "On.", then="Now it sleeps.")
    director.save(tmp_path / "film.memory")
    seen = director.view()
    director.resume(tmp_path / "film.memory")
    assert director.view().choices == seen.choices and director.view().waiting == seen.waiting
    director.stop()
    assert told(director)[2:] == ["Left.", "Far left.", "It waits."] and len(recorder.requests) == 6
    director.new_film()
    assert director.view().choices == ()


def test_a_choice_while_its_story_waits_comes_after_it_and_may_be_changed(director: Director, recorder: Recorder):
    director.begin_story(CROSSROADS)
    director.queue_shot(STORY, "It waits.")
    director.decide(0)
    director.decide(1)
    waiting = ["It walks.", "It looks around.", "It waits.", "Right."]
    assert [shot.caption for shot in director.view().waiting] == waiting and taken(director) == [False, True]
    work(director)
    assert told(director) == waiting
    _, last, *_ = film(director)
    director.retake(last)
    work(director)
    again = film(director)[1]
    director.decide(0)  # after the take that is in the film
    work(director)
    assert film(director)[1] == again != last and told(director)[2:] == ["Left.", "Far left."]
    director.new_film()
    director.begin_story(CROSSROADS)
    while len(director.view().waiting) < MAX_WAITING:
        director.queue_shot(STORY, "On.")
    with pytest.raises(UserError, match="are waiting already"):
        director.decide(1)
    assert len(director.view().waiting) == MAX_WAITING


def test_who_decides_otherwise_at_once_still_sees_the_end_of_the_story(director: Director):
    director.begin_story(CROSSROADS)
    director.shoot_next()
    show_all(director)
    director.shoot_next()
    director.next_segment()
    director.decide(0)
    director.shoot_next()  # begun while two chunks of the story are yet to be seen
    assert told(director)[-1] == "Left."
    director.decide(1)
    assert len(show_all(director)) == 2
    work(director)
    assert told(director) == ["It walks.", "It looks around.", "Right."] and len(director.view().tree) == 3


def test_a_shot_that_another_film_went_on_from_is_steered_as_a_take_of_its_own(director: Director, recorder: Recorder):
    shoot(director, "One.", "Two.")
    one, two = film(director)
    director.pin(one, 16)
    director.rewind(one)
    director.steer("It sleeps.")
    (steered,) = film(director)
    assert steered != one and director.view().takes[0].others == (one, steered)
    director.choose_take(two)  # before anything of it was made
    assert film(director) == [one, two] and {frame.key for frame in director.view().frames} == {one, two}
    director.choose_take(steered)
    director.steer("It sleeps.")
    work(director)
    assert film(director) == [steered]
    assert [shot.num_frames for shot in director.memory.shots] == [FIRST + 5 * LATER]
    assert [frame.key for frame in director.view().frames if frame.pinned] == [steered]
    shoot(director, "Three.")
    director.choose_take(two)
    assert [shot.num_frames for shot in director.memory.shots] == [FIRST + 2 * LATER] * 2
    assert [take.seconds for take in director.view().takes] == [(FIRST + 2 * LATER) / recorder.fps] * 2
    assert director.view().message is None


def test_what_is_refused_changes_nothing(director: Director, monkeypatch: pytest.MonkeyPatch):
    resource = pytest.importorskip("resource", reason="needs Unix limits")
    shoot(director, "One.")
    (one,) = film(director)
    director.queue_shot(STORY, "Two.")
    director.shoot_next()
    director.queue_shot(STORY, "Three.")
    before = director.view()
    with monkeypatch.context() as less:
        less.setattr("shotstream.can.MAX_TAKES", 2)
        less.setattr("shotstream.director.LONGEST_SHOT", 1)
        with pytest.raises(UserError, match="2 takes"):
            director.retake(one)
        with pytest.raises(UserError, match="at most 1 chunks"):
            director.steer("It sleeps.")
    assert director.view() == before and len(show_all(director)) == 3
    director.rewind(one)
    show_all(director)
    director.queue_shot(STORY, "Three.")
    before, files = director.view(), sorted(director._reel.folder.iterdir())
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # in the place of a full disk
    try:
        with pytest.raises(UserError, match="cannot be kept on disk"):
            director.steer("It sleeps.")  # which would be another take
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert director.view() == before and sorted(director._reel.folder.iterdir()) == files


def test_a_shot_that_another_film_went_on_from_does_not_roll_on(director: Director, recorder: Recorder):
    shoot(director, "One.", "Two.")
    one, two = film(director)
    recorder.fail_at, recorder.error, recorder.early = (2,), UserError("The camera broke."), True
    director.retake(two)
    work(director)
    (again,) = director.view().waiting
    director.remove(again.key)
    assert film(director) == [one]  # and nothing waits
    director.keep_rolling(True)
    assert work(director) == [] and len(recorder.requests) == 3


def test_a_step_back_shows_the_last_picture_of_that_take_again(director: Director, recorder: Recorder):
    shown = shoot(director, "One.", "Two.")
    (one, two), frames = film(director), len(frame_times(shown, recorder.fps))
    director.rewind(one)
    (again,) = show_all(director)
    assert frame_times([again], recorder.fps) == list(range(frames, frames + LATER))
    director.choose_take(two)
    show_all(director)
    director.replay(one)
    times = frame_times(show_all(director), recorder.fps)
    assert times == list(range(frames + 2 * LATER, 2 * frames + 2 * LATER))


def test_a_step_back_in_the_middle_of_a_shot_drops_what_nobody_saw(director: Director):
    shoot(director, "One.")
    (one,) = film(director)
    at_chunk(director, 2, lambda: director.rewind(one))
    director.queue_shot(STORY, "Two.")
    work(director)
    assert film(director) == [one] and len(director.view().tree) == 1
    director.queue_shot(STORY, "Three.")
    at_chunk(director, 2, lambda: (show_all(director), director.rewind(one)))
    work(director)
    assert film(director) == [one]
    (three,) = {node.key for node in director.view().tree} - {one}
    director.choose_take(three)  # a part of it was seen, so it can be gone back to
    work(director)
    assert [shot.num_frames for shot in director.memory.shots] == [FIRST + 2 * LATER, FIRST + LATER]


def test_what_somebody_goes_back_to_counts_as_seen(director: Director):
    director.queue_shot(STORY, "One.")
    director.shoot_next()  # and nothing of it was shown yet
    (one,) = film(director)
    director.retake(one)
    work(director)
    assert len(director.view().tree) == 2 and film(director) != [one]
    director.choose_take(one)
    assert director.memory.num_frames == FIRST + 2 * LATER
    at_chunk(director, 1, lambda: director.retake(film(director)[-1]))  # the running one, after its first chunk
    director.queue_shot(STORY, "Two.")
    work(director)
    assert [take.stopped for take in director.view().takes] == [False, False]
    assert director.view().takes[1].others and len(director.view().tree) == 4


# Memory


def test_frames_can_be_pinned_and_dropped(director: Director, recorder: Recorder):
    shoot(director, *["One.", "Two.", "Three.", "Four.", "Five.", "Six.", "Seven."])
    keys = film(director)
    assert [(frame.key, frame.offset) for frame in director.view().frames] == [(key, 0) for key in keys[1:]]
    director.pin(keys[0], 0)
    director.drop(keys[6], 0)
    assert (keys[0], 0) in [(f.key, f.offset) for f in director.view().frames if f.pinned]
    assert [(f.key, f.offset) for f in director.view().frames if f.dropped] == [(keys[6], 0)]
    shoot(director, "Eight.")
    assert recorder.requests[-1].picks[0] == (0, 0) and (6, 0) not in recorder.requests[-1].picks
    director.pin(keys[0], 0, on=False)
    director.drop(keys[6], 0, on=False)
    assert not any(f.pinned or f.dropped for f in director.view().frames)
    director.pin(keys[2], director.memory.shots[2].offsets[-1])  # in the place of what is looked back at of its shot
    for key in keys[3:7]:
        director.pin(key, 0)
    assert "unpin one" in refusal(director.pin, keys[0], 0)
    assert sum(f.pinned for f in director.view().frames) == 5
    assert [f.number for f in director.view().frames if f.next] == [3, 4, 5, 6, 7, 8]
    director.drop(keys[3], 0)  # is not pinned any more: there is room for another
    director.pin(keys[0], 0)
    assert "unpin one" in refusal(director.pin, keys[3], 0)
    director.drop(keys[3], 0, on=False)
    for key in (keys[0], *keys[4:7]):
        director.pin(key, 0, on=False)
    director.pin(keys[2], director.memory.shots[2].offsets[-1], on=False)
    assert not any(f.pinned or f.dropped for f in director.view().frames)
    picture = director.remembered_frame(keys[0], 0)
    assert picture.shape == (32, 48, 3) and director.remembered_frame(keys[0], 1) is None
    for key, frame in ((keys[0], 1), (99, 0)):
        with pytest.raises(UserError):
            director.pin(key, frame)


def test_pins_and_drops_stay_with_a_shot_that_becomes_longer(director: Director, recorder: Recorder):
    shoot(director, "One.", "Two.")
    _, two = film(director)
    before = director.memory.shots[1].offsets
    for offset in before[1:5]:
        director.pin(two, offset)
    director.drop(two, before[5])
    director.steer("It sleeps.")
    work(director)
    after = director.memory.shots[1].offsets
    assert not set(before[1:6]) <= set(after)
    marked = [frame for frame in director.view().frames if frame.pinned or frame.dropped]
    assert marked and {(frame.key, frame.offset) for frame in marked} <= {(two, offset) for offset in after}
    shoot(director, "Three.")
    assert director.view().message is None
    assert {(1, frame.offset) for frame in marked if frame.pinned} <= set(recorder.requests[-1].picks)


def test_the_last_frame_cannot_be_dropped(director: Director):
    shoot(director, "One.")
    (key,) = film(director)
    offsets = director.memory.shots[0].offsets
    for offset in offsets[:-1]:
        director.drop(key, offset)
    with pytest.raises(UserError, match="last frame"):
        director.drop(key, offsets[-1])
    shoot(director, "Two.")
    director.drop(key, offsets[-1])  # now there are others
    director.rewind(key)
    shoot(director, "Other.")  # and back here a film with nothing but dropped frames is remembered all the same
    assert len(director.memory.shots) == 2


def test_the_anchor_keeps_the_first_shot(director: Director, recorder: Recorder):
    director.remember_by("anchor")
    shoot(director, *["One.", "Two.", "Three.", "Four.", "Five.", "Six.", "Seven.", "Eight."])
    assert [shot for shot, _ in recorder.requests[-1].picks] == [0, 2, 3, 4, 5, 6]
    with pytest.raises(UserError, match="recent, anchor, retrieval"):
        director.remember_by("first")


def test_what_is_typed_is_foreseen(director: Director, recorder: Recorder):
    shoot(director, "Tom sits.", *(f"A fox runs {n}." for n in range(7)))
    director.remember_by("retrieval")
    assert director.view().unsaid and 1 not in [frame.number for frame in director.view().frames if frame.next]
    director.expect("Tom again.")
    expected = [(f.number - 1, f.offset) for f in director.view().frames if f.next]
    assert expected[0][0] == 0 and not director.view().unsaid
    director.queue_shot(STORY, "Tom again.")
    work(director)
    assert list(recorder.requests[-1].picks) == expected
    assert recorder.foreseen == [request.caption for request in recorder.requests]  # told to the camera when queued
    assert director.view().unsaid  # that prompt is gone
    director.retake(film(director)[2])
    assert {frame.number for frame in director.view().frames if frame.next} == {1, 2}


def test_what_waits_is_encoded_before_it_begins_whatever_is_done_to_the_queue(director: Director, recorder: Recorder):
    """A caption has its shot's number in it: what is put before it, taken away or moved makes another of it."""
    text, encoded = recorder.model.text, []
    hook = text.encoder.register_forward_hook(lambda *_: encoded.append(1))
    text.forget()
    two, three, four = (director.queue_shot(STORY, f"{number}.", 1) for number in ("Two", "Three", "Four"))
    director.edit(two, "Two, at night.")
    director.move(four, 0)
    director.remove(three)
    director.cut_to(STORY, "One.", 1)
    director.queue_shot(STORY, "Five.", then="And so on.")
    wait_until(lambda: len(encoded) == len(set(recorder.foreseen)))
    work(director)
    director.retake(director.view().takes[0].key, "One, again.")
    director.queue_shot(STORY, "Two, again.", 1)
    wait_until(lambda: len(encoded) == len(set(recorder.foreseen)))
    director.next_segment()
    work(director)
    hook.remove()
    asked = [request.caption for request in recorder.requests]
    assert [caption.partition("shot")[2] for caption in dict.fromkeys(asked)] == [
        *("0:One.", "1:Four.", "2:Two, at night.", "3:Five.", "3:And so on.", "0:One, again.", "1:Two, again.")
    ]
    assert len(encoded) == len(set(recorder.foreseen))  # and none while a shot was made


def test_attention_is_told_when_asked_for(director: Director, recorder: Recorder):
    shoot(director, "One.", "Two.")
    assert all(frame.attention is None for frame in director.view().frames)
    director.weigh_attention(True)
    work(director)  # of the shot that is there
    looked = [frame.attention for frame in director.view().frames if frame.attention]
    assert looked and 0 < sum(looked) < 1
    requests = len(recorder.requests)
    shoot(director, "Three.")
    assert recorder.requests[-1].attention and len(recorder.requests) == requests + 1
    assert any(frame.attention for frame in director.view().frames)


def test_a_cast_picture_is_remembered_like_a_shot(director: Director, recorder: Recorder):
    picture = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    director.cast(STORY, "The hero.", picture)
    director.queue_shot(STORY, "It jumps.")
    work(director)
    view = director.view()
    assert [take.cast for take in view.takes] == [True, False] and view.takes[0].has_still
    assert [len(request.memory.shots) for request in recorder.requests] == [1]
    assert recorder.requests[0].caption == f"{STORY}shot1:It jumps." and recorder.requests[0].picks == ((0, 0),) * 6
    assert np.array_equal(director.remembered_frame(view.takes[0].key, 0), picture)


def test_the_picture_that_the_player_shows(director: Director, recorder: Recorder):
    assert director.picture_at(0.0) is None
    shoot(director, "One.")
    director.begin_player()  # as after an interruption
    shoot(director, "Two.")
    shots = [
        np.concatenate([event.frames for event in recorder.backend.shoot(request) if isinstance(event, Chunk)])
        for request in recorder.requests
    ]

    def shown(seconds: float, frames: np.ndarray = shots[1]) -> int:
        """Which of a shot's frames is most like it."""
        picture = director.picture_at(seconds).astype(int)
        return int(np.abs(frames.astype(int) - picture).mean((1, 2, 3)).argmin())

    fps, last = recorder.fps, len(shots[1]) - 1
    for frame in (0, 1, 8, 9, 15, last):
        assert shown(frame / fps) == shown((frame + 0.9) / fps) == frame
    assert shown(1e5) == last and np.array_equal(director.picture_at(1e5), shots[1][-1])
    one, _ = film(director)
    director.rewind(one)
    work(director)  # shows the end of that shot again
    assert shown(1e5, shots[0]) == last
    director.new_film()
    assert director.picture_at(0.0) is None
    shoot(director, "Three.")
    assert director.picture_at(0.0) is None and director.picture_at(1e5) is not None


def test_a_picture_cast_after_a_shot_that_is_cut_waits_again(director: Director):
    picture = np.full((32, 48, 3), 90, dtype=np.uint8)
    director.queue_shot(STORY, "One.")
    director.shoot_next()
    director.next_segment()
    director.cast(STORY, "The hero.", picture)
    director.shoot_next()
    assert len(director.memory.shots) == 2
    director.cut()  # the picture would come after footage that nobody is going to see
    assert [shot.cast for shot in director.view().waiting] == [True] and len(director.view().takes) == 1
    work(director)
    assert [shot.num_frames for shot in director.memory.shots] == [FIRST, 1]
    assert {frame.key for frame in director.view().frames} == set(film(director))


def test_a_retake_begins_when_the_film_before_it_was_seen(director: Director):
    shoot(director, "One.", "Two.")
    one, two = film(director)
    director.move(director.retake(two), 0)
    director.queue_shot(STORY, "Three.")
    director.move(director.view().waiting[1].key, 0)
    director.shoot_next()
    director.next_segment()
    assert director._next_work() is None  # else the rest of the third shot would never be seen
    assert len(show_all(director)) == 2 and director._next_work() is not None
    work(director)
    assert film(director)[0] == one and len(director.view().tree) == 4


# Another day


def test_a_saved_session_goes_on_elsewhere_as_it_would_have_here(recorder: Recorder, tmp_path: Path):
    here, there = Director(recorder), Director(recorder)
    try:
        picture = np.full((32, 48, 3), 90, dtype=np.uint8)
        here.cast(STORY, "The hero.", picture)
        shoot(here, "One.", "Two.")
        here.remember_by("anchor")
        here.pin(film(here)[1], 0)
        here.queue_shot(STORY, "Three.", 2)
        here.save(tmp_path / "film.memory")
        assert (tmp_path / "film.memory").stat().st_size < most_bytes(recorder.model)
        work(here)
        shoot(here, "Four.")
        assert there.resume(tmp_path / "film.memory") == STORY
        view = there.view()
        assert [take.caption for take in view.takes] == ["The hero.", "One.", "Two."]
        assert all(take.has_still and take.finished for take in view.takes)
        assert [shot.caption for shot in view.waiting] == ["Three."] and view.policy == "anchor"
        assert any(frame.pinned for frame in view.frames)
        work(there)
        shoot(there, "Four.")
        for ours, theirs in zip(here.memory.shots, there.memory.shots, strict=True):
            assert ours.caption == theirs.caption and ours.latents.equal(theirs.latents)
        assert there.export(tmp_path / "film.mp4") == FIRST + LATER + FIRST + 2 * LATER  # what was made there
        there.rewind(film(there)[1])
        with pytest.raises(UserError, match="no shot to steer"):
            there.steer("It sleeps.")
        there.retake(film(there)[1])
        work(there)
        assert [take.caption for take in there.view().takes] == ["The hero.", "One."]
    finally:
        here.close()
        there.close()


def test_all_takes_and_all_that_waits_are_saved(recorder: Recorder, tmp_path: Path):
    here, there = Director(recorder), Director(recorder)
    picture = np.full((32, 48, 3), 90, dtype=np.uint8)
    try:
        shoot(here, "One.", "Two.", "Three.")
        one, two, three = film(here)
        here.steer("It sleeps.")
        work(here)
        here.retake(two, "Other.")
        work(here)
        here.pin(three, 0)  # of another film than the one that is on
        here.rewind(one)
        work(here)
        at_chunk(here, 1, lambda: (here.cast(STORY, "A friend.", picture), here.save(tmp_path / "film.memory")))
        here.queue_shot(STORY, "Four.", 2, dissolve=True)
        work(here)
        here.retake(one, "First.")  # ends the film, so that the rest can only be made where it was saved before
        there.resume(tmp_path / "film.memory")
        assert [take.caption for take in there.view().takes] == ["One."]
        waiting = there.view().waiting
        assert [(shot.caption, shot.cast) for shot in waiting] == [("Four.", False), ("A friend.", True)]
        tree = {node.caption: (node.number, node.parent, node.lane) for node in there.view().tree}
        assert tree == {"One.": (1, 0, 0), "Two.": (2, one, 0), "Three.": (3, two, 0), "Other.": (2, one, 1)}
        work(there)
        for take in here._takes.values():
            if take.memory:
                theirs = there._takes[take.key].memory.shots
                assert [shot.caption for shot in theirs] == [shot.caption for shot in take.memory.shots]
                assert all(a.latents.equal(b.latents) for a, b in zip(theirs, take.memory.shots, strict=True))
        assert np.array_equal(there.remembered_frame(film(there)[-1], 0), picture)

        there.choose_take(three)
        assert [take.caption for take in there.view().takes] == ["One.", "Two.", "Three."]
        assert there.view().takes[2].steers == ("It sleeps.",)
        assert [(frame.key, frame.offset) for frame in there.view().frames if frame.pinned] == [(three, 0)]
        shoot(there, "Five.")
        assert there.view().message is None and len(there.memory.shots) == 4

        there.retake(two, "Again.")
        there.save(tmp_path / "again.memory")  # with a retake that waits
        here.resume(tmp_path / "again.memory")
        assert [shot.retake for shot in here.view().waiting] == [True]
        work(here)
        assert [take.caption for take in here.view().takes] == ["One.", "Again."]
        here.rewind(0)
        here.save(tmp_path / "begun.memory")
        there.resume(tmp_path / "begun.memory")
        assert there.view().takes == () and len(there.view().tree) == 8
    finally:
        here.close()
        there.close()


def test_a_session_of_the_version_before_is_opened(director: Director, tmp_path: Path):
    shoot(director, "One.", "Two.")
    director.queue_shot(STORY, "Three.")
    director.save(tmp_path / "film.memory")
    kept = read_file(tmp_path / "film.memory")
    session = json.loads(kept.session)
    for shot in (*session["takes"], *session["waiting"]):
        for name in ("after", "steers", "picture", "then"):
            del shot[name]
    for name in ("head", "model", "crossroads"):
        del session[name]
    write_file(tmp_path / "old.memory", replace(kept, session=json.dumps(session)))
    data = (tmp_path / "old.memory").read_bytes()
    before, after = b'"version":"3"', b'"version":"2"'
    assert data.count(before) == 1
    (tmp_path / "old.memory").write_bytes(data.replace(before, after))
    memory = director.memory
    director.resume(tmp_path / "old.memory")
    assert [take.caption for take in director.view().takes] == ["One.", "Two."]
    assert [shot.caption for shot in director.view().waiting] == ["Three."]
    assert [shot.caption for shot in director.memory.shots] == [shot.caption for shot in memory.shots]
    assert len(director._takes[film(director)[0]].memory.shots) == 1


CHOSEN = {
    "global_caption": STORY,
    "ends": [1],
    "choices": [{"name": "Left", "captions": ["Left."]}],
    "taken": [[]],
}
HOSTILE = {
    "nothing": "",
    "no JSON": "{",
    "nesting bomb": "[" * 100_000,
    "a list": "[]",
    "other shots": {"takes": []},
    "keys twice": {"waiting": [{"key": 1}]},
    "a key from nowhere": {"num_keys": 0},
    "an absurd seed": {"seed": 2**70},
    "a policy that there is not": {"policy": "first"},
    "a policy of another kind": {"policy": ["recent"]},
    "a frame that there is not": {"pinned": [[0, 1]]},
    "a shot that there is not": {"dropped": [[7, 0]]},
    "a blank caption": {"waiting": [{"key": 2, "caption": " "}]},
    "a name of several lines": {"model": "toy\nworld"},
    "a length that cannot be": {"waiting": [{"key": 2, "num_chunks": 10**9}]},
    "more than is known": {"waiting": [{"key": 2, "more": "x"}]},
    "a steer that is no text": {"waiting": [{"key": 2, "then": 7}]},
    "choices of another kind": {"crossroads": ["Go left"]},
    "a choice without shots": {"crossroads": CHOSEN | {"choices": [{"name": "Left", "captions": []}]}},
    "a choice never heard of": {"crossroads": CHOSEN | {"taken": [[], []]}},
    "a choice that became no shots": {"crossroads": CHOSEN | {"taken": [["x"]]}},
    "a choice that became shots to come": {"crossroads": CHOSEN | {"taken": [[3]]}},
    "a story that ends with a shot to come": {"crossroads": CHOSEN | {"ends": [1, 3]}},
    "a picture that there is not": {"waiting": [{"key": 2, "picture": 0}]},
    "a picture of another kind": {"waiting": [{"key": 2, "picture": "x"}]},
    "an end that there is not": {"head": 7},
    "a take after nothing": {"takes": [{"after": None}]},
    "a take after itself": {"takes": [{"after": 1}]},
    "a prompt after nothing": {"waiting": [{"after": 7}]},
    "steers out of order": {"takes": [{"steers": [{"chunk": 2, "caption": "x"}, {"chunk": 1, "caption": "x"}]}]},
    "steers of another kind": {"takes": [{"steers": [[1, "x"]]}]},
    "too much waits": {"num_keys": 500, "waiting": [{"key": key} for key in range(2, 200)]},
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_session_changes_nothing(director: Director, tmp_path: Path, change: str | dict):
    shoot(director, "One.")
    director.queue_shot(STORY, "Two.")
    director.save(tmp_path / "film.memory")
    kept = read_file(tmp_path / "film.memory")
    if isinstance(change, dict):
        session = json.loads(kept.session)
        for name, value in change.items():
            shot = name in ("waiting", "takes") and session[name][0]
            session[name] = [shot | entry for entry in value] if shot else value
        change = json.dumps(session)
    write_file(tmp_path / "hostile.memory", replace(kept, session=change))
    before = director.view()
    with pytest.raises(UserError, match="holds no session"):
        director.resume(tmp_path / "hostile.memory")
    assert director.view() == before
    director.resume(tmp_path / "film.memory")  # the honest one is taken
    assert [take.caption for take in director.view().takes] == ["One."]


def foreign(kept: MemoryFile, what: str) -> MemoryFile:
    """The session as another model would have made it."""
    session = json.loads(kept.session)
    if what == "another model":
        return replace(kept, session=json.dumps(session | {"model": "ShotStream"}))
    if what == "no such shape":
        return replace(kept, session=json.dumps(session | {"size": [64, 64]}))
    if what == "another picture":
        session["waiting"] = [session["takes"][0] | {"key": 2, "picture": 0}]
        picture = np.zeros((48, 32, 3), dtype=np.uint8)
        return replace(kept, session=json.dumps(session | {"num_keys": 2}), pictures=(picture,))
    shape = {"the published model": (16, 60, 104), "other channels": (8, 8, 12)}.get(what, (4, 12, 8))
    shots = tuple(replace(shot, latents=torch.zeros(len(shot.offsets), *shape)) for shot in kept.shots)
    return replace(kept, session=json.dumps(session | {"model": ""}), shots=shots)


@pytest.mark.parametrize(
    "what, told",
    [
        ("another model", "was made with ShotStream, not with random"),
        ("no such shape", "64x64"),
        ("the published model", "16x60x104"),
        ("other channels", "8x8x12"),
        ("turned", "4x12x8"),
        ("another picture", "48x32x3"),
    ],
)
def test_a_session_of_another_model_changes_nothing(director: Director, tmp_path: Path, what: str, told: str):
    shoot(director, "One.")
    director.save(tmp_path / "film.memory")
    write_file(tmp_path / "foreign.memory", foreign(read_file(tmp_path / "film.memory"), what))
    before = director.view()
    assert told in refusal(director.resume, tmp_path / "foreign.memory")
    assert director.view() == before
    shoot(director, "Two.")
    assert director.view().message is None


# Everything at once

PAINT = 100  # a film's cast pictures are of its own grey


def actions(director: Director, number: int, rng: random.Random) -> dict[str, Callable[[], object]]:
    """What somebody at the page could do now, also with things that are gone."""
    view, story = director.view(), f"Film {number}. "
    key = rng.choice([node.key for node in view.tree] or [99])
    waiting = rng.choice([shot.key for shot in view.waiting] or [99])
    frame = rng.choice([(f.key, f.offset) for f in view.frames] or [(99, 0)])
    picture = np.full((32, 48, 3), PAINT * (1 + number), dtype=np.uint8)
    words = f"It does {rng.randrange(1000)}."
    return {
        "queue": lambda: director.queue_shot(story, words, rng.choice((None, 1, 2, 6)), rng.random() < 0.3),
        "queue more": lambda: director.queue_shot(story, words),
        "cast": lambda: director.cast(story, words, picture),
        "edit": lambda: director.edit(waiting, words),
        "move": lambda: director.move(waiting, rng.randrange(4)),
        "remove": lambda: director.remove(waiting),
        "retry": director.retry,
        "cut": director.cut,
        "cut to": lambda: director.cut_to(story, words, rng.choice((None, 1, 2)), rng.random() < 0.3),
        "steer": lambda: director.steer(words),
        "roll": lambda: director.keep_rolling(rng.random() < 0.3),
        "stop": director.stop,
        "retake": lambda: director.retake(key, rng.choice((None, words))),
        "rewind": lambda: director.rewind(rng.choice((key, 0))),
        "choose take": lambda: director.choose_take(key),
        "replay": lambda: director.replay(key),
        "policy": lambda: director.remember_by(rng.choice(("recent", "anchor", "retrieval"))),
        "pin": lambda: director.pin(*frame, rng.random() < 0.7),
        "drop": lambda: director.drop(*frame, rng.random() < 0.5),
        "then": lambda: director.queue_shot(story, words, rng.choice((None, 1, 2)), then=words),
        "tell": lambda: director.begin_story(replace(CROSSROADS, global_caption=story)) if rng.random() < 0.3 else None,
        "decide": lambda: director.decide(rng.randrange(3)),
        "save": lambda: check_saved(director),
        "attention": lambda: director.weigh_attention(rng.random() < 0.3),
        "new film": lambda: director.new_film() if rng.random() < 0.1 else None,
    }


def check_saved(director: Director) -> None:
    """What is saved, at whatever moment, can be opened."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.memory"
        director.save(path)
        kept = read_file(path)
    try:
        check_model(read_session(kept), kept, director._backend.model)
    except UserError as error:
        raise AssertionError(kept.session) from error


def finished(director: Director) -> tuple[int, set[int]]:
    """Which film this is, and the takes of it that are closed and were seen to their end, as was all before them."""
    with director._condition:
        closed = [take for take in director._takes.values() if take.memory]
        return director._seed, {
            take.key for take in closed if all(piece.shown for shot in path_to(take) for piece in shot.footage)
        }


def direct_at_random(director: Director, number: int, hand: int, num_actions: int, shown: list[bytes]) -> None:
    rng = random.Random(f"{number}/{hand}")
    for _ in range(num_actions):
        before, were_finished = finished(director)
        possible = list(actions(director, number, rng).values())
        act = rng.choices(possible, weights=[4, 4, *[1] * (len(possible) - 2)])[0]
        with suppress(UserError):
            act()
        now, _ = finished(director)
        if now == before:
            kept = {node.key for node in director.view().tree}
            assert director._seed != before or were_finished <= kept
        for _ in range(rng.randrange(4)):  # somebody looks on: until the next change, or a moment if there is none
            with director._condition:
                director._condition.wait(0.1)
            if segment := director.next_segment():
                shown.append(segment.data)


def test_five_hundred_actions_at_any_moment(backend: InProcessBackend):
    """Two films, each directed at random by two at once while it is made and shown. No finished shot is lost, nothing
    fails, the stream has no gap, and neither film ever sees the other's words or pictures."""
    directors = [Director(backend), Director(backend)]
    shown: list[list[bytes]] = [[], []]
    with ThreadPoolExecutor(6) as pool:
        cameras = [pool.submit(lambda d=d: [None for _ in iter(d.shoot_next, False)]) for d in directors]
        hands = [
            pool.submit(direct_at_random, directors[number], number, hand, 125, shown[number])
            for number in (0, 1)
            for hand in (0, 1)
        ]
        try:
            for hand in hands:
                hand.result()
            for number, director in enumerate(directors):
                director.keep_rolling(False)
                director.stop()
                director.queue_shot(f"Film {number}. ", "The end.")
                with director._condition:
                    over = director._condition.wait_for(
                        lambda d=director: d._next_work() is None and d.view().takes and not d.view().waiting, 60
                    )
                assert over, director.view()
                shown[number] += show_all(director)
                view = director.view()
                assert view.message is None and view.takes[-1].caption == "The end."
                for take in director._takes.values():
                    if take.memory:  # what a film remembers is what it consists of
                        closed = [shot for shot in path_to(take) if shot.memory]
                        lengths = [shot.num_frames if shot.footage else 1 for shot in closed]
                        assert [seen.num_frames for seen in take.memory.shots] == lengths
                    for seen in take.memory.shots if take.memory else ():
                        assert seen.caption.startswith(f"Film {number}. ")
                        if seen.num_frames == 1:
                            assert (seen.thumbnails == PAINT * (1 + number)).all()
                times = sorted(frame_times(shown[number], backend.fps))
                assert times == list(range(len(times))) and len(times) > FIRST + 2 * LATER  # more than the end
        finally:
            for director in directors:
                director.close()
        for camera in cameras:
            camera.result(10)
    assert not any(director._reel.folder.exists() for director in directors)


def test_turns_are_first_come_first_served_and_a_cancelled_one_is_skipped():
    turns = Turns()
    first, second, third = turns.next(), turns.next(), turns.next()
    assert [turn.wait(0) for turn in (first, second, third)] == [True, False, False]
    with second:
        pass  # gives up waiting
    assert [turn.wait(0) for turn in (first, third)] == [True, False]
    with first:
        pass
    assert third.wait(0)


def test_a_shot_waits_for_the_running_one_and_can_be_cancelled_while_it_does(backend: InProcessBackend):
    running, waiting = (backend.shoot(ShotRequest(caption="shot0:A ball.", seed=seed)) for seed in (1, 2))
    next(running)
    assert next(waiting).stage == "turn"
    waiting.close()
    rest = list(running)
    assert rest[-1].memory.shots[0].seed == 1
    assert list(backend.shoot(ShotRequest(caption="shot0:A ball.", seed=3)))[-1].shot.seed == 3

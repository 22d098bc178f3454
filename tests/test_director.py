"""A film's state machine, driven by the real engine on a small model with random weights.

`on_change` runs in the thread that makes shots, so a test that acts in it stops or closes at an exact chunk: no sleeps.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import pytest

from shotstream.backends.in_process import InProcessBackend, Turns
from shotstream.director import MAX_WAITING, Director
from shotstream.errors import UserError
from shotstream.events import Event, ShotRequest
from shotstream.models.random_model import save_random_model
from shotstream.models.weights import load_model
from shotstream.sampler import Schedule

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

    @property
    def fps(self) -> int:
        return self.backend.fps

    def shoot(self, request: ShotRequest) -> Iterator[Event]:
        self.requests.append(request)
        for event in self.backend.shoot(request):
            yield event
            if len(self.requests) - 1 in self.fail_at and hasattr(event, "frames"):
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


def shoot(director: Director, *captions: str) -> list[bytes]:
    """Queues, makes and shows shots; their segments."""
    shown = []
    for caption in captions:
        director.queue_shot(STORY, caption)
        assert director.shoot_next()
        shown += show_all(director)
    return shown


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
    assert [shot.num_frames for shot in director.memory.shots][1:] == [FIRST]
    assert show_all(director) == []
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
    assert view.message == "The camera broke." and view.waiting == () and view.stage == ""
    assert len(director.memory.shots) == 1
    show_all(director)
    frames = director.export(tmp_path / "film.mp4")
    assert frames == len(frame_times(first, recorder.fps)) + FIRST
    shoot(director, "Again.")
    assert director.view().message is None and len(director.memory.shots) == 2


def test_lack_of_memory_costs_one_shot(director: Director, exhaust_memory: Callable[[int], None], tmp_path: Path):
    shoot(director, "One.")
    exhaust_memory(7)
    director.queue_shot(STORY, "Two.")
    director.shoot_next()
    view = director.view()
    assert view.message.startswith("Not enough memory on cpu") and view.message.count(".") == 1
    assert len(director.memory.shots) == 1 and view.takes[1].stopped
    show_all(director)
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
    assert len(list(director._reel.folder.iterdir())) == 1
    assert director.export(tmp_path / "film.mp4") == FIRST


def test_a_bug_costs_one_shot_and_shows_no_traceback(director: Director, recorder: Recorder):
    recorder.fail_at, recorder.error = (0,), ZeroDivisionError("secret detail")
    director.queue_shot(STORY, "One.")
    assert director.shoot_next()
    assert "ZeroDivisionError" in director.view().message and "secret" not in director.view().message
    show_all(director)
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


def test_footage_runs_ahead_of_the_viewer_by_one_shot_at_most(director: Director):
    director.queue_shot(STORY, "One.")
    director.queue_shot(STORY, "Two.")
    director.shoot_next()
    assert director._unshown_shots()
    director.next_segment()
    assert not director._unshown_shots()


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

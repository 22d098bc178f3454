"""Many viewers of one camera, on the shipped model: everyone waits about as long, and nobody sees another's film.

Each viewer directs a story of its own colour (and, as there are seven, of its own place), shot by shot, and is shown
every segment when it is due, as a page would. Waits are those of the sessions, colours are read in the pixels.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field

import av
import pytest

from shotstream.backends.in_process import InProcessBackend
from shotstream.evaluation.reader import read_frame
from shotstream.media import enlargement
from shotstream.models.weights import load_model
from shotstream.toyworld import world
from shotstream.ui.limits import Limits
from shotstream.ui.session import Session, Sessions
from shotstream.views import FilmView

PLACES = {
    **{"beach": "at the beach", "forest": "in the forest", "desert": "in the desert"},
    **{"city": "in the city", "mountains": "in the mountains", "meadow": "in the meadow"},
}
SHOTS = ("Medium shot. It jumps.", "Wide shot. It spins.", "Close-up. It looks happy.", "Medium shot. It waits.")


@pytest.fixture(scope="module")
def backend() -> InProcessBackend:
    backend = InProcessBackend(load_model)
    backend.start()
    backend.wait()
    return backend


@dataclass
class Viewer:
    """`waits` are seconds from each prompt to the first segment of its shot, `places` what was told of the line and
    `promises` how many seconds the wait was to take, at its beginning."""

    colour: str
    place: str
    shots: int
    waits: list[float] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    promises: list[tuple[int, int]] = field(default_factory=list)  # (which shot, seconds)
    film: list[bytes] = field(default_factory=list)

    async def watch(self, sessions: Sessions) -> None:
        name = f"{self.colour} {self.place}"
        session = sessions.open(name)
        asked = self.ask(session)
        async for view, _, segment in session.screen():
            assert view.message is None
            if view.place:
                self.places.append(view.place)
            if view.wait and len(self.promises) <= len(self.waits):
                self.promises.append((len(self.waits), view.wait))
            if segment:
                self.film.append(segment.data)
            if segment and len(view.takes) > len(self.waits):
                self.waits.append(time.monotonic() - asked)
            if self.has_seen(view):
                if len(view.takes) == self.shots:
                    break
                asked = self.ask(session)
        sessions.close(name)

    def ask(self, session: Session) -> float:
        story = f"A {self.colour} ball is {PLACES[self.place]} during the day."
        session.director.queue_shot(story, SHOTS[len(self.waits) % len(SHOTS)], 3)
        return time.monotonic()

    def has_seen(self, view: FilmView) -> bool:
        """Everything that it asked for."""
        return len(view.takes) == len(self.waits) > 0 and not (view.waiting or view.playing or view.stage)

    def seen(self) -> Counter[tuple[str | None, str]]:
        """(colour, place) that the middle pictures of all segments show."""
        seen: Counter[tuple[str | None, str]] = Counter()
        scale = enlargement(48, 32)
        for data in self.film:
            with av.open(io.BytesIO(data), format="mpegts") as container:
                frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
            reading = read_frame(frames[len(frames) // 2][scale // 2 :: scale, scale // 2 :: scale])
            seen[reading.colour, reading.place] += 1
        return seen


def watch_together(backend: InProcessBackend, count: int, shots: int) -> list[Viewer]:
    pairs = itertools.islice(itertools.product(PLACES, world.COLOURS), count)
    viewers = [Viewer(colour, place, shots) for place, colour in pairs]
    sessions = Sessions(backend, Limits(sessions=count))

    async def watch() -> None:
        await asyncio.gather(*(viewer.watch(sessions) for viewer in viewers))

    asyncio.run(watch())
    assert len(sessions) == 0 and len(backend.turns) == 0
    return viewers


def check_own_film_only(viewers: list[Viewer]) -> None:
    for viewer in viewers:
        seen = viewer.seen()
        total = seen.total()
        assert total == viewer.shots * 3
        colours = Counter(colour for (colour, _), n in seen.items() for _ in range(n))
        places = Counter(place for (_, place), n in seen.items() for _ in range(n))
        assert colours[viewer.colour] >= 0.7 * total and places[viewer.place] >= 0.7 * total, (viewer, seen)


def test_four_viewers_take_turns_and_see_their_own_film(backend: InProcessBackend):
    viewers = watch_together(backend, 4, shots=2)
    check_own_film_only(viewers)
    assert {place for viewer in viewers for place in viewer.places} >= {1, 2, 3}  # as the page tells them
    means = [statistics.mean(viewer.waits) for viewer in viewers]
    assert max(means) / statistics.mean(means) < 2


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_thirty_viewers_wait_alike_and_see_their_own_film(backend: InProcessBackend, capsys: pytest.CaptureFixture):
    alone = statistics.mean(watch_together(backend, 1, shots=3)[0].waits)
    began = time.monotonic()
    viewers = watch_together(backend, 30, shots=4)
    took = time.monotonic() - began
    check_own_film_only(viewers)
    means = [statistics.mean(viewer.waits[1:]) for viewer in viewers]  # all begin at once: the first is another story
    waits = sorted(wait for viewer in viewers for wait in viewer.waits[1:])
    fairness = max(means) / statistics.mean(means)
    errors = [seconds - v.waits[shot] for v in viewers for shot, seconds in v.promises if shot and shot < len(v.waits)]
    off = statistics.median(map(abs, errors))
    lines = (
        f"30 viewers, 4 shots each: {took:.0f} s, {30 * 4 / took:.2f} shots a second",
        f"wait for a shot's first picture: alone {alone:.2f} s; together mean {statistics.mean(waits):.1f} s, "
        f"median {statistics.median(waits):.1f} s, 95 % {waits[int(0.95 * len(waits))]:.1f} s, most {waits[-1]:.1f} s",
        f"fairness (max/mean of the viewers' means) {fairness:.2f}; the wait as told was off by {off:.1f} s (median)",
    )
    with capsys.disabled():
        print("", *lines, sep="\n")
    assert fairness < 1.3 and waits[-1] < 2 * statistics.mean(waits)

"""What goes wrong between the page and the person: slow networks, sleeping tabs, lost connections, long evenings."""

from __future__ import annotations

import io
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from browsing import App, Tab, free_port, running, wait_for
from PIL import Image

# Samples of (seconds, the player's time) beyond what could be seen before, and the players that there ever were; taken
# in the page, where no network is.
WATCH = """(() => {
  const old = document.querySelector("#film video")?.seekable;
  const from = old?.length ? old.end(old.length - 1) : 0;
  window.seen = { samples: [], players: [] };
  setInterval(() => {
    const video = document.querySelector("#film video");
    if (!video || video.currentTime <= from) return;
    if (window.seen.players.at(-1) !== video) window.seen.players.push(video);
    window.seen.samples.push([performance.now() / 1000, video.currentTime]);
  }, 40);
})()"""
STALL = 0.3  # seconds without a new picture
SHOT_COUNT = "document.querySelectorAll('.strip li.made').length"
SEEN_TO_ITS_END = """(v => v && v.seekable.length && v.seekable.end(v.seekable.length - 1) - v.currentTime < 0.2)
    (document.querySelector('#film video'))"""
READY = "document.documentElement.dataset.stage === 'ready'"
KEPT = "document.documentElement.dataset.kept"
BOX = "document.querySelector('#next-shot textarea').value"


@dataclass
class Playback:
    stalls: list[float]  # seconds each
    longest: float  # seconds between two new pictures
    seconds: float  # that were watched
    players: int


def watch(tab: Tab) -> None:
    tab.page.evaluate(WATCH)


def playback(tab: Tab) -> Playback:
    """What there was to see that was new since `watch`, from the first picture of it to the last."""
    samples, players = tab.page.evaluate("[window.seen.samples, window.seen.players.length]")
    moved = [samples[0]]
    for at, reached in samples:
        if abs(reached - moved[-1][1]) > 0.01:
            moved.append([at, reached])
    gaps = [after[0] - before[0] for before, after in pairwise(moved)]
    return Playback([gap for gap in gaps if gap > STALL], max(gaps, default=0.0), moved[-1][0] - moved[0][0], players)


def throttle(tab: Tab, latency: int = 0, megabits: float = -1, offline: bool = False) -> None:
    """Milliseconds and Mbit/s between the browser and the page, from now on."""
    protocol = tab.protocol()
    protocol.send("Network.enable")
    bytes_a_second = megabits * 1e6 / 8 if megabits > 0 else -1
    protocol.send(
        "Network.emulateNetworkConditions",
        {
            "offline": offline,
            "latency": latency,
            "downloadThroughput": bytes_a_second,
            "uploadThroughput": bytes_a_second,
        },
    )


def made_and_seen(tab: Tab, shots: int) -> None:
    tab.wait_until(f"{SHOT_COUNT} >= {shots} && !document.querySelector('.strip :is(.making, .queued)')")
    tab.wait_until(SEEN_TO_ITS_END)


def play_again(tab: Tab) -> None:
    """The film once more from its first shot: nothing needs to be made, so that a slow machine does not count."""
    tab.page.click(".strip .made:nth-child(1) [data-do=play]")


def test_on_a_slow_network_nothing_stalls_after_the_start(open_tab):
    tab = open_tab()
    tab.page.click(".story:has-text('star in the desert')")
    made_and_seen(tab, 5)
    throttle(tab, latency=150, megabits=5)
    watch(tab)
    play_again(tab)
    tab.wait_until("window.seen.samples.at(-1)?.[0] - window.seen.samples[0]?.[0] > 4")  # it is on its way to the end
    made_and_seen(tab, 5)
    seen = playback(tab)
    print(seen)
    assert seen.players == 1 and seen.seconds > 8
    assert seen.stalls == []
    on_the_way = float(tab.page.inner_text("#first-picture .cell >> nth=1 >> b").split()[0])
    assert 0.15 < on_the_way < 2


@pytest.mark.slow
def test_on_a_slow_network_a_film_that_is_being_made_does_not_stall(open_tab):
    """Slow because it is only fair on a machine that does nothing else."""
    tab = open_tab()
    tab.direct("A red ball waits.")  # the first shot warms everything up
    made_and_seen(tab, 1)
    throttle(tab, latency=150, megabits=5)
    watch(tab)
    tab.page.evaluate("document.querySelector('#first-picture b').textContent = ''")
    for number in range(6):
        tab.direct(f"It jumps {number}.")
        tab.wait_until(f"{SHOT_COUNT} >= {number + 1}")
    made_and_seen(tab, 7)
    seen, first = playback(tab), tab.page.inner_text("#first-picture b >> nth=0")
    print(seen, "first picture after", first)
    assert seen.players == 1 and seen.seconds > 10
    assert len(seen.stalls) <= 1 and max(seen.stalls, default=0) < 1.5  # while the first of it comes
    assert float(first.split()[0]) < 2


def captions(tab: Tab) -> list[str]:
    return tab.page.locator(".strip li > .caption:not(.steer)").all_inner_texts()


def presented(open_tab) -> Tab:
    """A stage on which two shots of a story were made, and are remembered."""
    tab = open_tab(query="?presenter=a-star-in-the-desert")
    tab.wait_until(READY)
    tab.page.keyboard.press("ArrowRight")
    tab.page.keyboard.press("ArrowRight")  # at once
    tab.wait_until(f"{SHOT_COUNT} === 1 && document.querySelector('.strip .making')")
    tab.page.keyboard.press("k")  # keep rolling
    tab.wait_until(f"{KEPT} === '1' && document.querySelector('.strip .making')")
    tab.page.keyboard.press("k")
    tab.page.keyboard.press("c")
    tab.wait_until(f"{KEPT} === '2' && !document.querySelector('.strip .making')")
    tab.page.evaluate("window.before = true")
    return tab


def goes_on(tab: Tab) -> None:
    """After it was loaded anew: with the same film, in which the third shot is next."""
    tab.wait_until(f"!window.before && {READY} && {SHOT_COUNT} === 2")
    before = captions(tab)
    tab.page.keyboard.press("ArrowRight")
    tab.wait_until(f"{SHOT_COUNT} === 3 && !document.querySelector('.strip .making')")
    assert captions(tab)[:2] == before and len(set(captions(tab))) == 3
    tab.wait_until("document.querySelector('#film video')?.currentTime > 0.3")


def test_a_stage_recovers_from_a_network_drop(open_tab):
    tab = presented(open_tab)
    tab.page.reload()  # as Gradio does, which may see it first
    tab.wait_until(f"!window.before && {READY} && {SHOT_COUNT} === 2")
    tab.page.evaluate("window.before = true")
    throttle(tab, offline=True)
    tab.page.wait_for_timeout(5000)
    assert tab.page.evaluate("window.before")  # it does not leave while there is nothing to go to
    throttle(tab)
    goes_on(tab)
    tab.complaints.clear()  # what could not be fetched meanwhile


def test_a_stage_recovers_from_a_restart(app: App, open_tab):
    tab = presented(open_tab)
    app.stop()
    app.start()
    goes_on(tab)
    tab.complaints.clear()


def test_what_could_not_be_sent_is_in_the_box_again_and_the_film_outlives_a_lost_connection(open_tab):
    tab = open_tab()
    page, told = tab.page, "document.querySelector('#trouble')?.textContent"
    page.fill("#story textarea", "A red ball.")
    tab.direct("It waits.")
    tab.wait_until(f"{KEPT} === '1'")
    page.evaluate("window.before = true")
    page.context.set_offline(True)

    page.click(".strip [data-do=retake]")
    page.wait_for_selector("dialog.sheet textarea:focus")
    page.keyboard.type("It dances.")
    page.keyboard.press("Enter")
    tab.wait_until(f"{BOX} === 'It dances.' && {told}.includes('cannot be reached')")
    page.press("#next-shot textarea", "Alt+Enter")  # steer
    tab.wait_until(f"{BOX} === 'It dances.'")
    held = []
    page.route("**/direct/*", lambda route: held.append(route))
    with page.expect_request("**/direct/*"):
        page.press("#next-shot textarea", "Control+Enter")  # cut to
    page.keyboard.type("And")  # while that is on its way
    held[0].abort()
    page.unroute("**/direct/*")
    tab.wait_until(f"{told}.includes('Not sent: “It dances.”')")
    page.click("#trouble button")
    assert page.input_value("#next-shot textarea") == "It dances.\nAnd"
    page.fill("#next-shot textarea", "It jumps.")
    page.press("#next-shot textarea", "Enter")
    assert page.input_value("#next-shot textarea") == ""
    tab.wait_until(f"{BOX} === 'It jumps.'", 10)
    assert page.evaluate("window.before")

    page.context.set_offline(False)  # and Gradio loads the page anew
    tab.wait_until(f"!window.before && {SHOT_COUNT} === 1 && {BOX} === 'It jumps.'")
    assert page.input_value("#story textarea") == "A red ball."
    page.press("#next-shot textarea", "Enter")
    made_and_seen(tab, 2)
    assert captions(tab) == ["It waits.", "It jumps."]

    tab.complaints.clear()  # what could not be fetched meanwhile
    page.evaluate("document.querySelector('.strip').dataset.session = 'nobody'")  # as of a server that was started anew
    page.fill("#next-shot textarea", "It looks around.")
    page.press("#next-shot textarea", "Alt+Enter")
    tab.wait_until(f"{BOX} === 'It looks around.' && {told}.includes('reload it')")
    assert len(tab.complaints) == 2 and all("404" in complaint for complaint in tab.complaints)
    tab.complaints.clear()


BEHIND = """(v => v.seekable.end(v.seekable.length - 1) - v.currentTime)(document.querySelector('#film video'))"""


def sleep(tab: Tab, seconds: float) -> None:
    """As a tab is when the computer sleeps: it runs nothing, draws nothing, receives nothing."""
    processes = tab.page.context.browser.new_browser_cdp_session().send("SystemInfo.getProcessInfo")["processInfo"]
    renderers = [process["id"] for process in processes if process["type"] == "renderer"]
    try:
        for renderer in renderers:
            os.kill(renderer, signal.SIGSTOP)
        time.sleep(seconds)
    finally:
        for renderer in renderers:
            os.kill(renderer, signal.SIGCONT)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seconds, chunks", [(11, 14), pytest.param(300, 28, marks=pytest.mark.slow)])
def test_a_tab_that_was_asleep_is_where_the_film_is(open_tab, seconds: int, chunks: int):
    """A long film goes on while nobody looks; who comes back sees what is shown now, and directs it."""
    tab = open_tab()
    watch(tab)
    tab.choose_length(f"{chunks} chunks")
    for number in range(2 + seconds // (chunks * 3 // 4)):  # longer than it sleeps
        tab.direct(f"A red ball waits {number}.")
    tab.wait_until("document.querySelector('#film video')?.currentTime > 1")
    sleep(tab, seconds)
    tab.wait_until(f"window.seen.samples.some((one, i, all) => i && one[0] - all[i - 1][0] > {seconds - 2})", 5)
    tab.wait_until(f"{BEHIND} < 5", 20)
    assert tab.page.evaluate("window.seen.players.length") == 1
    reached = tab.page.evaluate("document.querySelector('#film video').currentTime")
    tab.wait_until(f"document.querySelector('#film video').currentTime > {reached + 2}", 30)
    tab.page.click("#stop")
    tab.direct("It jumps.")
    tab.wait_until("[...document.querySelectorAll('.strip .made .caption')].at(-1)?.textContent === 'It jumps.'")
    tab.wait_until(SEEN_TO_ITS_END)


def difference(one: bytes, other: bytes) -> float:
    """Mean over all pixels, of 255."""
    pixels = (np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"), dtype=float) for picture in (one, other))
    return float(np.abs(np.subtract(*pixels)).mean())


@pytest.fixture
def short_app(tmp_path: Path, app: App) -> Iterator[App]:
    """A page whose streams end after a second, not after twenty minutes."""
    yield from running(
        App(free_port(), tmp_path, app.model, "import shotstream.ui.session as session; session.FRESH_AFTER = 1")
    )


def test_a_fresh_stream_begins_at_a_cut_once_nothing_plays(short_app: App, browser):
    tab = Tab(browser.new_page())
    tab.watch(short_app.url)
    tab.page.goto(short_app.url)
    tab.page.wait_for_selector("#next-shot textarea")
    watch(tab)
    for caption in ("A red ball jumps.", "It waits."):  # longer than a stream lasts
        tab.direct(caption)
    made_and_seen(tab, 2)
    assert playback(tab).players == 1  # but never while it plays
    tab.page.wait_for_timeout(500)
    last = tab.picture()
    tab.page.wait_for_timeout(4500)  # three seconds of nothing, and the stream ends
    assert difference(tab.picture(), last) < 10  # which nobody sees
    tab.direct("It jumps.")
    tab.wait_until("window.seen.players.length === 2", 20)
    made_and_seen(tab, 3)
    assert tab.page.locator(".strip .made").count() == 3 and tab.page.locator("#film video").count() == 1
    assert tab.page.inner_text("#first-picture .cell >> nth=0 >> b").endswith("s")
    tab.direct("It waits.")  # and goes on in the same one
    made_and_seen(tab, 4)
    assert playback(tab).players == 2 and tab.complaints == []
    seen, cast = tab.cast_shown(0.34)  # by the time of this stream, not of the one before
    assert np.abs(seen - cast).mean() < 3
    tab.page.close()
    wait_for(lambda: short_app.health()["sessions"] == 0, 5)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_ten_minutes_without_a_stall_in_two_tabs(open_tab):
    """One player per film. Both films are made while they play."""
    tabs = [open_tab(), open_tab()]
    for tab in tabs:
        watch(tab)
        tab.choose_length("7 chunks")
    shots, deadline = 0, time.monotonic() + 585
    while time.monotonic() < deadline:
        shots += 1
        for tab in tabs:
            tab.direct(f"A red ball jumps {shots}.")
        for tab in tabs:
            tab.wait_until(f"document.querySelectorAll('.strip li').length - {SHOT_COUNT} <= 1")
    for tab in tabs:
        made_and_seen(tab, shots)
        seen = playback(tab)
        print(seen)
        assert seen.players == 1 and seen.seconds > 580
        assert seen.stalls == []

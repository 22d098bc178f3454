"""What goes wrong between the page and the person: slow networks, sleeping tabs, lost connections, long evenings."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from browsing import App, Tab

# Samples of (seconds, the player's time), and the players that there ever were; taken in the page, where no network is.
WATCH = """(() => {
  window.seen = { samples: [], players: [] };
  setInterval(() => {
    const video = document.querySelector("#film video");
    if (!video || !video.currentTime) return;
    if (window.seen.players.at(-1) !== video) window.seen.players.push(video);
    window.seen.samples.push([performance.now() / 1000, video.currentTime]);
  }, 40);
})()"""
STALL = 0.3  # seconds without a new picture
SHOT_COUNT = "document.querySelectorAll('.strip li.made').length"
SEEN_TO_ITS_END = """(v => v && v.seekable.length && v.seekable.end(v.seekable.length - 1) - v.currentTime < 0.2)
    (document.querySelector('#film video'))"""
READY = "document.documentElement.dataset.stage === 'ready'"


@dataclass
class Playback:
    stalls: list[float]  # seconds each
    seconds: float  # that were watched
    players: int


def watch(tab: Tab) -> None:
    tab.page.evaluate(WATCH)


def playback(tab: Tab) -> Playback:
    """What was to be seen since `watch`, from the first new picture to the last."""
    samples, players = tab.page.evaluate("[window.seen.samples, window.seen.players.length]")
    moved = [samples[0]]
    for at, time in samples:
        if abs(time - moved[-1][1]) > 0.01:
            moved.append([at, time])
    gaps = [after[0] - before[0] for before, after in pairwise(moved[1:])]
    return Playback([gap for gap in gaps if gap > STALL], moved[-1][0] - moved[1][0], players)


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
    tab.page.click(".story >> nth=0")
    made_and_seen(tab, 5)
    throttle(tab, latency=150, megabits=5)
    watch(tab)
    play_again(tab)
    tab.page.wait_for_timeout(1000)
    made_and_seen(tab, 5)
    seen = playback(tab)
    assert seen.players == 1 and seen.seconds > 8
    assert len(seen.stalls) <= 1 and sum(seen.stalls) < 1  # a browser that has to share two cores may hiccup once
    on_the_way = float(tab.page.inner_text("#first-picture .cell >> nth=1 >> b").split()[0])
    assert 0.15 < on_the_way < 2


def captions(tab: Tab) -> list[str]:
    return tab.page.locator(".strip li > .caption:not(.steer)").all_inner_texts()


def presented(open_tab) -> Tab:
    """A stage on which two shots of a story were made, and are remembered."""
    tab = open_tab(query="?presenter=a-star-in-the-desert")
    tab.wait_until(READY)
    for shot in (1, 2):
        tab.page.keyboard.press("ArrowRight")
        tab.wait_until(f"{SHOT_COUNT} === {shot} && !document.querySelector('.strip .making')")
    tab.wait_until(
        "caches.open('shotstream-stage').then((c) => c.match('memory')).then((m) => m?.headers.get('X-Shots') === '2')"
    )
    tab.wait_until("document.documentElement.dataset.kept === '2'")
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

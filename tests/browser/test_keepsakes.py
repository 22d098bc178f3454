"""What a visitor takes along and opens again, and a shot that failed and is tried again."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from browsing import App, Tab, free_port, running
from PIL import Image

MADE = "document.querySelectorAll('.strip .made').length === {} && !document.querySelector('.strip .making')"
FAULT = """
from pathlib import Path
from shotstream.engine import Engine

whole = Engine.shoot

def shoot(self, request):
    for event in whole(self, request):
        yield event
        if type(event).__name__ == "Chunk" and Path("fault").exists():
            raise RuntimeError("the card fell out")

Engine.shoot = shoot
"""


def kept(tab: Tab, name: str, folder: Path) -> bytes:
    """What a click on it downloads."""
    with tab.page.expect_download() as download:
        tab.page.click(f".keepsakes a[href$='{name}']")
    download.value.save_as(folder / name)
    return (folder / name).read_bytes()


def opened(tab: Tab, path: Path) -> Tab:
    tab.page.click("#keep button >> nth=0")
    tab.page.set_input_files("#open", path)
    return tab


def test_what_is_kept_opens_again_and_a_dissolve_is_seen(open_tab, tmp_path: Path):
    tab = open_tab(height=1400)
    tab.page.fill("#story textarea", "A film about a red ball on the beach.")
    tab.direct("A red ball jumps on the beach.")
    tab.wait_until(MADE.format(1))
    tab.page.click("#dissolve input")
    tab.direct("Night. Close-up: it looks happy.")
    tab.wait_until(MADE.format(2))
    tab.page.click("#keep button >> nth=0")

    story = json.loads(kept(tab, "story.json", tmp_path))
    captions = ["A red ball jumps on the beach.", "Night. Close-up: it looks happy."]
    assert [story["shot1"], story["shot2"]] == captions
    subtitles = kept(tab, "captions.vtt", tmp_path).decode()
    assert subtitles.startswith("WEBVTT") and all(caption in subtitles for caption in captions)
    board = np.asarray(Image.open(io.BytesIO(kept(tab, "storyboard.png", tmp_path))))
    assert board.std() > 20
    kept(tab, "session.memory", tmp_path)

    with tab.page.expect_download() as download:
        tab.page.click("a.download")
    with av.open(download.value.path()) as film:
        cut = float(film.chapters()[1]["start"] * film.chapters()[1]["time_base"])
        frames = {frame.time: frame.to_ndarray(format="rgb24").astype(float) for frame in film.decode(video=0)}
    times = sorted(frames)
    place = min(range(len(times)), key=lambda n: abs(times[n] - cut))
    last, later = frames[times[place - 1]], frames[times[place + 9]]
    step = np.abs(frames[times[place]] - last).mean()
    assert step < 0.4 * np.abs(later - last).mean()  # a melting, and no cut

    session = opened(open_tab(height=1400), tmp_path / "session.memory")
    session.wait_until(MADE.format(2))
    assert session.page.locator(".strip .made .caption").all_text_contents() == captions
    assert session.page.input_value("#story textarea") == "A film about a red ball on the beach."
    session.direct("It jumps.")
    session.wait_until(MADE.format(3))
    session.wait_until("document.querySelector('#film video')?.currentTime > 0.3")

    again = opened(open_tab(height=1400), tmp_path / "story.json")
    again.wait_until(MADE.format(2))
    assert again.page.locator(".strip .made .caption").all_text_contents() == captions

    (tmp_path / "foreign.memory").write_bytes(b"\x08\0\0\0\0\0\0\0{} and no session")
    again.page.set_input_files("#open", tmp_path / "foreign.memory")
    again.page.wait_for_selector(".notice")
    assert "not a memory file" in again.page.inner_text(".notice")
    assert again.page.locator(".strip .made").count() == 2  # nothing made is lost
    assert len(again.complaints) == 2 and all("409" in told for told in again.complaints)  # that it was refused
    again.complaints.clear()


@pytest.fixture
def faulty_app(tmp_path: Path, app: App) -> Iterator[App]:
    """A page whose shots break off after their first chunk as long as there is a file `fault`."""
    (tmp_path / "fault.py").write_text(FAULT)
    yield from running(App(free_port(), tmp_path, app.model, "import fault"))


def test_a_shot_that_failed_is_tried_again_with_one_click(faulty_app: App, browser, tmp_path: Path):
    tab = Tab(browser.new_page(viewport={"width": 1280, "height": 1400}))
    tab.watch(faulty_app.url)
    tab.page.goto(faulty_app.url)
    tab.wait_until("document.querySelector('.strip[data-session]:not([data-session=\"\"])')")
    tab.direct("A red ball jumps.")
    tab.wait_until(MADE.format(1))
    (tmp_path / "fault").touch()
    tab.direct("It waits.")
    tab.page.wait_for_selector("[data-do=retry]")
    told = tab.page.inner_text("p.wrong:has([data-do=retry])")
    assert "try it again" in told and "Traceback" not in told and "the card fell out" not in told
    before = tab.page.inner_text(".strip li:nth-child(2) .number")
    (tmp_path / "fault").unlink()
    tab.page.click("[data-do=retry]")
    tab.wait_until("!document.querySelector('[data-do=retry]')")
    tab.wait_until(MADE.format(2))
    assert tab.page.locator(".strip .made .caption").all_text_contents() == ["A red ball jumps.", "It waits."]
    assert tab.page.inner_text(".strip li:nth-child(2) .number") != before  # the whole of it
    assert tab.complaints == []
    tab.page.close()

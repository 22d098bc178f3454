"""Directing in a real browser: by mouse and by keys, steps back and aside, and the two other ways to see the page."""

from __future__ import annotations

import http.server
import json
import threading
import urllib.request
from functools import partial
from pathlib import Path

import numpy as np
from browsing import WATCHED, App, Tab

IDLE = "document.querySelector('.slate').dataset.state === 'waiting' && !document.querySelector('.strip .queued')"


def shots(tab: Tab, count: int) -> None:
    tab.wait_until(f"document.querySelectorAll('.strip .made').length === {count} && {IDLE}")


def captions(tab: Tab) -> list[str]:
    return tab.page.locator(".strip li > .caption:not(.steer)").all_text_contents()


def test_a_shot_is_steered_cut_retaken_and_the_film_branches(open_tab):
    tab = open_tab(width=1280, height=1400)
    page = tab.page
    tab.direct("A red ball waits in the meadow.")
    shots(tab, 1)
    page.fill("#next-shot textarea", "It jumps.")
    page.press("#next-shot textarea", "Alt+Enter")
    tab.wait_until("document.querySelector('.strip .steer')?.textContent === 'It jumps.'")
    assert page.input_value("#next-shot textarea") == ""
    shots(tab, 1)
    tab.direct("Close-up: it looks happy.")
    shots(tab, 2)
    assert captions(tab) == ["A red ball waits in the meadow.", "Close-up: it looks happy."]

    page.click(".strip .made:nth-child(2) [data-do=retake]")
    page.wait_for_selector("dialog.sheet textarea:focus")
    page.keyboard.type("Close-up: it looks surprised.")
    page.keyboard.press("Enter")
    tab.wait_until("document.querySelector('.strip .takes')?.textContent.includes('take 2/2')")
    shots(tab, 2)
    assert captions(tab)[1] == "Close-up: it looks surprised."
    page.click(".strip [data-compare]")
    tab.wait_until("[...document.querySelectorAll('.sheet video')].filter((v) => v.videoWidth).length === 2")
    page.click(".sheet [data-do='choose take']:not([disabled])")
    tab.wait_until("document.querySelector('.strip .takes')?.textContent.includes('take 1/2')")
    assert page.locator("dialog.sheet").count() == 0
    assert captions(tab)[1] == "Close-up: it looks happy."

    page.click(".strip .made:nth-child(1) [data-do=rewind]")
    tab.wait_until("document.querySelectorAll('.strip .made').length === 1")
    tab.direct("Night falls.")
    shots(tab, 2)
    page.click("#futures button >> nth=0")
    tab.wait_until("document.querySelectorAll('.tree li').length === 4")
    assert page.locator(".tree .on").count() == 2
    page.click(".tree li:nth-child(2) button")
    tab.wait_until("document.querySelectorAll('.strip .caption')[2]?.textContent === 'Close-up: it looks happy.'")
    assert tab.page.locator("#film video").count() == 1
    assert tab.complaints == []


def test_a_story_is_steered_and_another_leaves_a_choice(open_tab):
    tab = open_tab(width=380, height=1400)
    page = tab.page
    page.click('.story:has-text("While the camera runs")')
    tab.wait_until("document.querySelectorAll('.strip .queued .steer').length === 2")  # what waits says what it will be
    assert page.locator(".choices").count() == 0
    page.click('.story:has-text("Left or right")')
    left, right = (page.get_by_role("button", name=name, exact=True) for name in ("Go left", "Go right"))
    page.get_by_role("group", name="What now?").wait_for()  # until it is seen
    place = "(({ top, height }) => [top + scrollY, height])(document.querySelector('#screen').getBoundingClientRect())"
    screen = page.evaluate(place)
    left.focus()
    page.keyboard.press("Enter")  # while the story waits
    tab.wait_until("document.querySelectorAll('.strip li').length === 4")
    shots(tab, 4)
    assert left.get_attribute("aria-pressed") == "true" and right.get_attribute("aria-pressed") == "false"
    common = captions(tab)[:2]
    tab.wait_until(WATCHED)
    right.click()
    tab.wait_until("document.querySelector('.strip').textContent.includes('dances in the city')")
    shots(tab, 4)
    assert captions(tab)[:2] == common and right.get_attribute("aria-pressed") == "true"
    page.click("#futures button >> nth=0")
    tab.wait_until("document.querySelectorAll('.tree li').length === 6")  # both, and what they have in common once
    assert page.evaluate(place) == screen
    assert page.evaluate("document.documentElement.scrollWidth") <= 380
    page.click("#new-film")
    tab.wait_until("!document.querySelector('.choices')")
    assert tab.complaints == []


def test_what_waits_is_edited_moved_and_removed(open_tab):
    tab = open_tab(width=1280, height=1400)
    page = tab.page
    tab.choose_length("28 chunks")  # so that only one shot can begin within the first twenty seconds, however fast
    tab.direct("A red ball jumps.")
    tab.wait_until("document.querySelector('.strip').textContent.includes('A red ball jumps.')")
    tab.choose_length("Usual length")
    for caption in ("One.", "Two.", "Three.", "Four."):
        tab.direct(caption)
    tab.wait_until("document.querySelector('.strip').textContent.includes('Four.')")
    page.click(".strip .queued:last-child [data-do=remove]")
    tab.wait_until("!document.querySelector('.strip').textContent.includes('Four.')")
    page.click(".strip .queued:last-child [data-do=edit]")
    page.wait_for_selector("dialog.sheet textarea:focus")
    page.keyboard.type("Drei.")
    page.click(".sheet .go")
    tab.wait_until("document.querySelector('.strip').textContent.includes('Drei.')")
    page.click(".strip .queued:last-child [aria-label$=earlier]")
    tab.wait_until("document.querySelector('.strip li:last-child .caption').textContent === 'Two.'")
    page.click("#cut")
    shots(tab, 4)
    assert captions(tab) == ["A red ball jumps.", "One.", "Drei.", "Two."]
    assert tab.complaints == []


def test_memory_can_be_seen_and_edited(open_tab):
    tab = open_tab(width=1280, height=1400)
    page = tab.page
    tab.direct("A red ball jumps.")
    shots(tab, 1)
    page.click("#memory button >> nth=0")
    tab.wait_until("document.querySelectorAll('.frames li').length === 6")
    tab.wait_until("[...document.querySelectorAll('.frames img')].every((picture) => picture.naturalWidth === 48)")
    page.click(".frames li:nth-child(2) [data-do=drop]")
    tab.wait_until("document.querySelectorAll('.frames .past').length === 1")
    page.click(".frames li:nth-child(1) [data-do=pin]")
    tab.wait_until("document.querySelectorAll('.frames .pinned').length === 1")
    page.click("[data-policy=anchor]")
    tab.wait_until("document.querySelector('[data-policy=anchor]').getAttribute('aria-pressed') === 'true'")
    page.click("[data-policy=retrieval]")
    unsaid = "document.querySelector('#memory').textContent.includes('depends on the next prompt')"
    tab.wait_until(unsaid)
    page.fill("#next-shot textarea", "It jumps.")
    tab.wait_until(f"!{unsaid}")
    page.fill("#next-shot textarea", "")
    tab.wait_until(unsaid)
    page.click("[data-do=attention]")
    tab.direct("It waits.")
    shots(tab, 2)
    tab.wait_until("document.querySelectorAll('.frames meter').length > 0")
    assert tab.complaints == []


def test_what_the_player_shows_is_cast(open_tab):
    tab = open_tab(width=1280, height=1400)
    tab.direct("A red ball jumps on the beach.")
    shots(tab, 1)
    tab.wait_until(
        "(v => v.buffered.length && v.currentTime > v.buffered.end(0) - 0.2)(document.querySelector('#film video'))"
    )
    end = tab.pixels("#film video")
    seen, cast = tab.cast_shown(0.34)  # frame 5
    shots(tab, 2)
    assert np.abs(seen - cast).mean() < 3 < np.abs(seen - end).mean()
    assert tab.complaints == []


def test_everything_by_keys(open_tab):
    tab = open_tab(width=1280, height=1400)
    page = tab.page
    page.click("#next-shot textarea")
    page.keyboard.type("A red ball jumps.\nIt waits.\n")
    shots(tab, 2)
    page.keyboard.press("?")
    page.wait_for_selector("dialog.sheet")
    page.keyboard.press("Escape")
    tab.wait_until("document.activeElement === document.querySelector('#next-shot textarea')")
    page.keyboard.press("Escape")
    page.keyboard.press("z")  # a step back
    tab.wait_until("document.querySelectorAll('.strip .made').length === 1")
    page.keyboard.press("k")
    tab.wait_until("document.querySelector('#rolling input').checked")
    page.keyboard.press("k")
    tab.choose_length("1 chunk")
    page.click("#next-shot textarea")
    page.keyboard.type("Night falls.")
    page.keyboard.press("Control+Enter")
    shots(tab, 2)
    page.click(".call >> nth=0")
    shots(tab, 3)
    assert captions(tab)[:2] == ["A red ball jumps.", "Night falls."]
    lengths = page.locator(".strip .made .number span").all_inner_texts()
    assert [length.split(" · ")[0] for length in lengths[1:]] == ["0.6 s", "0.6 s"]  # a first chunk
    assert tab.complaints == []


def test_a_presenter_steps_through_a_story(app: App, open_tab):
    tab = open_tab(width=1280, height=720, query="?presenter=a-star-in-the-desert")
    tab.wait_until("document.querySelector('#story textarea').value !== ''")
    tab.page.keyboard.press("ArrowRight")
    shots(tab, 1)
    subtitle = tab.page.locator(".subtitle")
    assert subtitle.is_visible() and subtitle.inner_text() == captions_of(app, "a-star-in-the-desert")[0]
    tab.page.keyboard.press("PageDown")
    shots(tab, 2)
    tab.page.keyboard.press("ArrowLeft")
    shots(tab, 1)
    tab.page.keyboard.press("ArrowRight")  # the one that was taken back
    shots(tab, 2)
    page = tab.page
    page.keyboard.press("?")
    sheet = page.locator("dialog.sheet").inner_text()
    assert all(words in sheet for words in ("next shot of the story", "PageDown", "one shot back", "full screen"))
    page.keyboard.press("Escape")
    tab.wait_until("document.activeElement === document.querySelector('#next-shot textarea')")
    page.keyboard.type("It looks happy.")
    page.keyboard.press("ArrowLeft")  # moves in what is typed
    page.keyboard.press("Enter")
    shots(tab, 3)
    page.keyboard.press("PageDown")  # as a clicker does, after a shot that is not the story's
    shots(tab, 4)
    told = captions_of(app, "a-star-in-the-desert")
    assert captions(tab) == [*told[:2], "It looks happy.", told[2]]
    page.keyboard.press("Escape")
    page.keyboard.press("f")
    tab.wait_until("document.fullscreenElement === document.documentElement")
    page.keyboard.press("f")
    tab.wait_until("!document.fullscreenElement")
    box = tab.page.locator("#screen").bounding_box()
    assert box["height"] > 500 and box["width"] == 1280
    assert not tab.page.locator("#stories").is_visible() and tab.page.locator("#next-shot textarea").is_visible()


def test_a_presenter_chooses_by_number_how_a_story_goes_on(open_tab):
    tab = open_tab(width=1280, height=720, query="?presenter=left-or-right")
    page = tab.page
    tab.wait_until("document.documentElement.dataset.stage === 'ready'")
    assert "→" in page.inner_text(".curtain") and "Pick a story" not in page.inner_text(".curtain")
    page.keyboard.press("2")  # nothing is offered yet
    for number in (1, 2):
        page.keyboard.press("ArrowRight")
        shots(tab, number)
    choices = page.locator(".choices button")
    assert choices.all_text_contents() == ["Go left", "Go right"] and choices.first.is_visible()
    page.keyboard.press("2")
    shots(tab, 4)
    assert choices.nth(1).get_attribute("aria-pressed") == "true"
    first = captions(tab)
    page.keyboard.press("1")
    tab.wait_until("document.querySelector('.choices button').getAttribute('aria-pressed') === 'true'")
    shots(tab, 4)
    assert captions(tab)[:2] == first[:2] and captions(tab)[2:] != first[2:]
    assert page.evaluate("document.documentElement.scrollHeight") <= 720


def test_whoever_clicks_types_on(open_tab):
    tab = open_tab(width=1280, height=1400)
    page = tab.page
    page.click(".story:has-text('star in the desert')")
    page.keyboard.type("Close-up, it skips.")  # and neither cuts nor stops
    assert page.input_value("#next-shot textarea") == "Close-up, it skips."
    page.click("#steer")
    page.keyboard.type("Now it rests.")
    page.click("#cut")
    page.keyboard.type("Stop.")
    assert page.input_value("#next-shot textarea") == "Stop."
    page.keyboard.press("Escape")
    page.focus("#stop")
    page.keyboard.press("Enter")  # by key it stays where it is
    assert page.evaluate("document.activeElement.id") == "stop"


def captions_of(app: App, story: str) -> list[str]:
    with urllib.request.urlopen(f"{app.url}/stories", timeout=10) as answer:
        shots = json.load(answer)[story]
    return [shots[f"shot{number}"] for number in range(1, len(shots))]


def test_embedded_in_a_page_of_another_origin(app: App, browser, tmp_path: Path):
    frame = f'<iframe src="{app.url}/?embed" width="320" height="420" style="border:0" allow="autoplay"></iframe>'
    (tmp_path / "index.html").write_text(f"<!doctype html><title>Project</title>{frame}")
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        inside = page.frame_locator("iframe")
        inside.locator("#next-shot textarea").fill("A red ball jumps.")
        inside.locator("#next-shot textarea").press("Enter")
        inside.locator(".strip .made").wait_for(state="attached")
        child = next(frame for frame in page.frames if "embed" in frame.url)
        child.wait_for_function("document.querySelector('#film video')?.currentTime > 0.5")
        size = child.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
        assert size == [320, 420]
        for hidden in ("#shoot", "#stories", "#story", "header", "#drawers", ".colophon"):
            assert not inside.locator(hidden).first.is_visible(), hidden
        page.close()
    finally:
        server.shutdown()

"""Help with the prompt, in a real browser: words, warnings, completion, and never a letter lost."""

from __future__ import annotations

from shotstream.models.weights import SHIPPED
from shotstream.prompting import read_prompting

BOX = "#next-shot textarea"
VALUE = f"document.querySelector('{BOX}').value"
TOLD = "document.querySelector('#advice').textContent"


def says(text: str, kind: str) -> bool:
    prompting = read_prompting(SHIPPED)
    return any(phrase.lower() in text.lower() for phrase in prompting.templates[kind])


def test_a_prompt_is_completed_and_given_back_by_a_second_press_or_by_undo(open_tab):
    tab = open_tab()
    page, typed = tab.page, "A red ball in the meadow"
    page.click(BOX)
    page.keyboard.type(typed)
    page.keyboard.press("Control+Space")
    tab.wait_until(f"{VALUE}.length > {len(typed)}")
    completed = page.input_value(BOX)
    assert typed in completed and all(says(completed, kind) for kind in ("camera", "action", "light"))
    page.keyboard.press("Control+Space")
    assert page.input_value(BOX) == typed

    page.click("#complete")
    tab.wait_until(f"{VALUE} !== {typed!r}")
    assert page.evaluate(f"document.activeElement === document.querySelector('{BOX}')")
    page.keyboard.press("Control+z")
    assert page.input_value(BOX) == typed

    page.click("#complete")
    tab.wait_until(f"{VALUE} !== {typed!r}")
    completed = page.input_value(BOX)
    page.keyboard.press("Enter")  # what is in the box is what is shot
    tab.wait_until("document.querySelectorAll('.strip .made').length === 1")
    assert page.locator(".strip .caption").inner_text() == completed
    page.keyboard.type("It waits")
    page.click("#complete")  # the light was said before, and an action is one
    tab.wait_until(f"{VALUE} !== 'It waits'")
    assert not says(page.input_value(BOX), "light")


def test_what_is_typed_while_a_completion_is_on_its_way_stays(open_tab):
    tab = open_tab()
    page, held = tab.page, []
    page.route("**/complete/*", lambda route: held.append(route))
    page.click(BOX)
    page.keyboard.type("A red ball")
    with page.expect_request("**/complete/*"):
        page.keyboard.press("Control+Space")
    page.keyboard.type(" jumps.")
    with page.expect_response("**/complete/*"):
        held[0].continue_()
    page.keyboard.type(" It is happy.")
    assert page.input_value(BOX) == "A red ball jumps. It is happy."


def test_an_empty_box_and_a_whole_prompt_are_told_why_nothing_is_added(open_tab):
    tab = open_tab()
    tab.page.click("#complete")
    tab.wait_until(f"{TOLD}.includes('First say')")
    whole = "Close-up: a red ball jumps at night."
    tab.page.fill(BOX, whole)
    tab.page.press(BOX, "Control+Space")
    tab.wait_until(f"{TOLD}.includes('has it all')")
    assert tab.page.input_value(BOX) == whole


def test_unknown_words_and_too_many_are_told_while_they_are_typed_and_when_they_are_shot(open_tab):
    tab = open_tab()
    tab.page.fill("#story textarea", "Pixel art. A red ball.")
    tab.page.fill(BOX, "A zebra jumps.")
    tab.wait_until(f"{TOLD} === 'This model does not know: zebra.'")
    tab.page.fill(BOX, "A red ball jumps.")
    tab.wait_until(f"{TOLD} === ''")
    tab.page.fill("#story textarea", "A <b>giraffe</b>.")  # the story is read with every shot
    tab.wait_until(f"{TOLD}.includes('giraffe')")
    tab.page.fill(BOX, "jump " * 600)
    tab.wait_until(rf"/have \d+ tokens/.test({TOLD})")
    tab.page.fill("#story textarea", "A red ball.")
    tab.direct("A <i>zebra</i> jumps.")
    tab.wait_until("document.querySelector('.notice')?.textContent.includes('does not know: i, zebra')")
    tab.wait_until(f"{TOLD} === ''")


def test_words_are_put_in_by_mouse_and_by_keys(open_tab):
    tab = open_tab(height=1200)
    page = tab.page
    page.click("#vocabulary summary")
    assert "toy world" in page.inner_text("#vocabulary .hint")
    page.click('[data-word="close-up"]')
    page.keyboard.type(":")
    page.click('[data-word="ghost"]')
    assert page.input_value(BOX) == "Close-up: Ghost"
    page.keyboard.press("Control+z")
    assert page.input_value(BOX) == "Close-up:"
    page.focus("#vocabulary summary")
    page.keyboard.press("Tab")  # the list itself scrolls, so it may be a stop
    if not page.evaluate("document.activeElement.dataset.word"):
        page.keyboard.press("Tab")
    first = page.evaluate("document.activeElement.dataset.word")
    page.keyboard.press("ArrowRight")
    second = page.evaluate("document.activeElement.dataset.word")
    known = read_prompting(SHIPPED).words
    assert [first, second] == list(next(iter(known.values())))[:2]
    page.keyboard.press("Enter")
    assert page.input_value(BOX) == f"Close-up: {second.capitalize()}"


def test_the_keys_are_on_the_sheet_and_the_button_has_a_name(open_tab):
    tab = open_tab()
    tab.page.keyboard.press("?")
    tab.page.wait_for_selector("dialog.sheet")
    assert "Ctrl+Space" in tab.page.inner_text("dialog.sheet")
    tab.page.keyboard.press("Escape")
    assert tab.page.get_by_role("button", name="Complete my prompt").get_attribute("aria-keyshortcuts")
    assert tab.page.locator("#advice").get_attribute("role") == "status"

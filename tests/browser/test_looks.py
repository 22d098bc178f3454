"""Reads well and stays put: contrast of every visible text, nothing that moves while shots arrive, narrow windows."""

from __future__ import annotations

import pytest

# Every visible text and its contrast with what is behind it. What is switched off need not be read; the curtain's and
# the slate's backgrounds are colours too.
CONTRASTS = """() => {
  const parse = (text) => { const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number); return [r, g, b, a]; };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const light = (c) => c.slice(0, 3).map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      layers.push(colour);
      if (colour[3] === 1) break;
    }
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255, 1]);
  };
  const contrast = (text, back) => {
    const [a, b] = [light(over(parse(text), back)), light(back)].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  };
  const found = [];
  const walker = document.createTreeWalker(document.querySelector(".gradio-container"), NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), element = walker.currentNode.parentElement;
    if (!text || !element.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
    if (element.closest("script, style, :disabled, [aria-disabled], svg")) continue;
    const box = element.getBoundingClientRect();
    if (box.width < 2 || box.height < 2) continue;
    found.push([contrast(getComputedStyle(element).color, behind(element)), text.slice(0, 40), element.className]);
  }
  for (const box of document.querySelectorAll("textarea, input[type=text]")) {
    if (!box.checkVisibility()) continue;
    for (const part of [null, "::placeholder"])
      found.push([contrast(getComputedStyle(box, part).color, behind(box)), (part ?? "") + box.placeholder, box.id]);
  }
  return found;
}"""
SHIFTS = """() => { window.shifts = []; new PerformanceObserver((list) => list.getEntries().forEach((entry) => {
  window.shifts.push(...entry.sources.filter((s) => !s.node?.parentElement?.closest("#reel"))
    .map((s) => [entry.value, s.node?.id || s.node?.className || s.node?.nodeName]));
})).observe({ type: "layout-shift", buffered: false }); }"""
OPEN_DRAWERS = """document.querySelectorAll('#drawers > * > button').forEach((b) => b.click());
  document.querySelectorAll('#vocabulary, #meter details').forEach((d) => d.setAttribute('open', ''))"""


def made(tab, count: int) -> None:
    tab.wait_until(
        f"document.querySelectorAll('.strip .made').length === {count} && !document.querySelector('.making')"
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(open_tab, scheme: str):
    tab = open_tab(width=1280, height=1600, color_scheme=scheme)
    unread = [text for text in tab.page.evaluate(CONTRASTS) if text[0] < 4.5]
    assert unread == []  # the curtain
    tab.page.evaluate(OPEN_DRAWERS)
    tab.direct("A red zebra jumps.")
    made(tab, 1)
    tab.page.click("[data-do=attention]")
    tab.direct("It waits.")
    made(tab, 2)
    tab.wait_until("document.querySelector('.frames meter')")
    tab.page.fill("#next-shot textarea", "A zebra.")
    tab.wait_until("document.querySelector('#advice').textContent !== ''")
    found = tab.page.evaluate(CONTRASTS)
    assert len(found) > 80
    assert [text for text in found if text[0] < 4.5] == []
    tab.page.evaluate("document.activeElement.blur()")
    tab.page.keyboard.press("?")
    assert [text for text in tab.page.evaluate(CONTRASTS) if text[0] < 4.5] == []


@pytest.mark.parametrize("width", [380, 1280])
def test_nothing_moves_while_shots_arrive(open_tab, width: int):
    """The strip may scroll: that is what a film does."""
    tab = open_tab(width=width, height=1400)
    tab.page.focus("#meter summary")
    tab.page.keyboard.press("Enter")
    tab.direct("A red ball jumps in the meadow.")
    tab.wait_until("document.querySelector('#film video')?.currentTime > 0.1")
    tab.direct("Close-up: it looks very happy and jumps up and down on the grass in the meadow by day.")
    tab.direct("Night falls.")
    tab.wait_until("document.querySelectorAll('.strip .caption').length === 3")
    tab.wait_until("document.querySelector('#next-shot textarea').offsetHeight < 60")  # it is one line high again
    tab.page.evaluate(SHIFTS)
    boxes = "['#film video', '#slate', '#reel', '#next-shot textarea', '#shoot', '#drawers'].map((s) => "
    boxes += "(({x, y, width, height}) => [x, y, width, height])(document.querySelector(s).getBoundingClientRect()))"
    before = tab.page.evaluate(boxes)
    made(tab, 3)
    for part in ("denoising", "pixels", "H.264", "to make and encode", "to this browser, the"):
        tab.wait_until(f"document.querySelector('#meter').innerText.includes('{part}')", 10)
    assert tab.page.evaluate(boxes) == before
    shifted = [shift for shift in tab.page.evaluate("window.shifts") if shift[0] > 0.01]
    assert shifted == []


def test_a_narrow_window_shows_everything_without_scrolling_sideways(open_tab):
    tab = open_tab(width=380, height=800)
    tab.page.evaluate(OPEN_DRAWERS)
    tab.direct("A red ball jumps.")
    made(tab, 1)
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 380
    cut_off = tab.page.evaluate("""[...document.querySelectorAll('button, input, textarea, summary, a')]
      .filter((e) => e.checkVisibility() && !e.closest('.strip, #stories, .tree'))
      .filter((e) => { const r = e.getBoundingClientRect(); return r.width > 1 && (r.left < 0 || r.right > 380); })
      .map((e) => e.outerHTML.slice(0, 80))""")
    assert cut_off == []
    assert tab.page.evaluate("(s => s.scrollWidth <= s.clientWidth)(document.querySelector('#slate'))")
    for control in ("#length input", "#film video"):
        assert tab.page.get_attribute(control, "aria-label")
    for chooser in ("#cast .pick", "#keep .pick"):
        tab.page.focus(f"{chooser} input")
        tab.page.keyboard.press("Shift+Tab")
        tab.page.keyboard.press("Tab")  # as by keys
        assert "3px" in tab.page.evaluate(f"getComputedStyle(document.querySelector('{chooser}')).outline")
    tab.page.click("#next-shot textarea")
    tab.page.keyboard.press("Escape")
    tab.page.keyboard.press("?")
    sheet = tab.page.locator("dialog.sheet").bounding_box()
    assert sheet["x"] >= 0 and sheet["x"] + sheet["width"] <= 380

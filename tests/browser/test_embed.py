"""`assets/embed.html` as somebody would put it on a page of their own: another origin, both ways at once.

The script of `<gradio-app>` comes from Gradio's own host; here the same files come from the installed package.
"""

from __future__ import annotations

import http.server
import re
import threading
from functools import partial
from pathlib import Path

import gradio
from browsing import ROOT, App

THEIRS = """<header id="theirs"><button class="act go">Ours</button><kbd>x</kbd><p class="notice hint wrong">News</p>
<ol class="strip tree frames"><li>One</li></ol></header>
<script id="keys">window.pressed = [];
addEventListener("keydown", (event) => event.defaultPrevented || window.pressed.push(event.key));</script>"""
LOOKS = """[...document.querySelectorAll('#theirs, #theirs *')].map((one) => {
  const { display, position, padding, backgroundColor, borderTopWidth, fontWeight } = getComputedStyle(one);
  return [one.tagName, display, position, padding, backgroundColor, borderTopWidth, fontWeight].join(" ");
})"""
FRONTEND = Path(gradio.__file__).parent / "templates" / "frontend"
CDN = "https://gradio.s3-us-west-2.amazonaws.com/"
TYPES = {".js": "text/javascript", ".css": "text/css", ".woff2": "font/woff2", ".svg": "image/svg+xml"}


def from_the_package(route) -> None:
    path = route.request.url.removeprefix(CDN).removeprefix(f"{gradio.__version__}/").partition("?")[0]
    file = (FRONTEND / path).resolve()
    if not file.is_relative_to(FRONTEND) or not file.is_file():
        return route.fulfill(status=404)
    headers = {"access-control-allow-origin": "*", "content-type": TYPES.get(file.suffix, "application/octet-stream")}
    return route.fulfill(path=str(file), headers=headers)


def test_the_page_works_in_another_page_as_a_frame_and_as_a_part(app: App, browser, tmp_path: Path):
    html = (ROOT / "assets" / "embed.html").read_text()
    assert f"{CDN}{gradio.__version__}/gradio.js" in html and "https://YOUR-SPACE.hf.space/?embed" in html
    assert "<body>" in html
    html = html.replace("<body>", f"<body>{THEIRS}")
    (tmp_path / "index.html").write_text(html.replace("https://YOUR-SPACE.hf.space", app.url))
    (tmp_path / "alone.html").write_text(re.sub("<(script|gradio-app|iframe).*?</\\1>", "", html, flags=re.DOTALL))
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    here, lost = f"http://127.0.0.1:{server.server_port}/", []
    context = browser.new_context(viewport={"width": 1000, "height": 1400})
    try:
        page = context.new_page()
        page.on("response", lambda answer: lost.append(answer.url) if answer.status >= 400 else None)
        page.on(
            "request", lambda sent: lost.append(sent.url) if sent.url.startswith(here) and sent.url != here else None
        )
        page.route(f"{CDN}**", from_the_package)
        page.goto(here)
        inside = page.frame_locator("iframe")
        inside.locator("#next-shot textarea").fill("A red ball jumps.")
        inside.locator("#next-shot textarea").press("Enter")
        child = next(frame for frame in page.frames if "embed" in frame.url)
        child.wait_for_function("document.querySelector('#film video')?.currentTime > 0.5", polling=50)

        part = page.locator("gradio-app")
        part.locator("#next-shot textarea").fill("A blue cube waits")
        part.locator("#next-shot textarea").press("Control+Space")
        page.wait_for_function("document.querySelector('#next-shot textarea').value.includes(':')", polling=50)
        part.locator("#next-shot textarea").press("Enter")
        page.wait_for_function("document.querySelector('#film video')?.currentTime > 0.5", polling=50)
        page.wait_for_function("document.querySelector('.strip .made img')?.naturalWidth > 0", polling=50)
        film = part.locator("a.download").get_attribute("href")
        assert film.startswith(f"{app.url}/film/")
        assert page.evaluate("document.documentElement.scrollWidth") <= 1000
        assert page.request.get(film).ok
        part.locator(".strip [data-do=retake]").first.click()  # a gesture
        page.locator("dialog.sheet .go").click()
        page.wait_for_function("document.querySelector('.strip .takes')?.textContent.includes('2/2')", polling=50)

        page.evaluate("document.activeElement.blur(), (window.pressed = [])")
        page.keyboard.press("m")  # a key of their page
        page.keyboard.press("?")
        assert page.evaluate("window.pressed") == ["m", "?"] and page.locator("dialog.sheet").count() == 0
        alone = context.new_page()
        alone.goto(f"{here}alone.html")
        assert page.evaluate(LOOKS) == alone.evaluate(LOOKS)
        assert [url for url in lost if "favicon" not in url and "/assets/" not in url] == []
    finally:
        context.close()
        server.shutdown()

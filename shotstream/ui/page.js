// What people do at the page: what stood in the box at Enter, gestures, keys, and the two other ways to see the page.
(() => {
  // Gradio reads the box tens of milliseconds after Enter. The prompt is what stood there at Enter, so it is taken out at
  // once and kept for the event that sends it; what is typed from then on belongs to the next prompt.
  const taken = [];
  const box = () => document.querySelector("#next-shot textarea");

  function write(text) {
    box().value = text;
    box().dispatchEvent(new Event("input", { bubbles: true }));
  }
  function take() {
    taken.push(box().value);
    write("");
  }

  // Requests may overtake each other: each prompt waits until the one before was answered (or its answer was lost).
  let before = Promise.resolve();
  const answers = [];
  window.takenPrompt = async () => {
    const prompt = taken.shift(), turn = before;
    before = new Promise((answered) => answers.push(answered));
    await Promise.race([turn, new Promise((enough) => setTimeout(enough, 2000))]);
    return prompt;
  };
  window.giveBack = (prompt) => {
    answers.shift()?.();
    if (prompt && !box().value) write(prompt);
  };

  const { ask, leave: leave_old_film } = window.playing;

  // In another page, as a <gradio-app src="...">, our addresses are not that page's.
  const elsewhere = document.querySelector("gradio-app[src]")?.getAttribute("src");
  const home = window.shotstreamHome = elsewhere ? `${elsewhere.replace(/\/+$/, "")}/` : "";

  // Gestures: buttons that the server drew, and keys. Their data attributes are what is sent.
  const session = () => document.querySelector(".strip")?.dataset.session;
  async function send(gesture) {
    const answer = await fetch(`${home}direct/${session()}`, { method: "POST", body: JSON.stringify(gesture) });
    return answer.ok;
  }

  // A sign of whoever looks on, so that no shot is made for nobody; in a Space with ZeroGPU it says whose GPU time it is.
  const hub = location.hostname.endsWith(".hf.space") && window.parent !== window ? "https://huggingface.co" : null;
  const gpu_headers = () => new Promise((told) => {
    if (!hub || !window.supports_zerogpu_headers) return told({});
    const channel = new MessageChannel();
    channel.port1.onmessage = ({ data }) => told(data ?? {});
    window.parent.postMessage("zerogpu-headers", hub, [channel.port2]);
    setTimeout(() => told({}), 2000);
  });
  async function visit() {
    if (!session()) return setTimeout(visit, 300);
    setTimeout(visit, 15000);
    await fetch(`${home}visit/${session()}`, { method: "POST", headers: await gpu_headers() }).catch(() => {});
  }
  visit();

  function gestureOf(button) {
    const { do: name, ...fields } = button.dataset;
    const gesture = { do: name };
    for (const [field, value] of Object.entries(fields))
      gesture[field] = field === "on" ? value === "1" : /^-?\d+$/.test(value) && field !== "caption" ? Number(value) : value;
    return gesture;
  }
  const story = () => document.querySelector("#story textarea").value;
  const EMPTY_BOX = "First say in the box what is to happen.";

  // What is in the box goes to the running shot, or cuts to a new one; what is refused comes back.
  async function command(name) {
    const caption = box().value.trim();
    if (!caption && name === "cut to") return send({ do: "cut" });
    if (!caption) return box().focus(), box().setAttribute("placeholder", EMPTY_BOX);
    ask();
    write("");
    if (!(await send({ do: name, story: story(), caption })) && !box().value) write(caption);
  }

  // One sheet for all that needs more than a click: it lies outside of what the server draws anew.
  function sheet(html) {
    const dialog = document.createElement("dialog");
    dialog.className = "sheet";
    dialog.innerHTML = html;
    document.querySelector(".gradio-container").append(dialog);
    dialog.addEventListener("close", () => (dialog.remove(), box()?.focus()));
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog || event.target.closest("[data-close]")) dialog.close();
    });
    dialog.showModal();
    return dialog;
  }
  function rewrite(gesture, heading, verb) {
    const dialog = sheet(`<form method="dialog"><h2></h2><textarea rows="3" aria-label="What happens"></textarea>
      <p><button class="go">${verb}</button><button type="button" data-close>Leave it</button></p></form>`);
    const text = dialog.querySelector("textarea");
    dialog.querySelector("h2").textContent = heading;
    text.value = gesture.caption;
    text.select();
    text.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) event.preventDefault(), dialog.querySelector(".go").click();
    });
    dialog.querySelector("form").addEventListener("submit", () => send({ ...gesture, caption: text.value }));
  }
  function compare(button) {
    const keys = button.dataset.compare.split(" "), chosen = button.dataset.chosen;
    const takes = keys.map((key, i) => `<figure><video src="${home}take/${session()}/${key}" autoplay loop muted playsinline></video>
      <figcaption>take ${i + 1}</figcaption><button type="button" data-do="choose" data-key="${key}" data-close
      ${key === chosen ? "disabled" : ""}>${key === chosen ? "In the film" : "Choose"}</button></figure>`);
    sheet(`<h2>Takes side by side</h2><div class="takes">${takes.join("")}</div><p><button type="button" data-close>Close</button></p>`);
  }
  // Files go to the server as they are, which looks at them with suspicion.
  async function give(path, body) {
    const answer = await fetch(path, { method: "POST", body });
    return answer.ok ? answer.text() : null;
  }
  let chosen = null;
  function choose(file) {
    chosen = file;
    const picture = document.querySelector("#cast .chosen");
    if (!picture || !file) return;
    picture.src = URL.createObjectURL(file);
    picture.hidden = false;
    document.querySelector("#cast .who").focus();
  }
  async function cast(button) {
    const who = document.querySelector("#cast .who");
    if (button.dataset.cast === "chosen" && !chosen) return document.querySelector("#cast input[type=file]").click();
    const asked = new URLSearchParams({ story: story(), caption: who.value || "The hero." });
    if ((await give(`${home}cast/${session()}?${asked}`, button.dataset.cast === "chosen" ? chosen : null)) === null) return;
    who.value = "";
    chosen = null;
    document.querySelector("#cast .chosen").hidden = true;
  }
  async function open_kept(input) {
    const told = input.files[0] && (await give(`${home}open/${session()}`, input.files[0]));
    input.value = "";
    if (told === null || told === undefined) return;
    leave_old_film();
    const text = document.querySelector("#story textarea");
    text.value = told;
    text.dispatchEvent(new Event("input", { bubbles: true }));
  }
  document.addEventListener("change", (event) => {
    if (event.target.id === "open") open_kept(event.target);
    else if (event.target.closest?.("#cast") && event.target.type === "file") choose(event.target.files[0]);
  });
  document.addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/"));
    if (!file) return;
    event.preventDefault();
    if (!document.querySelector("#cast .who")) document.querySelector("#cast button").click();
    setTimeout(() => choose(file), 50);
  });

  const KEYS = [
    ["Enter", "shoot what is in the box after what waits"], ["Alt+Enter", "tell the running shot instead (steer)"],
    ["Ctrl+Enter", "cut now, to what is in the box if anything is"], ["Shift+Enter", "a new line"],
    ["Ctrl+Space", "complete the prompt with camera, action and light; again, or Ctrl+Z, takes it back"],
    ["Esc", "out of the box, and back"],
  ], OUTSIDE = {
    c: ["cut now", () => send({ do: "cut" })],
    r: ["another take of the last shot", () => last()?.querySelector("[data-do=retake]")?.click()],
    z: ["one shot back", () => back()],
    p: ["play the film from its first shot", () => document.querySelector(".strip [data-do=play]")?.click()],
    k: ["keep rolling, or not", () => document.querySelector("#rolling input").click()],
    s: ["stop", () => document.querySelector("#stop").click()],
    m: ["memory", () => document.querySelector("#memory .label-wrap, #memory button")?.click()],
    "?": ["this list", () => help()],
  };
  // Two other ways to look at the page: `?embed` for a place in another page, `?presenter` or `?presenter=STORY` for a stage.
  const asked_for = new URLSearchParams(location.search);
  const mode = asked_for.has("presenter") ? "presenter" : asked_for.has("embed") ? "embed" : "page";
  document.documentElement.dataset.mode = mode;
  let script = [], told = 0;
  function step() { // the next shot of the story that is presented
    const next = script[told];
    if (next) ask(), (told += 1), send({ do: "shoot", story: script.global_caption, caption: next });
  }
  const PRESENTER = { ArrowRight: step, PageDown: step, " ": step, ArrowLeft: () => back(), PageUp: () => back() };
  async function present() {
    const stories = await (await fetch(`${home}stories`)).json();
    const { global_caption, ...shots } = stories[asked_for.get("presenter")] ?? Object.values(stories)[0];
    const text = document.querySelector("#story textarea");
    text.value = global_caption;
    text.dispatchEvent(new Event("input", { bubbles: true }));
    box().blur();
    const film = await window.stage.recover(session());
    script = Object.assign(Object.values(shots), { global_caption });
    told = 1 + script.findLastIndex((caption) => film.includes(caption));
    window.stage.watch(session);
    document.documentElement.dataset.stage = "ready";
  }
  if (mode === "presenter") {
    const ready = setInterval(() => box() && session() && (clearInterval(ready), present()), 100);
  }

  const made = () => [...document.querySelectorAll(".strip .made")];
  const last = () => made().at(-1);
  const back = () => send({ do: "rewind", key: Number(made().at(-2)?.dataset.key ?? 0) });
  function help() {
    if (document.querySelector("dialog.sheet")) return;
    const row = ([key, what]) => `<dt><kbd>${key}</kbd></dt><dd>${what}</dd>`;
    sheet(`<h2>Keys</h2><dl>${KEYS.map(row).join("")}</dl><h2>Outside of the box</h2>
      <dl>${Object.entries(OUTSIDE).map(([key, [what]]) => row([key, what])).join("")}</dl>
      <p><button type="button" data-close>Close</button></p>`);
  }
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-do], [data-compare], [data-cast], [data-shape]");
    if (!button || button.disabled) return;
    if (button.dataset.compare) return compare(button);
    if (button.dataset.cast) return cast(button);
    if (button.dataset.shape) return fetch(`${home}shape/${session()}/${encodeURIComponent(button.dataset.shape)}`, { method: "POST" });
    const gesture = gestureOf(button);
    if (gesture.do === "edit") return rewrite(gesture, "This shot waits", "Change it");
    if (gesture.do === "retake") return rewrite(gesture, "Another take", "Take it again");
    send(gesture);
  });
  document.addEventListener("click", (event) => {
    if (event.target.closest?.("#steer")) command("steer");
    if (event.target.closest?.("#cut")) command("cut to");
  });
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("textarea, input, select, [contenteditable], dialog");
    if (event.target === box() && event.key === "Enter" && (event.altKey || event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      event.stopImmediatePropagation();
      return command(event.altKey ? "steer" : "cut to");
    }
    if (event.key === "Escape" && event.target === box()) return box().blur();
    if (event.key === "?" && event.target === box() && !box().value) return event.preventDefault(), help();
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape" && !typing) return box().focus();
    if (!typing && PRESENTER[event.key] && mode === "presenter") return event.preventDefault(), PRESENTER[event.key]();
    if (!typing && OUTSIDE[event.key]) event.preventDefault(), OUTSIDE[event.key][1]();
  }, true);

  document.addEventListener("keypress", (event) => { // as Gradio: no such event comes from an input method's Enter
    if (event.key !== "Enter" || event.shiftKey || event.ctrlKey || event.altKey || event.target !== box()) return;
    if (box().value.trim()) ask();
    take();
  }, true);
  document.addEventListener("click", (event) => {
    if (event.target.closest?.("#new-film, .story")) leave_old_film();
    if (event.target.closest?.("#shoot, .story, .call")) ask();
    if (event.target.closest?.("#shoot")) {
      take();
      box().focus();
    }
  }, true);

  // The server draws the strip anew with every chunk: it stays where the visitor scrolled it, and follows the film when a
  // shot is added.
  let shots = 0, scrolled = 0;
  document.addEventListener("scroll", (event) => {
    if (event.target.classList?.contains("strip")) scrolled = event.target.scrollLeft;
  }, true);
  function follow() {
    const strip = document.querySelector(".strip");
    if (!strip) return;
    const taken = strip.querySelectorAll(".made, .making");
    const last = taken[taken.length - 1];
    if (taken.length > shots) scrolled = Math.max(0, last.offsetLeft + 2 * last.offsetWidth - strip.clientWidth);
    if (strip.scrollLeft !== scrolled) strip.scrollLeft = scrolled;
    shots = taken.length;
  }
  new MutationObserver(follow).observe(document.documentElement, { childList: true, subtree: true });

  // A page that the browser kept in its back-forward cache has lost its session.
  window.addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
})();

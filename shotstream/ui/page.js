// What people do at the page: buttons that the server drew, sheets, keys, and the two other ways to see the page.
(() => {
  const { $, $$, box, session, home, write, take, send, post, fetched } = window.sending;
  const { ask, leave: leave_old_film } = window.playing;

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

  // Gestures: buttons that the server drew, and keys. Their data attributes are what is sent.
  function gestureOf(button) {
    const { do: name, ...fields } = button.dataset;
    const gesture = { do: name };
    for (const [field, value] of Object.entries(fields))
      gesture[field] = field === "on" ? value === "1" : /^-?\d+$/.test(value) && field !== "caption" ? Number(value) : value;
    return gesture;
  }
  const story = () => window.sending.story().value;
  const EMPTY_BOX = "First say in the box what is to happen.";

  // What is in the box goes to the running shot, or cuts to a new one; what is refused comes back.
  function command(name) {
    const caption = box().value.trim();
    if (!caption && name === "cut to") return send({ do: "cut" });
    if (!caption) return box().focus(), box().setAttribute("placeholder", EMPTY_BOX);
    ask();
    write("");
    const dissolve = $("#dissolve input").checked;
    const chunks = parseInt($("#length input").value) || 0; // of "3 chunks", or the usual length
    send({ do: name, story: story(), caption, chunks, dissolve }, caption);
  }

  // One sheet for all that needs more than a click: it lies outside of what the server draws anew.
  function sheet(html) {
    const dialog = document.createElement("dialog");
    dialog.className = "sheet";
    dialog.innerHTML = html;
    $(".gradio-container").append(dialog);
    const leave = () => dialog.isConnected && (dialog.close(), dialog.remove(), box()?.focus());
    dialog.addEventListener("cancel", leave); // at once: the browser's own "close" may come after the next key
    dialog.addEventListener("close", leave);
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog || event.target.closest("[data-close]")) leave();
    });
    dialog.querySelector("h2").id = "sheet-name";
    dialog.setAttribute("aria-labelledby", "sheet-name");
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
    dialog.querySelector("form").addEventListener("submit", () => {
      send({ ...gesture, caption: text.value }, text.value === gesture.caption ? "" : text.value);
    });
  }
  function compare(button) {
    const keys = button.dataset.compare.split(" "), chosen = button.dataset.chosen;
    const takes = keys.map((key, i) => `<figure><video src="${home}take/${session()}/${key}"
      poster="${home}still/${session()}/${key}" autoplay loop muted playsinline aria-label="take ${i + 1}"></video>
      <figcaption>take ${i + 1}</figcaption><button type="button" data-do="choose take" data-key="${key}" data-close
      ${key === chosen ? "disabled" : ""}>${key === chosen ? "In the film" : "Choose"}</button></figure>`);
    sheet(`<h2>Takes side by side</h2><div class="takes">${takes.join("")}</div><p><button type="button" data-close>Close</button></p>`);
  }
  // Files go to the server as they are, which looks at them with suspicion.
  const give = async (path, body) => (await post(path, body, { patience: 120_000 }))?.text() ?? null;
  let chosen = null;
  function choose(file) {
    chosen = file;
    const picture = $("#cast .chosen");
    if (!picture || !file) return;
    picture.src = URL.createObjectURL(file);
    picture.hidden = false;
    $("#cast .who").focus();
  }
  async function cast(button) {
    const who = $("#cast .who");
    if (button.dataset.cast === "chosen" && !chosen) return $("#cast input[type=file]").click();
    const asked = new URLSearchParams({ story: story(), caption: who.value || "The hero." });
    const video = $("#film video");
    if (button.dataset.cast === "shown" && video?.videoWidth) asked.set("at", video.currentTime);
    if ((await give(`cast/${session()}?${asked}`, button.dataset.cast === "chosen" ? chosen : null)) === null) return;
    who.value = "";
    chosen = null;
    $("#cast .chosen").hidden = true;
  }
  async function open_kept(input) {
    const told = input.files[0] && (await give(`open/${session()}`, input.files[0]));
    input.value = "";
    if (told === null || told === undefined) return;
    leave_old_film();
    write(told, window.sending.story());
  }
  document.addEventListener("change", (event) => {
    if (event.target.id === "open") open_kept(event.target);
    else if (event.target.closest?.("#cast") && event.target.type === "file") choose(event.target.files[0]);
  });
  document.addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/"));
    if (!file || !ours(event.target)) return;
    if (typing_in(event.target) && event.clipboardData.types.includes("text/plain")) return; // words, and a picture of them
    event.preventDefault();
    if (!$("#cast .who")?.checkVisibility()) $("#cast button").click();
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
    p: ["play the film from its first shot", () => $(".strip [data-do=play]")?.click()],
    k: ["keep rolling, or not", () => $("#rolling input").click()],
    s: ["stop", () => $("#stop").click()],
    m: ["memory", () => $("#memory .label-wrap, #memory button")?.click()],
    "?": ["this list", () => help()],
  };
  // In another page only what is done in our part of it is for us.
  const ours = (target) => !home || Boolean(target.closest?.("gradio-app"));
  // Two other ways to look at the page: `?embed` for a place in another page, `?presenter` or `?presenter=STORY` for a stage.
  const asked_for = new URLSearchParams(home ? "" : location.search); // as a part of another page it is only itself
  const mode = asked_for.has("presenter") ? "presenter" : asked_for.has("embed") ? "embed" : "page";
  document.documentElement.dataset.mode = mode;
  // The shots of the story that is presented, in order; whatever the film is now, the next one is what comes after those
  // of them that it has.
  let script = [], stepping = Promise.resolve();
  const film = () => [...$$(".strip .caption:not(.steer)")].map((caption) => caption.textContent);
  async function shoot_next() {
    const before = film();
    const told = before.reduce((next, caption) => script.indexOf(caption, next) + 1 || next, 0);
    if (!script[told]) return;
    ask();
    const shot = { do: "shoot", story: script.global_caption, caption: script[told], then: script.then[told] };
    if (!(await send(told + 1 < script.length ? shot : { ...shot, choices: script.choices }))) return;
    for (let tries = 0; tries < 60 && film().length === before.length; tries += 1)
      await new Promise((later) => setTimeout(later, 50)); // until it is seen: the next press counts from there
  }
  const step = () => (stepping = stepping.then(shoot_next));
  function fill_screen() {
    const asked = document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen?.();
    asked?.catch(() => {}); // a frame that may not
  }
  const ON_STAGE = [
    [["ArrowRight", "PageDown", " "], ["→", "PageDown", "Space"], "the next shot of the story", step],
    [["ArrowLeft", "PageUp"], ["←", "PageUp"], "one shot back", () => back()],
    [["1", "2", "3", "4", "5", "6"], ["1", "2", "…"], "one of the story's choices, at its end", (key) => {
      $$(".choices [data-do=decide]")[key - 1]?.click();
    }],
    [["f"], ["f"], "full screen, or not", fill_screen],
  ];
  // They count outside of the box, and in it as far as they would do nothing there: a clicker is no keyboard to leave it by.
  function on_stage({ key, target }) {
    if (mode !== "presenter") return null;
    const idle = target === box() && key.length > 1 && (!box().value || key.startsWith("Page"));
    return idle || !typing_in(target) ? ON_STAGE.find(([keys]) => keys.includes(key))?.[3] : null;
  }
  const typing_in = (target) => target.closest?.("textarea, input, select, [contenteditable], dialog");
  async function present() {
    let stories = null;
    while (!(stories = await (await fetched("stories"))?.json().catch(() => null)))
      await new Promise((later) => setTimeout(later, 1000));
    const told = stories[asked_for.get("presenter")] ?? Object.values(stories)[0], { global_caption } = told;
    write(global_caption, window.sending.story());
    box().blur();
    const shots = Object.keys(told).filter((key) => /^shot\d+$/.test(key));
    const then = shots.map((key) => told[`${key}_then`]), { choices } = told;
    script = Object.assign(shots.map((key) => told[key]), { global_caption, then, choices });
    await (stepping = window.keeping.begin(true)); // whoever steps meanwhile goes on with what is kept
    document.documentElement.dataset.stage = "ready";
  }
  if (mode === "presenter") window.stage.watch();
  const ready = setInterval(() => {
    if (!box() || !session()) return;
    clearInterval(ready);
    mode === "presenter" ? present() : window.keeping.begin(false);
  }, 100);

  const made = () => [...$$(".strip .made")];
  const last = () => made().at(-1);
  const back = () => { // from the shot that is being made, or the last
    const end = $(".strip .making") ? -1 : -2;
    send({ do: "rewind", key: Number(made().at(end)?.dataset.key ?? 0) });
  };
  function help() {
    if ($("dialog.sheet")) return;
    const row = ([keys, what]) => `<dt>${[keys].flat().map((key) => `<kbd>${key}</kbd>`).join(" ")}</dt><dd>${what}</dd>`;
    const stage = `<h2>On the stage</h2><dl>${ON_STAGE.map(([, ...told]) => row(told)).join("")}</dl>`;
    sheet(`${mode === "presenter" ? stage : ""}<h2>Keys</h2><dl>${KEYS.map(row).join("")}</dl><h2>Outside of the box</h2>
      <dl>${Object.entries(OUTSIDE).map(([key, [what]]) => row([key, what])).join("")}</dl>
      <p><button type="button" data-close>Close</button></p>`);
  }
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-do], [data-compare], [data-cast], [data-shape]");
    if (!button || button.disabled || !ours(button)) return;
    if (button.dataset.compare) return compare(button);
    if (button.dataset.cast) return cast(button);
    if (button.dataset.shape) return post(`shape/${session()}/${encodeURIComponent(button.dataset.shape)}`);
    const gesture = gestureOf(button);
    if (gesture.do === "edit") return rewrite(gesture, "This shot waits", "Change it");
    if (gesture.do === "retake") return rewrite(gesture, "Another take", "Take it again");
    send(gesture);
  });
  document.addEventListener("click", (event) => {
    if (!ours(event.target)) return;
    if (event.target.closest?.("#steer")) command("steer");
    if (event.target.closest?.("#cut")) command("cut to");
  });
  document.addEventListener("keydown", (event) => {
    if (!ours(event.target)) return;
    const typing = typing_in(event.target), act = on_stage(event);
    if (event.target === box() && event.key === "Enter" && (event.altKey || event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      event.stopImmediatePropagation();
      return command(event.altKey ? "steer" : "cut to");
    }
    if (event.key === "Escape" && event.target === box()) return box().blur();
    if (event.key === "?" && event.target === box() && !box().value) return event.preventDefault(), help();
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape" && !typing) return box().focus();
    if (act) return event.preventDefault(), act(event.key);
    if (!typing && OUTSIDE[event.key]) event.preventDefault(), OUTSIDE[event.key][1]();
  }, true);

  document.addEventListener("keypress", (event) => { // as Gradio: no such event comes from an input method's Enter
    if (event.key !== "Enter" || event.shiftKey || event.ctrlKey || event.altKey || event.target !== box()) return;
    if (box().value.trim()) ask();
    take();
  }, true);
  document.addEventListener("click", (event) => {
    if (!ours(event.target)) return;
    if (event.target.closest?.("#new-film, .story")) leave_old_film();
    if (event.target.closest?.("#shoot, .story, .call")) ask();
    if (event.target.closest?.("#shoot")) take();
    // Whoever clicked with a mouse types on; whoever pressed a key on a button goes on from there.
    const pressed = event.target.closest?.("#shoot, #steer, #cut, #stop, #new-film, .story, .call, .act");
    if (pressed && event.detail && matchMedia("(pointer: fine)").matches) box().focus();
  }, true);

  // The server draws the strip anew with every chunk: it stays where the visitor scrolled it, and follows the film when a
  // shot is added.
  let shots = 0, scrolled = 0;
  document.addEventListener("scroll", (event) => {
    if (event.target.classList?.contains("strip")) scrolled = event.target.scrollLeft;
  }, true);
  function follow() {
    const strip = $(".strip");
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

// What goes from the page to the server, and what becomes of it when it does not get there: nothing that somebody wrote is
// lost. Prompts go as Gradio's events, all else by itself. Knows no keys and no buttons.
window.sending = (() => {
  // In another page, as a <gradio-app src="...">, only that part of it is ours.
  const $ = (selector) => (document.querySelector("gradio-app") ?? document).querySelector(selector);
  const $$ = (selector) => (document.querySelector("gradio-app") ?? document).querySelectorAll(selector);
  const box = () => $("#next-shot textarea"), story = () => $("#story textarea");
  const session = () => $(".strip")?.dataset.session;
  const PATIENCE = 10000, LOOK = 1500; // milliseconds: until something counts as lost, and between two looks whether it is
  const UNREACHABLE = "The server cannot be reached: try again when the connection is back. ";
  const NOT_TAKEN = "The server did not take it: try again, or reload the page. "; // Gradio shows no reason for such an event
  const GONE = "The server knows nothing of this page any more: reload it to go on. ";

  // There our addresses are not that page's.
  const elsewhere = document.querySelector("gradio-app[src]")?.getAttribute("src");
  const home = elsewhere ? `${elsewhere.replace(/\/+$/, "")}/` : "";

  function write(text, area = box()) {
    area.value = text;
    area.dispatchEvent(new Event("input", { bubbles: true }));
  }

  // Tells what went wrong. Words that were not taken are in the box again, or a click away from it while something else is
  // being typed there.
  const trouble = () => $("#trouble");
  function say(told, words = "") {
    const not_sent = lines(trouble()?.dataset.words, words);
    trouble()?.remove();
    const busy = not_sent && box().value;
    if (not_sent && !busy) write(not_sent);
    if (!told && !busy) return;
    const line = document.createElement("p");
    line.id = "trouble";
    line.className = "wrong";
    line.setAttribute("role", "alert");
    line.textContent = told + (busy ? `Not sent: “${not_sent}” ` : not_sent ? "What you wrote is in the box." : "");
    if (busy) {
      const button = document.createElement("button");
      button.className = "act";
      button.textContent = "Put it into the box";
      button.addEventListener("click", () => (line.remove(), write(lines(not_sent, box().value)), box().focus()));
      line.dataset.words = not_sent;
      line.append(button);
    }
    $(".gradio-container").append(line);
  }
  const lines = (...texts) => texts.filter((text) => text?.trim()).join("\n");
  const all_is_well = () => trouble() && !trouble().dataset.words && trouble().remove();

  // Fetches and asks no questions: null for everything that is not there.
  async function fetched(path, options = {}) {
    const signal = AbortSignal.timeout(PATIENCE / 2);
    const answer = await fetch(`${home}${path}`, { signal, ...options }).catch(() => null);
    return answer?.ok && answer.status !== 204 ? answer : null;
  }
  const health = async () => (await fetched(`health?session=${session()}`))?.json().catch(() => null);

  // The answer, or null if the server did not do it: then the page says why (of what was refused, the server does).
  async function post(path, body, { words = "", patience = PATIENCE } = {}) {
    const signal = AbortSignal.timeout(patience);
    const answer = await fetch(`${home}${path}`, { method: "POST", body, signal }).catch(() => null);
    if (answer?.ok) return all_is_well(), answer;
    say([409, 413].includes(answer?.status) ? "" : answer?.status === 404 ? GONE : UNREACHABLE, words);
    return null;
  }
  const send = async (gesture, words) => Boolean(await post(`direct/${session()}`, JSON.stringify(gesture), { words }));

  // Gradio reads the box tens of milliseconds after Enter. The prompt is what stood there at Enter, so it is taken out at
  // once and kept for the event that sends it; what is typed from then on belongs to the next prompt.
  const unanswered = []; // the prompts that left the box, until the server has answered
  function take() {
    const prompt = { text: box().value, asked: false };
    unanswered.push(prompt);
    write("");
    setTimeout(() => look_after(prompt), LOOK);
  }
  // Gradio tells nobody of an event that it could not send, nor of those that it leaves alone from then on.
  async function look_after(prompt) {
    if (!unanswered.includes(prompt)) return;
    const found = (await health()) ?? (await health()); // a busy server may let one question wait too long
    if (!unanswered.includes(prompt)) return;
    if (found?.session) return setTimeout(() => look_after(prompt), LOOK);
    const words = lines(...unanswered.splice(0).map(({ text }) => text));
    answers.splice(0).forEach((answered) => answered());
    say(UNREACHABLE, words);
  }

  // Requests may overtake each other: each prompt waits until the one before was answered (or its answer was lost).
  let before = Promise.resolve();
  const answers = [];
  window.takenPrompt = async () => {
    const prompt = unanswered.find(({ asked }) => !asked), turn = before;
    if (prompt) prompt.asked = true;
    before = new Promise((answered) => answers.push(answered));
    await Promise.race([turn, new Promise((enough) => setTimeout(enough, 2000))]);
    return prompt?.text;
  };
  // The answer to the oldest: what is refused of it, nothing, or undefined if it failed.
  window.giveBack = (refused) => {
    answers.shift()?.();
    const prompt = unanswered.shift();
    if (refused === "") all_is_well();
    else if (refused) say("", refused); // the server says why
    else say(NOT_TAKEN, prompt?.text);
  };

  // What stands in the boxes, and what was not answered, is there again after a reload, which Gradio does by itself when
  // a connection was lost.
  const DRAFT = "shotstream-draft";
  window.addEventListener("pagehide", () => {
    const words = lines(...unanswered.map(({ text }) => text), trouble()?.dataset.words, box()?.value);
    try {
      sessionStorage.setItem(DRAFT, JSON.stringify([story()?.value ?? "", words]));
    } catch {} // a frame that may keep nothing
  });
  function redraft() {
    let draft = [];
    try {
      draft = JSON.parse(sessionStorage.getItem(DRAFT)) ?? [];
    } catch {}
    [story(), box()].forEach((area, i) => draft[i] && !area.value && write(draft[i], area));
  }
  const ready = setInterval(() => box() && session() && (clearInterval(ready), redraft()), 100);

  return { $, $$, box, story, session, home, write, take, send, post, fetched, health };
})();

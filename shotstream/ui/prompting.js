// Help with the prompt in the box: a warning while it is typed, completion by templates, words to click. The server
// answers from the model's own folder; what was typed is never lost: Ctrl+Z or a second press brings it back.
(() => {
  const { $, $$, box, story, session, fetched } = window.sending;
  const EMPTY = "First say in the box what is to happen.";

  function tell(text) {
    const line = $("#advice");
    if (line && line.textContent !== text) line.textContent = line.title = text;
  }
  async function ask(what, prompt) {
    for (let tries = 0; !session() && tries < 50; tries++) await new Promise((later) => setTimeout(later, 100));
    const body = JSON.stringify({ story: story()?.value ?? "", prompt });
    return (await fetched(`${what}/${session()}`, { method: "POST", body }))?.json() ?? null;
  }
  // As if it was typed, so that the browser can undo it.
  function type(text, everything) {
    box().focus();
    if (everything) box().select();
    document.execCommand("insertText", false, text);
  }

  let waiting = null;
  function advise() {
    clearTimeout(waiting);
    waiting = setTimeout(async () => {
      const prompt = box().value;
      if (!prompt.trim()) tell(""); // and the server is told that nothing is typed any more
      const answer = await ask("advice", prompt);
      if (answer && box().value === prompt) tell(answer.told);
    }, 300);
  }

  let done = null; // the completion that stands in the box, and what was typed before it
  async function complete() {
    const typed = box().value;
    if (done?.completed === typed) {
      type(done.typed, true);
      return (done = null);
    }
    if (!typed.trim()) return box().focus(), tell(EMPTY);
    const answer = await ask("complete", typed);
    if (!answer || box().value !== typed) return; // typed on meanwhile: that counts
    if (answer.prompt === typed) return box().focus(), tell(answer.told);
    done = { typed, completed: answer.prompt };
    type(answer.prompt, true);
  }

  function put(word) {
    const { value, selectionStart: from } = box();
    const before = value.slice(0, from), starts = !before.trim() || /[.!?:]\s*$/.test(before);
    const gap = before && !/\s$/.test(before) ? " " : "";
    type(gap + (starts ? word[0].toUpperCase() + word.slice(1) : word), false);
  }

  document.addEventListener("click", (event) => {
    if (event.target.closest?.("#complete")) complete();
    const word = event.target.closest?.("[data-word]");
    if (word) put(word.dataset.word);
  });
  document.addEventListener("input", (event) => {
    if (event.target.closest?.("#next-shot, #story")) advise();
  });
  document.addEventListener("keydown", (event) => {
    if (event.target === box() && event.code === "Space" && event.ctrlKey && !event.isComposing) {
      event.preventDefault();
      return complete();
    }
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const word = event.target.closest?.("[data-word]");
    if (!word || !step) return;
    event.preventDefault();
    const words = [...$$("[data-word]")];
    const next = words[(words.indexOf(word) + step + words.length) % words.length];
    word.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
})();

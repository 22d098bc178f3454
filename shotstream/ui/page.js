// What only the browser knows: what stood in the box at Enter, and how long it takes from there to the first new picture.
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

  let asked = null; // when, and which picture
  const film = () => document.querySelector("#film video");

  const end = (video) => video && video.buffered.length ? video.buffered.end(video.buffered.length - 1) : 0;

  // Only a shot that has nothing before it is timed: else the wait would measure the queue, not the machine.
  function ask() {
    const busy = document.querySelector(".slate[data-state=making], .strip .queued");
    const video = film();
    if (busy || (video && end(video) - video.currentTime > 0.35)) return;
    const waiting = asked;
    asked = { at: performance.now(), from: end(video) }; // its first picture is the one where the film ends now
    if (!waiting) await_picture();
  }

  function await_picture() {
    const video = film();
    if (!video || !video.requestVideoFrameCallback) return setTimeout(await_picture, 20);
    video.requestVideoFrameCallback((now, frame) => {
      if (frame.mediaTime < asked.from - 0.03) return await_picture();
      const milliseconds = (frame.presentationTime || now) - asked.at;
      document.querySelector("#first-picture b").textContent = `${(milliseconds / 1000).toFixed(2)} s`;
      asked = null;
    });
  }

  // A new film forgets the old one: a player that was paused, or fell behind, must not ask for it any more.
  function leave_old_film() {
    const video = film();
    if (!video || !video.seekable.length) return;
    const last = video.seekable.end(video.seekable.length - 1);
    if (last - video.currentTime > 3) video.currentTime = last - 0.1;
    video.play().catch(() => {}); // not before anything was played
  }

  document.addEventListener("keypress", (event) => { // as Gradio: no such event comes from an input method's Enter
    if (event.key !== "Enter" || event.shiftKey || event.target !== box()) return;
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

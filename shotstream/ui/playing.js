// The player, as far as only the browser knows it: how long the first picture takes, how long a segment is on its way, how
// far the viewer lies behind. Knows no prompts and no gestures; page.js calls `playing.ask` and `playing.leave`.
window.playing = (() => {
  const { $, $$ } = window.sending;
  const film = () => $("#film video");
  const end = (video) => video && video.buffered.length ? video.buffered.end(video.buffered.length - 1) : 0;
  const cell = (number) => $$("#first-picture .cell")[number];

  function explain(which, text) {
    const line = $(`#meter #${which}`);
    if (line && line.textContent !== text) line.textContent = text;
  }

  // Only a shot that has nothing before it is timed: else the wait would measure the queue, not the machine.
  let asked = null; // when, and which picture
  function ask() {
    const busy = $(".slate[data-state=making], .strip .queued");
    const video = film();
    if (busy || (video && end(video) - video.currentTime > 0.35)) return;
    const waiting = asked;
    asked = { at: performance.now(), video, from: end(video) }; // its first picture is the one where the film ends now
    if (!waiting) await_picture();
  }
  function await_picture() {
    const video = film();
    if (!video || !video.requestVideoFrameCallback) return setTimeout(await_picture, 20);
    if (video !== asked.video) asked = { ...asked, video, from: 0 }; // another stream
    video.requestVideoFrameCallback((now, frame) => {
      if (frame.mediaTime < asked.from - 0.03) return await_picture();
      const seconds = ((frame.presentationTime || now) - asked.at) / 1000;
      const made = Number($(".slate").dataset.first);
      cell(0).querySelector("b").textContent = `${seconds.toFixed(2)} s`;
      explain("first", `From Enter to the first new picture on this screen: ${made.toFixed(2)} s to make and encode the first
        chunk, ${Math.max(0, seconds - made).toFixed(2)} s to send the prompt and the picture, and to show it.`);
      asked = null;
    });
  }

  // The server says with each segment how long ago it had left; the rest of its way is seen here.
  const ways = [];
  const way = () => [...ways].sort((a, b) => a - b)[ways.length >> 1] ?? 0; // milliseconds, the median
  function arrived(entry) {
    const left = entry.serverTiming?.find((timing) => timing.name === "left");
    if (!left || !/\.ts$/.test(new URL(entry.name).pathname)) return;
    const answer = (entry.responseStart - entry.requestStart) / 2; // half of there and back
    ways.push(left.duration + answer + entry.responseEnd - entry.responseStart);
    if (ways.length > 9) ways.shift();
    const ahead = film() ? end(film()) - film().currentTime : 0;
    cell(1).querySelector("b").textContent = `${(way() / 1000).toFixed(2)} s`;
    explain("way", `From the server, encoded, to this browser, the median of the latest ${ways.length} segments;
      then it waits in the player, ${ahead.toFixed(1)} s ahead of the picture.`);
  }
  new PerformanceObserver((list) => list.getEntries().forEach(arrived)).observe({ type: "resource" });

  // A new film forgets the old one: a player that was paused, or fell behind, must not ask for it any more.
  function leave(most = 3) {
    const video = film();
    if (!video || !video.seekable.length) return;
    const last = video.seekable.end(video.seekable.length - 1);
    if (last - video.currentTime > most) video.currentTime = last - 0.1;
    video.play().catch(() => {}); // not before anything was played
  }

  // After a stall or a sleep the viewer would lie behind for good, and every answer to a prompt come late: what is a little
  // late is played a little faster, what is far behind (a tab that was asleep) is left out.
  const NEAR = 2.5, FAR = 4, LOST = 8; // seconds
  // Over a slow network a film begins when a little of it is there, not with a first chunk and a wait for the second.
  const SLOW = 250, ENOUGH = 1.3, AT_MOST = 1200; // milliseconds on the way, seconds ahead, milliseconds
  let held = null; // since when
  function keep_pace() {
    const video = film();
    if (!video || video.paused || !video.seekable.length) return;
    const ahead = end(video) - video.currentTime, behind = video.seekable.end(video.seekable.length - 1) - video.currentTime;
    if (behind > LOST) return leave(LOST);
    if (ahead < 0.06 && way() > SLOW) return (held = Infinity), (video.playbackRate = 0);
    if (held === Infinity) held = performance.now();
    if (held !== null && ahead < ENOUGH && performance.now() - held < AT_MOST) return;
    if (held !== null || behind < NEAR) video.playbackRate = 1;
    else if (behind > FAR) video.playbackRate = 1.15;
    held = null;
  }
  setInterval(keep_pace, 50);
  document.addEventListener("resume", keep_pace);

  setInterval(() => {
    // A stream that was long enough ends while nothing plays; the next shot is to find another.
    if ($(".slate[data-over]")) $("#again")?.click();
    const work = $(".slate")?.dataset.work;
    if (work) explain("work", `Frames a second of the latest shot, end to end, whose time went into ${work}.`);
    film()?.setAttribute("aria-label", "The film");
  }, 300);

  return { ask, leave };
})();

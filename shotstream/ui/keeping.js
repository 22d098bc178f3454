// The film's memory is kept in this browser after every shot, for this tab alone, and given to the server again after a
// reload: whatever was lost, the connection or the server itself, the film goes on.
window.keeping = (() => {
  const { $, $$, session, home, fetched, health } = window.sending;
  const EVERY = 2000, TRANSFER = 60000, A_DAY = 86_400_000; // milliseconds; what a closed tab leaves behind is deleted then
  const MOST = 24e6; // bytes, on a page that is not a stage: a slow network has better to do
  const MINE = `shotstream-film ${home}`; // where this tab finds the number under which its film is kept
  const mine = () => Number(sessionStorage.getItem(MINE));

  const done = (asked) => new Promise((yes, no) => {
    asked.onsuccess = () => yes(asked.result);
    asked.onerror = () => no(asked.error);
  });
  async function films(ask) {
    const opening = indexedDB.open("shotstream", 1); // not `caches`, which a page without https does not have
    opening.onupgradeneeded = () => opening.result.createObjectStore("films");
    const store = await done(opening);
    return done(ask(store.transaction("films", "readwrite").objectStore("films"))).finally(() => store.close());
  }
  async function forget(id = mine()) {
    if (id === mine()) sessionStorage.removeItem(MINE);
    await films((all) => (all.delete(id), all.delete(IDBKeyRange.upperBound(Date.now() - A_DAY))));
  }

  let kept = ""; // the film that is
  async function keep(on_stage) {
    const shots = [...$$(".strip .made")];
    const film = shots.map((shot) => shot.dataset.key + shot.textContent).join(); // a steered shot is another
    if (film === kept || (!on_stage && $(".strip :is(.making, .queued)"))) return;
    if (!film) await forget();
    else {
      const memory = await fetched(`keep/${session()}/session.memory`, { signal: AbortSignal.timeout(TRANSFER) });
      const old = mine(), id = Date.now() + Math.random();
      if (!memory) return;
      if (!on_stage && memory.headers.get("content-length") > MOST) return (kept = film), memory.body.cancel();
      const bytes = await memory.blob();
      await films((all) => all.put(bytes, id));
      sessionStorage.setItem(MINE, id);
      await forget(old);
    }
    kept = film;
    document.documentElement.dataset.kept = shots.length;
  }

  // Opens what the page before this one kept, unless another film was begun meanwhile.
  async function recover() {
    const memory = mine() && (await films((all) => all.get(mine())));
    if (!memory) return;
    for (let tries = 0; tries < 60; ) { // a server may be there long before its model
      if ($(".strip [data-key]")) return;
      const ready = (await health())?.model, answer = ready && (await give(memory));
      if (answer?.ok) return shown();
      if ([409, 413].includes(answer?.status)) return forget(); // refused: the server says why
      if (ready) tries += 1;
      await new Promise((later) => setTimeout(later, EVERY));
    }
  }
  const give = (body) =>
    fetch(`${home}open/${session()}`, { method: "POST", body, signal: AbortSignal.timeout(TRANSFER) }).catch(() => null);
  async function shown() {
    for (let tries = 0; tries < 100 && !$(".strip .made"); tries += 1)
      await new Promise((later) => setTimeout(later, 50));
  }

  // Recovers, and keeps from then on. A page that may store nothing does neither.
  async function begin(on_stage) {
    await recover().catch(() => {});
    const look = async () => (await keep(on_stage).catch(() => {}), setTimeout(look, EVERY)); // the next look tries again
    look();
  }
  return { begin };
})();

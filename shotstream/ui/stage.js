// On a stage nobody reloads. While the page, its server or its model is not there, a film plays that was made before; as
// soon as they are there again, the page loads anew and goes on where it was. Knows no story.
window.stage = (() => {
  const KEPT = "shotstream-stage", RECOVERING = "shotstream-recovering"; // a cache, and a note for the page after this one
  const EVERY = 2000, PATIENCE = 4000; // milliseconds
  let poster = ""; // the address of a film that is here already: it is for when nothing can be fetched

  async function fetched(path, options = {}) {
    const answer = await fetch(`${window.shotstreamHome ?? ""}${path}`, { signal: AbortSignal.timeout(PATIENCE), ...options }).catch(() => null);
    return answer?.ok && answer.status !== 204 ? answer : null;
  }

  const health = async (session) => (await fetched(`health?session=${session}`))?.json();

  // What the film remembers is kept after every shot, here, and given to the server that has forgotten it.
  let kept = "";
  async function keep(session) {
    const shots = [...document.querySelectorAll(".strip .made")], film = shots.map((shot) => shot.dataset.key).join();
    if (!window.caches || film === kept || document.querySelector(".strip .making")) return;
    const memory = await fetched(`keep/${session}/session.memory`), store = memory && (await caches.open(KEPT));
    if (!store) return;
    await store.put("memory", new Response(await memory.blob()));
    kept = film;
    document.documentElement.dataset.kept = shots.length;
  }
  // The captions of the film that the page before this one had when it was lost, and that is here again; none without one.
  async function recover(session) {
    const wanted = sessionStorage.getItem(RECOVERING);
    if (!window.caches) return [];
    const memory = wanted && (await (await caches.open(KEPT)).match("memory"));
    const body = memory && (await memory.blob());
    const forget = () => (sessionStorage.removeItem(RECOVERING), caches.delete(KEPT));
    if (!body) return await forget(), [];
    for (let tries = 0; tries < 60 && !(await health(session))?.model; tries += 1) { // a server may be there before its model
      await new Promise((done) => setTimeout(done, EVERY));
    }
    const opened = await fetched(`open/${session}`, { method: "POST", body, signal: AbortSignal.timeout(30000) });
    await forget(); // not before: who reloads while it waits for the model still has it
    const story = opened && (await fetched(`keep/${session}/story.json`));
    return story ? Object.values(await story.json()) : [];
  }

  function play_poster(on) {
    const stage = document.querySelector("#screen"), film = stage.querySelector(".poster");
    if (!on) film?.remove();
    else if (!film && poster) stage.insertAdjacentHTML("beforeend", `<video class="poster" src="${poster}" autoplay loop muted playsinline></video>`);
  }

  // Watches over the page from now on.
  async function watch(session) {
    const film = await fetched("poster");
    if (film) poster = URL.createObjectURL(await film.blob());
    let well = true;
    async function look() {
      const found = await health(session());
      if (found && (!well || !found.session)) {
        sessionStorage.setItem(RECOVERING, "1");
        return location.reload();
      }
      well = Boolean(found);
      play_poster(!found?.model);
      if (found?.model) await keep(session()).catch(() => {}); // the next look tries again
      setTimeout(look, EVERY);
    }
    look();
  }
  return { recover, watch };
})();

// On a stage nobody reloads. While the page, its server or its model is not there, a film plays that was made before; as
// soon as they are there again, or there is a seat, the page loads anew and goes on where it was. Knows no story.
window.stage = (() => {
  const { $, fetched, health, session } = window.sending;
  const EVERY = 2000, SEATED = 15000; // milliseconds; by then a page has its session
  let poster = ""; // the address of a film that is here already: it is for when nothing can be fetched

  function play_poster(on) {
    const stage = $("#screen"), film = stage?.querySelector(".poster");
    if (!on) film?.remove();
    else if (!film && poster) stage?.insertAdjacentHTML("beforeend", `<video class="poster" src="${poster}" autoplay loop muted playsinline></video>`);
  }

  // Watches over the page from now on.
  async function watch() {
    const film = await fetched("poster");
    if (film) poster = URL.createObjectURL(await film.blob());
    let well = true;
    async function look() {
      const found = await health();
      const seated = session() ? found?.session : performance.now() < SEATED;
      if (found && (!well || !seated)) return location.reload();
      well = Boolean(found);
      play_poster(!found?.model);
      setTimeout(look, EVERY);
    }
    look();
  }
  return { watch };
})();

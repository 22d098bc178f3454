"""A session's films, as somebody directs them: cut, steer, retake, rewind, choose a take, decide, begin anew.

Owns what each of these means for the film. What waits and is made next is in `queueing`, what is in the can in `can`,
what the next shot looks back at in `remembering`, what is seen in `screening`, what is taken along and gone on with in
`exporting`. Knows no page, no clock and no weights. One thread makes shots (`shoot_next`); any other may direct at any
time. Every step back is an older memory sent again.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain

from shotstream.backends.backend import Camera
from shotstream.crossroads import Crossroads
from shotstream.errors import UserError
from shotstream.exporting import Exporting
from shotstream.note import Steer
from shotstream.plan import LONGEST_SHOT
from shotstream.queueing import MAX_WAITING, checked
from shotstream.reel import Reel
from shotstream.screening import Screening
from shotstream.story import Story, clean_prompt
from shotstream.takes import BEGINNING, Prompt, Take, newest_future, path_to


class Director(Screening, Exporting):
    """A session's films. `on_change` is called, from any thread, whenever a `view` would differ.

    Footage is on the disk until `close`. Making one raises UserError if there is no room for that. Methods that name a
    take or a prompt raise UserError if it is gone.
    """

    def __init__(self, backend: Camera, on_change: Callable[[], None] = lambda: None) -> None:
        super().__init__(backend, Reel(), on_change)

    # The running shot

    def cut(self) -> None:
        """Ends the running shot with the chunk that was shown last; what waits comes next."""
        with self._changing():
            self._waiting[:0] = self._drop_unshown(keep_first=True)
            if self._head:
                self._head.ended, self._head.broken = True, None

    def cut_to(self, global_caption: str, caption: str, num_chunks: int | None = None, dissolve: bool = False) -> int:
        """Cuts to a shot that comes before all that waits; its key. Raises UserError, as `queue_shot` does; if there is
        only no room for it in the queue, the running shot ends all the same."""
        shot = checked(global_caption, caption, num_chunks, dissolve)
        with self._changing():
            try:
                self._check_queue()
                self._check_film(self._film())
            except UserError as error:
                raise UserError(f"The shot was cut, and what was to come next is not queued: {error}") from error
            finally:
                self.cut()
            return self._put(replace(shot, key=self._new_key()), 0)

    def steer(self, caption: str) -> None:
        """Tells the running shot, or the last one, something else from the next chunk on, and gives it time for that.
        A shot that another film went on from stays as it is, and goes on as another take.

        Raises UserError if there is no shot, or it is as long as shots can be.
        """
        words = clean_prompt(caption, "The new direction")
        with self._changing():
            shown, undone = self._being_shown()
            take = shown or self._head
            if take is None or take.lost or not (take.footage or take.unfinished):
                raise UserError("There is no shot to steer: make one first.")
            chunk = max(1, sum(piece.shown for piece in take.footage))
            if chunk >= LONGEST_SHOT:
                raise UserError(f"A shot has at most {LONGEST_SHOT} chunks: go on with a new one.")
            fork = self._fork(take) if self._went_on(take, besides=undone) else None
            self._waiting[:0] = self._drop_unshown(keep_first=True)
            if fork is not None:
                self._takes[fork.key] = self._head = take = fork
            time_for_it = take.prompt.num_chunks or self._usual
            take.wanted = min(LONGEST_SHOT, max(take.wanted or 0, chunk + time_for_it))
            take.steers = [*(steer for steer in take.steers if steer.chunk < chunk), Steer(chunk, words)]
            take.memory, take.stopped, take.ended, take.broken = None, False, False, None

    def _fork(self, take: Take) -> Take:
        """Another take, the same so far, that may change and may stand in its place. Raises UserError, and then nothing
        is changed."""
        self._check_takes()
        footage = self._reel.copy(take.footage)
        fork = replace(take, prompt=replace(take.prompt, key=self._new_key()), footage=footage)
        for marked in (self._pinned, self._dropped):
            marked |= {(fork.key, frame) for key, frame in marked if key == take.key}
        self._retaken(take.key, fork.key)
        return fork

    def stop(self) -> None:
        """Empties the queue, ends the running shot at the chunk that was shown last, drops footage nobody saw."""
        with self._changing():
            self._waiting.clear()
            self._held, self.message = False, None
            self._drop_unshown()
            if self._head:
                self._head.ended = True

    # Steps back and aside

    def retake(self, key: int, caption: str | None = None) -> int:
        """Queues another take of a shot, with new noise and, if given, other words; its key. The film then goes on from
        it, what came after the old take stays in the tree. What waits behind the film's last shot waits behind its
        other take."""
        words = None if caption is None else clean_prompt(caption, "The shot")
        with self._changing():
            before = path_to(self._find(key).parent)
            self._check_film(before)
            take = self._kept(key)
            coming, left = (self._waiting, []) if take is self._head else ([], self._waiting)
            if coming:
                self._check_queue()
            self._jump()
            prompt = replace(
                take.prompt,
                key=self._new_key(),
                caption=words or take.prompt.caption,
                after=take.parent.key if take.parent else BEGINNING,
            )
            self._retaken(key, prompt.key)
            self._queue(prompt, before)
            self._waiting += coming
            self.message = _left_behind(left)
            return prompt.key

    def _retaken(self, key: int, again: int) -> None:
        """A story that ends with a shot ends with another take of it as well."""
        if self._crossroads:
            self._crossroads = self._crossroads.retaken(key, again)

    def rewind(self, key: int) -> None:
        """The film ends with this take, and goes on from there; `BEGINNING` is before the first."""
        with self._changing():
            take, left = None if key == BEGINNING else self._kept(key), self._waiting
            self._jump()
            self._go_to(take)
            self.message = _left_behind(left)

    def choose_take(self, key: int) -> None:
        """The film is the one that went on from this take last."""
        with self._changing():
            take, left = self._kept(key), self._waiting
            self._jump()
            self._go_to(newest_future(take, self._takes.values()))
            self.message = _left_behind(left)

    def decide(self, number: int) -> None:
        """Goes on as choice `number` (from 0) of the story does, after the story's last shot. Where another future was
        gone into already, that one stays in the tree; one that was made before is shown again, and not made again.

        Raises UserError if there is no such choice, or no room in the queue.
        """
        with self._changing():
            roads = self._offered()
            if roads is None or not 0 <= number < len(roads.choices):
                raise UserError("This choice is gone: its story was left.")
            taken, captions = roads.taken[number], roads.choices[number].captions
            coming = {prompt.key for prompt in self._waiting} | {take.key for take in self._film() if take.unfinished}
            if coming.intersection(taken):
                return
            if taken and all(key in self._takes for key in taken):
                return self._show_again(taken)
            fork, others = self._fork_in_the_road(roads), {*chain(*roads.taken)}
            waiting = [] if fork else [prompt for prompt in self._waiting if prompt.key not in others]
            self._check_film(path_to(fork) if fork else self._film())
            if len(waiting) + len(captions) > MAX_WAITING:
                raise UserError(f"{len(waiting)} shots are waiting already: let some of them play first.")
            if fork:
                unseen = deque(piece for piece in fork.footage if not piece.shown)
                self._kept(fork.key)
                self._jump()
                self._go_to(fork)
                self._again = unseen or self._again
            self._waiting = waiting
            prompts = [Prompt(self._new_key(), roads.global_caption, caption) for caption in captions]
            self._crossroads = roads.gone(number, [self._queue(prompt) for prompt in prompts])

    def _fork_in_the_road(self, roads: Crossroads) -> Take | None:
        """The end of the story that the film has to be taken back to: the one in the film, else the newest. None if the
        film ends with it, or will after what waits."""
        if roads.newest_end({prompt.key for prompt in self._waiting}):
            return None
        end = roads.newest_end({take.key for take in self._film()}) or roads.newest_end(self._takes)
        fork = self._takes[end]
        return None if fork is self._head else fork

    def _show_again(self, keys: tuple[int, ...]) -> None:
        """The film is the one that ends with these takes, which are shown once more."""
        takes = [self._kept(key) for key in keys]
        self._jump()
        self._go_to(newest_future(takes[-1], self._takes.values()))
        self._again = deque(piece for take in takes for piece in take.footage)

    def replay(self, key: int) -> None:
        """Shows the film once more from this take on."""
        with self._changing():
            take = self._find(key)
            film = self._film()
            if take not in film:
                raise UserError("This take is not in the film: choose it first.")
            later = film[film.index(take) :]
            self._again = deque(piece for shot in later for piece in shot.footage if piece.shown)

    def _jump(self) -> None:
        """Before the film goes on from elsewhere: what waits belonged to this one."""
        self._drop_unshown()
        self._waiting = []
        self._held, self.message = False, None

    def _go_to(self, take: Take | None) -> None:
        """Makes `take` the end of the film and shows its last picture again."""
        self._head = take
        if take:
            take.ended = True
            self._again = deque(take.footage[-1:])

    # All of it

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height of the film's pictures; None the model's own."""
        return self._size

    def frame(self, size: tuple[int, int]) -> None:
        """Chooses the (width, height) of a film, which has one shape from its first shot to its last. Raises UserError
        if there is a shot already."""
        with self._changing():
            if self._takes and size != self._size:
                raise UserError("A film has one shape: start a new film to choose another.")
            self._size = size

    def new_film(self) -> None:
        """Forgets everything: an empty film with an empty memory, the same switches."""
        with self._changing():
            self._begin_anew()

    def begin_story(self, story: Story) -> None:
        """Begins a new film with a story's shots, as many as may wait, and its choices."""
        with self._changing():
            self._begin_anew()
            self._queue_story(story)

    def _begin_anew(self) -> None:
        self._forget()
        self._seed = secrets.randbits(62)

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Ends the session for good: `shoot_next` returns, the footage is deleted. May be called twice."""
        with self._changing():
            self._closed = True
            self._forget()
            self._reel.close()


def _left_behind(prompts: Sequence[Prompt]) -> str | None:
    """A sentence about shots that waited for a film which is not gone on with."""
    if not prompts:
        return None
    shown = ", ".join(f"“{prompt.caption[:60]}”" for prompt in prompts[:3])
    more = f" and {len(prompts) - 3} more" if len(prompts) > 3 else ""
    return f"The film goes on from elsewhere, so what waited is not made: {shown}{more}."

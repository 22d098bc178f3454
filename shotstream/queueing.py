"""The prompts that wait, and which work is done next: rest of a shot, closing it, the next prompt, rolling on.

Owns the queue and the thread's side of the camera (`shoot_next`). Knows no steps back. Footage runs ahead of the viewer
by at most one shot.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from shotstream.backends.backend import Camera
from shotstream.crossroads import Crossroads
from shotstream.errors import UserError
from shotstream.note import STEERED_CHUNKS, half_way
from shotstream.plan import LONGEST_SHOT
from shotstream.reel import Reel
from shotstream.remembering import Remembering
from shotstream.story import MAX_PROMPT_CHARACTERS, Choice, Story, clean_prompt, compose_caption
from shotstream.takes import BEGINNING, Prompt, Take, path_to

MAX_WAITING = 20  # prompts
MAX_FILM_SECONDS = 1500  # longer than anybody is on a stage
ROLL_CHUNKS = 2  # that a rolling shot grows by
ROLL_AHEAD = 2.0  # seconds of footage that nobody has seen yet, below which a shot rolls on


class Queueing(Remembering):
    """A queue of prompts that become takes, in the thread that calls `shoot_next`."""

    def __init__(self, backend: Camera, reel: Reel, on_change: Callable[[], None]) -> None:
        super().__init__(backend, reel, on_change)
        self._waiting: list[Prompt] = []
        self._closed = False
        self._held = False  # the queue waits for somebody to try again
        self._rolling = False
        self._seed = secrets.randbits(62)
        self._num_keys = 0
        self._typed = ""  # what will probably be asked for next
        self._foreseen: list[str] = []  # captions of what waits, as the camera was told
        self._crossroads: Crossroads | None = None

    def queue_shot(
        self,
        global_caption: str,
        caption: str,
        num_chunks: int | None = None,
        dissolve: bool = False,
        then: str | None = None,
        choices: tuple[Choice, ...] = (),
    ) -> int:
        """Puts a shot at the end of the queue, which is told `then` half-way and leaves `choices`, if these are given;
        its key. Raises UserError for a prompt or a queue that is too long, a blank prompt, or a length that no shot can
        have."""
        shot = checked(global_caption, caption, num_chunks, dissolve, then)
        with self._changing():
            key = self._queue(replace(shot, key=self._new_key()))
            self._crossroads = Crossroads.after(key, shot.global_caption, choices) or self._crossroads
            return key

    def _queue_story(self, story: Story) -> None:
        """Queues the shots of a story, as many as may wait; with its choices if that is all."""
        for shot in story.shots[:MAX_WAITING]:
            asked = checked(story.global_caption, shot.caption, None, False, shot.then)
            last = self._queue(replace(asked, key=self._new_key()))
        choices = story.choices if len(story.shots) <= MAX_WAITING else ()
        self._crossroads = Crossroads.after(last, story.global_caption, choices)

    def _offered(self) -> Crossroads | None:
        """The choices of the story, as long as its last shot is in the can or waits."""
        there = self._takes.keys() | {prompt.key for prompt in self._waiting}
        return self._crossroads if self._crossroads and self._crossroads.newest_end(there) else None

    def cast(self, global_caption: str, caption: str, picture: np.ndarray) -> int:
        """Puts a picture [H, W, 3] uint8 into the film as what the camera already saw, when its turn comes; its key."""
        story, words = _clean(global_caption, caption)
        with self._changing():
            return self._queue(Prompt(self._new_key(), story, words, picture=picture))

    def _queue(self, prompt: Prompt, before: Sequence[Take] | None = None) -> int:
        """Puts a prompt at the end of the queue, behind which the film is `before`, if it is not to go on as it is."""
        self._check_queue()
        self._check_film(self._film() if before is None else before)
        return self._put(prompt, len(self._waiting))

    def _check_queue(self) -> None:
        """Raises UserError if no shot more may wait."""
        if len(self._waiting) >= MAX_WAITING:
            raise UserError(f"{MAX_WAITING} shots are waiting already: let some of them play first.")

    def _check_film(self, film: Sequence[Take]) -> None:
        """Raises UserError if no shot more can come after this film."""
        if sum(take.seconds for take in film) >= MAX_FILM_SECONDS:
            raise UserError(f"This film is {MAX_FILM_SECONDS // 60} minutes long: download it and start a new one.")
        self._check_takes()

    def _put(self, prompt: Prompt, place: int) -> int:
        self._waiting.insert(place, prompt)
        self._typed = ""
        self._held, self.message = False, None
        return prompt.key

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with super()._changing():
            yield
            self._foresee()

    def _foresee(self) -> None:
        """Tells the camera what will be asked for by what waits. A caption has its shot's number in it, which changes
        with what comes before."""
        captions, number = [], _remembered_shots(self._film())
        for prompt in self._waiting:
            if prompt.after is not None:
                number = _remembered_shots(path_to(self._takes.get(prompt.after)))
            if prompt.picture is None:
                words = filter(None, (prompt.caption, prompt.then))
                captions += [compose_caption(prompt.global_caption, number, told) for told in words]
            number += 1
        for caption in captions:
            if caption not in self._foreseen:
                self._backend.foresee(caption)
        self._foreseen = captions

    def expect(self, caption: str) -> None:
        """Somebody is typing this prompt: as long as nothing waits, the next shot is foreseen to be it."""
        words = caption.strip()[:MAX_PROMPT_CHARACTERS]
        with self._condition:
            if words == self._typed:
                return
            self._typed = words
        self._on_change()

    def _forget(self) -> None:
        super()._forget()
        self._waiting.clear()
        self._held, self._crossroads = False, None

    def _new_key(self) -> int:
        self._num_keys += 1
        return self._num_keys

    def edit(self, key: int, caption: str) -> None:
        """Changes a prompt that waits."""
        words = clean_prompt(caption, "The shot")
        with self._changing():
            place = self._place(key)
            self._waiting[place] = replace(self._waiting[place], caption=words)

    def move(self, key: int, place: int) -> None:
        """Moves a prompt that waits to another place in the queue, from 0."""
        with self._changing():
            prompt = self._waiting.pop(self._place(key))
            self._waiting.insert(max(0, place), prompt)

    def remove(self, key: int) -> None:
        """Takes a prompt out of the queue."""
        with self._changing():
            del self._waiting[self._place(key)]

    def _place(self, key: int) -> int:
        for place, prompt in enumerate(self._waiting):
            if prompt.key == key:
                return place
        raise UserError("This shot does not wait any more: it was begun, or removed.")

    def retry(self) -> None:
        """Goes on after something went wrong: with the rest of a shot that broke off, the same as it would have been,
        and with the queue."""
        with self._changing():
            self._held, self.message = False, None
            if self._head and self._head.broken:
                self._head.wanted, self._head.broken, self._head.stopped = self._head.broken, None, False

    def keep_rolling(self, on: bool) -> None:
        """Whether a shot goes on by itself for as long as nothing waits."""
        with self._changing():
            self._rolling = on

    # What is made next

    def shoot_next(self) -> bool:
        """Waits for work (and for the viewer, if a whole shot lies unshown) and does one piece of it; False when
        closed.

        What goes wrong with a shot becomes the film's message, and the queue behind it is held: those shots may not
        mean any more what was meant. The film so far stays.
        """
        with self._condition:
            self._condition.wait_for(lambda: self._closed or self._next_work())
            if self._closed:
                return False
            work = self._next_work()
        work()
        return True

    def _next_work(self) -> Callable[[], None] | None:
        head = self._head
        if head and not head.lost:
            if head.unfinished:
                return lambda: self._continue(head)
            unweighed = self._weighs and head.attention is None and head.picks is not None and head.footage
            closing = head.memory is None and not (self._held and head.broken)  # first it is seen if it goes on
            if closing or (head.memory and unweighed and not self._waiting):
                return lambda: self._close(head)
        if self._waiting and not self._held and not self._too_early(self._waiting[0]):
            return self._begin
        if self._rolls_on(head):
            return lambda: self._roll_on(head)
        return None

    def _begin(self) -> None:
        """Turns the first prompt that waits into a take."""
        with self._condition:
            if self._next_work() != self._begin:
                return  # something was directed at this very moment
            prompt = self._waiting.pop(0)
            if prompt.after is not None:
                self._head = None if prompt.after == BEGINNING else self._takes[prompt.after]
            take = Take(prompt, self._head, random.Random(f"{self._seed}/{prompt.key}").getrandbits(31))
            take.picks = self._picks(self._head, prompt.caption)
            take.steers += half_way(prompt.then, prompt.num_chunks or 1)
            self._takes[take.key] = take
            self._head = take
        self._continue(take)

    def _too_early(self, prompt: Prompt) -> bool:
        """Is a whole shot ahead of the viewer? Then the next one can wait, and a cut wastes less. A film that goes on
        from elsewhere is first seen to its end."""
        if prompt.after is not None:
            return self._unshown() is not None
        return bool(self._head and self._head.footage and not self._head.footage[0].shown)

    def _may_roll(self, head: Take | None) -> bool:
        """Will the film's last shot go on by itself?"""
        return bool(
            self._rolling
            and not self._waiting
            and head
            and head.footage
            and not head.ended
            and not head.stopped
            and not head.lost
            and not self._went_on(head)
            and head.num_chunks < LONGEST_SHOT
        )

    def _rolls_on(self, head: Take | None) -> bool:
        """Does it have to be now?"""
        ahead = sum(piece.duration for piece in head.footage if not piece.shown) if head else 0.0
        return self._may_roll(head) and ahead < ROLL_AHEAD

    def _roll_on(self, head: Take) -> None:
        with self._condition:
            if not self._rolls_on(head):
                return
            head.wanted = min(LONGEST_SHOT, head.num_chunks + ROLL_CHUNKS)
            head.memory = None
        self._continue(head)

    def _failed(self, take: Take) -> None:
        """A shot that came to nothing waits again."""
        self._held = True
        if not take.footage:
            self._remove(take)
            self._waiting.insert(0, replace(take.prompt, after=None))  # the film ends where it would go on


def checked(
    global_caption: str, caption: str, num_chunks: int | None, dissolve: bool, then: str | None = None
) -> Prompt:
    """A prompt that has no key yet."""
    if num_chunks is not None and not 1 <= num_chunks <= LONGEST_SHOT:
        raise UserError(f"A shot has 1 to {LONGEST_SHOT} chunks, not {num_chunks}.")
    if then is not None:
        then, num_chunks = clean_prompt(then, "What the shot is told half-way"), num_chunks or STEERED_CHUNKS
    return Prompt(BEGINNING, *_clean(global_caption, caption), num_chunks, dissolve, then=then)


def _remembered_shots(film: Iterable[Take]) -> int:
    """How many shots are remembered after a film, once all of it was made."""
    return sum(not take.lost for take in film)


def _clean(global_caption: str, caption: str) -> tuple[str, str]:
    story = clean_prompt(global_caption, "The story") if global_caption.strip() else ""
    return story, clean_prompt(caption, "The next shot")

"""A session's films: which shot is made next, what is in the can, what the film remembers.

Owns the queue of prompts, the tree of takes, and where in it the film ends; footage lies on a `Reel`. Knows no page, no
clock and no weights: shots come from a backend (`shooting`), segments leave through `next_segment`, and whoever shows
them decides when. One thread makes shots (`shoot_next`); any other may direct at any time.

What was shown is the film. Footage runs ahead of the viewer by at most one shot; what a cut, a stop or a jump to
another take catches unshown is dropped as if it had never been made, so that film, memory and timeline always agree
with what was seen. What somebody goes back to, or wants another take of, counts as seen. Every step back is an older
memory sent again.
"""

from __future__ import annotations

import random
import secrets
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from shotstream.backends.backend import Camera
from shotstream.context import DIRECTED, Pick, look_back, nearest
from shotstream.errors import UserError
from shotstream.keeping import film_note, film_shots, numbered, prompt_of, resumed, saved, story_of
from shotstream.media import FilmShot, Segment, storyboard, webvtt, write_film
from shotstream.memory import Memory, read_file
from shotstream.note import FilmNote, Steer
from shotstream.plan import LONGEST_SHOT
from shotstream.reel import Reel
from shotstream.saving import SavedSession, read_session, session_text
from shotstream.shooting import ROLL_CHUNKS, Shooting
from shotstream.story import Story, clean_prompt
from shotstream.takes import BEGINNING, Piece, Prompt, Take, newest_future, path_to, remembered
from shotstream.views import FilmView, FrameView, frame_views, queued_views, take_views, tree_views

MAX_WAITING = 20  # prompts
MAX_TAKES = 200
MAX_FILM_SECONDS = 600
ROLL_AHEAD = 2.0  # seconds of footage that nobody has seen yet, below which a shot rolls on


class Director(Shooting):
    """A session's films. `on_change` is called, from any thread, whenever a `view` would differ.

    Footage is on the disk until `close`. Making one raises UserError if there is no room for that. Methods that name a
    take or a prompt raise UserError if it is gone.
    """

    def __init__(self, backend: Camera, on_change: Callable[[], None] = lambda: None) -> None:
        super().__init__(backend, Reel(), on_change)
        self._waiting: list[Prompt] = []
        self._again: deque[Piece] = deque()  # to be shown once more
        self._closed = False
        self._held = False  # the queue waits for somebody to try again
        self._rolling = False
        self._policy = "recent"
        self._pinned: set[Pick] = set()  # (key of a take, frame) each
        self._dropped: set[Pick] = set()
        self._seed = secrets.randbits(62)
        self._num_keys = 0
        self._num_shown = 0  # frames, in all films of this session: the stream goes on through all of them

    # What comes next

    def queue_shot(
        self, global_caption: str, caption: str, num_chunks: int | None = None, dissolve: bool = False
    ) -> int:
        """Puts a shot at the end of the queue; its key. Raises UserError for a prompt or a queue that is too long, a
        blank prompt, or a length that no shot can have."""
        if num_chunks is not None and not 1 <= num_chunks <= LONGEST_SHOT:
            raise UserError(f"A shot has 1 to {LONGEST_SHOT} chunks, not {num_chunks}.")
        story, words = _clean(global_caption, caption)
        with self._changing():
            return self._queue(Prompt(self._new_key(), story, words, num_chunks, dissolve))

    def cast(self, global_caption: str, caption: str, picture: np.ndarray) -> int:
        """Puts a picture [H, W, 3] uint8 into the film as what the camera already saw, when its turn comes; its key."""
        story, words = _clean(global_caption, caption)
        with self._changing():
            return self._queue(Prompt(self._new_key(), story, words, picture=picture))

    def _queue(self, prompt: Prompt) -> int:
        if len(self._waiting) >= MAX_WAITING:
            raise UserError(f"{MAX_WAITING} shots are waiting already: let some of them play first.")
        if sum(take.seconds for take in self._film()) >= MAX_FILM_SECONDS:
            raise UserError(f"This film is {MAX_FILM_SECONDS // 60} minutes long: download it and start a new one.")
        self._check_takes()
        number = sum(not take.lost for take in self._film()) + len(self._waiting)
        self._waiting.append(prompt)
        self._held, self.message = False, None
        self._foresee(prompt, number)
        return prompt.key

    def _check_takes(self) -> None:
        if len(self._takes) >= MAX_TAKES:
            raise UserError(f"There are {MAX_TAKES} takes already: download your film and start a new one.")

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

    # The running shot

    def cut(self) -> None:
        """Ends the running shot with the chunk that was shown last; what waits comes next."""
        with self._changing():
            self._waiting[:0] = self._drop_unshown(keep_first=True)
            if self._head:
                self._head.ended, self._head.broken = True, None

    def steer(self, caption: str) -> None:
        """Tells the running shot, or the last one, something else from the next chunk on, and gives it time for that.
        A shot that another film went on from stays as it is, and goes on as another take.

        Raises UserError if there is no shot, or it is as long as shots can be.
        """
        words = clean_prompt(caption, "The new direction")
        with self._changing():
            self._waiting[:0] = self._drop_unshown(keep_first=True)
            take = self._head
            if take is None or take.lost or not (take.footage or take.unfinished):
                raise UserError("There is no shot to steer: make one first.")
            chunk = max(1, take.num_chunks)
            if chunk >= LONGEST_SHOT:
                raise UserError(f"A shot has at most {LONGEST_SHOT} chunks: go on with a new one.")
            if self._went_on(take):
                take = self._fork(take)
            time_for_it = take.prompt.num_chunks or self._usual
            take.wanted = min(LONGEST_SHOT, max(take.wanted or 0, chunk + time_for_it))
            take.steers = [*(steer for steer in take.steers if steer.chunk < chunk), Steer(chunk, words)]
            take.memory, take.stopped, take.ended, take.broken = None, False, False, None

    def keep_rolling(self, on: bool) -> None:
        """Whether a shot goes on by itself for as long as nothing waits."""
        with self._changing():
            self._rolling = on

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
        it, what came after the old take stays in the tree."""
        words = None if caption is None else clean_prompt(caption, "The shot")
        with self._changing():
            take = self._kept(key)
            self._jump()
            prompt = replace(
                take.prompt,
                key=self._new_key(),
                caption=words or take.prompt.caption,
                after=take.parent.key if take.parent else BEGINNING,
            )
            return self._queue(prompt)

    def rewind(self, key: int) -> None:
        """The film ends with this take, and goes on from there; `BEGINNING` is before the first."""
        with self._changing():
            take = None if key == BEGINNING else self._kept(key)
            self._jump()
            self._go_to(take)

    def choose(self, key: int) -> None:
        """The film is the one that went on from this take last."""
        with self._changing():
            take = self._kept(key)
            self._jump()
            self._go_to(newest_future(take, self._takes.values()))

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
        self._waiting.clear()
        self._held, self.message = False, None

    def _go_to(self, take: Take | None) -> None:
        """Makes `take` the end of the film and shows its last picture again."""
        self._head = take
        if take:
            take.ended = True
            self._again = deque(take.footage[-1:])

    # Memory

    def remember_by(self, policy: str) -> None:
        """Chooses how the frames are chosen that the next shot looks back at."""
        if policy not in DIRECTED:
            raise UserError(f"A film remembers by {', '.join(DIRECTED)}, not by {policy[:40]!r}.")
        with self._changing():
            self._policy = policy

    def pin(self, key: int, frame: int, on: bool = True) -> None:
        """From now on every shot of the films with this take looks back at this frame of it."""
        self._mark(self._pinned, key, frame, on)

    def drop(self, key: int, frame: int, on: bool = True) -> None:
        """From now on no shot looks back at this frame. Raises UserError if it is the last one."""
        self._mark(self._dropped, key, frame, on)

    def _mark(self, marked: set[Pick], key: int, frame: int, on: bool) -> None:
        with self._changing():
            take = self._find(key)
            if take.memory is None or frame not in take.memory.shots[-1].offsets:
                raise UserError("The film does not remember this frame.")
            marked -= {(key, frame)}
            marked |= {(key, frame)} if on else set()
            if all((t.key, o) in self._dropped for t in self._film() if t.memory for o in t.memory.shots[-1].offsets):
                marked.discard((key, frame))
                raise UserError("This is the last frame that the next shot can look back at: keep it.")

    def _remember(self, take: Take, memory: Memory) -> None:
        """A shot that has become longer or shorter is remembered by other frames: a pin holds the nearest."""
        take.memory, offsets = memory, memory.shots[-1].offsets
        for key, frame in [mark for mark in self._pinned | self._dropped if mark[0] == take.key]:
            if (key, frame) in self._pinned and frame not in offsets:
                self._pinned -= {(key, frame)}
                self._pinned |= {(key, nearest(offsets, frame))}
            if frame not in offsets:
                self._dropped.discard((key, frame))

    def weigh_attention(self, on: bool) -> None:
        """Whether shots tell how much attention the frames that they looked back at got."""
        with self._changing():
            self._weighs = on

    def _picks(self, head: Take | None, caption: str) -> tuple[Pick, ...] | None:
        """What a shot after `head` looks back at, None for a first shot."""
        closed = [take for take in path_to(head) if take.memory]
        if not closed:
            return None
        pinned, dropped = numbered(self._pinned, closed), numbered(self._dropped, closed)
        shots = closed[-1].memory.shots
        if len(dropped) == sum(len(shot.offsets) for shot in shots):
            dropped = ()  # all that this film has was dropped in a longer one
        return look_back(shots, caption, self._policy, pinned, dropped)

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
            self._drop_unshown()
            self._forget()
            self._seed = secrets.randbits(62)

    def close(self) -> None:
        """Ends the session for good: `shoot_next` returns, the footage is deleted. May be called twice."""
        with self._changing():
            self._interrupt()
            self._closed = True
            self._forget()
            self._reel.close()

    def _forget(self) -> None:
        for take in self._takes.values():
            self._reel.drop(take.footage)
        self._waiting.clear()
        self._takes.clear()
        self._again.clear()
        self._pinned.clear()
        self._dropped.clear()
        self._head = None
        self._held, self.message, self.timing = False, None, None

    # What is seen

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def memory(self) -> Memory:
        """What the film remembers: that of its last closed take."""
        with self._condition:
            return remembered(self._head)

    def view(self) -> FilmView:
        """Everything as it is now."""
        with self._condition:
            film, takes = self._film(), list(self._takes.values())
            tree = tree_views(takes, self._head)
            doing = self._doing
            timing = self.timing
            return FilmView(
                takes=take_views(film, takes, self._making),
                waiting=queued_views(self._waiting),
                tree=tree,
                frames=self._frame_views(film),
                stage=doing.stage,
                chunk=doing.chunk,
                num_chunks=doing.num_chunks,
                place=doing.place,
                wait=doing.wait,
                fps=timing and timing.fps,
                first_chunk=timing and timing.first_chunk,
                seconds=dict(timing.seconds) if timing else {},
                message=self.message,
                held=self._held,
                broken=bool(self._held and self._head and self._head.broken),
                rolling=self._rolling,
                playing=self._making is not None or self._unshown() is not None,
                policy=self._policy,
                weighing=self._weighs,
                branched=any(node.lane for node in tree),
                size=self._size,
            )

    def _frame_views(self, film: list[Take]) -> tuple[FrameView, ...]:
        caption = self._waiting[0].caption if self._waiting else ""
        picks = self._picks(self._head, caption)
        return frame_views(film, picks, self._pinned, self._dropped, self._backend.fps) if picks else ()

    def still(self, key: int) -> bytes | None:
        """A small picture (PNG) of the take with that key; None if there is none."""
        with self._condition:
            take = self._takes.get(key)
            return take.still if take and take.still else None

    def remembered_frame(self, key: int, frame: int) -> np.ndarray | None:
        """A small picture [H, W, 3] uint8 of a frame that the film remembers; None if it does not."""
        with self._condition:
            take = self._takes.get(key)
            shot = take.memory.shots[-1] if take and take.memory else None
            return shot.thumbnails[shot.offsets.index(frame)] if shot and frame in shot.offsets else None

    def last_picture(self) -> np.ndarray | None:
        """[H, W, 3] uint8: what the film ends with, at its own size; None if it was not made or cast here."""
        with self._condition:
            take = self._head
            if take and (take.footage or take.prompt.picture is not None):
                return self._last_picture(take)
            return None

    def has_unshown(self) -> bool:
        with self._condition:
            return bool(self._again) or self._unshown() is not None

    def next_segment(self) -> Segment | None:
        """The next segment to be shown, from now on counted as shown, with timestamps that go on from the one before;
        None if there is none yet."""
        with self._condition:
            piece = self._again.popleft() if self._again else self._unshown()
            if piece is None:
                return None
            segment = self._reel.load(piece, self._num_shown)
            self._num_shown += segment.num_frames
            piece.shown = True
            self._condition.notify_all()
            return segment

    # What is taken along

    def export(self, path: Path) -> int:
        """Writes the film as an MP4 whose chapters are the shots, with the note that it can be made again from; the
        number of frames. Raises UserError."""
        shots, note = self._in_the_can()
        return write_film(path, shots, self._backend.fps if shots else 1, note)

    def export_take(self, key: int, path: Path) -> int:
        """Writes one take as an MP4; the number of frames. Raises UserError."""
        with self._condition:
            shots = film_shots(self._reel, [self._find(key)])
        return write_film(path, shots, self._backend.fps if shots else 1)

    def captions(self) -> str:
        """The film's captions as WebVTT."""
        shots, _ = self._in_the_can()
        return webvtt(shots, self._backend.fps if shots else 1)

    def storyboard(self) -> bytes:
        """PNG of a picture and the caption of every shot. Raises UserError if there is none."""
        return storyboard(self._in_the_can()[0])

    def _in_the_can(self) -> tuple[list[FilmShot], FilmNote | None]:
        with self._condition:
            film = self._film()
            shots = film_shots(self._reel, film)
            return shots, film_note(self._reel, film, self._backend.model_name, self._backend.fps) if shots else None

    def story(self) -> Story:
        """The film and what waits, in words. Raises UserError if there are none."""
        with self._condition:
            return story_of([*(take.prompt for take in self._film()), *self._waiting])

    def save(self, path: Path) -> None:
        """Writes all that the film remembers, its words and what waits, so that another session can go on with it: the
        same prompts then make the same shots. Raises UserError."""
        with self._condition:
            closed = [take for take in self._film() if take.memory]
            session = SavedSession(
                self._seed,
                self._num_keys,
                tuple(saved(take.prompt) for take in closed),
                tuple(saved(prompt) for prompt in self._waiting if prompt.picture is None and prompt.after is None),
                self._policy,
                numbered(self._pinned, closed),
                numbered(self._dropped, closed),
                self._size,
            )
            memory = remembered(self._head)
        memory.save(path, session_text(session))

    def resume(self, path: Path) -> str:
        """Goes on with what `save` wrote, without its footage, in the place of all that there is; the story's caption.

        Raises UserError for any other file; then nothing is changed.
        """
        memory, text = read_file(path)
        session = read_session(text, memory)
        with self._changing():
            self._drop_unshown()
            self._forget()
            self._seed, self._num_keys, self._policy = session.seed, session.num_keys, session.policy
            self._size = session.size
            for take in resumed(session, memory):
                self._takes[take.key] = self._head = take
            self._pinned |= {(session.takes[shot].key, frame) for shot, frame in session.pinned}
            self._dropped |= {(session.takes[shot].key, frame) for shot, frame in session.dropped}
            self._waiting += [prompt_of(shot) for shot in session.waiting][:MAX_WAITING]
        shots = (*session.takes, *session.waiting)
        return shots[-1].global_caption if shots else ""

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
            self._takes[take.key] = take
            self._head = take
        self._continue(take)

    def _rolls_on(self, head: Take | None) -> bool:
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
            and sum(piece.duration for piece in head.footage if not piece.shown) < ROLL_AHEAD
        )

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

    # What is in the can

    def _film(self) -> list[Take]:
        return path_to(self._head)

    def _find(self, key: int) -> Take:
        if key not in self._takes:
            raise UserError("This take is gone.")
        return self._takes[key]

    def _kept(self, key: int) -> Take:
        """A take that stays, whatever is dropped: whoever goes back to it, or wants another, has seen enough of it and
        of what came before. Raises UserError if nothing of it was made yet."""
        take = self._find(key)
        if not take.footage and not take.memory:
            raise UserError("Nothing of this shot was made yet: wait for it.")
        for shot in path_to(take):
            for piece in shot.footage:
                piece.shown = True
        return take

    def _went_on(self, take: Take) -> bool:
        """Is there a film that goes on from this take? It remembers the take as it is, which may then not change."""
        return any(other.parent is take for other in self._takes.values())

    def _fork(self, take: Take) -> Take:
        """Another take in the place of the film's last one, the same so far, that may change. Raises UserError."""
        self._check_takes()
        fork = replace(
            take,
            prompt=replace(take.prompt, key=self._new_key()),
            footage=[self._reel.copy(piece) for piece in take.footage],
        )
        for marked in (self._pinned, self._dropped):
            marked |= {(fork.key, frame) for key, frame in marked if key == take.key}
        self._takes[fork.key] = self._head = fork
        return fork

    def _new_key(self) -> int:
        self._num_keys += 1
        return self._num_keys

    def _pieces(self) -> Iterator[Piece]:
        return (piece for take in self._film() for piece in take.footage)

    def _unshown(self) -> Piece | None:
        return next((piece for piece in self._pieces() if not piece.shown), None)

    def _too_early(self, prompt: Prompt) -> bool:
        """Is a whole shot ahead of the viewer? Then the next one can wait, and a cut wastes less. A film that goes on
        from elsewhere is first seen to its end."""
        if prompt.after is not None:
            return self._unshown() is not None
        return bool(self._head and self._head.footage and not self._head.footage[0].shown)

    def _drop_unshown(self, keep_first: bool = False) -> list[Prompt]:
        """Ends all that is being made and drops what nobody saw; the prompts of shots that thereby never were.

        With `keep_first` the first shot that was not shown to its end keeps at least one chunk, or goes on to make it.
        """
        self._interrupt()
        self._again.clear()
        film, undone = self._film(), []
        for place, take in enumerate(film):
            shown = sum(piece.shown for piece in take.footage)
            if shown < len(take.footage) or take.unfinished:
                stays = bool(shown) or keep_first
                if stays:
                    self._shorten(take, max(1, shown))
                undone = film[place + stays :]  # a picture that was cast after unseen footage, too
                break
        for take in undone:
            self._remove(take)
        return [take.prompt for take in undone]

    def _shorten(self, take: Take, chunks: int) -> None:
        self._reel.drop(take.footage[chunks:])
        take.stopped |= take.wanted is None or take.wanted > chunks
        del take.footage[chunks:]
        take.steers = [steer for steer in take.steers if steer.chunk < chunks]
        take.wanted, take.memory, take.attention = chunks, None, None

    def _remove(self, take: Take) -> None:
        """A take that never was; the film ends before it."""
        self._reel.drop(take.footage)
        self._takes.pop(take.key, None)
        if take in self._film():
            self._head = take.parent


def _clean(global_caption: str, caption: str) -> tuple[str, str]:
    story = clean_prompt(global_caption, "The story") if global_caption.strip() else ""
    return story, clean_prompt(caption, "The next shot")

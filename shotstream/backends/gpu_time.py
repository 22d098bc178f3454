"""How long a card is asked for on ZeroGPU, and what its refusals mean.

The time that is asked for, not the time that is used, is taken from a visitor's daily share; a worker that needs longer
is killed. Owns both estimates and sentences. Knows no worker, and of a shot only its length and how it comes along.

A shot that goes on costs time for the chunks that it already has: a worker that did not make them decodes and caches
them anew. Which one it will be is not known when time is asked for.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from shotstream.backends.usual import averaged
from shotstream.errors import OutOfGpuTime, UserError
from shotstream.events import Chunk, Progress

BEGINNING = 8.0  # seconds: the weights go to the card, words are read, the caches are filled
FIRST_GUESS, MOST = 1.0, 4.0  # seconds a chunk, before one was made, and whatever happens
FIRST_GUESS_AGAIN, MOST_AGAIN = 0.2, 1.0  # the same for a chunk that was made before
MARGIN = 1.5  # that a shot may take longer than the ones before
_LEFT = re.compile(r"\((\d+)s requested vs\. (-?\d+)s left\)")
KEPT = "your film and your prompt are kept"


class LostWorker(Exception):
    """A worker ended without a word: killed in the middle of one, it leaves those who listen waiting for the rest."""


@dataclass
class Course:
    """How a call comes along: `chunks` are to be made behind as many as there are `before`, of pictures `size` times as
    large as the model's own."""

    chunks: int = 0
    before: int = 0
    size: float = 1.0
    making: bool = field(default=False, init=False)  # it has come to what is new
    _begun: float | None = field(default=None, init=False)  # when decoding and caching what was before began
    _ready: float | None = field(default=None, init=False)  # when all was there to make what is new
    _latest: float | None = field(default=None, init=False)  # when there was a chunk
    _made: int = field(default=0, init=False)  # chunks
    _signs: int = field(default=0, init=False)  # of the context

    def note(self, event: object, now: float) -> None:
        """The call told this, `now` in seconds by any clock."""
        match event:
            case Progress(stage="denoise"):
                self.making = True
            case Progress(stage="remember"):
                pass  # after the last chunk
            case Progress():
                self._ready = now
                if event.stage == "context":
                    self._begun = self._begun or now
                    self._signs += 1
            case Chunk():
                self._made, self._latest, self.making = self._made + 1, now, True

    @property
    def chunk(self) -> float | None:
        """Seconds that a chunk of the model's own size took; None if none was made."""
        return (self._latest - self._ready) / self._made / self.size if self._made else None

    @property
    def again(self) -> float | None:
        """Seconds that a chunk from before took; None if a worker still had some of them: the next may have none."""
        all_signs = 1 + self.before + bool(self.chunks)  # the context itself, each chunk's pixels, and their cache
        if not self.before or self._signs < all_signs or self.chunks and not self.making:
            return None
        return (self._ready - self._begun) / self.before / self.size


class GpuTime:
    """What is known of how long chunks take."""

    def __init__(self) -> None:
        self._chunk, self._again = FIRST_GUESS, FIRST_GUESS_AGAIN

    def seconds(self, course: Course) -> int:
        """To be asked for."""
        work = course.chunks * self._chunk + course.before * self._again
        return math.ceil(BEGINNING + MARGIN * course.size * work)

    def learn(self, course: Course) -> None:
        """A call went like this, to its end or to where it was cut off."""
        if course.chunk is not None:
            self._chunk = averaged(self._chunk, min(max(course.chunk, 0.1), MOST))
        if course.again is not None:
            self._again = averaged(self._again, min(max(course.again, 0.02), MOST_AGAIN))

    def lose(self, course: Course, error: Exception, asked: int, elapsed: float) -> None:
        """A call went wrong; if it was for lack of time, more is asked for from now on: for what took it."""
        if not _ran_out(error, asked, elapsed):
            return
        as_thought = course.chunk is not None and course.chunk <= self._chunk
        if course.before and (as_thought or not course.making):
            self._again = min(2 * self._again, MOST_AGAIN)
        else:
            self._chunk = min(2 * self._chunk, MOST)

    def counted(self, seconds: int) -> int:
        """What is taken from a visitor's daily share for as many seconds: cards count differently."""
        try:
            from spaces.zero.config import get_config

            return round(seconds * get_config()["duration_factor"])
        except Exception:  # it is not for others to know, and only shown
            return seconds


def told(error: Exception, asked: int, elapsed: float) -> str:
    """One sentence for whatever a call can raise that asked for a card for `asked` seconds and was cut off `elapsed`
    seconds after the first sign of its worker."""
    title, message = getattr(error, "title", ""), str(getattr(error, "message", error))
    if title == "ZeroGPU worker error" and message != "GPU task aborted":
        return f"The shot failed ({message[:40]}): try it again, {KEPT}."
    if title == "ZeroGPU worker error" or isinstance(error, LostWorker):
        if _ran_out(error, asked, elapsed):
            return f"This shot took longer than the {asked} s that it had the GPU for: try it again, {KEPT}."
        return f"The GPU was lost in the middle of this shot: try it again, {KEPT}."
    if message.startswith("No GPU was available") or title == "ZeroGPU queue timeout":
        return f"No GPU was free within a minute: try again in a moment, {KEPT}."
    if title == "ZeroGPU quota exceeded":
        return _out_of_quota(message, asked)
    if title == "ZeroGPU illegal duration":
        return f"This shot asks for a GPU for {asked} s, longer than anyone may have it: make a shorter one, {KEPT}."
    if title == "ZeroGPU pending credits exceeded":
        return f"Too many of your GPU tasks run at once: try again when one of them has ended, {KEPT}."
    if title == "ZeroGPU client error":
        return f"Hugging Face does not know whose visit this is just now: try again in half a minute, {KEPT}."
    return f"No GPU could be asked for ({type(error).__name__}): try again in a moment, {KEPT}."


def refusal(error: Exception, asked: int, elapsed: float) -> UserError:
    """What `told` says, as an exception for the visitor."""
    sentence, left = told(error, asked, elapsed), _LEFT.search(str(getattr(error, "message", error)))
    return OutOfGpuTime(sentence, max(0, int(left[2]))) if left else UserError(sentence)


def _out_of_quota(message: str, asked: int) -> str:
    if left := _LEFT.search(message):
        later = re.search(r"Try again in ([\w:, ]+)\.", message)
        more = f" (more in {later[1]})" if later else ""
        return (
            f"This shot asks for {left[1]} s of GPU time and {max(0, int(left[2]))} s of yours are left today{more}: "
            f"{KEPT}, so try a shorter shot, or come back later."
        )
    if "runs limit" in message:
        return f"You have used up today's number of GPU runs: come back later, {KEPT}."
    return f"Hugging Face has no GPU time for visitors that it does not know: log in there, {KEPT} meanwhile."


def _ran_out(error: Exception, asked: int, elapsed: float) -> bool:
    aborted = isinstance(error, LostWorker) or str(getattr(error, "message", "")) == "GPU task aborted"
    return aborted and elapsed >= 0.6 * asked  # getting the card ready was counted, too, and is not seen from here

"""How long a card is asked for on ZeroGPU, and what its refusals mean.

The time that is asked for, not the time that is used, is taken from a visitor's daily share; a worker that needs longer
is killed. Owns both estimates and sentences. Knows no worker and no shot.
"""

from __future__ import annotations

import math
import re

BEGINNING = 8.0  # seconds: the weights go to the card, words are read, the caches are filled
FIRST_GUESS = 1.0  # seconds a chunk, before one was made
MARGIN = 1.5  # that a shot may take longer than the ones before
WEIGHT = 0.3  # of the latest shot in the estimate
KEPT = "your film and your prompt are kept"


class LostWorker(Exception):
    """A worker ended without a word: killed in the middle of one, it leaves those who listen waiting for the rest."""


class GpuTime:
    """What is known of how long chunks take."""

    def __init__(self) -> None:
        self._chunk = FIRST_GUESS

    def seconds(self, chunks: int, size: float = 1.0) -> int:
        """To be asked for, for as many chunks of pictures `size` times as large as the model's own."""
        return math.ceil(BEGINNING + MARGIN * chunks * size * self._chunk)

    def learn(self, seconds: float) -> None:
        """A chunk took as long."""
        self._chunk += WEIGHT * (max(seconds, 0.1) - self._chunk)

    def note(self, error: Exception, asked: int, elapsed: float) -> None:
        """Something went wrong; if it was for lack of time, more is asked for from now on."""
        if _ran_out(error, asked, elapsed):
            self._chunk *= 2

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


def _out_of_quota(message: str, asked: int) -> str:
    left = re.search(r"\((\d+)s requested vs\. (-?\d+)s left\)", message)
    if left:
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

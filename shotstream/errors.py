"""The one exception that is meant for people.

Whatever can be wrong with a prompt, a file, a number or a network is raised as `UserError`, whose message is one
clear sentence: what is wrong and what to do. The command line prints it and exits with 2; the page shows it.
Lack of memory, which every library tells in its own way, and what the operating system refuses become one too.
Anything else that escapes is a bug.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

# torch on a CPU, torch and its libraries on a GPU, the operating system
_NO_MEMORY = re.compile(r"out of memory|can(no|')t allocate memory|ALLOC_FAILED", re.IGNORECASE)


class UserError(Exception):
    """Bad input or a failing surrounding (disk, network, device), told in one sentence."""


class OutOfGpuTime(UserError):
    """A visitor's daily share of GPU time is too small for a shot: `left` seconds."""

    def __init__(self, sentence: str, left: int) -> None:
        super().__init__(sentence)
        self.left = left


@contextmanager
def telling_lack_of_memory(purpose: str) -> Iterator[None]:
    """Turns lack of memory, the machine's or a GPU's, into a `UserError`: "Not enough memory PURPOSE: ..."."""
    try:
        yield
    except Exception as error:
        if lacks_memory(error):
            raise UserError(f"Not enough memory {purpose}: close other programs, or use a smaller picture.") from error
        raise


@contextmanager
def telling_refused_files() -> Iterator[None]:
    """Turns what the operating system refuses (a path too long or forbidden, a full disk) into a `UserError`."""
    try:
        yield
    except BrokenPipeError:  # the reader of our output went away: nothing is wrong
        raise
    except OSError as error:
        subject = f"{str(error.filename)[:80]!r}" if error.filename else "a file"
        raise UserError(f"Cannot use {subject}: {error.strerror or error}; choose another place.") from error


def lacks_memory(error: BaseException) -> bool:
    """Is this an allocation that failed? torch raises RuntimeErrors for that, which only their text tells apart."""
    return isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)) is not None

"""Files from the Hub: only those asked for, at one revision, and every failure in one sentence.

Knows repositories and patterns, not what the files mean.
"""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    DryRunError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    IncompleteSnapshotError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from shotstream.errors import UserError

_REPO = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", re.ASCII)


def is_hub_id(source: str) -> bool:
    """Whether `source` reads like `owner/name` or `owner/name@revision`."""
    return _REPO.fullmatch(source) is not None


def download(source: str, patterns: Sequence[str]) -> Path:
    """The local folder that holds the files matching `patterns` of `owner/name[@revision]`.

    What is already here is not asked for again, so that a pinned model starts without a network. Raises `UserError`.
    """
    repo, _, revision = source.partition("@")
    wanted = {"repo_id": repo, "revision": revision or None, "allow_patterns": list(patterns)}
    try:
        try:
            return Path(snapshot_download(**wanted, local_files_only=True))
        except (LocalEntryNotFoundError, FileNotFoundError):
            _check_space(repo, wanted)
            return Path(snapshot_download(**wanted))
    except Exception as error:
        if isinstance(error, UserError):
            raise
        raise UserError(tell(error, source)) from error


def tell(error: Exception, source: str) -> str:
    """One sentence for whatever a download can raise. The order matters: some of these are kinds of others."""
    match error:
        case GatedRepoError():
            return (
                f"{source} is gated: accept its terms on its page on the Hub, then log in with `hf auth login` "
                "or set HF_TOKEN."
            )
        case RepositoryNotFoundError():
            return f"There is no model {source} here or on the Hub: check the name, or log in if it is private."
        case RevisionNotFoundError():
            return f"{source} names a revision that the repository does not have."
        case RemoteEntryNotFoundError():
            return f"{source} lacks a file that a ShotStream model needs."
        case IncompleteSnapshotError():
            return f"Only a part of {source} was downloaded before: connect to the network once to complete it."
        case OfflineModeIsEnabled():
            return f"{source} is not on this machine and HF_HUB_OFFLINE forbids downloading it."
        case LocalEntryNotFoundError():
            return f"{source} is not on this machine and the Hub cannot be reached: check the network connection."
        case HFValidationError():
            return f"{source[:100]!r} is not the name of a repository on the Hub."
        case HfHubHTTPError():
            return f"The Hub refused {source}: {str(error).splitlines()[0][:200]}."
        case OSError() if error.errno == errno.ENOSPC:
            return f"The disk is full: free space in {constants.HF_HUB_CACHE} or set HF_HOME to another disk."
        case OSError() if error.errno is not None:
            return f"Cannot store {source} in {constants.HF_HUB_CACHE}: {error.strerror}."
        case _:  # connection errors of whichever HTTP library is below
            return f"Cannot download {source}: {type(error).__name__}; check the network connection."


def _check_space(repo: str, wanted: dict) -> None:
    try:
        missing = sum(file.file_size or 0 for file in snapshot_download(**wanted, dry_run=True) if file.will_download)
    except DryRunError:  # the repository cannot be asked: the download itself will say why
        return
    place = Path(constants.HF_HUB_CACHE)
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if missing > free:
        raise UserError(
            f"{repo} needs {missing / 1e9:.1f} GB more on disk, but {place} has {free / 1e9:.1f} GB free: "
            "free space there or set HF_HOME to another disk."
        )

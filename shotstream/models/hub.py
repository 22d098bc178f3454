"""Files from the Hub: only those asked for, at one revision, measured before and told while they come.

Knows repositories and file names, not what the files mean. What is here already is not asked for again, so that a warm
cache starts without a network; what an interrupted download left is gone on with. Every failure is one sentence.
"""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
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
from shotstream.models.fetching import FetchProgress, bar_for

_REPO = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", re.ASCII)


@dataclass(frozen=True)
class HubFiles:
    """`files` (names, or patterns with an asterisk) of the repository `repo` at `revision`."""

    repo: str
    revision: str | None
    files: tuple[str, ...]

    @property
    def source(self) -> str:
        """`owner/name@revision`, as `is_hub_id` knows it."""
        return f"{self.repo}@{self.revision}" if self.revision else self.repo


def is_hub_id(source: str) -> bool:
    """Whether `source` reads like `owner/name` or `owner/name@revision`."""
    return _REPO.fullmatch(source) is not None


def download(source: str, patterns: Sequence[str], progress: FetchProgress | None = None) -> Path:
    """The local folder that holds the files matching `patterns` of `owner/name[@revision]`; see `fetch`."""
    repo, _, revision = source.partition("@")
    return fetch([HubFiles(repo, revision or None, tuple(patterns))], progress)[0]


def fetch(parts: Sequence[HubFiles], progress: FetchProgress | None = None) -> list[Path]:
    """The local folder of each of `parts`, which hold at least the files asked for.

    What is missing is measured first, all of it: too little room on the disk is told before anything is fetched. It is
    then told to `progress` (one that writes to the terminal, if None). Raises `UserError`.
    """
    progress = progress or FetchProgress()
    folders = [cached(part) for part in parts]
    missing = [part for part, folder in zip(parts, folders, strict=True) if folder is None]
    if missing:
        progress.expect(check_room(missing))
        try:
            for place, part in enumerate(parts):
                if folders[place] is None:
                    progress.begin(part.repo)
                    folders[place] = _snapshot(part, tqdm_class=bar_for(progress))
        finally:
            progress.end()
    for part, folder in zip(parts, folders, strict=True):
        if lacking := _lacking(folder, part):
            raise UserError(f"{part.source} lacks a file that a ShotStream model needs: {lacking}.")
    return folders


def cached(part: HubFiles) -> Path | None:
    """The local folder with all of the files, or None; asks nobody."""
    try:
        folder = Path(snapshot_download(**_wanted(part), local_files_only=True))
    except (LocalEntryNotFoundError, FileNotFoundError):
        return None
    except Exception as error:
        raise UserError(tell(error, part.source)) from error
    # what a Space was built with lies there without the list of all files by which the library tells it complete
    return None if _lacking(folder, part) else folder


def _lacking(folder: Path, part: HubFiles) -> str | None:
    return next((name for name in part.files if "*" not in name and not (folder / name).is_file()), None)


def _wanted(part: HubFiles) -> dict:
    return {"repo_id": part.repo, "revision": part.revision, "allow_patterns": list(part.files)}


def _snapshot(part: HubFiles, **options) -> Path:
    try:
        return Path(snapshot_download(**_wanted(part), **options))
    except Exception as error:
        raise UserError(tell(error, part.source)) from error


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


def check_room(parts: Sequence[HubFiles]) -> int:
    """Bytes of `parts` that are still to come. Raises `UserError` if the disk has no room for them all."""
    missing = [part for part in parts if cached(part) is None]
    needed = 0
    for part in missing:
        try:
            files = snapshot_download(**_wanted(part), dry_run=True, tqdm_class=bar_for(None))
        except DryRunError:  # the repository cannot be asked: the download itself will say why
            continue
        except Exception as error:
            raise UserError(tell(error, part.source)) from error
        needed += sum(file.file_size or 0 for file in files if file.will_download)
    place = Path(constants.HF_HUB_CACHE)
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed > free:
        names = " and ".join(dict.fromkeys(part.repo for part in missing))
        raise UserError(
            f"{names} needs {needed / 1e9:.1f} GB more on disk, but {place} has {free / 1e9:.1f} GB free: "
            "free space there or set HF_HOME to another disk."
        )
    return needed

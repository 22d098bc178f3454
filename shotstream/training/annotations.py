"""The annotation of a folder of multi-shot videos: which frames of which file are which shot, and what is to be seen.

Owns the two file formats, JSON and CSV, and every check that needs no video. Opens no video and knows no model.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shotstream.errors import UserError
from shotstream.story import clean_prompt, read_story

FILE_NAMES = ("annotations.json", "annotations.csv")
COLUMNS = ("video", "shot", "start", "end", "caption", "global_caption")
STORY_COLUMNS = ("video_path", "json_path", "frame_number")  # as public multi-shot sets have it: a row a video
MAX_FILE_BYTES = 1 << 30


@dataclass(frozen=True)
class AnnotatedShot:
    """Frames `start` to `end` (exclusive) of the video, counted from 0 as they are shown; `name` is for messages."""

    name: str
    start: int
    end: int
    caption: str


@dataclass(frozen=True)
class AnnotatedStory:
    """A video inside the folder (`video` as annotated, `path` where it is) and its shots, in order, without overlap."""

    video: str
    path: Path
    global_caption: str
    shots: tuple[AnnotatedShot, ...]


def read_annotations(folder: Path) -> list[AnnotatedStory]:
    """Reads the one annotation file of `folder`; raises `UserError` for whatever is wrong with it.

    JSON: [{"video": "clip.mp4", "global_caption": "...", "shots": [{"start": 0, "end": 81, "caption": "..."}]}].
    CSV: a row a shot with the columns `COLUMNS`; rows of one video are one story, ordered by the number in `shot`. Or a
    row a video with the columns `STORY_COLUMNS`: a story file, and its shots' frames as "[[0, 81], [81, 162]]".
    The global caption may be empty, a shot's caption may not.
    """
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}.")
    found = [folder / name for name in FILE_NAMES if (folder / name).is_file()]
    if not found:
        raise UserError(f"{folder} has no {' or '.join(FILE_NAMES)} to say which frames are which shot.")
    if len(found) > 1:
        raise UserError(f"{folder} has both {' and '.join(FILE_NAMES)}: keep the one that counts.")
    path = found[0]
    try:
        text = _read_text(path)
        entries = _parse_json(text) if path.suffix == ".json" else _parse_csv(text, folder)
        if not entries:
            raise UserError("There are no stories in it.")
        return [_checked_story(number, entry, folder) for number, entry in enumerate(entries, start=1)]
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise UserError(f"It is larger than {MAX_FILE_BYTES >> 20} MB: this is not an annotation.")
        return data.decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"It cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError("It is not UTF-8 text.") from error


def _parse_json(text: str) -> list[Any]:
    try:
        entries = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"It is not valid JSON (line {error.lineno}: {error.msg}).") from error
    except (RecursionError, ValueError) as error:  # a nesting bomb, a number of thousands of digits
        raise UserError("It is not valid JSON (nested too deeply, or a number too long).") from error
    if not isinstance(entries, list):
        raise UserError('It is not a list of stories: write [{"video": ..., "global_caption": ..., "shots": [...]}].')
    return entries


def _parse_csv(text: str, folder: Path) -> list[dict[str, Any]]:
    """The rows as the JSON format would have them, one story a video."""
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    stories: dict[str, dict[str, Any]] = {}
    try:
        if set(STORY_COLUMNS) <= set(reader.fieldnames or ()):
            return [_story_row(number, row, folder) for number, row in enumerate(reader, start=1)]
        if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
            raise UserError(f"It has no column {missing[0]!r}: the columns are {','.join(COLUMNS)}.")
        for row in reader:
            if None in row or None in row.values():
                raise UserError(
                    f"Line {reader.line_num} has {'more' if None in row else 'fewer'} fields than the header."
                )
            video, global_caption = row["video"], row["global_caption"]
            story = stories.setdefault(video, {"video": video, "global_caption": global_caption, "shots": []})
            if story["global_caption"] != global_caption:
                raise UserError(f"Line {reader.line_num} gives {video} another global_caption than the lines before.")
            story["shots"].append(row | {"shot": _whole_number(row["shot"], f"The shot in line {reader.line_num}")})
    except csv.Error as error:
        raise UserError(f"It is not valid CSV (line {reader.reader.line_num}: {error}).") from error
    for video, story in stories.items():
        story["shots"].sort(key=lambda shot: shot["shot"])
        numbers = [shot["shot"] for shot in story["shots"]]
        if twice := [a for a, b in zip(numbers, numbers[1:], strict=False) if a == b]:
            raise UserError(f"{video} has shot {twice[0]} twice.")
    return list(stories.values())


def _story_row(number: int, row: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A video of `STORY_COLUMNS` as the JSON format would have it."""
    story = read_story(_path_inside(folder, row["json_path"], number, "story file"))
    try:
        ranges = json.loads(row["frame_number"] or "")
        frames = [(start, end) for start, end in ranges]
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f'The frame_number of story {number} is not a list like "[[0, 81], [81, 162]]".') from error
    if len(frames) != len(story.shots):
        raise UserError(f"Story {number} has {len(story.shots)} shots, but frames of {len(frames)}.")
    shots = [
        {"start": start, "end": end, "caption": shot.caption}
        for (start, end), shot in zip(frames, story.shots, strict=True)
    ]
    return {"video": row["video_path"], "global_caption": story.global_caption, "shots": shots}


def _checked_story(number: int, entry: Any, folder: Path) -> AnnotatedStory:
    if not isinstance(entry, dict):
        raise UserError(f"Story {number} is not an object with video, global_caption and shots.")
    if missing := [key for key in ("video", "global_caption", "shots") if key not in entry]:
        raise UserError(f'Story {number} has no "{missing[0]}".')
    video, global_caption, shots = entry["video"], entry["global_caption"], entry["shots"]
    path = _path_inside(folder, video, number)
    if global_caption != "":
        global_caption = clean_prompt(global_caption, f"The global_caption of {video}")
    if not isinstance(shots, list) or not shots:
        raise UserError(f"{video} has no shots.")
    checked = []
    for position, shot in enumerate(shots, start=1):
        checked.append(_checked_shot(position, shot, video))
        if position > 1 and checked[-1].start < checked[-2].end:
            first, second = checked[-2:]
            raise UserError(
                f"{second.name} starts at frame {second.start}, before {first.name} has ended at {first.end}."
            )
    return AnnotatedStory(video, path, global_caption, tuple(checked))


def _checked_shot(position: int, shot: Any, video: str) -> AnnotatedShot:
    if not isinstance(shot, dict):
        raise UserError(f"Shot {position} of {video} is not an object with start, end and caption.")
    name = f"Shot {str(shot.get('shot', position))[:20]} of {video}"
    if missing := [key for key in ("start", "end") if key not in shot]:
        raise UserError(f'{name} has no "{missing[0]}".')
    start, end = (_whole_number(shot[key], f"The {key} of {name}") for key in ("start", "end"))
    if start < 0 or end <= start:
        raise UserError(f"{name} goes from frame {start} to {end} (exclusive), which is no range of frames.")
    caption = shot.get("caption")
    if caption is None or (isinstance(caption, str) and not caption.strip()):
        raise UserError(f"{name} has no caption: say what is to be seen.")
    return AnnotatedShot(name, start, end, clean_prompt(caption, f"The caption of {name}"))


def _whole_number(value: Any, name: str) -> int:
    """A number, which CSV gives as text."""
    try:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError
        return int(value)
    except ValueError as error:
        raise UserError(f"{name} is {str(value)[:40]!r}, which is not a whole number.") from error


def _path_inside(folder: Path, name: Any, number: int, what: str = "video") -> Path:
    """Annotations come from strangers: neither `..`, nor an absolute path, nor a link leads out of the folder."""
    if not isinstance(name, str) or not name.strip():
        raise UserError(f"Story {number} has no name of a {what}.")
    try:
        path = (folder / name).resolve()
        inside, there = path.is_relative_to(folder.resolve()), path.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # a name too long, a NUL, links in a circle
        raise UserError(f"The {what} {name[:100]!r} of story {number} is not a file name.") from error
    if not inside:
        raise UserError(f"The {what} {name} is outside the folder: move it inside.")
    if not there:
        raise UserError(f"The {what} {name} is not in the folder.")
    return path

"""Makes a film of what a team of agents did: an event log in, an MP4 out, through the public API of a running page.

    python app.py                                                                    # in one terminal
    python assets/agent-run/film.py --url http://127.0.0.1:7860 -o run.mp4           # in another

A log is JSON: {"events": [{"time": "2026-03-02T08:58:10", "agent": "planner", "event": "start"}, ...]}. Every agent is
a character at a place of its own, cast in the order in which the agents appear; an event is a shot of its agent, and
the hour is the light. Owns this translation only. Needs `gradio_client`; knows the toy world by the words below.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

MAX_EVENTS = 12  # shots that one call of the API makes
STYLE = "A simple animation with flat colours."
CAST = (
    ("yellow star", "in the meadow"),
    ("green cube", "in the forest"),
    ("pink ghost", "in the city"),
    ("red ball", "on the beach"),
    ("blue cone", "in the mountains"),
    ("orange cat", "in the desert"),
)
# The toy model knows one character at a time and no agents: each shot says all that is to be seen.
SHOTS = {
    "start": "Medium shot: a {who} jumps {place} {light}. It is happy.",
    "think": "Medium shot: a {who} looks around {place} {light}. It is calm.",
    "work": "Medium shot: a {who} walks to the right {place} {light}. It is calm.",
    "wait": "Medium shot: a {who} stands still {place} {light}. It is calm.",
    "fail": "Close-up of the {who} {place} {light}. It is surprised.",
    "done": "Close-up of the {who} {place} {light}. It is happy.",
}


def story_of(events: Sequence[dict[str, str]]) -> dict[str, str]:
    """The story of a log's events, in the order of their times. Raises ValueError for what cannot be shown."""
    if not 1 <= len(events) <= MAX_EVENTS:
        raise ValueError(f"the log has {len(events)} events: a film shows 1 to {MAX_EVENTS}")
    events = sorted(events, key=lambda event: datetime.fromisoformat(event["time"]))
    agents = list(dict.fromkeys(event["agent"] for event in events))
    if len(agents) > len(CAST):
        raise ValueError(f"the log has {len(agents)} agents: there are characters for {len(CAST)}")
    roles = dict(zip(agents, CAST, strict=False))
    story = {"global_caption": STYLE}
    for number, event in enumerate(events, start=1):
        if event["event"] not in SHOTS:
            raise ValueError(f"an event is one of {', '.join(SHOTS)}, not {event['event']!r}")
        who, place = roles[event["agent"]]
        story[f"shot{number}"] = SHOTS[event["event"]].format(who=who, place=place, light=light_at(event["time"]))
    return story


def light_at(time: str) -> str:
    """What the toy world calls this hour."""
    hour = datetime.fromisoformat(time).hour
    if 5 <= hour < 11:
        return "in the morning"
    if 11 <= hour < 17:
        return "at noon"
    return "at sunset" if 17 <= hour < 20 else "at night"


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the log, asks the page for the film and puts it where it is wanted; 1 with a sentence if that fails."""
    parser = argparse.ArgumentParser(description="A film of what a team of agents did.")
    parser.add_argument("log", type=Path, nargs="?", default=Path(__file__).with_name("events.json"))
    parser.add_argument("--url", default="http://127.0.0.1:7860", help="the page (default: http://127.0.0.1:7860)")
    parser.add_argument("-o", "--output", type=Path, default=Path("run.mp4"), help="(default: run.mp4)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    try:
        story = story_of(json.loads(args.log.read_text(encoding="utf-8"))["events"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        print(f"{args.log} cannot be filmed: {error!r}", file=sys.stderr)
        return 1

    from gradio_client import Client  # not at the top: a bad log is told at once

    with tempfile.TemporaryDirectory() as folder:
        try:
            client = Client(args.url, download_files=folder, verbose=False)
            shutil.copyfile(client.predict(story, args.seed, api_name="/film"), args.output)
        except Exception as error:  # no page there, a page of another kind, a refusal: the message is for people
            print(f"{args.url} makes no film of it: {error}", file=sys.stderr)
            return 1
    print(f"{args.output}: {len(story) - 1} shots")
    return 0


if __name__ == "__main__":
    sys.exit(main())

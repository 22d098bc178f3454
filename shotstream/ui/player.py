"""A `gr.Video` that streams segments as they are.

Owns the one place where we lean on Gradio's inside. A streaming component's `stream_output`: the stock one takes files
and runs ffprobe and ffmpeg on each, which costs a quarter of a second a segment and needs both programs; our segments
are MPEG-TS with running timestamps already. And Gradio's `pending_streams`, where all segments of a tab stay in memory
until the tab is closed.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from typing import Any

import gradio as gr
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shotstream.media import Segment

STILL_ON_THE_WAY = 8  # segments: more than the four seconds that the browser loads ahead
LATE = 120  # segments: more than a player lies behind that is going to catch up
SEGMENT = re.compile(r"/stream/([^/]+)/([^/]+)/(\d+)/([^/.]+)\.ts$")


class LivePlayer(gr.Video):
    """Shows the segments that a generator yields, as one stream."""

    is_template = True  # the browser's side is gr.Video's

    async def stream_output(self, value: Segment | None, output_id: str, first_chunk: bool) -> tuple[Any, Any]:
        """value -> (the next segment of the stream, or None for anything else; where the browser finds the stream)."""
        stream = {
            "path": output_id,
            "is_stream": True,
            "orig_name": "film.mp4",
            "meta": {"_type": "gradio.FileData"},
        }
        if not isinstance(value, Segment):
            return None, stream
        left = {"data": value.data, "duration": value.duration, "extension": ".ts", "left": time.monotonic()}
        return left, stream


def forget_segments(blocks: gr.Blocks, session: str, keep: int = STILL_ON_THE_WAY) -> None:
    """Frees what a tab was sent, but for the last few segments, which its player may not have fetched yet.

    They stay in the playlist, which must not change behind the player; playing.js sees to it that it is never asked to
    play them again.
    """
    for run in list(blocks.pending_streams.get(session, {}).values()):
        for stream in list(run.values()):
            for segment in stream.segments[:-keep]:
                segment["data"] = b""


class Transport:
    """ASGI middleware: with a segment goes how long ago it left, in milliseconds, as `Server-Timing: left`.

    `late` is told the same of a tab, in seconds, whenever that asks for a segment.
    """

    def __init__(self, app: ASGIApp, blocks: gr.Blocks, late: Callable[[str, float], None]) -> None:
        self.app, self.blocks, self.late = app, blocks, late

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        place = SEGMENT.search(scope["path"]) if scope["type"] == "http" else None
        left = self._left(*place.groups()) if place else None
        if left is None:
            return await self.app(scope, receive, send)
        self.late(place[1], time.monotonic() - left)

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                age = 1000 * (time.monotonic() - left)
                MutableHeaders(scope=message).append("Server-Timing", f"left;dur={age:.1f}")
            await send(message)

        return await self.app(scope, receive, tell)

    def _left(self, session: str, run: str, component: str, name: str) -> float | None:
        """When that segment left, if there is one."""
        stream = self.blocks.pending_streams.get(session, {}).get(run, {}).get(int(component))
        segments: Iterable[Any] = reversed(stream.segments) if stream else ()
        return next((segment.get("left") for segment in segments if segment["id"] == name), None)

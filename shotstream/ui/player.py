"""A `gr.Video` that streams segments as they are.

Owns the one place where we lean on Gradio's inside. A streaming component's `stream_output`: the stock one takes files
and runs ffprobe and ffmpeg on each, which costs a quarter of a second a segment and needs both programs; our segments
are MPEG-TS with running timestamps already. And Gradio's `pending_streams`, where all segments of a tab stay in memory
until the tab is closed.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from shotstream.media import Segment

STILL_ON_THE_WAY = 8  # segments: more than the four seconds that the browser loads ahead


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
        return {"data": value.data, "duration": value.duration, "extension": ".ts"}, stream


def forget_segments(blocks: gr.Blocks, session: str) -> None:
    """Frees what a tab was sent, but for the last few segments, which its player may not have fetched yet.

    They stay in the playlist, which must not change behind the player; page.js sees to it that it is never asked to
    play them again.
    """
    for run in list(blocks.pending_streams.get(session, {}).values()):
        for stream in list(run.values()):
            for segment in stream.segments[:-STILL_ON_THE_WAY]:
                segment["data"] = b""

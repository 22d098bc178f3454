"""What a browser sends along with a request, up to a limit."""

from __future__ import annotations

import asyncio
from pathlib import Path

from starlette.requests import Request

from shotstream.errors import UserError


async def read_body(request: Request, most: int) -> bytes | None:
    """All that was sent, or None if that is more than `most` bytes; the rest is then not read."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > most:
            return None
    return bytes(body)


async def store_body(request: Request, path: Path, most: int) -> bool:
    """Writes a body of at most `most` bytes to a file; False if there is more. Raises UserError."""
    size = 0
    try:
        with path.open("wb") as file:
            async for part in request.stream():
                size += len(part)
                if size > most:
                    return False
                await asyncio.to_thread(file.write, part)
    except OSError as error:
        raise UserError(f"There is no room for this file ({error.strerror}): try again later.") from error
    return True

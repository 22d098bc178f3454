"""How many pages are open at a time: in all, and for one visitor.

    SHOTSTREAM_MAX_SESSIONS      open pages in all (64)
    SHOTSTREAM_MAX_PER_VISITOR   open pages of one address (8); a class behind one address needs more; 0 is no limit

Owns these numbers and who counts as one visitor. Whoever sits at the machine itself is not counted.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.requests import Request

from shotstream.errors import UserError

MOST = 10_000


@dataclass(frozen=True)
class Limits:
    """Sessions in all and per visitor, 0 for any number."""

    sessions: int = 64
    per_visitor: int = 8


def read_limits(environment: Mapping[str, str] = os.environ) -> Limits:
    """What the host set. Raises `UserError` for what is no number."""
    return Limits(
        _number(environment, "SHOTSTREAM_MAX_SESSIONS", 1, Limits.sessions),
        _number(environment, "SHOTSTREAM_MAX_PER_VISITOR", 0, Limits.per_visitor),
    )


def visitor_of(request: Request) -> str:
    """Whom a request comes from: an address, as whatever stands before us tells it (who lies about it gets more pages,
    but no more than there are in all). Nothing for this machine itself."""
    client = request.client.host if request.client else ""
    told = request.headers.get("x-forwarded-for", "").split(",")[0].strip()
    if told:
        return told[:64]
    try:
        return "" if ipaddress.ip_address(client).is_loopback else client
    except ValueError:
        return ""


def _number(environment: Mapping[str, str], name: str, least: int, usual: int) -> int:
    text = environment.get(name, "").strip() or str(usual)
    if not (text.isascii() and text.isdigit() and len(text) < 6 and least <= int(text) <= MOST):
        raise UserError(f"{name} must be a whole number from {least} to {MOST}, not {text[:40]!r}.")
    return int(text)

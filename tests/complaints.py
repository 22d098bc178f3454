"""How tests meet the errors that are meant for people."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shotstream.errors import UserError


def refusal(function: Callable, *arguments: object, **options: object) -> str:
    """Calls what must raise a `UserError`; its sentence."""
    with pytest.raises(UserError) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)

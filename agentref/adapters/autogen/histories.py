"""A growing history, externalized: sealed segments, then what is not sealed yet."""

from collections.abc import Sequence
from typing import Any

from agentref.adapters.autogen.messages import MESSAGE_KEY, Placed

__all__ = ["marked"]


def marked(items: Sequence[Any]) -> list[Any]:
    """An externalized history whose message objects can be told from dicts. Whatever in it is marked is
    ours: a user's own look-alike was wrapped."""
    return [
        Placed(item) if type(item) is dict and len(item) == 1 and MESSAGE_KEY in item else item
        for item in items
    ]

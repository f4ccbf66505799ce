"""A growing history, externalized: sealed segments, then what is not sealed yet."""

from collections.abc import Sequence
from typing import Any, Final

from agentref.adapters.autogen.messages import MESSAGE_KEY, Placed
from agentref.trees import Externalizer, Stub

__all__ = ["aopened", "marked", "opened"]

_NOTHING_IS_LARGE: Final = 2**62
_DEPTH: Final = 200  # the externalizer refuses what is deeper


def marked(items: Sequence[Any]) -> list[Any]:
    """An externalized history whose message objects can be told from dicts. Whatever in it is marked is
    ours: a user's own look-alike was wrapped."""
    return [
        Placed(item) if type(item) is dict and len(item) == 1 and MESSAGE_KEY in item else item
        for item in items
    ]


def opened(items: list[Any], external: Externalizer) -> list[Any]:
    """The items with values in place of the stubs inside of them; not in place of segments.

    An item with a stub in it can be sealed into no segment, so one large message would keep all that is
    around it inline. What is not sealed yet is little, so that loading it again is cheap.
    """
    places, closed = _open_items(items, external)
    return _with(items, places, external.rehydrate(closed)) if places else items


async def aopened(items: list[Any], external: Externalizer) -> list[Any]:
    """`opened` for the event loop."""
    places, closed = _open_items(items, external)
    return _with(items, places, await external.arehydrate(closed)) if places else items


def _open_items(items: list[Any], external: Externalizer) -> tuple[list[int], Any]:
    places = [index for index, item in enumerate(items) if type(item) is not Stub and _holds_stub(item, 0)]
    if not places:
        return [], []
    # What a caller wrote into such an item since may look like a ref: here it is escaped, and nothing
    # stored.
    return places, external.externalize(
        [items[place] for place in places], threshold_bytes=_NOTHING_IS_LARGE, segment=_NOTHING_IS_LARGE
    )


def _with(items: list[Any], places: list[int], values: list[Any]) -> list[Any]:
    new = list(items)
    for place, value in zip(places, values, strict=True):
        new[place] = value
    return new


def _holds_stub(part: Any, depth: int) -> bool:
    if type(part) is Stub:
        return True
    if depth > _DEPTH:
        return False
    if isinstance(part, dict):
        return any(_holds_stub(value, depth + 1) for value in part.values())
    if isinstance(part, (list, tuple)):
        return any(_holds_stub(value, depth + 1) for value in part)
    return False

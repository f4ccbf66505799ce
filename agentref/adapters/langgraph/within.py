"""Refs anywhere in a value that a checkpoint may carry."""

import dataclasses
from collections import deque
from collections.abc import Iterator
from typing import Any, Final

from langgraph.types import Send

from agentref.refs import ContentRef
from agentref.state import AgentRefState

__all__ = ["refs_within"]

_LEAVES: Final = (type(None), str, bytes, bytearray, int, float, type)


def refs_within(value: Any) -> Iterator[ContentRef]:
    """Every `ContentRef` in containers, messages, dataclasses, models and states; loads nothing.

    A dict that looks like a ref is user data: only this class of objects names content.
    """
    seen: dict[int, Any] = {}
    stack = [value]
    while stack:
        part = stack.pop()
        if type(part) is ContentRef:
            yield part
        elif not isinstance(part, _LEAVES) and id(part) not in seen:
            seen[id(part)] = part  # alive as long as its id stands for it
            stack += _parts(part)


def _parts(part: Any) -> list[Any]:
    if isinstance(part, dict):  # from behind: some load what is asked for
        return [*dict.keys(part), *dict.values(part)]
    if isinstance(part, (list, tuple, set, frozenset, deque)):
        return list(part)
    if isinstance(part, AgentRefState):
        refs = part.refs()
        return [*refs.values(), *(part[name] for name in part if name not in refs)]
    if isinstance(part, Send):
        return [part.arg]
    if dataclasses.is_dataclass(part):
        names = [field.name for field in dataclasses.fields(part)]
        return [getattr(part, name) for name in names if hasattr(part, name)]
    if hasattr(type(part), "model_fields") or hasattr(type(part), "__fields__"):
        return [*vars(part).values(), *(getattr(part, "__pydantic_extra__", None) or {}).values()]
    return []

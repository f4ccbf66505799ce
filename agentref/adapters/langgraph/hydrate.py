"""From what LangGraph shows of a state, with refs in it, to values."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from langgraph.types import GraphOutput, Overwrite

from agentref.refs import ContentRef

__all__ = ["refs_in", "with_values"]


def refs_in(shown: Any) -> Iterator[ContentRef]:
    """Every ref in dicts, lists, tuples and snapshots, in order."""
    if type(shown) is ContentRef:
        yield shown
    for part in _parts(shown):
        yield from refs_in(part)


def with_values(shown: Any, values: Iterator[object]) -> Any:
    """The same with `values` in place of the refs, in that order. Parts without refs are not copied."""
    if type(shown) is ContentRef:
        return next(values)
    parts = _parts(shown)
    replaced = [with_values(part, values) for part in parts]
    if all(new is old for new, old in zip(replaced, parts, strict=True)):
        return shown
    if isinstance(shown, dict):
        return dict(zip(shown, replaced, strict=True))
    if isinstance(shown, (Overwrite, GraphOutput)):
        return dataclasses.replace(shown, value=replaced[0])
    return shown._make(replaced) if hasattr(shown, "_make") else type(shown)(replaced)


def _parts(shown: Any) -> list[Any]:
    if isinstance(shown, dict):
        return list(shown.values())
    if isinstance(shown, (list, tuple)):
        return list(shown)
    return [shown.value] if isinstance(shown, (Overwrite, GraphOutput)) else []

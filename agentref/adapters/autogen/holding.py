"""What model contexts of ours refer to, gathered while something that holds them saves its state.

Their states pass through AutoGen, which copies them: what was a stub is a dict when the state of a team
comes out, and is escaped like any dict that looks like a ref. So the refs reach the one who pins on another
way.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from agentref.trees import Externalizer

__all__ = ["Held", "holding", "tell"]


class Held:
    """Externalized trees, each with the externalizer that it is of."""

    def __init__(self) -> None:
        self._trees: list[tuple[Externalizer, Any]] = []

    def add(self, external: Externalizer, tree: Any) -> None:
        """Take note of a tree."""
        self._trees.append((external, tree))

    async def pin(self, owner: str) -> None:
        """Let `owner` keep all that the trees refer to."""
        for external, tree in self._trees:
            await external.aexternalize(tree, owner=owner)


_current: ContextVar[Held | None] = ContextVar("agentref_autogen_held", default=None)


@contextmanager
def holding() -> Iterator[Held]:
    """Gathers what is told in this task and in those that it starts."""
    held = Held()
    token = _current.set(held)
    try:
        yield held
    finally:
        _current.reset(token)


def tell(external: Externalizer, tree: Sequence[Any]) -> None:
    """Say what a state refers to that is being handed out."""
    held = _current.get()
    if held is not None:
        held.add(external, tree)

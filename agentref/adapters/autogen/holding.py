"""What model contexts of ours refer to, and agents that save through an adapter themselves, gathered while
something that holds them saves its state.

Their states pass through AutoGen, which copies them: what was a stub is a dict when the state of a team
comes out, and is escaped like any dict that looks like a ref. So the refs reach the one who pins on another
way.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from agentref.errors import AgentRefError, ConfigurationError
from agentref.trees import Externalizer

__all__ = ["Held", "holding", "tell"]


class Held:
    """Externalized trees."""

    def __init__(self) -> None:
        self._trees: list[Any] = []

    def add(self, *trees: Any) -> None:
        """Take note of trees."""
        self._trees += trees

    def check(self, external: Externalizer, stores: Collection[str]) -> None:
        """Raise `ConfigurationError` if this externalizer, over stores of these names, could not pin all of
        it: then it could not let go of it either."""
        reason = None
        try:
            for ref in (ref for tree in self._trees for ref in external.refs(tree)):
                if ref.backend_id is not None and ref.backend_id not in stores:
                    reason = f"its refs name the store {ref.backend_id!r:.140}"
                    break
        except AgentRefError as error:
            reason = f"{error!s:.200}"
        if reason is not None:
            raise ConfigurationError(
                f"owner= would not keep all of this state: a part of it was saved by a context or an agent "
                f"with another adapter ({reason}). Give both the same adapter, or this one also=[that "
                f"store] and the same keys and tenant; or leave owner= out, and give the context one."
            )

    async def pin(self, external: Externalizer, owner: str) -> None:
        """Let `owner` keep all that the trees refer to. Raises what the externalizer does."""
        for tree in self._trees:
            await external.apin(owner, tree)

    def hand_on(self, outer: "Held") -> None:
        """Let an outer one hold all of it too."""
        outer.add(*self._trees)


_current: ContextVar[Held | None] = ContextVar("agentref_autogen_held", default=None)


@contextmanager
def holding() -> Iterator[Held]:
    """Gathers what is told in this task and in those that it starts, for who holds outside of it as
    well."""
    held, outer = Held(), _current.get()
    token = _current.set(held)
    try:
        yield held
    finally:
        _current.reset(token)
    if outer is not None:
        held.hand_on(outer)


def tell(tree: Any) -> None:
    """Say what a state refers to that is being handed out."""
    held = _current.get()
    if held is not None:
        held.add(tree)

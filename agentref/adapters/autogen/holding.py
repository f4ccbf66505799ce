"""What model contexts of ours refer to, and agents that save through an adapter themselves, gathered while
something that holds them saves its state.

Their states pass through AutoGen, which copies them: what was a stub is a dict when the state of a team
comes out, and is escaped like any dict that looks like a ref. So the refs reach the one who pins on two
other ways. Who saves tells of them, which works in the task of the save and in those that it starts; and
what comes out is looked through for dicts that read as refs, such as an agent has of an earlier save.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from agentref.errors import AgentRefError, BlobNotFoundError, ConfigurationError, InvalidInputError
from agentref.refs import REF_KEY, ContentRef
from agentref.trees import Externalizer, Stub

__all__ = ["Held", "holding", "tell"]


class Held:
    """Externalized trees, and dicts that look like parts of some.

    Args:
        is_pinning: whether anybody will pin them.
    """

    def __init__(self, *, is_pinning: bool) -> None:
        self.is_pinning: Final = is_pinning
        self._trees: list[Any] = []
        self._markers: list[Any] = []
        self._is_open = is_pinning

    def add(self, *trees: Any) -> None:
        """Take note of trees, until `close`."""
        if self._is_open:
            self._trees += trees

    def look_through(self, state: Any) -> None:
        """Take note of the dicts in a plain state that look like refs: some may be a user's own."""
        if self.is_pinning:
            self._markers += _markers(state)

    def close(self) -> None:
        """Take note of no more: a task that was started meanwhile may go on for ever, and tell of much."""
        self._is_open = False

    def check(self, external: Externalizer, stores: Collection[str]) -> None:
        """Raise `ConfigurationError` if this externalizer, over stores of these names, could not pin all of
        it: then it could not let go of it either."""
        reason = None
        try:
            told = {ref for tree in self._trees for ref in external.refs(tree)}
            found = {ref for marker in self._markers for ref in _refs(external, marker)}
            for ref in (*told, *found):
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
        """Let `owner` keep all that the trees refer to, and what else was found and is there. Raises what
        the externalizer does."""
        known = set()
        for tree in self._trees:
            await external.apin(owner, tree)
            known.update(external.refs(tree))
        found = {ref: marker for marker in self._markers for ref in _refs(external, marker)}
        markers = [marker for ref, marker in found.items() if ref not in known]
        try:
            await external.apin(owner, markers)
        except BlobNotFoundError:
            for marker in markers:
                await _pin_if_there(external, owner, marker)
        self._trees, self._markers = [], []

    def hand_on(self, outer: "Held") -> None:
        """Let an outer one hold all of it too."""
        outer.add(*self._trees)
        outer.look_through(self._markers)


async def _pin_if_there(external: Externalizer, owner: str, marker: Any) -> None:
    try:
        await external.apin(owner, [marker])
    except BlobNotFoundError:
        return  # it refers to nothing: a user's own dict


def _refs(external: Externalizer, marker: Any) -> list[ContentRef]:
    """What it refers to, if it is no user's dict that only looks like a ref. Raises for one that is sealed
    otherwise than here."""
    try:
        return external.refs([marker])
    except InvalidInputError:
        return []


def _markers(state: Any) -> Iterator[Any]:
    """The dicts in the form of refs, and not of escaped ones. A stub is pinned with the tree it is in."""
    left, seen = [state], set()
    while left:
        part = left.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        items = list(part.values() if isinstance(part, dict) else part)
        if (
            type(part) is not Stub
            and isinstance(part, dict)
            and len(items) == 1
            and isinstance(part.get(REF_KEY), (list, tuple))
        ):
            yield part
        else:
            left += [item for item in items if isinstance(item, (dict, list, tuple))]


_current: ContextVar[Held | None] = ContextVar("agentref_autogen_held", default=None)


@contextmanager
def holding(*, is_pinning: bool) -> Iterator[Held]:
    """Gathers what is told in this task and in those that it starts, for who holds outside of it as
    well."""
    outer = _current.get()
    held = Held(is_pinning=is_pinning or (outer is not None and outer.is_pinning))
    token = _current.set(held)
    try:
        yield held
    finally:
        _current.reset(token)
        held.close()
    if outer is not None:
        held.hand_on(outer)


def tell(tree: Any) -> None:
    """Say what a state refers to that is being handed out."""
    held = _current.get()
    if held is not None:
        held.add(tree)

"""The messages of a model context: segments in a store, and the few that fill none yet."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from autogen_core.models import LLMMessage

from agentref.adapters.autogen.messages import dump_llm, load_llm
from agentref.trees import Externalizer, Stub

__all__ = ["SealedMessages"]

_SEAL_AT: Final = 16
"""Thresholds' worth of open messages. The externalizer seals as much, or as many as fill a segment."""


class _Segments:
    """Messages in a row that were sealed: their stubs, and the messages themselves if none is large."""

    __slots__ = ("messages", "stubs")

    def __init__(self, stubs: list[Any], messages: list[LLMMessage] | None = None) -> None:
        self.stubs = stubs
        self.messages = messages


class SealedMessages:
    """A list of messages that grows at its end. Segments with large messages in them are not in memory.

    For one event loop at a time. Whatever raises, or is cancelled, leaves the list as it was: what is
    changed is changed between two awaits.
    """

    def __init__(
        self, external: Externalizer, *, threshold_bytes: int, segment: int, owner: str | None
    ) -> None:
        self._external = external
        self._limit = threshold_bytes
        self._segment = segment
        self._owner = owner
        self._sealed: list[_Segments] = []
        self._open: list[tuple[LLMMessage, dict[str, Any]]] = []
        self._is_sealing = False
        self._epoch = 0

    async def add(self, message: LLMMessage) -> None:
        """Append a message. Raises `StorageError` if it has to be stored and cannot be; then it is not
        added."""
        entry = (message, dump_llm(message))
        self._open.append(entry)
        if self._is_sealing or not self._is_due(entry[1]):
            return
        epoch = self._epoch
        try:
            await self.seal()
        except BaseException:
            if epoch == self._epoch:
                self._open = [other for other in self._open if other is not entry]
            raise

    async def seal(self) -> None:
        """Store what fills a segment. What is added meanwhile stays open."""
        if self._is_sealing:
            return
        self._is_sealing, epoch, entries = True, self._epoch, list(self._open)
        try:
            result = await self._externalized([tree for _, tree in entries])
        finally:
            self._is_sealing = False
        stubs = [item for item in result if type(item) is Stub]
        if stubs and epoch == self._epoch:
            closed = entries[: len(entries) - (len(result) - len(stubs))]
            small = all(self._is_small(tree) for _, tree in closed)
            self._sealed.append(_Segments(stubs, [message for message, _ in closed] if small else None))
            del self._open[: len(closed)]

    async def load(self, last: int | None = None) -> list[LLMMessage]:
        """All messages in order, or at least the last so many. The large ones are new objects each time."""
        sealed, live = list(self._sealed), [message for message, _ in self._open]
        if last is None:
            return await self._messages(sealed) + live
        while sealed and len(live) < last:
            live = await self._messages([sealed.pop()]) + live
        return live

    async def save(self) -> list[Any]:
        """The messages as an externalized list."""
        stubs = [stub for each in self._sealed for stub in each.stubs]
        result: list[Any] = await self._externalized([*stubs, *(tree for _, tree in self._open)])
        return result

    async def replace(self, items: Sequence[Any]) -> None:
        """Take up what `save` returned, here or in another process; segments are not loaded.

        Raises `InvalidRefError`, `UntrustedRefError`, `MalformedBlobError`, and what loading raises.
        """
        adopted = list(self._external.adopt(list(items)))
        front = 0
        while front < len(adopted) and type(adopted[front]) is Stub:
            front += 1
        rest = load_llm(await self._external.arehydrate(adopted[front:]))
        self.put(rest, adopted[:front])

    def put(self, messages: Iterable[LLMMessage], stubs: Sequence[Any] = ()) -> None:
        """These instead of what was there."""
        opened = [(message, dump_llm(message)) for message in messages]
        self._epoch += 1
        self._sealed, self._open = [_Segments([stub]) for stub in stubs], opened

    async def clear(self) -> None:
        """Forget all, and let go of what an owner kept."""
        self.put(())
        if self._owner is not None:
            await self._external.arelease(self._owner)

    async def _messages(self, sealed: Sequence[_Segments]) -> list[LLMMessage]:
        """The messages of segments; those that are not in memory are loaded in one batch."""
        missing = {index: each.stubs for index, each in enumerate(sealed) if each.messages is None}
        loaded = await self._external.arehydrate(missing) if missing else {}
        result: list[LLMMessage] = []
        for index, each in enumerate(sealed):
            messages = each.messages
            if messages is None:
                messages = load_llm(loaded[index], len(result))
                if all(map(self._is_small, loaded[index])):
                    each.messages = messages
            result += messages
        return result

    def _is_small(self, tree: dict[str, Any]) -> bool:
        return _longest(tree) <= self._limit

    def _is_due(self, tree: dict[str, Any]) -> bool:
        if len(self._open) >= self._segment:
            return True
        return _weight(tree) > self._limit and (
            sum(_weight(each) for _, each in self._open) > self._limit * _SEAL_AT
        )

    async def _externalized(self, items: list[Any]) -> Any:
        return await self._external.aexternalize(items, owner=self._owner)


def _longest(part: Any) -> int:
    """The length of the longest text in a part of a message."""
    if isinstance(part, str):
        return len(part)
    if isinstance(part, dict):
        part = part.values()
    elif not isinstance(part, list):
        return 0
    return max(map(_longest, part), default=0)


def _weight(part: Any) -> int:
    """About how large a part of a message is."""
    if isinstance(part, str):
        return len(part)
    if isinstance(part, dict):
        return sum(map(_weight, part.values()))
    if isinstance(part, list):
        return sum(map(_weight, part))
    return 0

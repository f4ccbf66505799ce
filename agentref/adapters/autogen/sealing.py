"""The messages of a model context: segments in a store, and the few that fill none yet."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from autogen_core.models import LLMMessage

from agentref.adapters.autogen.messages import dump_llm, load_llm
from agentref.trees import Externalizer, Stub

__all__ = ["SealedMessages"]

_SEAL_AT: Final = 16
"""Thresholds' worth of open messages. The externalizer seals as much, or a segment's number of messages."""


class SealedMessages:
    """A list of messages that grows at its end, of which only what is recent is in memory.

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
        self._sealed: list[Any] = []
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
        self._is_sealing, epoch, count = True, self._epoch, len(self._open)
        try:
            result = await self._externalized([tree for _, tree in self._open])
        finally:
            self._is_sealing = False
        sealed = [item for item in result if type(item) is Stub]
        if sealed and epoch == self._epoch:
            self._sealed += sealed
            del self._open[: count - (len(result) - len(sealed))]

    async def load(self, last: int | None = None) -> list[LLMMessage]:
        """All messages in order, or at least the last so many. Those of segments are new objects."""
        sealed, live = list(self._sealed), [message for message, _ in self._open]
        if last is None:
            return load_llm(await self._external.arehydrate(sealed)) + live if sealed else live
        while sealed and len(live) < last:
            live = load_llm(await self._external.arehydrate([sealed.pop()])) + live
        return live

    async def save(self) -> list[Any]:
        """The messages as an externalized list."""
        result: list[Any] = await self._externalized([*self._sealed, *(tree for _, tree in self._open)])
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

    def put(self, messages: Iterable[LLMMessage], sealed: Sequence[Any] = ()) -> None:
        """These instead of what was there."""
        opened = [(message, dump_llm(message)) for message in messages]
        self._epoch += 1
        self._sealed, self._open = list(sealed), opened

    async def clear(self) -> None:
        """Forget all, and let go of what an owner kept."""
        self.put(())
        if self._owner is not None:
            await self._external.arelease(self._owner)

    def _is_due(self, tree: dict[str, Any]) -> bool:
        if len(self._open) >= self._segment:
            return True
        return _weight(tree) > self._limit and (
            sum(_weight(each) for _, each in self._open) > self._limit * _SEAL_AT
        )

    async def _externalized(self, items: list[Any]) -> Any:
        return await self._external.aexternalize(items, owner=self._owner)


def _weight(part: Any) -> int:
    """About how large a part of a message is."""
    if isinstance(part, str):
        return len(part)
    if isinstance(part, dict):
        return sum(map(_weight, part.values()))
    if isinstance(part, list):
        return sum(map(_weight, part))
    return 0

"""The messages of a model context: segments in a store, and the few that fill none yet."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Final

from autogen_core.models import LLMMessage, UserMessage

from agentref.adapters.autogen.messages import dump_llm, is_llm, load_llm
from agentref.adapters.autogen.owned import Owned
from agentref.refs import REF_KEY
from agentref.trees.stubs import is_segment

__all__ = ["SealedMessages"]

_SEAL_AT: Final = 16
"""Thresholds' worth of open messages. The externalizer seals as much, or as many as fill a segment."""

_SKIPPED: Final = UserMessage(content="", source="user")
_MOST_SKIPPED: Final = 1_000_000
"""A state from outside may say any number, and so many messages are made of it."""


class _Segments:
    """Messages in a row: what is saved of them, which is stubs of segments but for one case, and the
    messages themselves if none is large, or if one is of a class that would not come back."""

    __slots__ = ("messages", "stubs")

    def __init__(self, stubs: list[Any], messages: list[LLMMessage] | None = None) -> None:
        self.stubs = stubs
        self.messages = messages

    @property
    def count(self) -> int:
        """How many messages these are, by what their refs say, which is checked when they are loaded."""
        if self.messages is not None:
            return len(self.messages)
        return sum(stub[REF_KEY][5] for stub in self.stubs)


class SealedMessages:
    """A list of messages that grows at its end. Segments with large messages in them are not in memory.

    What is saved of a message is what it is when its segment is sealed, or else when it is saved.

    For one event loop at a time. Whatever raises, or is cancelled, leaves the list as it was: what is
    changed is changed between two awaits.
    """

    def __init__(self, owned: Owned, *, threshold_bytes: int, segment: int) -> None:
        self._owned = owned
        self._external = owned.external
        self._limit = threshold_bytes
        self._segment = segment
        self._sealed: list[_Segments] = []
        self._open: list[tuple[LLMMessage, int]] = []  # and about how large it is
        self._weight = 0
        self._is_sealing = False
        self._epoch = 0

    async def add(self, message: LLMMessage) -> None:
        """Append a message. Raises `StorageError` if it has to be stored and cannot be; then it is not
        added."""
        entry = (message, _weight(dump_llm(message)))
        self._open.append(entry)
        self._weight += entry[1]
        if self._is_sealing or not self._is_due():
            return
        try:
            await self.seal()
        except BaseException:
            self._reopen([other for other in self._open if other is not entry])
            raise

    async def seal(self) -> None:
        """Store what fills a segment. What is added meanwhile stays open."""
        if self._is_sealing:
            return
        self._is_sealing, epoch = True, self._epoch
        try:
            trees = [dump_llm(message) for message, _ in self._open]
            # Whoever added a message may change it still, and what is sealed stays as it was sealed.
            kept = [
                message.model_copy(deep=True) if is_llm(message) and self._is_small(tree) else message
                for (message, _), tree in zip(self._open, trees, strict=True)
            ]
            result = await self._owned.externalize(trees)
        finally:
            self._is_sealing = False
        # A message may be one stub of its own, behind others that are still open: it is in no segment yet.
        stubs = result[: _segments(result)]
        if stubs and epoch == self._epoch:
            count = len(trees) - (len(result) - len(stubs))
            stay = all(map(self._is_small, trees[:count])) or not all(map(is_llm, kept[:count]))
            self._sealed.append(_Segments(stubs, kept[:count] if stay else None))
            self._reopen(self._open[count:])

    async def load(self, last: int | None = None, first: int = 0) -> list[LLMMessage]:
        """All messages in order, or at least the first and the last so many, with as many empty ones
        between as there are. The large ones are new objects each time."""
        sealed, live = list(self._sealed), [message for message, _ in self._open]
        if last is None:
            return await self._messages(sealed) + live
        tail: list[_Segments] = []
        count = len(live)
        while sealed and count < last:
            tail.insert(0, sealed.pop())
            count += tail[0].count
        head: list[_Segments] = []
        count = 0
        while sealed and count < first:
            head.append(sealed.pop(0))
            count += head[-1].count
        skipped = sum(each.count for each in sealed) if first else 0
        if skipped > _MOST_SKIPPED:
            return await self._messages([*head, *sealed, *tail]) + live
        shown, begin = await self._messages([*head, *tail]), count
        return [*shown[:begin], *([_SKIPPED] * skipped), *shown[begin:], *live]

    async def save(self) -> list[Any]:
        """The messages as an externalized list."""
        stubs = [stub for each in self._sealed for stub in each.stubs]
        trees = [dump_llm(message) for message, _ in self._open]
        result: list[Any] = await self._owned.externalize([*stubs, *trees])
        return result

    async def replace(self, items: Sequence[Any]) -> None:
        """Take up what `save` returned, here or in another process; segments are not loaded. An owner keeps
        them from now on.

        Raises `InvalidRefError`, `UntrustedRefError`, `MalformedBlobError`, and what loading raises.
        """
        adopted = list(self._external.adopt(list(items)))
        front = _segments(adopted)
        rest = load_llm(await self._external.arehydrate(adopted[front:]))
        await self._owned.pin(adopted)
        self.put(rest, adopted[:front])

    def put(self, messages: Iterable[LLMMessage], stubs: Sequence[Any] = ()) -> None:
        """These instead of what was there."""
        opened = [(message, _weight(dump_llm(message))) for message in messages]
        self._epoch += 1
        self._sealed = [_Segments([stub]) for stub in stubs]
        self._reopen(opened)

    async def clear(self) -> None:
        """Forget all, and let go of what an owner kept. Raises `StorageError`; then all is there still."""
        sealed, opened = self._sealed, self._open
        self.put(())
        await self._owned.release(partial(self._restore, sealed, opened, self._epoch))

    def _restore(self, sealed: list[_Segments], opened: list[tuple[LLMMessage, int]], epoch: int) -> None:
        """Put what was there before what was added since, if only that has happened."""
        if epoch != self._epoch:
            return
        self._epoch += 1  # what is being sealed now counts from the front
        if self._sealed and opened:
            messages = [message for message, _ in opened]
            sealed, opened = [*sealed, _Segments(list(map(dump_llm, messages)), messages)], []
        self._sealed = [*sealed, *self._sealed]
        self._reopen([*opened, *self._open])

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

    def _reopen(self, entries: list[tuple[LLMMessage, int]]) -> None:
        self._open = entries
        self._weight = sum(weight for _, weight in entries)

    def _is_due(self) -> bool:
        """Whether to seal would pay: the externalizer looks through all that is open each time."""
        full = len(self._open) >= self._segment
        return self._weight > self._limit * (1 if full else _SEAL_AT)


def _segments(items: Sequence[Any]) -> int:
    """How many segments an externalized list begins with."""
    return next((index for index, item in enumerate(items) if not is_segment(item)), len(items))


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

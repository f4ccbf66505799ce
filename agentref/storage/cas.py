"""The content-addressed store that users hold: bytes and values over any blob store."""

import asyncio
from collections.abc import Callable, Iterable
from typing import BinaryIO

from agentref.refs import ContentRef
from agentref.storage import _arguments as arguments
from agentref.storage.reports import StoreStats, VerifyReport
from agentref.storage.sync_cas import RAW_CODEC, SyncCAS

__all__ = ["CAS", "RAW_CODEC"]


class CAS(SyncCAS):
    __doc__ = SyncCAS.__doc__

    # Async twins: the values are encoded before the first await, the rest runs in a thread.

    async def aput(self, data: bytes, *, ttl: float | None = None) -> str:
        """`put` for the event loop."""
        return await asyncio.to_thread(self.put, data, ttl=ttl)

    async def aput_many(self, items: Iterable[bytes], *, ttl: float | None = None) -> list[str]:
        """`put_many` for the event loop."""
        return await asyncio.to_thread(
            self.put_many, list(arguments.each_of("aput_many()", items)), ttl=ttl
        )

    async def aget(self, hash: str) -> bytes:  # noqa: A002
        """`get` for the event loop."""
        return await asyncio.to_thread(self.get, hash)

    async def aget_many(self, hashes: Iterable[str]) -> list[bytes]:
        """`get_many` for the event loop."""
        return await asyncio.to_thread(self.get_many, list(arguments.each_of("aget_many()", hashes)))

    async def aexists(self, hash: str) -> bool:  # noqa: A002
        """`exists` for the event loop."""
        return await asyncio.to_thread(self.exists, hash)

    async def adelete(self, hash: str) -> bool:  # noqa: A002
        """`delete` for the event loop."""
        return await asyncio.to_thread(self.delete, hash)

    async def aput_stream(self, file: BinaryIO, *, ttl: float | None = None) -> ContentRef:
        """`put_stream` for the event loop; `file` is read in a thread."""
        return await asyncio.to_thread(self.put_stream, file, ttl=ttl)

    async def adump(self, value: object, *, ttl: float | None = None) -> ContentRef:
        """`dump` for the event loop."""
        return (await self.adump_many([value], ttl=ttl))[0]

    async def adump_many(self, values: Iterable[object], *, ttl: float | None = None) -> list[ContentRef]:
        """`dump_many` for the event loop."""
        encoded = self.encode(values)
        await asyncio.to_thread(self.store, encoded, ttl=ttl)
        return encoded.refs

    async def aload(self, ref: ContentRef) -> object:
        """`load` for the event loop."""
        return await asyncio.to_thread(self.load, ref)

    async def aload_many(self, refs: Iterable[ContentRef]) -> list[object]:
        """`load_many` for the event loop."""
        return await asyncio.to_thread(self.load_many, list(arguments.each_of("aload_many()", refs)))

    # The store as a whole

    async def astats(self) -> StoreStats:
        """`stats` for the event loop."""
        return await asyncio.to_thread(self.stats)

    async def averify(self, *, progress: Callable[[int], None] | None = None) -> VerifyReport:
        """`verify` for the event loop; `progress` is called in a thread."""
        return await asyncio.to_thread(self.verify, progress=progress)

    async def arepair(self, value: object) -> ContentRef:
        """`repair` for the event loop."""
        encoded = self.encode([value])
        await asyncio.to_thread(self._overwrite, encoded)
        return encoded.refs[0]

"""AG2's streams: what each one keeps in the store, what it lets go of, and the order of its events."""

import asyncio
import threading
import uuid

import pytest
from ag2.events import HumanMessage
from ag2.history import MemoryStorage

from agentref.adapters.ag2 import AgentRefStorage
from agentref.storage import FilesystemCAS, InMemoryCAS

from .test_storage import LARGE, JsonFiles, events, saved


def test_dropping_a_stream_frees_what_no_other_one_needs(tmp_path):
    async def scenario():
        with FilesystemCAS(tmp_path / "store") as cas:
            inner, one, other = MemoryStorage(), uuid.uuid4(), uuid.uuid4()
            storage = AgentRefStorage(inner, backend=cas)
            await saved(storage, one, events())
            await saved(storage, other, events()[:1])
            await storage.set_history(one, [*await inner.get_history(other), HumanMessage("x" * 9000)])
            await storage.drop_history(other)
            assert not list(cas.iter_pins(f"ag2:MemoryStorage:{other}"))
            assert next(iter(await storage.get_history(one))) == events()[0]
            owners = {pin.owner for pin in cas.iter_pins()}
            assert owners == {f"ag2:MemoryStorage:{one}"}
            await storage.drop_history(one)
            assert not list(cas.iter_pins())

    asyncio.run(scenario())


@pytest.mark.parametrize("names", [{}, {"namespace": "hot"}])
def test_a_stream_that_was_moved_to_another_storage_keeps_its_payloads_there(names, tmp_path):
    async def scenario():
        with FilesystemCAS(tmp_path / "store") as cas:
            stream_id, files = uuid.uuid4(), JsonFiles(tmp_path / "streams")
            hot = AgentRefStorage(MemoryStorage(), backend=cas, **names)
            cold = AgentRefStorage(files, backend=cas)
            await saved(hot, stream_id, events()[:1])
            await cold.set_history(stream_id, await hot.get_history(stream_id))
            await hot.drop_history(stream_id)
            assert {pin.owner for pin in cas.iter_pins()} == {f"ag2:JsonFiles:{stream_id}"}

    asyncio.run(scenario())


class Slow(InMemoryCAS):
    """A store that waits until it is let go."""

    def __init__(self):
        super().__init__()
        self.entered, self.go = threading.Event(), threading.Event()

    def store(self, *args, **options):
        self.entered.set()
        assert self.go.wait(60)
        return super().store(*args, **options)


def test_a_small_event_does_not_overtake_a_large_one_that_is_being_stored():
    async def scenario():
        cas, stream_id, other = Slow(), uuid.uuid4(), uuid.uuid4()
        storage = AgentRefStorage(MemoryStorage(), backend=cas)
        large, small, last = HumanMessage(LARGE), HumanMessage("small"), HumanMessage("last")
        saving = [asyncio.create_task(saved(storage, stream_id, [large]))]
        await asyncio.to_thread(cas.entered.wait)
        saving += [asyncio.create_task(saved(storage, stream_id, [each])) for each in (small, last)]
        await saved(storage, other, [small])
        assert list(await storage.get_history(other)) == [small]
        assert list(await storage.get_history(stream_id)) == []
        cas.go.set()
        await asyncio.gather(*saving)
        assert list(await storage.get_history(stream_id)) == [large, small, last]

    asyncio.run(scenario())


def test_dropping_a_stream_whose_save_was_cancelled_leaves_no_pin():
    async def scenario():
        cas, stream_id = Slow(), uuid.uuid4()
        storage = AgentRefStorage(MemoryStorage(), backend=cas)
        saving = asyncio.create_task(saved(storage, stream_id, events()[:1]))
        await asyncio.to_thread(cas.entered.wait)
        dropping = asyncio.create_task(storage.drop_history(stream_id))
        await asyncio.sleep(0)
        saving.cancel()
        await asyncio.sleep(0)
        cas.go.set()
        with pytest.raises(asyncio.CancelledError):
            await saving
        await dropping
        assert not list(cas.iter_pins())
        assert list(await storage.get_history(stream_id)) == []

    asyncio.run(scenario())


def test_parallel_streams_and_saves():
    async def scenario():
        storage = AgentRefStorage(MemoryStorage(), backend=InMemoryCAS())
        streams = {uuid.uuid4(): events() for _ in range(4)}
        await asyncio.gather(*(saved(storage, stream, given) for stream, given in streams.items()))
        for stream, given in streams.items():
            assert list(await storage.get_history(stream)) == given

    asyncio.run(scenario())

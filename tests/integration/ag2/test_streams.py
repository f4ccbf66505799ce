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


class Compacting(MemoryStorage):
    """Keeps the last two events: it replaces the history while it saves, itself or in a task."""

    def __init__(self, *, in_a_task):
        super().__init__()
        self.in_a_task, self.storage = in_a_task, None

    async def save_event(self, event, context):
        await super().save_event(event, context)
        stream_id = context.stream.id
        kept = list(await self.get_history(stream_id))[-2:]
        replacing = self.storage.set_history(stream_id, kept)
        await (asyncio.create_task(replacing) if self.in_a_task else replacing)


@pytest.mark.parametrize("in_a_task", [True, False])
def test_an_inner_storage_may_call_back_while_it_saves(in_a_task):
    async def scenario():
        inner, stream_id = Compacting(in_a_task=in_a_task), uuid.uuid4()
        inner.storage = AgentRefStorage(inner, backend=InMemoryCAS())
        given = [HumanMessage(f"{number} {LARGE}") for number in range(5)]
        await asyncio.wait_for(saved(inner.storage, stream_id, given), 60)
        assert list(await inner.storage.get_history(stream_id)) == given[-2:]

    asyncio.run(scenario())


class Following(MemoryStorage):
    """Starts a task in its first save, which lasts longer than that."""

    def __init__(self, work):
        super().__init__()
        self.work, self.later = work, None

    async def save_event(self, event, context):
        await super().save_event(event, context)
        if self.later is None:
            self.later = asyncio.create_task(self.work())


def test_a_task_that_outlives_the_turn_that_it_was_started_in_waits_for_its_own():
    async def scenario():
        cas, stream_id, gate = Slow(), uuid.uuid4(), asyncio.Event()
        first, large, small = HumanMessage("first"), HumanMessage(LARGE), HumanMessage("small")

        async def work():
            await gate.wait()
            await saved(storage, stream_id, [large])

        inner = Following(work)
        storage = AgentRefStorage(inner, backend=cas)
        await saved(storage, stream_id, [first])
        gate.set()
        await asyncio.to_thread(cas.entered.wait)
        saving = asyncio.create_task(saved(storage, stream_id, [small]))
        await asyncio.sleep(0)
        assert list(await inner.get_history(stream_id)) == [first]
        cas.go.set()
        await asyncio.gather(inner.later, saving)
        assert list(await storage.get_history(stream_id)) == [first, large, small]

    asyncio.run(scenario())


def test_two_event_loops_at_once_lose_no_event():
    cas, stream_id = Slow(), uuid.uuid4()
    storage = AgentRefStorage(MemoryStorage(), backend=cas)
    given = [[HumanMessage(f"{loop} {number} {LARGE}") for number in range(10)] for loop in range(2)]

    async def save(mine):
        await asyncio.gather(*(saved(storage, stream_id, [event]) for event in mine))

    failed = []

    def work(mine):
        try:
            asyncio.run(save(mine))
        except RuntimeError as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(mine,)) for mine in given]
    threads[0].start()
    assert cas.entered.wait(60)
    cas.entered.clear()
    threads[1].start()
    cas.entered.wait(2)  # the other one is in the store too, or has failed
    cas.go.set()
    for thread in threads:
        thread.join(60)
    assert not failed
    events_now = list(asyncio.run(storage.get_history(stream_id)))
    for mine in given:
        assert [event for event in events_now if event in mine] == mine
    assert len(events_now) == 20

"""Pins are derived anew from real checkpoints, in real stores; whatever differs is told and mended."""

import asyncio
import operator
import re
import sqlite3
import time
from collections import Counter
from contextlib import closing, contextmanager
from typing import Annotated, Any

import psycopg
import pytest
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, StateGraph
from langgraph.types import Send, interrupt
from typing_extensions import TypedDict

from agentref import AgentRefState, Externalized
from agentref.adapters.langgraph import LangGraphAdapter, acollect_pins, collect_pins, externalize
from agentref.errors import ConfigurationError, InvalidInputError
from agentref.refs import parse_digest
from agentref.storage import CAS, FilesystemCAS, InMemoryCAS, PostgresCAS
from agentref.storage.memory import MemoryBlobStore

SHORT = 0.02
LONG = "a thread of a long name " * 40


@pytest.fixture(autouse=True)
def short_lease(monkeypatch):
    """What only a lease keeps is soon gone."""
    monkeypatch.setattr("agentref.runtime.LEASE_SECONDS", SHORT)
    monkeypatch.setattr("agentref.adapters.langgraph.collect.LEASE_SECONDS", SHORT)


@pytest.fixture(
    params=["sqlite filesystem", "sqlite-async postgres", "postgres postgres", "postgres-async filesystem"]
)
def kinds(request):
    """Of the checkpoints' database, and of the store."""
    return request.param.split()


@pytest.fixture
def cas(request, kinds, tmp_path):
    if kinds[1] == "filesystem":
        store = FilesystemCAS(tmp_path / "store")
    else:
        store = PostgresCAS(request.getfixturevalue("databases").dsn("store"))
    with store:
        yield store


@pytest.fixture
def files(tmp_path):
    with FilesystemCAS(tmp_path / "store") as store:
        yield store


class Place:
    """A database of checkpoints: sync savers write to it, and the one under test reads."""

    def __init__(self, name, colour):
        self.name, self.colour = name, colour
        with self.saver() as saver:
            saver.setup()

    @contextmanager
    def saver(self):
        with self.kind().from_conn_string(self.name) as saver:
            yield saver

    def gc(self, store, **options):
        """The report, and the differences that were told."""
        told = []
        options = {"grace": 0, "on_difference": told.append, **options}
        if self.colour == "sync":
            with self.saver() as saver:
                report = collect_pins(saver, store, **options)
        else:
            report = asyncio.run(self._agc(store, options))
        counts = Counter(difference.kind for difference in told)
        for kind in ("unpinned", "missing", "damaged", "foreign", "stale", "surplus"):
            assert getattr(report, kind) == counts[kind]
        return report, told

    async def _agc(self, store, options):
        async with self.akind().from_conn_string(self.name) as saver:
            return await acollect_pins(saver, store, **options)


class SqlitePlace(Place):
    kind = staticmethod(lambda: SqliteSaver)
    akind = staticmethod(lambda: AsyncSqliteSaver)
    writes = "writes"

    def execute(self, statement, *values):
        with closing(sqlite3.connect(self.name)) as connection, connection:
            connection.execute(statement, values)


class PostgresPlace(Place):
    kind = staticmethod(lambda: PostgresSaver)
    akind = staticmethod(lambda: AsyncPostgresSaver)
    writes = "checkpoint_writes"

    def execute(self, statement, *values):
        with psycopg.connect(self.name) as connection:
            connection.execute(statement.replace("?", "%s"), values)


@pytest.fixture
def place(request, kinds, tmp_path):
    kind, _, colour = kinds[0].partition("-")
    if kind == "sqlite":
        return SqlitePlace(str(tmp_path / "checkpoints.db"), colour or "sync")
    return PostgresPlace(request.getfixturevalue("databases").dsn("checkpoints"), colour or "sync")


@pytest.fixture
def sqlite_place(tmp_path):
    return SqlitePlace(str(tmp_path / "checkpoints.db"), "sync")


def extend(state, writes):
    return [*(state or []), *(item for write in writes for item in write)]


class Work(TypedDict, total=False):
    document: Any
    log: Annotated[list, operator.add]
    delta: Annotated[list, DeltaChannel(extend, snapshot_frequency=2)]
    fails: bool


class Inner(TypedDict):
    document: Any


def text(seed):
    return f"{seed} " * 1000


def fan_out(state):
    return [Send("grow", {"document": text("sent"), "n": n}) for n in range(2)]


def halting(state):
    if state.get("fails"):
        interrupt(text("question"))
    return {}


def graph(saver):
    """Subgraphs, arguments of Send, a DeltaChannel, writes that wait for an answer."""
    inner = StateGraph(Inner)
    inner.add_node("rewrite", lambda state: {"document": state["document"] + text("again")})
    inner.add_edge(START, "rewrite")
    builder = StateGraph(Work)
    builder.add_node("grow", lambda state: {"log": [text("entry")], "delta": [text("delta")]})
    builder.add_node("inside", inner.compile())
    builder.add_node("halting", halting)
    builder.add_node("beside", lambda state: {"log": [text("beside")]})
    builder.add_conditional_edges(START, fan_out, ["grow"])
    builder.add_edge("grow", "inside")
    builder.add_edge("inside", "halting")
    builder.add_edge("inside", "beside")
    return builder.compile(checkpointer=saver)


def config(thread):
    return {"configurable": {"thread_id": thread}}


def run(place, store, *threads, fails=False):
    with place.saver() as inner:
        saver = externalize(inner, backend=store)
        for thread in threads:
            graph(saver).invoke({"document": text(thread[:9]), "log": [], "fails": fails}, config(thread))
    return contents(place, store)


def contents(place, store, **options):
    """All that can be read: of every checkpoint its values and its writes."""
    with place.saver() as inner:
        saver = externalize(inner, backend=store, **options)
        found = [
            (item.config["configurable"], item.checkpoint["channel_values"], item.pending_writes)
            for item in saver.list(None)
        ]
    return sorted(found, key=lambda one: sorted(one[0].items()))


def pins(store):
    return {(pin.owner, pin.hash) for pin in store.iter_pins("langgraph:")}


def unpin_all(store):
    store.unpin(*{pin.owner for pin in store.iter_pins("langgraph:")})


def prune(store):
    time.sleep(2 * SHORT)
    return store.prune_expired(grace=0)


def forget(place, thread):
    """Delete a thread without the wrapper."""
    for table in ("checkpoints", place.writes):
        place.execute(f"DELETE FROM {table} WHERE thread_id = ?", thread)


def test_where_nothing_differs_nothing_is_told(cas, place):
    before = run(place, cas, "one", LONG, "half-done", fails=True)
    held = pins(cas)
    assert len({item[0]["checkpoint_ns"] for item in before}) > 1
    assert any(writes for _, _, writes in before)
    report, told = place.gc(cas, remove_stale=True)
    assert told == [] and report.ok
    assert report.checkpoints == len(before)
    assert report.pins == len(held)
    assert pins(cas) == held


def test_what_was_written_without_pins_is_pinned_with_all_that_it_needs(cas, place):
    before = run(place, cas, "one", LONG, "half-done", fails=True)
    held = pins(cas)
    unpin_all(cas)
    report, told = place.gc(cas, dry_run=True)
    assert not report.ok and report.unpinned == len(held) and report.pinned == 0
    assert {(one.owner, one.hash) for one in told} == held
    assert {one.thread_id for one in told} == {"one", LONG, "half-done"}
    assert pins(cas) == set()
    report, again = place.gc(cas)
    assert report.ok and report.pinned == report.unpinned == len(held)
    assert again == told and pins(cas) == held
    prune(cas)
    assert prune(cas).removed == 0
    assert contents(place, cas) == before
    assert place.gc(cas)[1] == []


def test_checkpoints_deleted_in_the_database_leave_stale_pins(cas, place):
    run(place, cas, "kept")
    kept = contents(place, cas)
    held = pins(cas)
    run(place, cas, "gone", LONG)
    stale = pins(cas) - held
    forget(place, "gone")
    forget(place, LONG)
    for options in ({}, {"remove_stale": True, "dry_run": True}):
        report, told = place.gc(cas, **options)
        assert not report.ok and report.removed == 0
        assert {(one.owner, one.hash) for one in told} == stale
        assert pins(cas) == held | stale
    report, told = place.gc(cas, remove_stale=True)
    assert report.ok and report.removed == report.stale == len(stale)
    assert pins(cas) == held
    assert prune(cas).removed > 0
    assert contents(place, cas) == kept
    assert cas.verify().ok


def test_a_pin_without_its_checkpoint_is_stale(cas, place):
    """What a process leaves that dies between the two."""
    run(place, cas, "one")
    held = pins(cas)
    ref = cas.dump(text("never written"))
    cas.pin("langgraph:one::no-such-checkpoint", [ref])
    cas.pin("langgraph", [ref])
    cas.pin("somebody else", [ref])
    report, [difference] = place.gc(cas, remove_stale=True)
    assert difference[:3] == ("stale", "langgraph:one::no-such-checkpoint", ref.hash)
    assert difference.store == cas.backend_id and difference.thread_id is None
    assert report.removed == 1 and pins(cas) == held
    assert {pin.owner for pin in cas.iter_pins() if pin.hash == ref.hash} == {"langgraph", "somebody else"}


def test_a_payload_that_is_lost_is_told_with_its_place(cas, place):
    before = run(place, cas, "one", "two")
    [lost] = {one[1].get("document") for one in before if one[0]["thread_id"] == "two"} & {text("two")}
    ref = cas.dump(lost)
    assert cas.delete(ref.hash)
    held = pins(cas)
    report, told = place.gc(cas)
    assert not report.ok and report.missing == len(told) > 0
    assert {(one.kind, one.thread_id, one.hash) for one in told} == {("missing", "two", ref.hash)}
    places = {(one.checkpoint_ns, one.checkpoint_id) for one in told}
    assert len(places) == len(told)
    unpin_all(cas)  # nor is it pinned, nor told twice
    report, again = place.gc(cas)
    assert [one for one in again if one.kind == "missing"] == told
    assert pins(cas) == {(owner, name) for owner, name in held if name != ref.hash}
    cas.dump(lost)
    assert {one.kind for one in place.gc(cas)[1]} == {"unpinned"}
    assert place.gc(cas)[0].ok and pins(cas) == held


def test_a_part_of_a_payload_that_is_lost_or_damaged_is_told(files, sqlite_place):
    with sqlite_place.saver() as inner:
        saver = externalize(inner, backend=files)
        builder = StateGraph(Work)
        builder.add_node("large", lambda state: {"document": [text(n) * 20 for n in range(60)]})
        builder.add_edge(START, "large")
        builder.compile(checkpointer=saver).invoke({"log": []}, config("one"))
    [held] = {name for _, name in pins(files)}
    blobs = files._store
    names = [info.digest for info in blobs.scan() if info.digest.hex() != held]
    assert len(names) > 1
    unpin_all(files)
    [frame] = blobs.fetch(names[:1]).values()
    assert blobs.remove(names[:1])
    for dry_run in (True, False):
        report, told = sqlite_place.gc(files, dry_run=dry_run)
        assert {(one.kind, one.hash) for one in told} == {("missing", held)} and not report.ok
    blobs.store({names[0]: frame})
    assert {one.kind for one in sqlite_place.gc(files, dry_run=True)[1]} == {"unpinned"}
    [root] = blobs.fetch([parse_digest(held)]).values()
    blobs.replace({parse_digest(held): root[:-1] + bytes([root[-1] ^ 1])})
    report, told = sqlite_place.gc(files)
    assert {(one.kind, one.hash) for one in told} == {("damaged", held)}
    assert not report.ok and pins(files) == set()


def test_refs_into_stores_that_are_not_given_are_left_alone(tmp_path, place):
    with FilesystemCAS(tmp_path / "old") as old, FilesystemCAS(tmp_path / "new") as new:
        run(place, old, "one")
        unpin_all(old)
        report, told = place.gc(new)
        assert report.ok and {(one.kind, one.store) for one in told} == {("foreign", old.backend_id)}
        assert report.foreign == len(told) > 0 and pins(new) == pins(old) == set()
        report, told = place.gc(new, also=[old])
        assert report.pinned == report.unpinned == len(told)
        assert {one.store for one in told} == {old.backend_id}
        assert pins(new) == set() and len(pins(old)) == len(told)


def test_a_store_answers_to_the_name_of_the_one_that_moved_there(tmp_path, place):
    with FilesystemCAS(tmp_path / "old") as old:
        before = run(place, old, "one")
        moved = old.backend_id
        every = list(old._store.scan())
        blobs = old._store.fetch([info.digest for info in every])
    with FilesystemCAS(tmp_path / "new", backend_aliases=[moved]) as new:
        new._store.store(blobs, expires_at=time.time() + SHORT)
        report, told = place.gc(new)
        assert report.ok and report.pinned == len(told) > 0
        prune(new)
        prune(new)
        assert contents(place, new) == before


def test_a_pin_that_its_checkpoint_does_not_carry_is_told_and_stays(cas, place):
    run(place, cas, "one")
    owner = next(iter(sorted(pins(cas))))[0]
    ref = cas.dump(text("a write that was taken back"))
    cas.pin(owner, [ref])
    report, [difference] = place.gc(cas, remove_stale=True)
    assert difference[:3] == ("surplus", owner, ref.hash)
    assert report.ok and (owner, ref.hash) in pins(cas)


def test_pins_of_a_database_that_is_not_named_look_stale(files, tmp_path):
    one, two = (SqlitePlace(str(tmp_path / f"{name}.db"), "sync") for name in "ab")
    run(one, files, "same name")
    run(two, files, "same name")
    assert one.gc(files)[0].stale == two.gc(files)[0].stale > 0
    with one.saver() as first, two.saver() as second:
        assert (
            collect_pins([first, externalize(second, backend=files)], files, remove_stale=True).stale == 0
        )
        assert collect_pins([second, first], files, grace=0).ok


def test_a_saver_that_is_empty_is_told_by_its_number(files, tmp_path):
    one, two = (SqlitePlace(str(tmp_path / f"{name}.db"), "sync") for name in "ab")
    run(one, files, "a thread")
    files.pin("langgraph:gone::1", [files.dump("left behind")])
    with one.saver() as full, two.saver() as empty:
        for savers, told in (
            ([full, empty], "Saver 2 of the 2 given"),
            ([empty], "Saver 1 of the 1 given"),
        ):
            with pytest.raises(ConfigurationError, match=told):
                collect_pins(savers, files, remove_stale=True, grace=0)


def test_a_thread_longer_than_a_page_is_listed_whole(cas, place):
    """With checkpoints of one id in several namespaces, wherever a page ends."""
    with place.saver() as inner:
        saver = externalize(inner, backend=cas)
        for number in range(120):
            name = f"{number // 5:08}"
            place_ = {"thread_id": "t", "checkpoint_ns": f"n{number % 5}" if number % 5 else ""}
            checkpoint = {"v": 4, "id": name, "ts": "", "channel_values": {"a": text(f"number {number}")}}
            checkpoint |= {"channel_versions": {"a": f"{number}.1"}, "versions_seen": {}}
            saver.put({"configurable": place_}, checkpoint, {}, {"a": f"{number}.1"})
    assert len(pins(cas)) == 120
    report, told = place.gc(cas, remove_stale=True)
    assert told == [] and report.checkpoints == 120
    with place.saver() as inner:
        lone = {"v": 4, "id": "00000007", "ts": "", "channel_values": {}, "channel_versions": {}}
        for number in range(80):
            inner.put(
                {"configurable": {"thread_id": "t", "checkpoint_ns": f"more{number}"}},
                {**lone, "versions_seen": {}},
                {},
                {},
            )
    assert place.gc(cas)[0].checkpoints == 200


class Typed(AgentRefState):
    docs: Externalized[list[dict]]
    log: Annotated[Externalized[list[str]], operator.add]


@pytest.mark.parametrize("through", ["adapter", "nothing"])
def test_typed_state_is_pinned_as_well(cas, place, through):
    adapter = LangGraphAdapter(Typed, backend=cas)
    builder = StateGraph(adapter.schema())
    builder.add_node("first", adapter.wrap_node(lambda state: {"docs": [{"a": text(1)}], "log": ["x"]}))
    builder.add_node("each", adapter.wrap_node(lambda state: {"log": [text(len(state["docs"]))]}))
    builder.add_edge(START, "first")
    builder.add_conditional_edges(
        "first", adapter.wrap_router(lambda state: [Send("each", {"docs": [text("sent")]})]), ["each"]
    )
    with place.saver() as inner:
        saver = adapter.checkpointer(inner) if through == "adapter" else inner
        shown = builder.compile(checkpointer=saver).invoke(adapter.externalize({"docs": []}), config("t"))
    unpin_all(cas)
    for info in list(cas._store.scan()):  # as with a store that has a default life
        [frame] = cas._store.fetch([info.digest]).values()
        cas._store.remove([info.digest])
        cas._store.store({info.digest: frame}, expires_at=time.time() + SHORT)
    report, told = place.gc(cas)
    assert report.ok and report.pinned == len(told) > 3
    prune(cas)
    prune(cas)
    assert adapter.hydrate(shown)["docs"] == [{"a": text(1)}]
    assert {ref.hash for ref in shown.values()} <= {one.hash for one in told}
    assert cas.exists(adapter.externalize({"docs": [text("sent")]})["docs"].hash)
    assert place.gc(cas)[1] == []


def test_what_user_data_only_looks_like_is_no_ref(files, sqlite_place):
    class Free(TypedDict):
        data: Any

    ref = files.dump(text("somebody's"))
    builder = StateGraph(Free)
    builder.add_node("pass_on", lambda state: {"data": [ref.to_dict(), {"deep": ref.to_dict()}]})
    builder.add_node("whole", lambda state: {"data": ref.to_dict()})
    builder.add_edge(START, "pass_on")
    builder.add_edge("pass_on", "whole")
    with sqlite_place.saver() as inner:
        builder.compile(checkpointer=externalize(inner, backend=files)).invoke({"data": 1}, config("t"))
    assert sqlite_place.gc(files)[1] == []


def test_a_saver_in_memory_can_be_collected_for(files):
    inner = InMemorySaver()
    saver = externalize(inner, backend=files)
    graph(saver).invoke({"document": text(1), "log": []}, config(7))  # no text: LangGraph lets it pass
    held = pins(files)
    unpin_all(files)
    assert asyncio.run(acollect_pins(saver, files)).pinned == len(held)
    assert pins(files) == held
    assert collect_pins(saver, files).ok


def test_whoever_waits_no_longer_ends_the_collection(files, sqlite_place):
    run(sqlite_place, files, "gone")
    forget(sqlite_place, "gone")
    held = pins(files)

    async def give_up():
        async with AsyncSqliteSaver.from_conn_string(sqlite_place.name) as saver:
            await graph(externalize(saver, backend=files)).ainvoke(
                {"document": text(1), "log": []}, config("t")
            )
            waiting = asyncio.create_task(acollect_pins(saver, files, remove_stale=True, grace=3600))
            await asyncio.sleep(0.3)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting

    asyncio.run(give_up())  # ends, which it could not if the thread went on waiting
    assert held < pins(files)


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((SqliteSaver,), {}, "not type"),
        (([],), {}, "empty list"),
        ((None,), {}, "not NoneType"),
        (([InMemorySaver(), "saver"],), {}, "not str"),
        ((InMemorySaver(), "./store"), {}, "backend"),
        ((InMemorySaver(),), {"also": ["./store"]}, "also[0]"),
        ((InMemorySaver(),), {"grace": -1}, "grace"),
        ((InMemorySaver(),), {"grace": float("nan")}, "grace"),
        ((InMemorySaver(),), {"grace": True}, "grace"),
        ((InMemorySaver(),), {"progress": 1}, "progress"),
        ((InMemorySaver(),), {"on_difference": []}, "on_difference"),
    ],
)
@pytest.mark.parametrize("colour", ["sync", "async"])
def test_bad_arguments_are_named(arguments, options, words, colour):
    saver, store, *_ = (*arguments, InMemoryCAS())

    async def acollect():
        await acollect_pins(saver, store, **options)

    with pytest.raises(InvalidInputError, match=re.escape(words)):
        asyncio.run(acollect()) if colour == "async" else collect_pins(saver, store, **options)


class BlobsOnly:
    """A store of one's own that keeps neither aliases nor pins."""

    def __init__(self):
        self._blobs = MemoryBlobStore()

    def __getattr__(self, name):
        if name in {"pin", "unpin", "scan_pins"}:
            raise AttributeError(name)
        return getattr(self._blobs, name)


def test_a_store_without_pins_is_refused():
    with pytest.raises(ConfigurationError, match="keeps no aliases and no pins"):
        collect_pins(InMemorySaver(), CAS(BlobsOnly()))


def test_progress_counts_pins_and_checkpoints(files, sqlite_place):
    before = run(sqlite_place, files, "one")
    seen = []
    sqlite_place.gc(files, progress=seen.append)
    assert seen[-1] == len(before) + len(pins(files)) and seen == sorted(seen)

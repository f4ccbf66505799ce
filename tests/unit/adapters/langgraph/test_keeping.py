"""Which checkpoints may go: whatever the tree, what is left reads as before."""

from hypothesis import given
from hypothesis import strategies as st
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from agentref.adapters.langgraph.offered.keeping import all_but_latest, node_of, of_runs
from agentref.adapters.langgraph.offered.memory import MemoryTables

CHANNELS = ("a", "b")
THREAD = {"configurable": {"thread_id": "t"}}


@st.composite
def steps(draw):
    """For each checkpoint: its parent, its run, what it stores of each channel, what its writes are to."""
    return [
        (
            draw(st.none() | st.integers(0, number - 1)) if number else None,
            draw(st.sampled_from(["one", "two"])),
            {channel: draw(st.sampled_from(["snapshot", "moved", "still"])) for channel in CHANNELS},
            draw(st.lists(st.sampled_from(CHANNELS), max_size=2)),
        )
        for number in range(draw(st.integers(1, 8)))
    ]


def saver_of(made):
    saver = InMemorySaver()
    versions = {}
    for number, (parent, run, channels, writes) in enumerate(made):
        mine = dict(versions.get(parent, {}))
        new = {name: f"{number}.{name}" for name, kind in channels.items() if kind != "still"}
        mine.update(new)
        versions[number] = mine
        values = {
            name: _DeltaSnapshot([f"up to {number}"]) for name in CHANNELS if channels[name] == "snapshot"
        }
        place = {"thread_id": "t", "checkpoint_ns": ""}
        before = {**place, "checkpoint_id": None if parent is None else f"{parent:04}"}
        checkpoint = {"v": 4, "id": f"{number:04}", "channel_values": values, "channel_versions": mine}
        counters = {name: (1, 1) for name in CHANNELS if channels[name] != "snapshot"}
        metadata = {"run_id": run, "counters_since_delta_snapshot": counters}
        saver.put({"configurable": before}, checkpoint, metadata, new)
        saver.put_writes(
            {"configurable": {**place, "checkpoint_id": f"{number:04}"}},
            [(name, [f"{number}.{index}"]) for index, name in enumerate(writes)],
            "task",
        )
    return saver


def readable(saver):
    return {
        item.checkpoint["id"]: (
            item.checkpoint,
            item.metadata,
            item.pending_writes,
            saver.get_delta_channel_history(
                config=item.config,
                channels=[
                    name
                    for name in item.checkpoint["channel_versions"]
                    if name not in item.checkpoint["channel_values"]
                ],
            ),
        )
        for item in saver.list(THREAD)
    }


def erase(saver, doomed):
    tables = MemoryTables()
    tables.run(saver, tables.erase(saver, "t", doomed))


@given(steps())
def test_the_latest_reads_as_before_and_only_what_it_needs_is_left(made):
    saver = saver_of(made)
    before = readable(saver)
    erase(saver, all_but_latest(map(node_of, saver.list(THREAD))))
    after = readable(saver)
    latest = max(before)
    assert after[latest] == before[latest]
    if not before[latest][3]:  # all stands in it
        assert after.keys() == {latest}


@given(steps())
def test_the_other_runs_read_as_before_or_nothing_is_deleted(made):
    saver = saver_of(made)
    before = readable(saver)
    doomed, needed = of_runs(map(node_of, saver.list(THREAD)), {"one"})
    gone = {one for ids in doomed.values() for one in ids}
    assert gone == {name for name, (_, metadata, *_) in before.items() if metadata["run_id"] == "one"}
    erase(saver, doomed)
    after = readable(saver)
    assert after.keys() == before.keys() - gone
    if not needed:
        assert after == {name: before[name] for name in after}

"""Views, and what becomes of a value that somebody changes in place."""

import asyncio

import pytest

from agentref.coherence import Conflict
from agentref.errors import BlobNotFoundError, UnsupportedTypeError

KEY, OTHER = ("proj", "plan"), ("proj", "budget")


@pytest.fixture
def agent(peer):
    agent = peer("agent")
    agent.commit(KEY, {"steps": [1], "who": "agent"}, base=None)
    return agent


def test_a_view_tells_what_the_coordinator_said(agent, coordinator):
    view = agent.read(KEY)
    seen = coordinator.read([KEY])[KEY]
    assert view.versioned == seen
    assert (view.key, view.ref, view.version, view.epoch, view.writer, view.at, view.exists) == (
        KEY, seen.ref, 1, 0, "agent", seen.at, True,
    )  # fmt: skip
    assert "version 1" in repr(view) and "proj/plan" in repr(view)


def test_what_was_never_written_is_a_view_without_a_value(agent):
    view = agent.read(OTHER)
    assert (view.exists, view.version, view.ref) == (False, 0, None)
    for look in (
        lambda: view.value,
        view.copy,
        lambda: asyncio.run(view.avalue()),
        lambda: agent.value(OTHER),
    ):
        with pytest.raises(BlobNotFoundError, match="never written"):
            look()
    assert "no content" in repr(view)


def test_what_is_deleted_names_who_did_it(agent):
    agent.delete(KEY, base=agent.read(KEY))
    with pytest.raises(BlobNotFoundError, match="deleted by 'agent'"):
        agent.value(KEY)
    assert agent.read(KEY).version == 2


def test_all_readers_of_a_version_share_one_object_that_is_fetched_once(peer, watched, agent):
    reader = peer("reader", backend=watched)
    first = reader.read(KEY)
    assert not first.is_loaded
    assert first.value is reader.read(KEY).value is reader.read_many([KEY])[KEY].value
    assert asyncio.run(first.avalue()) is first.value
    assert first.is_loaded
    assert watched.calls.count("load") == 1


def test_a_copy_is_the_callers_own(agent):
    view = agent.read(KEY)
    value = view.value
    for mine in (view.copy(), asyncio.run(view.acopy())):
        assert mine == value and mine is not value and mine["steps"] is not value["steps"]
        mine["steps"].append(2)
    assert view.value == agent.value(KEY) == {"steps": [1], "who": "agent"}


@pytest.mark.parametrize("value", ["text", b"bytes", 3, 2.5, True, None, 2j], ids=repr)
def test_what_cannot_be_changed_is_never_fetched_twice(peer, watched, value):
    agent = peer("a", backend=watched)
    agent.commit(KEY, value, base=None)
    view = agent.read(KEY)
    assert view.copy() == view.value == view.copy() == value
    loads = watched.calls.count("load")
    with pytest.raises(Conflict):
        agent.commit(KEY, "another", base=None)
    assert view.value == value
    assert watched.calls.count("load") == loads


@pytest.mark.parametrize("value", [(1, [2]), {"a": {"b": 1}}, [[1]], {1, 2}, bytearray(b"x")], ids=repr)
def test_a_copy_of_a_container_is_a_new_one(agent, value):
    agent.commit(OTHER, value, base=None)
    view = agent.read(OTHER)
    assert view.copy() == value and view.copy() is not view.value


# Changed in place

ATTEMPTS = {
    "refused": lambda agent, rival, view, value: agent.commit(KEY, value, base=view),
    "refused, by a bare base": lambda agent, rival, view, value: agent.commit(
        KEY, value, base=view.versioned
    ),
    "not stored": lambda agent, rival, view, value: agent.commit(KEY, {"x": object()}, base=view),
    "many": lambda agent, rival, view, value: agent.commit_many([(OTHER, 1, None), (KEY, value, view)]),
    "by another peer": lambda agent, rival, view, value: rival.commit(KEY, value, base=view),
    "in a loop": lambda agent, rival, view, value: asyncio.run(agent.acommit(KEY, value, base=view)),
    "many, in a loop": lambda agent, rival, view, value: asyncio.run(
        agent.acommit_many([(KEY, value, view)], reads=[view])
    ),
    "deleted": lambda agent, rival, view, value: agent.delete(KEY, base=view),
}


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_nobody_reads_a_change_in_place_after_an_attempt_to_commit_it(agent, peer, coordinator, attempt):
    rival = peer("rival")
    older = agent.read(KEY)
    lease = coordinator.acquire(KEY, holder="x", ttl=1000)  # all are refused, and the version stays
    held = agent.read_many([KEY])[KEY]
    view = agent.read(KEY)
    value = view.value
    value["steps"].append("changed")
    value["who"] = "mallory"
    with pytest.raises((Conflict, UnsupportedTypeError)):
        ATTEMPTS[attempt](agent, rival, view, value)
    coordinator.release(lease)
    truth = {"steps": [1], "who": "agent"}
    for each in (older, held, view, agent.read(KEY), agent.read_many([KEY])[KEY], rival.read(KEY)):
        assert each.version == 1
        assert each.value == truth and each.value is not value
    assert agent.update(KEY, lambda v: v).value == truth


def test_after_a_commit_of_a_change_in_place_the_old_version_is_what_it_was(agent):
    view = agent.read(KEY)
    value = view.value
    value["steps"].append(2)
    new = agent.commit(KEY, value, base=view)
    assert (view.value["steps"], new.value["steps"]) == ([1], [1, 2])
    value["steps"].append(3)  # the caller's own, from now on
    assert (view.value["steps"], new.value["steps"], agent.value(KEY)["steps"]) == ([1], [1, 2], [1, 2])


def test_a_change_in_place_that_changes_nothing_in_the_end_is_no_commit(agent):
    view = agent.read(KEY)
    value = view.value
    value["steps"].append(2)
    value["steps"].pop()
    assert agent.commit(KEY, value, base=view).version == 1


def test_a_value_put_into_another_one_is_stored_as_it_is_then(agent):
    inner = agent.read(KEY)
    agent.commit(OTHER, {"of": inner.value, "also": [inner.value]}, base=None)
    inner.value["steps"].append("changed")
    assert agent.value(OTHER) == {
        "of": {"steps": [1], "who": "agent"},
        "also": [{"steps": [1], "who": "agent"}],
    }
    outer = agent.read(OTHER)
    outer.value["of"]["who"] = "mallory"
    with pytest.raises(Conflict):
        agent.commit(KEY, inner.value, base=None)
    assert agent.value(KEY) == {"steps": [1], "who": "agent"}
    with pytest.raises(Conflict):
        agent.commit(OTHER, outer.value, base=None)
    assert agent.value(OTHER)["of"]["who"] == "agent"


def test_content_that_came_back_is_not_the_object_of_before(agent):
    first = agent.read(KEY)
    value = first.value
    agent.commit(KEY, "B", base=first)
    agent.commit(KEY, {"steps": [1], "who": "agent"}, base=agent.read(KEY))
    third = agent.read(KEY)
    assert (third.version, third.ref) == (3, first.ref)
    value["who"] = "mallory"
    assert third.value == {"steps": [1], "who": "agent"}


def test_the_function_of_an_update_may_change_what_it_gets(agent, peer):
    before = agent.read(KEY)
    assert before.value["steps"] == [1]

    def grow(value):
        value["steps"].append(2)
        return value

    assert agent.update(KEY, grow).value["steps"] == [1, 2]
    assert before.value["steps"] == [1]

    def fail(value):
        value["steps"].clear()
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        agent.update(KEY, fail)
    assert agent.value(KEY)["steps"] == [1, 2]


# What is wrong in the store


def test_a_content_that_is_gone_is_told_as_gone(peer, agent, store):
    reader = peer("reader")
    view = reader.read(KEY)
    store.delete(view.ref.hash)
    for _ in range(2):
        with pytest.raises(BlobNotFoundError):
            view.value  # noqa: B018
    assert not view.is_loaded
    assert reader.commit(KEY, "again", base=view).value == "again"

"""The rules by themselves: whatever is asked of a row, nothing in it goes back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentref.coherence import rules
from agentref.coherence.rows import ABSENT, MAX_LEASES, Held, LeaseMode, Row
from agentref.coherence.rules import Asked, Base, Refusal, Token, Wanted
from agentref.errors import FutureVersionError, Reason
from agentref.refs import ContentRef

EXCLUSIVE, SHARED = LeaseMode
REFS = [ContentRef(bytes([n]) * 32, "json", n) for n in range(3)]
AGENTS = st.sampled_from("abc")
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["commit", "stale", "delete", "acquire", "renew", "release", "evict", "settle"]),
        AGENTS,
        st.integers(0, 4),
        st.sampled_from(LeaseMode),
        st.sampled_from([-30.0, -3.0, 0.0, 1.0, 3.0, 20.0]),
    ),
    max_size=30,
)


def base_of(row):
    return Base(row.version, row.ref, row.epoch)


def held(row, agent, number):
    mine = [each for each in row.leases if each.holder == agent and not each.waits]
    return Token(agent, mine[number % len(mine)].fence) if mine else None


def step(row, now, old, asked):
    """The row after it, whether or not it was refused."""
    verb, agent, number, mode, _ = asked
    lease = held(row, agent, number)
    if verb in {"commit", "stale", "delete"}:
        base = base_of(old if verb == "stale" else rules.settle(row, now))
        ref = None if verb == "delete" else REFS[number % 3]
        after = rules.commit(row, Asked(agent, ref, base, lease), now)
        return row if isinstance(after, Refusal) else after
    if verb == "acquire":
        return rules.acquire(row, Wanted(agent, mode, 5.0, number), now)[0]
    if verb == "renew":
        return rules.renew(row, lease or Token(agent, 1), 5.0, now)[0]
    if verb == "release":
        return rules.release(row, lease or Token(agent, 1), now)
    return rules.evict(row, agent, now) if verb == "evict" else rules.settle(row, now)


def histories(steps):
    """Pairs of rows, one after the other, with what was done and when: the clock jumps both ways."""
    row, now, seen = ABSENT, 1000.0, [ABSENT]
    for asked in steps:
        verb, agent, number, _, passed = asked
        now += passed
        after = step(row, now, seen[number % len(seen)], asked)
        yield row, after, verb, agent, now
        row = rules.settle(after, now)  # whoever sees a row leaves it as he saw it
        seen.append(row)


@given(STEPS)
def test_nothing_goes_back(steps):
    for before, after, *_ in histories(steps):
        assert after.version in {before.version, before.version + 1}
        assert after.epoch >= before.epoch
        assert after.fence in {before.fence, before.fence + 1}


@given(STEPS)
def test_content_changes_with_the_version_and_only_then(steps):
    for before, after, verb, agent, now in histories(steps):
        if after.version == before.version:
            assert (after.ref, after.writer, after.at) == (before.ref, before.writer, before.at)
        else:
            assert verb in {"commit", "stale", "delete"}
            assert (after.writer, after.at) == (agent, now)
            assert after.ref != before.ref


@given(STEPS)
def test_who_holds_alone_holds_alone(steps):
    for _, after, *_ in histories(steps):
        holding = [each for each in after.leases if not each.waits]
        assert len(holding) <= 1 or {each.mode for each in holding} == {SHARED}
        assert len({each.fence for each in holding}) == len(holding)
        assert all(0 < each.fence <= after.fence for each in holding)
        assert sum(each.waits for each in after.leases) <= 1


@given(STEPS)
def test_the_end_of_an_exclusive_lease_moves_the_epoch_and_nothing_else_does(steps):
    for before, after, *_ in histories(steps):
        kept = {each.fence for each in after.leases if not each.waits}
        ended = [h for h in before.leases if h.mode is EXCLUSIVE and not h.waits and h.fence not in kept]
        assert after.epoch == before.epoch + len(ended)


@given(STEPS)
def test_a_commit_passes_only_from_what_stands_there_under_nobodys_lease(steps):
    for before, after, _, agent, now in histories(steps):
        if after.version > before.version:
            settled = rules.settle(before, now)
            assert {h.holder for h in settled.leases if not h.waits} <= {agent}
            assert after.epoch == settled.epoch


@given(STEPS, AGENTS, st.sampled_from([0.0, 2.0, 100.0]))
def test_a_gate_says_what_a_commit_would(steps, agent, passed):
    for _, row, *_, now in histories(steps):
        for base in (base_of(row), base_of(rules.settle(row, now + passed))):
            for lease in (None, held(row, agent, 0), Token(agent, row.fence + 1)):
                asked = Asked(agent, ContentRef(b"n" * 32, "json", 1), base, lease)
                done = rules.commit(row, asked, now + passed)
                refused = rules.gate(row, base, lease, now + passed)
                assert refused == (done if isinstance(done, Refusal) else None)


@given(STEPS)
def test_what_has_been_settled_is_settled(steps):
    for _, row, *_, now in histories(steps):
        settled = rules.settle(row, now)
        assert rules.settle(settled, now) is settled
        assert all(rules.lives(each, now) for each in settled.leases)


@given(STEPS)
def test_what_changes_nothing_returns_the_row_itself(steps):
    """It is by this that a table knows that there is nothing to write."""
    for _, row, *_, now in histories(steps):
        row = rules.settle(row, now)  # noqa: PLW2901
        assert rules.release(row, Token("nobody", 1), now) is row
        assert rules.evict(row, "nobody", now) is row
        assert rules.renew(row, Token("nobody", 1), 5.0, now)[0] is row
        same = rules.commit(row, Asked("a", row.ref, base_of(row), held(row, "a", 0)), now)
        assert same is row or isinstance(same, Refusal)


@pytest.mark.parametrize(
    ("row", "base", "reason"),
    [
        (Row(1, 2, 0, 0, REFS[0], "w"), None, Reason.EXISTS),
        (Row(1, 2, 0, 0, REFS[0], "w"), Base(1, REFS[0], 0), Reason.VERSION_MISMATCH),
        (Row(1, 2, 0, 0, None, "w"), Base(1, REFS[0], 0), Reason.DELETED),
        (Row(1, 2, 0, 0, REFS[0], "w"), Base(2, REFS[1], 0), Reason.CONTENT_MISMATCH),
        (Row(1, 2, 0, 0, REFS[0], "w"), Base(2, None, 0), Reason.CONTENT_MISMATCH),
        (Row(1, 2, 0, 0, None, "w"), Base(2, REFS[0], 0), Reason.CONTENT_MISMATCH),
        (Row(1, 2, 1, 0, REFS[0], "w"), Base(2, REFS[0], 0), Reason.STALE_EPOCH),
        (Row(1, 0, 1, 1), Base(0, None, 0), Reason.STALE_EPOCH),
    ],
)
def test_a_commit_is_refused_for_a_reason(row, base, reason):
    refused = rules.commit(row, Asked("a", REFS[2], base, None), 1.0)
    assert isinstance(refused, Refusal)
    assert refused.reason is reason
    if base is not None:
        assert rules.current(row, base, 1.0) == refused


@pytest.mark.parametrize("base", [Base(3, REFS[0], 0), Base(2, REFS[0], 1), Base(1, REFS[0], 1)])
def test_a_view_of_the_future_is_corruption(base):
    row = Row(1, 2, 0, 0, REFS[0], "w")
    for verb in (
        lambda: rules.commit(row, Asked("a", REFS[1], base, None), 1.0),
        lambda: rules.gate(row, base, None, 1.0),
        lambda: rules.current(row, base, 1.0),
    ):
        with pytest.raises(FutureVersionError):
            verb()


def test_a_codec_is_part_of_what_content_is():
    ref = ContentRef(REFS[0].digest, "other", 0)
    row = Row(1, 1, 0, 0, REFS[0], "w")
    assert rules.commit(row, Asked("a", ref, base_of(row), None), 1.0).version == 2


def test_who_waits_is_next():
    row, _ = rules.acquire(ABSENT, Wanted("a", SHARED, 10.0, 0), 0.0)
    row, refused = rules.acquire(row, Wanted("w", EXCLUSIVE, 10.0, 5.0), 1.0)
    assert refused == Refusal(Reason.HELD_BY_OTHER, "a", 10.0)
    for mode in LeaseMode:
        same, refused = rules.acquire(row, Wanted("b", mode, 10.0, 3.0), 1.5)
        assert isinstance(refused, Refusal)
        assert [each.holder for each in same.leases] == ["a", "w"]
    row = rules.release(row, Token("a", 1), 1.6)
    assert isinstance(rules.acquire(row, Wanted("b", SHARED, 10.0, 0), 1.6)[1], Refusal)
    assert rules.acquire(row, Wanted("w", EXCLUSIVE, 10.0, 2.0), 1.6)[1] == Held(
        "w", EXCLUSIVE, 2, 11.6, 10.0
    )
    assert rules.acquire(row, Wanted("b", SHARED, 10.0, 0), 2.5)[1].fence == 2  # his time is over


def test_a_row_has_room_for_so_many_leases():
    row = ABSENT
    for number in range(MAX_LEASES):
        row, granted = rules.acquire(row, Wanted("a", SHARED, 10.0, 0), 1.0)
        assert granted.fence == number + 1
    full, refused = rules.acquire(row, Wanted("b", SHARED, 10.0, 0), 1.0)
    assert isinstance(refused, Refusal)
    assert full is row
    assert rules.acquire(row, Wanted("b", SHARED, 10.0, 5.0), 1.0)[0].leases[-1].waits

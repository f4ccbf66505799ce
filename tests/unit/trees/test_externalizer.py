"""Nested plain data with refs in place of what is large, and back."""

import asyncio
import json
import math
import random
import sys
import threading
import time
from collections import OrderedDict
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentref import errors
from agentref.codecs import CODEC_ID
from agentref.refs import REF_KEY, ContentRef
from agentref.storage import CAS, FilesystemCAS, InMemoryCAS
from agentref.storage.memory import MemoryBlobStore
from agentref.trees import Externalizer, Stub

KEY, OTHER_KEY = b"k" * 32, b"o" * 32
LARGE = "payload " * 1000


class Pair(NamedTuple):
    left: Any
    right: Any


@pytest.fixture
def cas():
    return InMemoryCAS()


@pytest.fixture
def external(cas):
    return Externalizer(cas)


def over_json(tree):
    return json.loads(json.dumps(tree))


# What a user, a model or a tool may have written: also what looks like ours.
hostile_keys = st.one_of(st.sampled_from([REF_KEY, "escaped", "a"]), st.text(max_size=3))
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=40),
    st.just(LARGE),
    st.binary(max_size=40),
)
real_ref = ContentRef(b"r" * 32, "x", 3, "b").to_dict()
hostile = st.recursive(
    st.one_of(scalars, st.builds(lambda: json.loads(json.dumps(real_ref)))),
    lambda inner: st.one_of(
        st.lists(inner, max_size=8),
        st.tuples(inner, inner),
        st.builds(Pair, inner, inner),
        st.dictionaries(hostile_keys, inner, max_size=3),
        st.builds(lambda body: {REF_KEY: body}, inner),
        st.builds(lambda body: {REF_KEY: {"escaped": body}}, inner),
        st.lists(inner, min_size=2, max_size=4).map(lambda items: items * 20),
    ),
    max_leaves=12,
)


class TestRoundTrip:
    @given(hostile, st.integers(0, 100), st.integers(2, 9), st.booleans(), st.sampled_from([(), KEY]))
    @settings(deadline=None)
    def test_whatever_a_tree_holds_comes_back(self, tree, threshold, segment, all_bytes, keys):
        external = Externalizer(InMemoryCAS(), threshold_bytes=threshold, segment=segment, keys=keys)
        before = repr(tree)
        small = external.externalize(tree, all_bytes=all_bytes)
        assert external.rehydrate(small) == tree
        assert repr(tree) == before
        assert external.adopt(small) == small
        again = external.externalize(small)
        assert external.rehydrate(again) == tree and repr(tree) == before
        assert external.rehydrate(external.adopt(small)) == tree

    @given(
        st.recursive(
            scalars.filter(lambda value: not isinstance(value, bytes)),
            lambda inner: st.one_of(
                st.lists(inner, max_size=6), st.dictionaries(hostile_keys, inner, max_size=3)
            ),
            max_leaves=20,
        )
    )
    @settings(deadline=None)
    def test_also_over_json(self, tree):
        external = Externalizer(InMemoryCAS(), threshold_bytes=10, segment=2)
        wire = over_json(external.externalize(tree))
        assert external.rehydrate(wire) == tree
        assert external.rehydrate(external.externalize(external.adopt(wire))) == tree

    def test_kinds_of_containers_stay(self, external):
        tree = OrderedDict(a=(LARGE, Pair([LARGE], 2)))
        back = external.rehydrate(external.externalize(tree))
        assert back == tree
        assert type(back["a"]) is tuple and type(back["a"][1]) is Pair

    def test_what_holds_nothing_large_is_the_same_object(self, external):
        tree = {"a": [1, {"b": "c"}], "t": (1, 2)}
        assert external.externalize(tree) is tree
        assert external.rehydrate(tree) is tree

    def test_values_that_come_back_are_nobody_elses(self, external):
        small = external.externalize({"one": [0.5] * 1000, "two": [0.5] * 1000})
        back = external.rehydrate(small)
        back["one"].append(1)
        assert back["two"] == [0.5] * 1000 == external.rehydrate(small)["one"]

    def test_base64_is_a_text_like_any_other(self, external):
        urlsafe = "_-" * 5000
        assert external.rehydrate(external.externalize({"image": urlsafe})) == {"image": urlsafe}


class TestWhatIsLarge:
    @pytest.mark.parametrize(
        ("leaf", "is_large"),
        [
            ("x" * 4096, False),
            ("x" * 4097, True),
            ("\u00e9" * 2048, False),
            ("\u00e9" * 2049, True),
            ("\U0001f600" * 1024, False),
            ("\U0001f600" * 1025, True),
            (b"x" * 4096, False),
            (b"x" * 4097, True),
            ([0.5] * 512, False),
            ([0.5] * 513, True),
        ],
    )
    def test_a_leaf_over_the_threshold(self, external, leaf, is_large):
        assert (type(external.externalize({"leaf": leaf})["leaf"]) is Stub) == is_large

    def test_bytes_of_any_size_for_json(self, external):
        small = external.externalize({"empty": b"", "few": b"abc", "text": "abc"}, all_bytes=True)
        assert external.rehydrate(over_json(small)) == {"empty": b"", "few": b"abc", "text": "abc"}

    def test_much_that_is_small_is_one_value_but_not_the_tree_itself(self, external, cas):
        many = {f"key {n}": "small" * 20 for n in range(1000)}
        small = external.externalize({"many": many})
        assert type(small["many"]) is Stub and cas.counters.values_dumped == 1
        assert external.rehydrate(small) == {"many": many}
        assert external.externalize(many) == many

    def test_objects_stay_where_they_are(self, external):
        thing = object()
        tree = {"items": [{"text": LARGE, "thing": thing}] * 100}
        small = external.externalize(tree)
        assert small["items"][0]["thing"] is thing
        assert type(small["items"][99]["text"]) is Stub
        assert external.rehydrate(small) == tree

    def test_the_limits_of_one_call(self, external):
        assert external.externalize(["x" * 20], threshold_bytes=10) != ["x" * 20]
        with pytest.raises(errors.InvalidInputError, match="threshold_bytes"):
            external.externalize([], threshold_bytes=-1)
        with pytest.raises(errors.InvalidInputError, match="segment"):
            external.externalize([], segment=1)


class TestGrowingLists:
    def messages(self, count):
        return [{"role": "user", "content": f"{n} " * 150} for n in range(count)]

    def test_a_list_that_grows_is_stored_once(self, external, cas):
        stored = []
        for count in range(0, 400, 3):
            external.externalize(self.messages(count))
            stored.append(cas.counters.bytes_stored)
        once = InMemoryCAS()
        Externalizer(once).externalize(self.messages(count))
        assert stored[-1] == once.counters.bytes_stored > 0
        assert stored == sorted(stored)

    def test_the_tail_stays(self, external):
        small = external.externalize(self.messages(70))
        assert [type(item) is Stub for item in small] == [True, True] + [False] * 6
        assert small[2:] == self.messages(70)[64:]

    @pytest.mark.parametrize("through", [lambda tree: tree, over_json])
    def test_what_was_externalized_may_grow(self, external, through):
        history = []
        for message in self.messages(200):
            history = external.externalize(external.adopt(through([*history, message])))
        assert len(history) < 40
        assert external.rehydrate(history) == self.messages(200)

    @pytest.mark.parametrize("through", [lambda tree: tree, over_json])
    @pytest.mark.parametrize("large", [5_000, 50_000])
    def test_large_items_among_what_was_externalized_are_sealed_too(self, external, cas, through, large):
        messages = self.messages(300)
        for n in range(0, 300, 7):
            messages[n] = {"role": "tool", "content": f"{n} " + "x" * large}
        history = []
        for count in range(1, 301):
            history = external.externalize(external.adopt(through([*history, messages[count - 1]])))
            assert len(json.dumps(history)) < 40_000
        assert external.rehydrate(history) == messages
        assert cas.counters.values_loaded < 300  # each large one once, and those of the last line
        before = cas.counters.values_loaded
        note = {"page": external.externalize({"page": LARGE})["page"], "history": history}
        external.externalize(note)
        assert cas.counters.values_loaded == before

    def test_what_was_appended_and_looks_like_a_ref_is_a_users(self, external):
        look_alike = over_json(external.externalize({"a": LARGE}))["a"]
        history = external.externalize([{"content": LARGE}])
        items = [*history, *[{"content": look_alike}] * 40]
        assert external.rehydrate(external.externalize(items))[1:] == [{"content": look_alike}] * 40

    def test_the_number_of_refs_grows_by_the_logarithm(self, external):
        external = Externalizer(InMemoryCAS(), segment=4, threshold_bytes=10)
        items = [{"content": "x" * 20, "n": n} for n in range(1000)]
        small = external.externalize(items)
        assert external.rehydrate(small) == items
        assert len(small) <= 1000 // 64 + 3 + 3 + 3

    def test_large_items_are_not_stored_twice(self, external, cas):
        items = [{"content": random.Random(n).randbytes(40_000).hex()} for n in range(10)]
        external.externalize(items[:9])
        before = cas.counters.bytes_stored
        external.externalize(items)
        assert cas.counters.bytes_stored - before <= before / 8


class TestSeals:
    def sealed(self, cas, **options):
        return Externalizer(cas, **{"keys": KEY, "tenant": "a", **options})

    @pytest.mark.parametrize(
        "options", [{"tenant": "b"}, {"keys": OTHER_KEY}, {"tenant": ""}], ids=["tenant", "key", "none"]
    )
    def test_a_ref_of_somebody_else_is_refused(self, cas, options):
        wire = over_json(self.sealed(cas).externalize({"a": LARGE}))
        other = self.sealed(cas, **options)
        for verb in (other.rehydrate, other.refs, other.adopt):
            with pytest.raises(errors.UntrustedRefError):
                verb(wire)
        assert cas.counters.values_loaded == 0

    def test_a_ref_without_a_seal_is_refused_where_there_are_keys(self, cas, external):
        wire = over_json(external.externalize({"a": LARGE}))
        with pytest.raises(errors.UntrustedRefError, match="no seal"):
            self.sealed(cas).rehydrate(wire)

    def test_a_seal_that_nobody_can_check_is_an_error(self, cas, external):
        wire = over_json(self.sealed(cas).externalize({"a": LARGE}))
        with pytest.raises(errors.ConfigurationError, match="keys="):
            external.rehydrate(wire)

    @pytest.mark.parametrize("at", range(7))
    def test_whatever_was_edited_is_refused(self, cas, at):
        external = self.sealed(cas, segment=2)
        wire = over_json(external.externalize([{"c": LARGE}] * 5))
        body = wire[0][REF_KEY]
        body[at] = [2, "0" * 64, "y", body[3] + 1, "other", 3, "0" * 32][at]
        with pytest.raises((errors.UntrustedRefError, errors.InvalidRefError)):
            external.rehydrate(wire)

    def test_keys_rotate(self, cas):
        wire = over_json(self.sealed(cas).externalize({"a": LARGE}))
        rotated = self.sealed(cas, keys=[OTHER_KEY, KEY])
        assert rotated.rehydrate(wire) == {"a": LARGE}
        new = over_json(rotated.externalize({"a": LARGE}))
        assert self.sealed(cas, keys=OTHER_KEY).rehydrate(new) == {"a": LARGE}

    def test_what_is_adopted_is_sealed_by_the_first_key(self, cas):
        wire = over_json(self.sealed(cas).externalize([{"c": LARGE, REF_KEY: 1}] * 40))
        rotated = self.sealed(cas, keys=[OTHER_KEY, KEY])
        again = over_json(rotated.externalize(rotated.adopt(wire)))
        assert self.sealed(cas, keys=OTHER_KEY).rehydrate(again) == [{"c": LARGE, REF_KEY: 1}] * 40

    @pytest.mark.parametrize(
        "options", [{"keys": b"short"}, {"keys": ["k" * 32]}, {"tenant": "x"}, {"tenant": 3, "keys": KEY}]
    )
    def test_keys_and_tenants_are_checked(self, cas, options):
        with pytest.raises(errors.InvalidInputError):
            Externalizer(cas, **options)


class TestWhatComesFromOutside:
    @pytest.mark.parametrize(
        "body",
        [
            None,
            "text",
            {},
            {"escaped": 3},
            {"escaped": {}, "more": 1},
            [],
            [1],
            [2, "0" * 64, "x", 1, None],
            [1, "0" * 63, "x", 1, None],
            [1, "../../etc/passwd", "x", 1, None],
            [1, "0" * 64, "x", -1, None],
            [1, "0" * 64, "x", 1, "../b"],
            [1, "0" * 64, "x", 1, None, 0, None],
            [1, "0" * 64, "x", 1, None, True, None],
            [1, "0" * 64, "x", 1, None, 2**40, None],
            [1, "0" * 64, "x", 1, None, 3, None],  # a segment that is in no list
        ],
    )
    def test_what_is_malformed_is_a_typed_error(self, external, body):
        with pytest.raises((errors.InvalidRefError, errors.InvalidDigestError)):
            external.rehydrate({"a": {REF_KEY: body}})

    def test_a_ref_to_what_is_not_there(self, external):
        with pytest.raises(errors.BlobNotFoundError):
            external.rehydrate([ContentRef(b"0" * 32, CODEC_ID, 3).to_dict()])
        with pytest.raises(errors.UnknownBackendError, match="elsewhere"):
            external.rehydrate([ContentRef(b"0" * 32, "x", 3, "elsewhere").to_dict()])

    @pytest.mark.parametrize("size", [1, 2**40])
    def test_a_size_that_lies(self, external, size):
        wire = over_json(external.externalize({"a": LARGE}))
        wire["a"][REF_KEY][3] = size
        with pytest.raises((errors.IntegrityError, errors.ValueTooLargeError)):
            external.rehydrate(wire)

    def test_a_segment_of_another_length(self, external):
        wire = over_json(external.externalize([{"c": LARGE}] * 40))
        wire[0][REF_KEY][5] += 1
        with pytest.raises(errors.MalformedBlobError):
            external.rehydrate(wire)
        value = over_json(external.externalize([LARGE + "x"] * 2, segment=9)[0])
        with pytest.raises(errors.MalformedBlobError):
            external.rehydrate(
                [{REF_KEY: [*external.externalize({"a": LARGE})["a"][REF_KEY], 8008, None]}, value]
            )

    def test_one_ref_many_times_is_bounded(self, cas):
        external = Externalizer(cas, max_bytes=100_000)
        stub = external.externalize({"a": LARGE})["a"]
        with pytest.raises(errors.ValueTooLargeError, match="max_bytes"):
            external.rehydrate([dict(stub)] * 20)
        assert cas.counters.values_loaded == 0

    @pytest.mark.parametrize(
        "kind", [lambda inner: [inner], lambda inner: {"a": inner}, lambda inner: (inner,)]
    )
    def test_what_is_too_deep(self, external, kind):
        tree = LARGE
        for _ in range(5000):
            tree = kind(tree)
        for verb in (external.externalize, external.rehydrate, external.adopt, external.refs):
            with pytest.raises(errors.InvalidInputError, match="levels deep"):
                verb(tree)

    def test_a_stack_that_is_nearly_full(self, external):
        def deep(frames, tree):
            return deep(frames - 1, tree) if frames else external.rehydrate(tree)

        tree = 1
        for _ in range(400):
            tree = [tree]
        with pytest.raises(errors.InvalidInputError, match="room"):
            deep(sys.getrecursionlimit() - 300, tree)

    def test_a_segment_that_was_taken_out_of_its_list(self, external):
        segment = external.externalize([{"c": LARGE}] * 40)[0]
        for tree in ({"first": segment}, segment, (segment,), {"a": {"b": segment}}):
            with pytest.raises(errors.InvalidInputError, match="items of a list"):
                external.externalize(tree)
            with pytest.raises(errors.InvalidRefError, match="in none"):
                external.adopt((over_json(segment),) if isinstance(tree, tuple) else over_json(tree))

    def test_a_list_that_another_thread_shortens(self, external):
        stopped, items = threading.Event(), [{"c": "x" * 500, "n": n} for n in range(500)]

        def shorten():
            while not stopped.is_set():
                del items[250:]
                items.extend({"c": "x" * 500, "n": n} for n in range(250, 500))

        thread = threading.Thread(target=shorten)
        thread.start()
        try:
            for _ in range(60):
                back = external.rehydrate(external.externalize(items))
                assert [item["n"] for item in back] == list(range(len(back)))
        finally:
            stopped.set()
            thread.join()

    def test_what_holds_itself(self, external, cas):
        loop = [LARGE]
        loop.append(loop)
        with pytest.raises(errors.InvalidInputError, match="holds itself"):
            external.externalize(loop)
        assert cas.counters.values_dumped == 0


class TestLives:
    def test_an_owner_keeps_what_its_tree_refers_to(self, tmp_path):
        def pinned():
            return {(row.owner, row.digest) for row in cas._prunable().scan_pins()}

        with FilesystemCAS(tmp_path) as cas:
            external = Externalizer(cas)
            small = external.externalize({"a": LARGE, "b": [0.5] * 1000}, owner="run")
            grown = external.externalize({**small, "c": LARGE + "!"}, owner="later")
            assert pinned() == {("run", ref.digest) for ref in external.refs(small)} | {
                ("later", ref.digest) for ref in external.refs(grown)
            }
            external.release("run")
            assert {owner for owner, _ in pinned()} == {"later"}
            external.release("later")
            assert pinned() == set()
            assert all(info.expires_at < math.inf for info in cas._prunable().scan())

    def test_a_store_that_keeps_no_pins_says_so(self):
        class Blobs:  # the verbs of a store, without those of roots
            def __init__(self):
                inner = MemoryBlobStore()
                for name in (
                    "fetch",
                    "store",
                    "replace",
                    "stat",
                    "touch",
                    "peek",
                    "epoch",
                    "clock",
                    "scan",
                    "survey",
                    "condemn",
                    "remove",
                    "close",
                ):
                    setattr(self, name, getattr(inner, name))
                self.store_id = inner.store_id

        with pytest.raises(errors.ConfigurationError, match="pins"):
            Externalizer(CAS(Blobs())).externalize({"a": LARGE}, owner="run")

    def test_what_was_there_already_lives_on_when_it_is_saved_again(self, tmp_path):
        with FilesystemCAS(tmp_path, default_ttl_seconds=1) as cas:
            external, history, count = Externalizer(cas), [], 0
            begun = time.monotonic()
            while time.monotonic() - begun < 2.5:
                history = external.externalize(
                    external.adopt(over_json([*history, {"c": LARGE, "n": count}]))
                )
                time.sleep(0.05)
                count += 1
            ends = {info.digest: info.expires_at for info in cas._prunable().scan()}
            assert all(ends[ref.digest] > time.time() + 0.3 for ref in external.refs(history))
            assert len(external.rehydrate(history)) == count

    def test_what_an_owner_kept_is_for_ever_once_it_is_saved_without_one(self, tmp_path):
        with FilesystemCAS(tmp_path) as cas:
            small = Externalizer(cas).externalize({"a": LARGE}, owner="run")
            external = Externalizer(cas)
            external.externalize(external.adopt(over_json(small)))
            assert {info.expires_at for info in cas._prunable().scan()} == {math.inf}

    @pytest.mark.parametrize("owner", [None, "run"])
    def test_a_save_that_refers_to_what_is_gone_raises(self, tmp_path, owner):
        with FilesystemCAS(tmp_path) as cas:
            wire = over_json(Externalizer(cas).externalize({"a": LARGE}))
            external = Externalizer(cas)
            cas.delete(external.refs(wire)[0].hash)
            for verb in (
                lambda: external.externalize(external.adopt(wire), owner=owner),
                lambda: external.pin("run", wire),
                lambda: asyncio.run(external.apin("run", wire)),
            ):
                with pytest.raises(errors.BlobNotFoundError):
                    verb()
            assert not list(cas.iter_pins())

    def test_pin_keeps_what_a_tree_refers_to(self, tmp_path):
        with FilesystemCAS(tmp_path) as cas:
            external = Externalizer(cas)
            small = external.externalize({"a": LARGE, "b": [{"c": LARGE}] * 40})
            external.pin("one", over_json(small))
            asyncio.run(external.apin("other", small))
            for owner in ("one", "other"):
                pinned = {row.digest for row in cas._prunable().scan_pins() if row.owner == owner}
                assert pinned == {ref.digest for ref in external.refs(small)}

    @pytest.mark.parametrize(
        ("ann", "bob"), [("ann", "bob"), ("a", "a:b"), ("a:b", "a%3Ab"), ("%", "%25"), ("%:", "%25:")]
    )
    def test_no_tenant_lets_go_of_what_another_keeps(self, tmp_path, ann, bob):
        with FilesystemCAS(tmp_path) as cas:
            one, other = (Externalizer(cas, keys=KEY, tenant=tenant) for tenant in (ann, bob))
            one.externalize({"a": LARGE}, owner="b:chat")
            other.release("b:chat")
            other.release("chat")
            (pin,) = cas.iter_pins()
            for name in (f"{ann}:b:chat", pin.owner, pin.owner[1:], f"%{ann}:b:chat"):
                Externalizer(cas).release(name)
            assert list(cas.iter_pins()) == [pin]
            one.release("b:chat")
            assert not list(cas.iter_pins())

    def test_who_is_cancelled_learns_of_it_when_the_pin_is_there(self, tmp_path):
        async def run(cas):
            external = Externalizer(cas)
            verbs, begun = cas._prunable(), threading.Event()
            store_pinned = verbs.store_pinned

            def slowly(*given, **how):
                begun.set()
                time.sleep(0.2)
                store_pinned(*given, **how)

            verbs.store_pinned = slowly
            task = asyncio.create_task(external.aexternalize({"a": LARGE}, owner="run"))
            await asyncio.to_thread(begun.wait)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await external.arelease("run")
            await asyncio.sleep(0.3)
            assert not list(cas.iter_pins())

        with FilesystemCAS(tmp_path) as cas:
            asyncio.run(run(cas))


class TestObjectsThatSaveTheirState:
    class Agent:
        def __init__(self):
            self.state = {"history": [LARGE]}

        async def save_state(self):
            return self.state

        async def load_state(self, state):
            self.state = state

    class Plain(Agent):
        def save_state(self):
            return self.state

        def load_state(self, state):
            self.state = state

    @pytest.mark.parametrize("kind", [Agent, Plain])
    def test_they_save_refs_and_load_values(self, external, kind):
        async def run():
            agent, other = kind(), kind()
            agent.state["more"] = 1
            state = over_json(await external.save_state(agent))
            assert "payload payload" not in json.dumps(state)
            await external.load_state(other, state)
            assert other.state == agent.state

        asyncio.run(run())

    def test_they_see_nothing_of_a_state_that_cannot_be_loaded(self, external):
        async def run():
            agent = self.Agent()
            state = over_json(await external.save_state(agent))
            external.backend.delete(external.refs(state)[0].hash)
            with pytest.raises(errors.BlobNotFoundError):
                await external.load_state(agent, state)
            assert agent.state == {"history": [LARGE]}
            with pytest.raises(errors.InvalidInputError, match="save_state"):
                await external.save_state({})

        asyncio.run(run())


class TestAsync:
    def test_the_twins_do_the_same(self, external):
        async def run():
            tree = {"a": LARGE, "n": [{"c": "x" * 300}] * 100}
            small = await external.aexternalize(tree, owner="run")
            assert small == external.externalize(tree)
            assert await external.arehydrate(over_json(small)) == tree
            await external.arelease("run")

        asyncio.run(run())

    def test_what_changes_while_a_tail_is_loaded_is_for_the_next_time(self, external):
        async def run():
            history = [{"c": external.externalize({"x": LARGE + str(n)})["x"]} for n in range(40)]
            tree = {"history": history, "meta": {"n": 1}, "log": ["a"], "pair": (1, {"k": "old"})}
            task = asyncio.create_task(external.aexternalize(tree))
            await asyncio.sleep(0)
            assert not task.done()  # it loads
            tree["meta"]["n"] = 2
            tree["log"].append("b")
            tree["pair"][1]["k"] = "new"
            history.append({"c": "later"})
            back = external.rehydrate(await task)
            assert back.pop("history") == [{"c": LARGE + str(n)} for n in range(40)]
            assert back == {"meta": {"n": 1}, "log": ["a"], "pair": (1, {"k": "old"})}

        asyncio.run(run())

    def test_what_changes_meanwhile_is_not_half_stored(self, external):
        async def run():
            tree = {"a": [LARGE]}
            task = asyncio.create_task(external.aexternalize(tree))
            await asyncio.sleep(0)
            tree["a"].append("later")
            assert external.rehydrate(await task) in ({"a": [LARGE]}, {"a": [LARGE, "later"]})

        asyncio.run(run())

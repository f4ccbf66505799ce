"""Equal values have equal refs, in every process; different ones never do."""

import copy
import json
import os
import runpy
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentref.storage import InMemoryCAS

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "tests" / "golden" / "regenerate.py"


@pytest.mark.parametrize("seed", ["0", "1", "4711"])
def test_every_process_gives_the_same_refs(cas: InMemoryCAS, seed: str) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--refs"],
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    refs = {name: cas.dump(value) for name, value in runpy.run_path(str(SCRIPT))["values"]().items()}
    assert json.loads(done.stdout) == {name: [ref.hash, ref.size] for name, ref in refs.items()}


SHARED = [1, {"a": (2, {3})}, "x" * 20_000, list(range(9000))]


@pytest.mark.parametrize(
    "make",
    [
        lambda part: [part(), part()],
        lambda part: {"a": part(), "b": [part()] * 3},
        lambda part: (part(), {"z": (part(), part())}),
        lambda part: [{"n": n, "p": (part()[:2],)} for n in range(500)],
    ],
)
def test_sharing_among_parts_leaves_no_trace(cas: InMemoryCAS, make) -> None:
    shared = make(lambda: SHARED)
    apart = make(lambda: copy.deepcopy(SHARED))
    assert cas.dump(shared) == cas.dump(apart) == cas.dump(cas.load(cas.dump(shared)))


@settings(max_examples=25)
@given(
    items=st.lists(
        st.integers() | st.text() | st.binary() | st.none() | st.tuples(st.integers(), st.text()),
        unique=True,
    ),
    random=st.randoms(use_true_random=False),
    copies=st.sampled_from([1, 200]),
)
def test_the_order_in_which_a_set_was_filled_leaves_no_trace(items: list, random, copies: int) -> None:
    cas = InMemoryCAS()
    items = [(item, n) for item in items for n in range(copies)]
    filled = set(items)
    random.shuffle(items)
    again: set = set(range(100_000, 100_300))  # another table size, so another order
    again.update(items)
    again.difference_update(range(100_000, 100_300))
    assert cas.dump(filled) == cas.dump(again)
    assert cas.dump({"s": frozenset(items)}) == cas.dump({"s": frozenset(filled)})


DIFFERENT = [
    1,
    True,
    1.0,
    "1",
    b"1",
    bytearray(b"1"),
    Decimal(1),
    complex(1),
    (1,),
    [1],
    {1},
    frozenset({1}),
    {1: 1},
    {True: 1},
    {1: True},
    {1.0: 1},
    {"a": 1, "b": 2},
    {"b": 2, "a": 1},
    "a",
    b"a",
    0,
    False,
    None,
    0.0,
    -0.0,
    [],
    {},
    (),
    set(),
    frozenset(),
    "",
    b"",
    [[]],
    [()],
    ["a", "b"],
    ["ab"],
    [["a"], "b"],
    ["a", ["b"]],
    Decimal("1.0"),
    Decimal("1.00"),
    range,
    int,
    float("nan"),
    "\ud83d\ude00",
    "\N{GRINNING FACE}",
]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda value: value,
        lambda value: {"k": value},
        lambda value: [value, *range(9000)],
        lambda value: ("x" * 10_000, value),
    ],
    ids=["bare", "dict", "list", "tuple"],
)
def test_different_values_have_different_refs(cas: InMemoryCAS, wrap) -> None:
    values = [wrap(value) for value in DIFFERENT if not isinstance(value, type)]
    assert len({ref.digest for ref in cas.dump_many(values)}) == len(values)


@pytest.mark.parametrize("size", [5, 2000, 20_000, 400_000])
def test_text_bytes_and_buffers_of_one_content_differ(cas: InMemoryCAS, size: int) -> None:
    data = b"x" * size
    refs = cas.dump_many([data, data.decode(), bytearray(data), [data], [data.decode()], [bytearray(data)]])
    assert len(set(refs)) == 6


def test_threads_that_encode_at_once_agree() -> None:
    def values() -> list[object]:
        return [[{"n": n, "t": (n, "\ud800")} for n in range(k, k + 300)] for k in range(8)]

    cas = InMemoryCAS()
    expected = cas.dump_many(values())
    blobs = cas.stats().blobs
    with ThreadPoolExecutor(8) as pool:
        for refs in pool.map(lambda _: cas.dump_many(values()), range(24)):
            assert refs == expected
    assert cas.stats().blobs == blobs
    assert cas.load_many(expected) == values()


def _records() -> dict[str, object]:
    return {
        "two leaves": {"a": "x" * 200_000, **{f"k{n}": n for n in range(40)}, "b": "y" * 200_000},
        "one text": {"id": 1, "text": "x" * 20_000},
        "long text": {"id": 1, "text": "x" * 300_000},
        "texts": {"id": 1.5, b"k": b"x" * 9000, "text": "\ud800" * 9000, None: None},
        "container": {"id": 1, "text": "x" * 20_000, "tags": ["a"], "n": (1,)},
        "wide": {"t": "x" * 20_000, **{str(n): "y" * 900 for n in range(33)}},
    }


@pytest.mark.parametrize("name", _records())
def test_what_a_store_remembers_of_an_object_changes_no_ref(same, name: str) -> None:
    expected = InMemoryCAS().dump([_records()[name]] * 2)
    cas, record = InMemoryCAS(), _records()[name]
    for _ in range(3):
        assert cas.dump([record, record]) == expected
    assert same(cas.load(expected), [record, record])


@settings(max_examples=60)
@given(data=st.data())
def test_a_changed_object_gets_the_ref_of_its_new_content(data: st.DataObject) -> None:
    cas = InMemoryCAS()
    parts = st.sampled_from(
        ["x", "x" * 9000, "y" * 9000, b"x" * 9000, "z" * 300_000, 1, True, 1.0, None, ["a"], "k"]
    )
    records = [{"text": "x" * 9000, "n": n} for n in range(3)]
    for _ in range(data.draw(st.integers(1, 6))):
        record = records[data.draw(st.integers(0, 2))]
        key = data.draw(st.sampled_from(["text", "n", "more", 1, True]))
        if data.draw(st.booleans()):
            record.pop(key, None)
        else:
            record[key] = data.draw(parts)
        fresh = copy.deepcopy(records)
        ref = cas.dump(records)
        assert ref == InMemoryCAS().dump(fresh)
        assert cas.load(ref) == fresh

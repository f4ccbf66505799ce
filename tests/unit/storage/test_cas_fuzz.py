"""Blobs swapped and mutated at random: a value or a typed error, and never anything else."""

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentref.chunks import Kind, link_table, unpack_blob
from agentref.codecs.wire import Ext
from agentref.errors import AgentRefError, IntegrityError
from agentref.refs import ContentRef, Digest
from agentref.storage import InMemoryCAS
from agentref.storage.frames import open_frame

SAMPLES: list[object] = [
    {"a": [1, (2, "x"), b"y", {3}], "b": None, 5: 1.5},
    [{"n": n, "t": "x" * 200} for n in range(150)],
    {"text": "x" * 20_000, "more": ["y" * 9000, ("z" * 9000,)]},
    list(range(9000)),
    [np.arange(4000.0), np.float32(1), np.zeros(3, [("a", "i4"), ("b", "S2")])],
    (ContentRef(Digest(bytes(32)), "raw", 5), Ext.TUPLE, {frozenset({1})}),
]


def test_no_two_blobs_can_be_swapped() -> None:
    cas = InMemoryCAS()
    refs = cas.dump_many(SAMPLES)
    names = [Digest(bytes.fromhex(name)) for name in cas.iter_hashes()]
    frames = cas._store.fetch(names)
    for name, other in zip(names, names[1:] + names[:1], strict=True):
        cas._store.replace({name: frames[other]})
    for ref in refs:
        with pytest.raises(IntegrityError, match=ref.hash):
            cas.load(ref)
    assert len(cas.verify().corrupt) == len(names)


def _blobs(value: object) -> list[tuple[Kind, bytes]]:
    cas = InMemoryCAS()
    cas.dump(value)
    names = [Digest(bytes.fromhex(name)) for name in cas.iter_hashes()]
    return [open_frame(name, frame) for name, frame in cas._store.fetch(names).items()]


PAYLOADS = [(kind, data) for value in SAMPLES for kind, data in _blobs(value) if kind is Kind.VALUE]


@settings(max_examples=250)
@given(data=st.data())
def test_mutated_blobs_give_a_value_or_a_typed_error(
    new_forge,
    data: st.DataObject,
) -> None:
    forge = new_forge()
    for value in SAMPLES:
        forge.cas.dump(value)
    _, canonical = data.draw(st.sampled_from(PAYLOADS))
    mutated = bytearray(canonical)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(len(mutated) - 1, 0)) | st.integers(0, min(len(mutated), 40)))
        change = data.draw(st.sampled_from(["byte", "bit", "insert", "delete", "truncate", "copy"]))
        if change == "byte":
            mutated[at : at + 1] = data.draw(st.binary(min_size=1, max_size=1))
        elif change == "bit" and at < len(mutated):
            mutated[at] ^= 1 << data.draw(st.integers(0, 7))
        elif change == "insert":
            mutated[at:at] = data.draw(st.binary(max_size=8))
        elif change == "delete":
            del mutated[at : at + data.draw(st.integers(1, 40))]
        elif change == "truncate":
            del mutated[at:]
        else:
            mutated[at:at] = mutated[: data.draw(st.integers(0, 60))]
    _load_or_refuse(forge, bytes(mutated))


def _load_or_refuse(forge, canonical: bytes) -> None:
    try:
        size = unpack_blob(Kind.VALUE, canonical).size
    except IntegrityError:
        size = 1
    try:
        forge.load(forge.blob(Kind.VALUE, canonical, min(size, 2**62)))
    except AgentRefError:
        return


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=8)
    | st.sampled_from(
        [
            "agentref.refs:ContentRef",
            "http:HTTPStatus",
            "inspect:ArgInfo",
            "<i4",
            "C",
            "|O",
            "UTC",
            "list",
            "langchain_core.messages.human:HumanMessage",
            "2024-01-01",
            "path",
            "OK",
            "content",
        ]
    ),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(
            st.text(max_size=5) | st.sampled_from(["digest", "content", "x"]), inner, max_size=3
        )
        | st.builds(
            lambda code, state: msgpack.ExtType(code, msgpack.packb(state)),
            st.sampled_from(list(Ext)),
            inner,
        )
    ),
    max_leaves=10,
)


@settings(max_examples=250)
@given(code=st.sampled_from(list(Ext)), state=plain, links=st.integers(0, 2))
def test_any_state_under_any_code_gives_a_value_or_a_typed_error(
    new_forge, code: int, state: object, links: int
) -> None:
    forge = new_forge()
    table = link_table([forge.raw(b"text"), forge.value(b"\x91\xc0")][:links])
    _load_or_refuse(forge, table + msgpack.packb(msgpack.ExtType(code, msgpack.packb(state))))

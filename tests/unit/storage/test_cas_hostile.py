"""Blobs by somebody who knows the format: correct digests, wrong contents. Every one is a typed error."""

import json
import resource
import subprocess
import sys
import tempfile
import tracemalloc
from pathlib import Path

import msgpack
import pytest

from agentref.chunks import MAX_BLOB_BYTES, Kind, Link, varint
from agentref.codecs import ValueCodec
from agentref.codecs.wire import CODEC_ID, Ext
from agentref.errors import AgentRefError, IntegrityError, MalformedBlobError, UntrustedTypeError
from agentref.refs import ContentRef
from agentref.storage import FilesystemCAS

ROOT = Path(__file__).parents[3]


def packed(code: int, state: object) -> bytes:
    return msgpack.packb(msgpack.ExtType(code, msgpack.packb(state)))


def tree(code: int, count: int) -> bytes:
    return msgpack.packb(msgpack.ExtType(code, bytes([count])))


DOCUMENT = "langchain_core.documents.base:Document"
STATES: dict[str, bytes] = {
    "a bytearray of a number": packed(Ext.BYTEARRAY, 10**12),
    "a bytearray of a list": packed(Ext.BYTEARRAY, [1]),
    "a uuid of a number": packed(Ext.UUID, 10**12),
    "a uuid of 3 bytes": packed(Ext.UUID, b"abc"),
    **{
        f"extension {code} of {str(state)[:12]}": packed(code, state)
        for code in (Ext.TUPLE, Ext.SET, Ext.INT, Ext.DEQUE, Ext.NDARRAY, Ext.NUMPY_SCALAR, Ext.BYTEARRAY)
        for state in (10**12, 2**63, [10**12], ["<i8", [10**11], "C", b""], ["<U0", [10**11], "C", b""])
        if not (isinstance(state, list) and code in {Ext.TUPLE, Ext.SET})
    },
    "a tuple of a number": packed(Ext.TUPLE, 5),
    "a set of lists": packed(Ext.SET, [[]]),
    "a frozenset of a number": packed(Ext.FROZENSET, 5),
    "an int of text": packed(Ext.INT, "x"),
    "a complex of text": packed(Ext.COMPLEX, ["a"]),
    "a datetime of text": packed(Ext.DATETIME, "2024"),
    "a datetime with a fold of 5": packed(Ext.DATETIME, ["2024-01-01", 5, None]),
    "a datetime in zone 3": packed(Ext.DATETIME, ["2024-01-01", 0, 3]),
    "a date of a number": packed(Ext.DATE, 5),
    "a time of nothing": packed(Ext.TIME, []),
    "an endless timedelta": packed(Ext.TIMEDELTA, [float("inf"), 0, 0]),
    "a long timedelta": packed(Ext.TIMEDELTA, [2**60, 0, 0]),
    "a zone of a day": packed(Ext.TIMEZONE, [[1, 0, 0], None]),
    "a zone with a number for a name": packed(Ext.TIMEZONE, [[0, 0, 0], 5]),
    "a zone by absolute path": packed(Ext.ZONEINFO, "/etc/passwd"),
    "a zone by relative path": packed(Ext.ZONEINFO, "../../../etc/passwd"),
    "a zone that is a directory": packed(Ext.ZONEINFO, "America"),
    "a zone that is none": packed(Ext.ZONEINFO, "a\0b"),
    "a zone with a long name": packed(Ext.ZONEINFO, "a" * 100_000),
    "a zone of a list": packed(Ext.ZONEINFO, []),
    "a decimal of words": packed(Ext.DECIMAL, "ten"),
    "a huge decimal": packed(Ext.DECIMAL, "1e99999999999999999999"),
    "a path of another kind": packed(Ext.PATH, ["secret", "x"]),
    "a path of a list": packed(Ext.PATH, [[], "x"]),
    "a deque of minus one": packed(Ext.DEQUE, [-1, []]),
    "a deque of 2**64": packed(Ext.DEQUE, [2**64 - 1, []]),
    "an ordered dict of a number": packed(Ext.ORDERED_DICT, 5),
    "a defaultdict of eval": packed(Ext.DEFAULT_DICT, ["eval", {}]),
    "a defaultdict of a list": packed(Ext.DEFAULT_DICT, [[], {}]),
    "an enum of too little": packed(Ext.ENUM, ["http:HTTPStatus"]),
    "an enum of no member": packed(Ext.ENUM, ["http:HTTPStatus", "NOPE", None]),
    "an enum of a list": packed(Ext.ENUM, ["http:HTTPStatus", [], None]),
    "a dataclass of a list": packed(Ext.DATACLASS, ["agentref.refs:ContentRef", [1]]),
    "a dataclass of other fields": packed(Ext.DATACLASS, ["agentref.refs:ContentRef", {"nope": 1}]),
    "a model of nothing": packed(
        Ext.PYDANTIC, ["langchain_core.documents.base:Document", {}, None, None, None]
    ),
    "a named tuple of too many": packed(Ext.NAMEDTUPLE, ["inspect:ArgInfo", [1] * 5]),
    "an array of nothing": packed(Ext.NDARRAY, []),
    "an array of objects": packed(Ext.NDARRAY, ["|O", [1], "C", bytes(8)]),
    "an array with a field of objects": packed(Ext.NDARRAY, [[["a", "O"]], [1], "C", bytes(8)]),
    "an array of strings": packed(Ext.NDARRAY, ["T", [1], "C", bytes(16)]),
    "an array of no type": packed(Ext.NDARRAY, [None, [1], "C", bytes(8)]),
    "an array of nonsense": packed(Ext.NDARRAY, ["i4,(", [1], "C", bytes(8)]),
    "an array of empty items": packed(Ext.NDARRAY, ["<U0", [2**40], "C", b""]),
    "an array of voids": packed(Ext.NDARRAY, ["|V0", [2**40], "C", b""]),
    "an array of too few bytes": packed(Ext.NDARRAY, ["<i4", [2**30], "C", b"abcd"]),
    "an array of too many bytes": packed(Ext.NDARRAY, ["<i4", [0], "C", b"abcd"]),
    "an array of negative length": packed(Ext.NDARRAY, ["<i4", [-1, -1], "C", b"abcd"]),
    "an array of half a length": packed(Ext.NDARRAY, ["<i4", [0.5], "C", b""]),
    "an array of many dimensions": packed(Ext.NDARRAY, ["<i4", [2**63] * 200_000, "C", b""]),
    "an array of an endless dimension": packed(Ext.NDARRAY, ["<i4", [0, 2**63], "C", b""]),
    "an array in no order": packed(Ext.NDARRAY, ["<i4", [1], "K", b"abcd"]),
    "an array in a list of orders": packed(Ext.NDARRAY, ["<i4", [1], ["C"], b"abcd"]),
    "an array of text": packed(Ext.NDARRAY, ["<i4", [1], "C", "abcd"]),
    "a scalar of objects": packed(Ext.NUMPY_SCALAR, ["|O", bytes(8)]),
    "a scalar of nothing": packed(Ext.NUMPY_SCALAR, ["<i4", b""]),
    "an extension of nobody": packed(Ext.EXTENSION, ["langgraph.Send", []]),
    "an extension of too little": packed(Ext.EXTENSION, ["x"]),
    "an extension of a list": packed(Ext.EXTENSION, [[], 1]),
    "a foreign object": packed(Ext.FOREIGN, ["pickle", b"cos\nsystem\n(S'false'\ntR."]),
    "an unknown extension": packed(99, None),
    "extension 0": msgpack.packb(msgpack.ExtType(0, b"\x01")),
    "a negative extension": b"\xd4\xfe\x00",
    "a timestamp cut short": b"\xc7\x05\xff12345",
    "a list as a key": b"\x81\x90\x01",
    "nothing": b"",
    "two values": b"\x01\x02",
    "a list cut short": b"\x93\x01",
    "a reserved byte": b"\xc1",
    "an endless list": b"\xdd\xff\xff\xff\xff",
    "an endless text": b"\xdb\xff\xff\xff\xff",
    "text that is no UTF-8": b"\xa1\xff",
    "too deep a list": b"\x91" * 100_000 + b"\x01",
    "an ext payload of two values": msgpack.packb(msgpack.ExtType(Ext.TUPLE, b"\x90\x90")),
    "an empty ext payload": msgpack.packb(msgpack.ExtType(Ext.TUPLE, b"")),
}


@pytest.mark.parametrize("name", STATES)
def test_a_state_that_no_value_has_is_refused(forge, name: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(IntegrityError) as caught:
            forge.load(forge.value(STATES[name]))
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) < 1000


def _nested(code: int, depth: int) -> bytes:
    payload = b"\x90"
    for _ in range(depth):
        payload = b"\x91" + msgpack.packb(msgpack.ExtType(code, payload))
    return payload


@pytest.mark.parametrize("depth", [200, 5000])
def test_rich_types_nested_beyond_any_value_are_refused(forge, depth: int) -> None:
    with pytest.raises(MalformedBlobError):
        forge.load(forge.value(_nested(Ext.TUPLE, depth)))


NAMES = [
    "os:system",
    "subprocess:Popen",
    "builtins:eval",
    "builtins:object",
    "os:path.join",
    "sys:modules",
    ":",
    "os:",
    ":x",
    "a:b:c",
    "",
    None,
    5,
    [],
    "importlib:import_module",
    "http:HTTPStatus.__class__",
    "http:HTTPStatus.name",
    "agentref.refs:ContentRef.__init__",
    "agentref.refs:re.compile",
    "agentref.storage.cas:CAS",
    "langchain_core.messages_evil:X",
    "langchain_core.messages.nope:X",
    "langchain_core.messages.\0:X",
    "langchain_core.messages." + "a" * 10_000 + ":X",
    "\ud800:\ud800",
    "collections:OrderedDict",
    "x" * 100_000 + ":X",
    "agentref.refs:" + "a." * 50_000 + "b",
]
FAMILIES = {
    Ext.ENUM: lambda name: [name, "A", None],
    Ext.DATACLASS: lambda name: [name, {}],
    Ext.PYDANTIC: lambda name: [name, {}, [], None, None],
    Ext.NAMEDTUPLE: lambda name: [name, []],
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:40])
def test_a_name_of_anything_but_a_class_of_the_family_is_refused(forge, family: int, name: object) -> None:
    state = msgpack.packb(FAMILIES[family](name), unicode_errors="surrogatepass")
    with pytest.raises(UntrustedTypeError) as caught:
        forge.load(forge.value(msgpack.packb(msgpack.ExtType(family, state))))
    assert len(str(caught.value)) < 1000


def test_no_module_is_imported_on_the_word_of_stored_bytes(forge) -> None:
    assert "this" not in sys.modules
    for family, state in FAMILIES.items():
        for name in ("this:s", "antigravity:webbrowser", "idlelib.config:IdleConf"):
            with pytest.raises(UntrustedTypeError, match="loaded"):
                forge.load(forge.value(packed(family, state(name))))
    assert not {"this", "antigravity", "idlelib"} & sys.modules.keys()


def test_messages_of_langchain_are_found_though_nobody_imported_them() -> None:
    script = """
import sys
from agentref.storage import FilesystemCAS
from agentref.refs import ContentRef
import json
cas = FilesystemCAS(sys.argv[1])
assert "langchain_core" not in sys.modules
print(repr(cas.load(ContentRef.from_dict(json.loads(sys.argv[2])))))
"""
    from langchain_core.messages import HumanMessage

    with tempfile.TemporaryDirectory() as directory:
        with FilesystemCAS(directory) as cas:
            ref = cas.dump(HumanMessage("hello", id="1"))
        done = subprocess.run(
            [sys.executable, "-c", script, directory, json.dumps(ref.to_dict())],
            env={"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.stdout.startswith("HumanMessage(content='hello'"), done.stderr


# Links that lie


def test_a_size_that_lies_is_refused_at_every_level(forge) -> None:
    leaf = forge.value(b"\x92\x01\x02")
    honest = forge.value(tree(Ext.LIST_TREE, 1), [leaf])
    assert forge.load(honest) == [1, 2]
    for wrong in (1, leaf.size - 1, leaf.size + 1, 2**62):
        lying = forge.value(tree(Ext.LIST_TREE, 1), [Link(leaf.digest, wrong)])
        with pytest.raises(AgentRefError):
            forge.load(lying)
        with pytest.raises(IntegrityError):
            forge.load(forge.value(tree(Ext.LIST_TREE, 2), [leaf, Link(leaf.digest, 5)]))
    for wrong in (0, 1, honest.size - 1, honest.size + 1):
        with pytest.raises(MalformedBlobError):
            forge.load(Link(honest.digest, wrong))


def test_a_ref_under_the_wrong_codec_is_refused(forge) -> None:
    raw, value = forge.raw(b"\xc0"), forge.value(b"\xc0")
    node = forge.node([raw, value])
    for link, codec in (
        (raw, CODEC_ID),
        (value, "raw"),
        (node, "raw"),
        (node, CODEC_ID),
        (forge.node([value, value]), CODEC_ID),
    ):
        with pytest.raises(IntegrityError):
            forge.load(link, codec)
    assert forge.load(forge.node([value])) is None


@pytest.mark.parametrize("code", [Ext.TEXT_TREE, Ext.BYTES_TREE, Ext.LIST_TREE, Ext.DICT_TREE])
def test_a_tree_over_blobs_of_another_kind_is_refused(forge, code: int) -> None:
    leaves = {
        Ext.TEXT_TREE: forge.value(b"\xa1x"),
        Ext.BYTES_TREE: forge.value(b"\xc4\x01x"),
        Ext.LIST_TREE: forge.raw(b"\x91\x01"),
        Ext.DICT_TREE: forge.raw(b"\x81\x01\x01"),
    }
    with pytest.raises(MalformedBlobError):
        forge.load(forge.value(tree(code, 1), [leaves[code]]))


@pytest.mark.parametrize("code", [Ext.LIST_TREE, Ext.DICT_TREE])
@pytest.mark.parametrize("payload", [b"\xc0", b"\x01", b"\xa1x", packed(Ext.TUPLE, [])])
def test_a_leaf_of_another_type_is_refused(forge, code: int, payload: bytes) -> None:
    with pytest.raises(MalformedBlobError):
        forge.load(forge.value(tree(code, 1), [forge.value(payload)]))
    other = {Ext.LIST_TREE: b"\x80", Ext.DICT_TREE: b"\x90"}[code]
    with pytest.raises(MalformedBlobError):
        forge.load(forge.value(tree(code, 1), [forge.value(other)]))


def test_text_that_is_no_utf_8_is_refused(forge) -> None:
    with pytest.raises(MalformedBlobError):
        forge.load(forge.value(tree(Ext.TEXT_TREE, 1), [forge.raw(b"\xff\xfe")]))
    assert forge.load(forge.value(tree(Ext.BYTES_TREE, 1), [forge.raw(b"\xff\xfe")])) == b"\xff\xfe"


@pytest.mark.parametrize("used", [0, 1, 3, 255])
def test_links_are_used_exactly(forge, used: int) -> None:
    leaf = forge.raw(b"x")
    with pytest.raises(MalformedBlobError, match="links"):
        forge.load(forge.value(tree(Ext.BYTES_TREE, used), [leaf, leaf]))
    with pytest.raises(MalformedBlobError, match="links"):
        forge.load(forge.value(b"\xc0", [leaf]))
    with pytest.raises(MalformedBlobError, match="links"):
        forge.load(forge.value(msgpack.packb(msgpack.ExtType(Ext.BYTES_TREE, b"\x01\x01")), [leaf, leaf]))


def test_blobs_that_do_not_parse_are_refused(forge) -> None:
    for kind in (Kind.VALUE, Kind.NODE):
        for data in (
            b"",
            b"\x01",
            b"\x80",
            b"\xff" * 40,
            varint(2**18 + 1) + bytes(100),
            varint(1) + bytes(33),
        ):
            link = forge.blob(kind, data, max(len(data) - 1, 1))
            with pytest.raises(IntegrityError):
                forge.load(link)
            assert not forge.cas.verify().ok


@pytest.mark.parametrize("depth", [31, 32, 33, 100])
def test_no_tree_deeper_than_the_limit_is_walked(forge, depth: int) -> None:
    link = forge.raw(b"x" * 100)
    for _ in range(depth):
        link = forge.node([link])
    for read in (
        lambda: forge.load(link, "raw"),
        lambda: forge.cas.open(ContentRef(link.digest, "raw", 100)).read(),
    ):
        try:
            assert read() == b"x" * 100
            assert depth <= 33
        except MalformedBlobError:
            assert depth >= 31


@pytest.mark.parametrize(("depth", "fan"), [(20, 2), (24, 2), (5, 32), (2, 4000)])
@pytest.mark.parametrize("leaf", ["raw", "value"])
def test_a_few_blobs_that_claim_to_be_many_are_refused_at_once(
    forge, depth: int, fan: int, leaf: str
) -> None:
    link = forge.raw(b"x") if leaf == "raw" else forge.value(b"\x91\xc0")
    for _ in range(depth):
        link = forge.node([link] * fan)
    tracemalloc.start()
    try:
        root = link if leaf == "raw" else forge.value(tree(Ext.LIST_TREE, 1), [link])
        with pytest.raises(AgentRefError):
            forge.load(root, "raw" if leaf == "raw" else CODEC_ID)
        if leaf == "raw":
            with forge.cas.open(ContentRef(link.digest, "raw", link.size)) as file:
                file.read(100)
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


def test_values_that_hold_one_another_twice_are_refused_at_once(forge) -> None:
    link = forge.value(b"\x91\xc0")
    for _ in range(20):
        link = forge.value(b"\x92" + tree(Ext.LIST_TREE, 1) * 2, [link, link])
    with pytest.raises(AgentRefError):
        forge.load(link)


def test_a_list_of_claims_takes_no_memory(forge) -> None:
    payload = (b"\xdd" + (8 << 20).to_bytes(4, "big")) * 300 + b"\xc0" * (8 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(IntegrityError):
        forge.load(forge.value(payload))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10


def test_a_value_blob_over_the_limit_is_refused(forge) -> None:
    link = forge.value(b"\xc6" + (MAX_BLOB_BYTES).to_bytes(4, "big") + bytes(MAX_BLOB_BYTES))
    with pytest.raises(IntegrityError):
        forge.load(link)


class Serializer:
    """A foreign serializer that fails in a way of its own."""

    def dumps_typed(self, obj: object) -> tuple[str, bytes]:
        return "x", b""

    def loads_typed(self, data: tuple[str, bytes]) -> object:
        raise NotImplementedError(data[0])


@pytest.mark.parametrize("state", [["evil", b"x"], [5, b"x"], ["x"], [], ["x", b"", 1]])
def test_whatever_a_foreign_serializer_raises_is_a_typed_error(forge, state: list) -> None:
    forge.cas = forge.cas.with_codec(ValueCodec(foreign=Serializer()))
    with pytest.raises(IntegrityError):
        forge.load(forge.value(packed(Ext.FOREIGN, state)))

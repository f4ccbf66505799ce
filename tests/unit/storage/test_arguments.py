"""Arguments of the wrong kind or range: a typed error that names the argument, and nothing was done."""

import asyncio
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentref.codecs import Extension, ValueCodec
from agentref.errors import InvalidDigestError, InvalidInputError, ValueTooLargeError
from agentref.refs import Digest
from agentref.storage import CAS, FilesystemCAS, InMemoryCAS
from agentref.storage.filesystem import FilesystemBlobStore
from agentref.storage.memory import MemoryBlobStore

HOSTILE: dict[str, Callable[[], Any]] = {
    "negative": lambda: -1,
    "bool": lambda: True,
    "nan": lambda: math.nan,
    "infinity": lambda: math.inf,
    "huge": lambda: 10**30,
    "float": lambda: 1.5,
    "text": lambda: "text",
    "bytes": lambda: b"x",
    "generator": lambda: (item for item in [1]),
    "list": lambda: [1],
    "dict": lambda: {"a": 1},
    "class": lambda: int,
    "object": object,
}


def hostile(*fine: str) -> list[str]:
    return [name for name in HOSTILE if name not in fine]


class NamesBytes:
    def __fspath__(self) -> bytes:
        return b"x"


NO_PATHS: dict[str, Callable[[], Any]] = {
    **{name: HOSTILE[name] for name in hostile("text")},
    "nothing": lambda: None,
    "empty": lambda: "",
    "a NUL inside": lambda: "a\0b",
    "a lone surrogate": lambda: "a\ud800b",
    "names bytes": NamesBytes,
}


@pytest.mark.parametrize("name", NO_PATHS)
def test_what_is_no_path_makes_no_store(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        InvalidInputError, match=r"^root must be the path.*FilesystemCAS\('\./state_blobs'\)"
    ):
        FilesystemCAS(NO_PATHS[name]())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [FilesystemCAS, FilesystemBlobStore])
@pytest.mark.parametrize("form", [str, Path])
@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "POSTGRESQL", " postgres"])
def test_a_dsn_makes_no_directory(
    make: Any, form: Any, scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInputError, match=r"PostgresCAS\(dsn\)") as caught:
        make(form(f"{scheme}://app:hush@h/db"))
    assert "hush" not in str(caught.value)
    with pytest.raises(InvalidInputError, match="PostgresCAS"):
        make("mysql://h/db")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_blob_store_is_refused(name: str) -> None:
    with pytest.raises(InvalidInputError, match=r"^store must be a BlobStore"):
        CAS(HOSTILE[name]())
    with pytest.raises(InvalidInputError, match=r"not InMemoryCAS"):
        CAS(InMemoryCAS())  # type: ignore[arg-type]


OPTIONS: dict[str, list[str]] = {
    "backend_id": hostile("text"),
    "codec": hostile(),
    "compression_level": hostile(),
    "max_value_bytes": hostile(),
}


@pytest.mark.parametrize(
    ("option", "name"), [(option, name) for option, names in OPTIONS.items() for name in names]
)
def test_an_option_of_the_wrong_kind_or_range_is_refused(option: str, name: str) -> None:
    with pytest.raises(InvalidInputError, match=option.replace("_", "[_ ]")):
        InMemoryCAS(**{option: HOSTILE[name]()})


@pytest.mark.parametrize("name", HOSTILE)
def test_a_codec_that_is_none_is_refused_by_with_codec(name: str) -> None:
    with pytest.raises(InvalidInputError, match="codec must be a ValueCodec"):
        InMemoryCAS().with_codec(HOSTILE[name]())


MANY = ["put_many", "dump_many", "get_many", "load_many"]


@pytest.mark.parametrize("verb", [*MANY, *(f"a{verb}" for verb in MANY)])
@pytest.mark.parametrize("name", hostile("list", "generator"))
def test_verbs_for_many_take_no_single_thing_apart(verb: str, name: str) -> None:
    store = InMemoryCAS()

    async def call() -> Any:
        made = getattr(store, verb)(HOSTILE[name]())
        return await made if asyncio.iscoroutine(made) else made

    single = verb.replace("_many", "")
    with pytest.raises(
        InvalidInputError, match=rf"_many\(\) takes a list.* there is a?{single[-4:].lstrip('a')}"
    ):
        asyncio.run(call())
    assert store.stats().blobs == 0


def test_verbs_for_many_take_any_other_iterable() -> None:
    store = InMemoryCAS()
    assert len(store.put_many(data for data in (b"1", b"2"))) == 2
    assert store.load_many(iter(store.dump_many({1, 2}))) == [1, 2]


@pytest.mark.parametrize("verb", ["put", "dump", "put_many", "dump_many", "put_stream"])
@pytest.mark.parametrize("name", hostile("float"))
def test_a_ttl_that_is_no_time_is_refused_and_nothing_is_stored(verb: str, name: str) -> None:
    store = InMemoryCAS()
    what: Any = {"put": b"x", "dump": 1, "put_stream": io.BytesIO(b"x")}.get(verb, [b"x"])
    with pytest.raises(InvalidInputError, match=r"^ttl must be"):
        getattr(store, verb)(what, ttl=HOSTILE[name]())
    assert store.stats().blobs == 0


VERBS: dict[str, list[str]] = {
    "put": hostile("bytes"),
    "get": hostile(),
    "exists": hostile(),
    "delete": hostile(),
    "load": hostile(),
    "open": hostile(),
    "store": hostile(),
    "put_stream": hostile(),
}


@pytest.mark.parametrize(
    ("verb", "name"), [(verb, name) for verb, names in VERBS.items() for name in names]
)
def test_a_verb_refuses_what_it_does_not_take(verb: str, name: str) -> None:
    store = InMemoryCAS()
    with pytest.raises(InvalidInputError):
        getattr(store, verb)(HOSTILE[name]())
    assert store.stats().blobs == 0


def test_a_file_whose_read_is_no_method_is_refused() -> None:
    class Broken:
        read = 7

    with pytest.raises(InvalidInputError, match="opened for bytes"):
        InMemoryCAS().put_stream(Broken())  # type: ignore[arg-type]


@pytest.mark.parametrize("name", hostile("class"))
def test_progress_that_cannot_be_called_is_refused(name: str) -> None:
    with pytest.raises(InvalidInputError, match="progress must be a function"):
        InMemoryCAS().verify(progress=HOSTILE[name]())


@pytest.mark.parametrize("name", hostile("dict"))
def test_a_codec_refuses_allowed_types_and_extensions_that_are_none(name: str) -> None:
    with pytest.raises(InvalidInputError, match=r"^allow "):
        ValueCodec(allow=HOSTILE[name]())
    with pytest.raises(InvalidInputError, match=r"^extensions must be"):
        ValueCodec(extensions=HOSTILE[name]())


def test_a_codec_takes_an_extension_only_in_a_list() -> None:
    extension = Extension("range", range, lambda r: [r.start, r.stop], lambda s: range(*s))
    with pytest.raises(InvalidInputError, match=r"^extensions must be a list"):
        ValueCodec(extensions=extension)  # type: ignore[arg-type]
    store = InMemoryCAS(codec=ValueCodec(extensions=[extension], allow=[Path, "a:B"]))
    assert store.load(store.dump(range(3))) == range(3)


@pytest.mark.parametrize(
    ("call", "remedy"),
    [
        (lambda cas, ref: cas.touch(ref), "give a list of one"),
        (lambda cas, ref: cas.pin("o", ref), "give a list of one"),
        (lambda cas, ref: asyncio.run(cas.atouch(ref)), "give a list of one"),
        (lambda cas, ref: asyncio.run(cas.apin("o", ref)), "give a list of one"),
        (lambda cas, _: InMemoryCAS(backend_aliases="one"), "give a list of one"),
        (lambda cas, ref: cas.load_many(ref), r"there is load\(\)"),
    ],
)
def test_who_gives_one_for_a_list_is_told_what_there_is(call, remedy):
    cas = InMemoryCAS()
    with pytest.raises(InvalidInputError, match=f"For a single one {remedy}"):
        call(cas, cas.dump(1))


@pytest.mark.parametrize("wrong", [b"short", bytes(33), "x" * 32, None, 7, bytearray(32), [bytes(32)]])
@pytest.mark.parametrize("verb", ["stat", "fetch", "peek", "remove"])
def test_what_is_no_digest_is_refused_however_it_is_given(verb: str, wrong: object) -> None:
    store = MemoryBlobStore()
    name = Digest(bytes(32))
    store.store({name: b"blob"})
    for given in ([name, wrong], (each for each in (name, wrong))):
        with pytest.raises(InvalidDigestError):
            getattr(store, verb)(given)
    assert name in store.fetch(each for each in (name,))  # type: ignore[arg-type]


def test_a_view_of_large_items_is_as_large_as_its_bytes() -> None:
    store = InMemoryCAS(max_value_bytes=100)
    view = memoryview(bytes(104)).cast("q")
    with pytest.raises(ValueTooLargeError):
        store.put(view)  # type: ignore[arg-type]
    assert store.get(store.put(view[:12])) == bytes(96)  # type: ignore[arg-type]

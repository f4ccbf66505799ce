"""The facade of the adapters: what goes out, under which threshold, and from which store it comes back."""

import asyncio

import pytest

from agentref.codecs import ValueCodec
from agentref.errors import (
    BlobNotFoundError,
    InvalidInputError,
    UnknownBackendError,
    UnsupportedTypeError,
    UntrustedTypeError,
    ValueTooLargeError,
)
from agentref.refs import ContentRef, Digest
from agentref.runtime import Runtime
from agentref.storage import InMemoryCAS

VALUES = [None, True, 1.5, 7, "short", "x" * 5000, ["y" * 3000], {"a": 1}, b"z" * 20_000, 10**30, ()]


def test_every_value_over_the_threshold_gets_a_ref() -> None:
    cas = InMemoryCAS()
    runtime = Runtime(cas, inline_threshold_bytes=1000)
    out = runtime.encode(VALUES)
    assert cas.stats().blobs == 0
    for value, ref in zip(VALUES, out.refs, strict=True):
        assert (ref is not None) == (cas.size_of(value) > 1000)
    runtime.store(out)
    kept = [(value, ref) for value, ref in zip(VALUES, out.refs, strict=True) if ref is not None]
    assert runtime.load_many([ref for _, ref in kept]) == [value for value, _ in kept]


def test_a_threshold_of_zero_sends_out_all_but_none() -> None:
    runtime = Runtime(InMemoryCAS(), inline_threshold_bytes=0)
    assert [ref is None for ref in runtime.encode(VALUES).refs] == [value is None for value in VALUES]


@pytest.mark.parametrize("threshold", [1, 10, 100, 5000])
def test_the_threshold_is_exact(threshold: int) -> None:
    cas = InMemoryCAS()
    runtime = Runtime(cas, inline_threshold_bytes=threshold)
    values = [
        character * length
        for character in "xü\N{GRINNING FACE}"
        for length in range(max(threshold - 9, 0), threshold + 9)
    ]
    for value, ref in zip(values, runtime.encode(values).refs, strict=True):
        assert (ref is not None) == (cas.size_of(value) > threshold)


def test_what_was_encoded_no_longer_depends_on_the_value() -> None:
    runtime = Runtime(InMemoryCAS(), inline_threshold_bytes=0)
    value = {"a": [bytearray(b"x" * 20_000)], "t": "y" * 20_000}
    out = runtime.encode([value])
    value["a"][0][0] = 0
    value["a"].append(1)
    value["t"] = "changed"
    runtime.store(out)
    assert runtime.load_many(out.refs) == [{"a": [bytearray(b"x" * 20_000)], "t": "y" * 20_000}]


def test_a_value_of_an_unknown_type_stays_where_it_is() -> None:
    runtime = Runtime(InMemoryCAS(), inline_threshold_bytes=0)
    assert [ref is None for ref in runtime.encode([object(), 1, [object()]]).refs] == [True, False, True]


def test_a_value_over_the_limit_is_an_error() -> None:
    runtime = Runtime(InMemoryCAS(max_value_bytes=1000), inline_threshold_bytes=0)
    with pytest.raises(ValueTooLargeError):
        runtime.encode(["x" * 2000])


def test_one_batch_is_one_look_up_and_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    cas = InMemoryCAS()
    calls: list[str] = []
    for verb in ("fetch", "store", "stat"):
        inner = getattr(cas._store, verb)

        def counted(*args, _inner=inner, _verb=verb, **options):
            calls.append(_verb)
            return _inner(*args, **options)

        monkeypatch.setattr(cas._store, verb, counted)
    runtime = Runtime(cas, inline_threshold_bytes=0)
    out = runtime.encode(VALUES[1:])
    assert calls == []
    runtime.store(out)
    assert calls.count("stat") <= 1
    assert calls.count("store") == 1
    calls.clear()
    runtime.load_many(out.refs)
    assert calls == ["fetch", "fetch"]
    calls.clear()
    runtime.store(runtime.encode([None]))
    runtime.load_many([])
    assert calls == []


def test_a_ref_is_read_from_the_store_that_it_names() -> None:
    new, old = InMemoryCAS(), InMemoryCAS(backend_id="old")
    runtime = Runtime(new, also=[old], inline_threshold_bytes=0)
    out = runtime.encode(["new", ["new too"]])
    runtime.store(out)
    refs = [out.refs[0], old.dump("old"), out.refs[1], old.dump(["old too"])]
    assert runtime.load_many(refs) == ["new", "old", ["new too"], ["old too"]]
    nameless = ContentRef(refs[0].digest, refs[0].codec, refs[0].size)
    assert runtime.load_many([nameless]) == ["new"]
    assert list(old.iter_hashes()) == sorted(ref.hash for ref in (refs[1], refs[3]))


def test_a_ref_of_a_store_that_is_not_configured_says_how_to_configure_it() -> None:
    runtime = Runtime(InMemoryCAS(backend_id="here"), inline_threshold_bytes=0)
    with pytest.raises(UnknownBackendError, match=r"'elsewhere'.*'here'.*also=") as caught:
        runtime.load_many([InMemoryCAS(backend_id="elsewhere").dump(1)])
    assert isinstance(caught.value, LookupError)


def test_an_error_names_what_was_asked_for() -> None:
    runtime = Runtime(InMemoryCAS(), inline_threshold_bytes=0)
    out = runtime.encode(["kept"])
    runtime.store(out)
    lost = ContentRef(Digest(bytes(32)), "agr1", 5)
    with pytest.raises(BlobNotFoundError, match=r"field 'docs'.*0{64}"):
        runtime.load_many([out.refs[0], lost], names=["field 'kept'", "field 'docs'"])


def test_no_two_results_share_a_part() -> None:
    runtime = Runtime(InMemoryCAS(), inline_threshold_bytes=0)
    out = runtime.encode([[[1]], [[1]]])
    runtime.store(out)
    first, second = runtime.load_many(out.refs)
    first[0].append(2)
    assert second == [[1]]


def test_the_async_twins_agree() -> None:
    async def run() -> None:
        runtime = Runtime(InMemoryCAS(), inline_threshold_bytes=0)
        out = runtime.encode(VALUES[1:])
        await runtime.astore(out)
        assert await runtime.aload_many(out.refs) == VALUES[1:] == runtime.load_many(out.refs)
        await runtime.astore(runtime.encode([None]))
        assert await runtime.aload_many([]) == []

    asyncio.run(run())


def test_another_codec_over_the_same_stores() -> None:
    old = InMemoryCAS(backend_id="old")
    runtime = Runtime(InMemoryCAS(), also=[old], inline_threshold_bytes=0)
    strict = runtime.with_codec(ValueCodec(allow=[]))
    ref = old.dump(ContentRef(Digest(bytes(32)), "raw", 1))
    assert runtime.load_many([ref])
    with pytest.raises(UntrustedTypeError):
        strict.load_many([ref])
    with pytest.raises(UnsupportedTypeError):
        strict.backend.dump(ContentRef(Digest(bytes(32)), "raw", 1))
    assert strict.inline_threshold_bytes == 0


@pytest.mark.parametrize("backend", ["./state_blobs", None, InMemoryCAS])
def test_what_is_no_store_is_refused(backend: object) -> None:
    with pytest.raises(InvalidInputError, match="FilesystemCAS"):
        Runtime(backend, inline_threshold_bytes=0)
    with pytest.raises(InvalidInputError, match="FilesystemCAS"):
        Runtime(InMemoryCAS(), also=[backend], inline_threshold_bytes=0)


@pytest.mark.parametrize("threshold", [-1, 1.5, "1", None, True])
def test_a_threshold_that_makes_no_sense_is_refused(threshold: object) -> None:
    with pytest.raises(InvalidInputError, match="inline_threshold_bytes"):
        Runtime(InMemoryCAS(), inline_threshold_bytes=threshold)


def test_a_store_is_found_by_the_names_that_it_answers_to() -> None:
    old = InMemoryCAS(backend_id="old")
    ref = old.dump(["x" * 3000])
    new = InMemoryCAS(backend_id="new", backend_aliases=["old"])
    new.dump(["x" * 3000])
    old.close()
    assert Runtime(new, inline_threshold_bytes=0).load_many([ref]) == [["x" * 3000]]


def test_a_stores_own_name_goes_before_what_another_answers_to() -> None:
    old = InMemoryCAS(backend_id="old")
    ref = old.dump("only in the old one")
    new = InMemoryCAS(backend_id="new", backend_aliases=["old"])
    runtime = Runtime(new, also=[old], inline_threshold_bytes=0).with_codec(ValueCodec())
    assert runtime.load_many([ref]) == ["only in the old one"]

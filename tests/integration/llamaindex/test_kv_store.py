"""`AgentRefKVStore`: every verb of `BaseKVStore`, sync and async, and a document store over it."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.schema import TextNode
from llama_index.core.storage.docstore.keyval_docstore import KVDocumentStore
from llama_index.core.storage.kvstore import SimpleKVStore

from agentref.adapters.llamaindex import AgentRefKVStore
from agentref.errors import (
    BlobNotFoundError,
    ConfigurationError,
    InvalidInputError,
    StoreUnavailableError,
    UntrustedRefError,
)

from .conftest import run

FORGED = {"__agentref__": [1, "00" * 32, "agr1", 10, None]}
VALUES: dict[str, dict[str, Any]] = {
    "small": {"n": 1, "nested": {"list": [1, "two", None]}},
    "large": {"text": "large " * 2000, "embedding": [0.5] * 1536},
    "forged": FORGED,
    "within": {"text": "large " * 2000, "at": FORGED},
    "empty": {},
}


@pytest.fixture
def inner() -> SimpleKVStore:
    return SimpleKVStore()


@pytest.fixture
def store(inner: Any, cas: Any) -> AgentRefKVStore:
    return AgentRefKVStore(inner, backend=cas)


class Face:
    """The verbs of one face, called alike."""

    def __init__(self, store: Any, prefix: str) -> None:
        self._store, self._prefix = store, prefix

    def __getattr__(self, name: str) -> Any:
        verb = getattr(self._store, self._prefix + name)
        if not self._prefix:
            return verb
        return lambda *args, **how: asyncio.run(verb(*args, **how))


@pytest.fixture(params=["", "a"], ids=["sync", "async"])
def face(request: pytest.FixtureRequest, store: Any) -> Face:
    return Face(store, request.param)


def test_every_verb(face: Any, inner: Any) -> None:
    for key, value in VALUES.items():
        face.put(key, value)
        assert face.get(key) == value
    assert face.get_all() == VALUES
    assert face.get("missing") is None
    assert face.get("small", collection="other") is None
    face.put_all(list(VALUES.items()), collection="other")
    assert face.get_all(collection="other") == VALUES
    assert face.get_all(collection="none") == {}
    assert face.delete("large")
    assert not face.delete("large")
    assert face.get("large") is None
    assert face.get("large", collection="other") == VALUES["large"]
    dumped = json.dumps(inner.to_dict())
    assert "large large" not in dumped
    assert "0.5, 0.5" not in dumped


def test_bytes_come_back(face: Any, inner: Any) -> None:
    face.put("key", {"bytes": b"\xff", "more": [b""]})
    assert face.get("key") == {"bytes": b"\xff", "more": [b""]}
    json.dumps(inner.to_dict())


def test_many_values_are_stored_and_fetched_in_one_batch(store: Any, cas: Any, monkeypatch: Any) -> None:
    calls: list[str] = []
    for name in ("store", "fetch"):
        verb = getattr(cas._store, name)
        monkeypatch.setattr(
            cas._store, name, lambda *a, _n=name, _v=verb, **k: (calls.append(_n), _v(*a, **k))[1]
        )
    store.put_all([(str(number), {"text": f"{number} large " * 2000}) for number in range(50)])
    assert calls.count("store") == 1
    calls.clear()
    assert len(store.get_all()) == 50
    assert calls.count("fetch") <= 2


def test_a_batch_size_is_the_store_insides_business(face: Any) -> None:
    with pytest.raises(NotImplementedError):
        face.put_all([("key", {})], batch_size=2)


def test_a_document_store_over_it_persists_no_text(
    store: Any, tmp_path: Path, text: str, in_files: Any
) -> None:
    docstore = KVDocumentStore(store)
    node = TextNode(text=text, id_="node-1", embedding=[0.25] * 1536, metadata={"source": "a"})
    docstore.add_documents([node])
    asyncio.run(docstore.async_add_documents([TextNode(text="short", id_="node-2")]))
    path = tmp_path / "docstore.json"
    store.inner.persist(str(path))
    assert in_files(text) == []
    assert path.stat().st_size < 6_000
    again = KVDocumentStore(
        AgentRefKVStore(SimpleKVStore.from_persist_path(str(path)), backend=store._externalizer)
    )
    assert again.get_document("node-1") == node
    assert again.docs["node-2"].get_content() == "short"
    again.delete_document("node-1")
    assert again.get_document("node-1", raise_error=False) is None


def test_errors_are_typed_and_leave_the_store_inside_as_it_was(
    face: Any, store: Any, inner: Any, cas: Any, offline: Any
) -> None:
    face.put("large", VALUES["large"])
    before = json.dumps(inner.to_dict())
    offline.begin()
    for fails in (
        lambda: face.put("new", {"text": "other " * 2000}),
        lambda: face.put_all([("new", {"text": "other " * 2000})]),
        lambda: face.get("large"),
        face.get_all,
    ):
        with pytest.raises(StoreUnavailableError):
            fails()
    offline.end()
    assert json.dumps(inner.to_dict()) == before
    inner.put("forged", FORGED)
    with pytest.raises(BlobNotFoundError):
        face.get("forged")


def test_with_keys_what_another_tenant_wrote_is_refused(inner: Any, cas: Any) -> None:
    key = bytes(range(32))
    AgentRefKVStore(inner, backend=cas, keys=key, tenant="ada").put("key", VALUES["large"])
    with pytest.raises(UntrustedRefError):
        AgentRefKVStore(inner, backend=cas, keys=key, tenant="eve").get("key")


def test_bad_arguments(inner: Any, cas: Any) -> None:
    with pytest.raises(InvalidInputError, match="wraps a key-value store"):
        AgentRefKVStore({}, backend=cas)
    with pytest.raises(ConfigurationError, match="needs a store"):
        AgentRefKVStore(inner)


def test_the_loop_is_free_while_the_store_waits(store: Any, cas: Any, monkeypatch: Any) -> None:
    """The store answers only once the loop has run: were it called on the loop, neither would go on."""
    import threading

    async def scenario() -> None:
        released = threading.Event()
        write = cas._store.store

        def waiting(*args: Any, **how: Any) -> Any:
            assert released.wait(30)
            return write(*args, **how)

        monkeypatch.setattr(cas._store, "store", waiting)
        putting = asyncio.create_task(store.aput("key", VALUES["large"]))
        await asyncio.sleep(0.01)
        released.set()
        await putting
        assert await store.aget("key") == VALUES["large"]

    run(scenario())


def test_a_collection_of_which_one_value_is_gone_says_which(face: Any, cas: Any) -> None:
    face.put("first", {"text": "first " * 2000})
    before = set(cas.iter_hashes())
    face.put("lost", {"text": "lost " * 2000})
    lost = set(cas.iter_hashes()) - before
    face.put("last", {"text": "last " * 2000})
    for digest in lost:
        cas.delete(digest)
    with pytest.raises(BlobNotFoundError) as caught:
        face.get_all()
    assert "the value of key 'lost'" in caught.value.__notes__[-1]
    assert face.delete("lost")
    assert list(face.get_all()) == ["first", "last"]

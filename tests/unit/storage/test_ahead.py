"""Blobs that are compressed while others are still being encoded."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from agentref.chunks import Kind
from agentref.errors import StoreFullError, UnsupportedTypeError
from agentref.refs import Digest
from agentref.storage import CAS, FilesystemCAS, InMemoryCAS, ahead, parallel
from agentref.storage.frames import Packed
from agentref.storage.memory import MemoryBlobStore


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "_WORKERS", 2)
    monkeypatch.setattr(ahead, "_GROUP_BYTES", 10_000)


def value(seed: int) -> list[object]:
    chance = random.Random(seed)
    return [{"n": n, "text": chance.randbytes(1500).hex()} for n in range(300)]


def test_what_is_stored_does_not_depend_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    store, plain = MemoryBlobStore(), MemoryBlobStore()
    ref = CAS(store).dump(value(1))
    monkeypatch.setattr(parallel, "_WORKERS", 1)
    assert CAS(plain).dump(value(1)).hash == ref.hash
    names = [info.digest for info in plain.scan(limit=10_000)]
    assert store.fetch(names) == plain.fetch(names)
    assert len(store.scan(limit=10_000)) == len(names)


def test_most_of_a_new_value_is_ready_when_it_is_to_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    ready: list[int] = []
    frames = ahead.Ahead.frames

    def counted(self: ahead.Ahead) -> object:
        found = frames(self)
        ready.append(len(found))
        return found

    monkeypatch.setattr(ahead.Ahead, "frames", counted)
    InMemoryCAS().dump(value(2))
    assert sum(ready) > 0


def test_what_is_here_already_is_not_compressed_again(tmp_path: object) -> None:
    with FilesystemCAS(str(tmp_path)) as cas:
        ref = cas.dump(value(3))
    with FilesystemCAS(str(tmp_path)) as again:
        compressed: list[int] = []
        pack = again._writer._packed

        def counted(kind: Kind, canonical: bytes | memoryview) -> Packed:
            compressed.append(1)
            return pack(kind, canonical)

        again._writer._packed = counted  # type: ignore[method-assign]
        assert again.dump(value(3)) == ref
        assert compressed == []


def test_a_store_that_fails_to_answer_the_other_thread_fails_the_call_as_ever() -> None:
    class Failing(MemoryBlobStore):
        def stat(self, digests: object, /) -> object:  # type: ignore[override]
            raise StoreFullError("no room")

    with pytest.raises(StoreFullError):
        CAS(Failing()).dump(value(4))  # type: ignore[arg-type]


def test_a_value_that_turns_out_not_to_be_storable_stores_nothing() -> None:
    store = MemoryBlobStore()
    with pytest.raises(UnsupportedTypeError):
        CAS(store).dump([value(5), object()])
    assert store.scan() == []


def test_many_threads_at_once() -> None:
    cas = InMemoryCAS()
    with ThreadPoolExecutor(6) as pool:
        refs = list(pool.map(lambda seed: cas.dump(value(seed % 3)), range(12)))
    assert cas.load_many(refs) == [value(seed % 3) for seed in range(12)]
    assert cas.verify().ok


def test_who_encodes_does_the_rest_himself_when_the_other_thread_is_busy() -> None:
    begun, held, done = threading.Event(), threading.Event(), []

    def work(group: list[ahead.Fresh]) -> dict[Digest, bytes]:
        here = threading.current_thread() is threading.main_thread()
        if not here:
            begun.set()
            held.wait()
        done.append(here)
        return {digest: bytes(data) for digest, _, data in group}

    given = ahead.Ahead(work)
    names = [Digest(index.to_bytes(32, "big")) for index in range(40)]
    for name in names:
        given.add(name, Kind.RAW, bytes(200_000))
        assert begun.wait(60)  # the other thread is at the first, and stays there
    assert done
    assert all(done)
    held.set()
    ready = given.frames()
    assert sorted(ready) == names[: len(ready)]  # the last are too few to be handed over
    assert len(ready) > len(names) // 2
    assert False in done

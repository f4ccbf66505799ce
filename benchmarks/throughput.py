"""First put and verified get, against the least that each can be on one core."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgpack
import zstandard
from blake3 import blake3

from agentref.storage import CAS, FilesystemCAS, InMemoryCAS
from benchmarks.engine import documents, serial_put
from benchmarks.measure import Row, interleaved, ratio, scratch

__all__ = ["rows"]

_DOC = 4_000


def _serial_get(frame: bytes) -> object:
    """The least that a verified get can be: decompress, hash and decode, on one core."""
    data = zstandard.ZstdDecompressor().decompress(frame)
    blake3(data).digest()
    return msgpack.unpackb(data)


def _put_all(store: CAS, values: list[Any], *, batch: bool) -> None:
    if batch:
        store.dump_many(values)
    else:
        for value in values:
            store.dump(value)


def _ratios(values: list[Any], rounds: int, *, batch: bool) -> dict[str, float]:
    """Serial time by ours, for put and get of all values in an open store that has none of them."""
    frames = [serial_put(value) for value in values]
    with scratch() as directory, ExitStack() as stack:
        roots = iter(range(rounds))

        def serial() -> None:
            for value in values:
                serial_put(value)

        def put(stores: Iterator[CAS]) -> Callable[[], None]:
            return lambda: _put_all(next(stores), values, batch=batch)

        on_disk = [_opened(stack, directory / f"{index}") for index in roots]
        in_memory = [InMemoryCAS() for _ in range(rounds)]
        works = {"serial": serial, "disk": put(iter(on_disk)), "memory": put(iter(in_memory))}
        puts = interleaved(works, rounds)

        def get(store: CAS) -> Callable[[], object]:
            refs = store.dump_many(values)
            return lambda: store.load_many(refs) if batch else [store.load(ref) for ref in refs]

        gets = interleaved(
            {
                "serial": lambda: [_serial_get(frame) for frame in frames],
                "disk": get(on_disk[0]),
                "memory": get(in_memory[0]),
            },
            rounds,
        )
    found = {}
    for what, costs in (("put", puts), ("get", gets)):
        for place in ("disk", "memory"):
            found[f"{what} {place}"] = ratio(costs["serial"], costs[place])
            found[f"{what} {place}, CPU"] = ratio(costs["serial"], costs[place], cpu=True)
    return found


def _opened(stack: ExitStack, root: Path) -> CAS:
    """A store that holds nothing to speak of. Its first pack is made here: that is once a process, not once
    a put."""
    store = stack.enter_context(FilesystemCAS(root))
    store.put(b"one")
    return store


def rows() -> Iterator[Row]:
    """Lists of 4 KB records of each size; the bars are for a FilesystemCAS, durable, on the wall."""
    cases: list[tuple[str, list[Any], bool, int]] = [
        ("64 KB, one at a time", [documents(16, _DOC, f"small {index}") for index in range(100)], False, 7),
        ("64 KB, 100 in a batch", [documents(16, _DOC, f"small {index}") for index in range(100)], True, 7),
        ("1 MB, one at a time", [documents(256, _DOC, f"middle {index}") for index in range(8)], False, 7),
        ("20 MB", [documents(5000, _DOC, "large")], False, 5),
        ("one str of 1 MB", ["\n\n".join(doc["text"] for doc in documents(256, _DOC, "text"))], False, 7),
    ]
    for name, values, batch, rounds in cases:
        judged = name != "64 KB, one at a time"
        for what, value in _ratios(values, rounds, batch=batch).items():
            bar = {"put disk": 0.7, "get disk": 0.8}.get(what) if judged else None
            yield Row(f"{name}: {what}, share of the serial rate", value, "x", at_least=bar)

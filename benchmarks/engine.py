"""What the store does with values that change a little, or not at all."""

import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgpack
import zstandard
from blake3 import blake3

from agentref.storage import FilesystemCAS
from benchmarks.measure import Row, corpus, cost, interleaved, ratio, scratch
from examples._demo.process import directory_bytes

__all__ = ["documents", "rows", "serial_put"]

_MARK = b"here the trace is cut"


def documents(count: int, size: int, seed: str = "document") -> list[dict[str, Any]]:
    """A list of small records with a text each."""
    return [
        {
            "id": index,
            "source": f"https://example.org/{index}",
            "score": 0.5,
            "text": corpus().text(f"{seed} {index}", size),
        }
        for index in range(count)
    ]


def serial_put(value: object) -> bytes:
    """The least that a put can be: encode, hash and compress the whole value, on one core."""
    data = msgpack.packb(value)
    blake3(data).digest()
    return zstandard.ZstdCompressor(level=1).compress(data)


def _growth() -> Iterator[Row]:
    messages = [
        {"id": index, "role": "assistant", "content": corpus().text(f"growth {index}", 20_000)}
        for index in range(200)
    ]
    alone = sum(len(zstandard.compress(msgpack.packb(message), 1)) for message in messages)
    cpu_ratios, stored, on_disk = [], 0, 0
    for _ in range(3):
        with scratch() as directory:
            with FilesystemCAS(directory / "store") as store:
                store.dump(documents(20, 2_000, "something else"))
                before = store.counters.bytes_stored
                costs = [cost(partial(store.dump, messages[:end])).cpu for end in range(1, 201)]
                stored = store.counters.bytes_stored - before
            on_disk = directory_bytes(directory)
        cpu_ratios.append(statistics.median(costs[-5:]) / statistics.median(costs[:5]))
    what = "a list that grows by 20 KB, 200 times"
    yield Row(f"{what}: stored / each delta alone at zstd-1", stored / alone, "x", at_most=1.12)
    yield Row(f"{what}: the whole directory / the same", on_disk / alone, "x")
    yield Row(f"{what}: CPU of dumps 196-200 / 1-5", statistics.median(cpu_ratios), "x", at_most=2.0)


def _edit() -> Iterator[Row]:
    docs = documents(1245, 4_000)
    edits = []
    for index in range(600, 615):
        edited = [dict(doc) for doc in docs]
        edited[index]["text"] = edited[index]["text"].replace("the ", "that ", 5)
        edits.append(edited)
    with scratch() as directory, FilesystemCAS(directory / "store") as store:
        store.dump(docs)
        whole = store.counters.bytes_stored
        queue = iter(edits)
        fresh = iter([FilesystemCAS(directory / f"fresh {index}") for index in range(len(edits))])

        def first_dump() -> None:
            with next(fresh) as other:
                other.dump(docs)

        costs = interleaved(
            {
                "edit": lambda: store.dump(next(queue)),
                "serial": lambda: serial_put(docs),
                "first": first_dump,
            },
            len(edits),
        )
        added = (store.counters.bytes_stored - whole) / len(edits)
    logical = len(msgpack.packb(docs))
    what = "one dict edited amid a list of 1245 (5 MB)"
    yield Row(f"{what}: stored / the whole value stored", added / whole, "x", at_most=0.01)
    yield Row(f"{what}: stored / logical bytes of the whole", added / logical, "x")
    serial = ratio(costs["edit"], costs["serial"], cpu=True)
    yield Row(f"{what}: CPU / encode, BLAKE3, zstd-1 of the whole, serially", serial, "x", at_most=0.25)
    yield Row(
        f"{what}: CPU / our first dump of the whole", ratio(costs["edit"], costs["first"], cpu=True), "x"
    )


def _again() -> Iterator[Row]:
    with scratch() as directory:
        command = [sys.executable, "-m", "benchmarks.engine", str(directory / "store")]
        trace = directory / "trace"
        strace = shutil.which("strace")
        if strace:
            calls_of_interest = "trace=fsync,fdatasync,write"
            command = [strace, "-fqq", "-e", calls_of_interest, "-o", str(trace), *command]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        report = json.loads(done.stdout)
        dirtied = report.pop("pages dirtied")
        for name, value in report.items():
            yield Row(f"the same 5 MB value, 20 times again: {name}", value, "B", at_most=0)
        note = "/proc/self/io; includes the lock page that SQLite's readers share in memory"
        yield Row("the same 5 MB value, 20 times again: pages dirtied", dirtied, "B", note=note)
        if strace:
            calls = trace.read_text().split(_MARK.decode())[1].splitlines()
            syncs = sum("sync(" in call for call in calls)
            yield Row("the same 5 MB value, 20 times again: fsync and fdatasync", syncs, "calls", at_most=0)


def _dump_again(root: Path) -> None:
    """The child of `_again`: between its two marks only values that are there already are stored."""
    docs = documents(1245, 4_000)
    with FilesystemCAS(root) as store, Path(os.devnull).open("wb", buffering=0) as mark:
        store.dump(docs)
        stored, size, written = store.counters.bytes_stored, directory_bytes(root), _written()
        mark.write(_MARK)
        for _ in range(20):
            store.dump(docs)
        report = {
            "blob bytes stored": store.counters.bytes_stored - stored,
            "growth of the directory": directory_bytes(root) - size,
            "pages dirtied": _written() - written,
        }
        mark.write(_MARK)
    print(json.dumps(report))


def _written() -> int:
    """What this process has sent towards the disk so far, by the kernel's count; 0 where it keeps none."""
    try:
        lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes:"))


def rows() -> Iterator[Row]:
    """Growth, edit, and the same again."""
    yield from _growth()
    yield from _edit()
    yield from _again()


if __name__ == "__main__":
    _dump_again(Path(sys.argv[1]))

"""The values whose encoding is pinned, and the writer of the file that pins it.

Run `PYTHONPATH=. python tests/golden/regenerate.py` after a change of the wire format that is meant, and
say in CHANGELOG.md what became of stores that were written before.
"""

import base64
import datetime as dt
import hashlib
import json
import sys
from collections import OrderedDict, defaultdict, deque
from decimal import Decimal
from http import HTTPStatus
from inspect import ArgInfo
from pathlib import Path, PurePosixPath, PureWindowsPath
from re import RegexFlag
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np

from agentref.chunks import TreeBuilder
from agentref.codecs import ValueCodec
from agentref.refs import ContentRef, Digest

GOLDEN = "wire-v1.json"
SMALL = 16 * 1024


def text(length: int, seed: str = "") -> str:
    """Text that compresses a little, the same everywhere."""
    parts: list[str] = []
    size = 0
    while size < length:
        parts.append(hashlib.sha256(f"{seed}{len(parts)}".encode()).hexdigest() + " ")
        size += 65
    return "".join(parts)[:length]


def documents(count: int, size: int) -> list[dict[str, object]]:
    return [
        {"id": number, "score": number / 7, "title": f"Nr. {number}", "text": text(size, str(number))}
        for number in range(count)
    ]


def values() -> dict[str, object]:
    """Each value under a name that never changes its meaning."""
    berlin = ZoneInfo("Europe/Berlin")
    return {
        "none": None,
        "true": True,
        "zero": 0,
        "minus one": -1,
        "int 64": 2**64 - 1,
        "int beyond 64 bits": 2**64,
        "negative int beyond 64 bits": -(2**63) - 1,
        "float": 0.1,
        "minus zero": -0.0,
        "nan": float("nan"),
        "infinity": float("inf"),
        "text": "grüße \N{GRINNING FACE} \0",
        "lone surrogate": "a\ud800b",
        "bytes": b"\x00\xff",
        "bytearray": bytearray(b"ab"),
        "list": [1, [True, None], "x"],
        "dict": {"b": 1, "a": [2], 3: None, None: 4, (1, b"k"): 5},
        "tuple": (1, (2,), []),
        "set": {3, "a", (1, 2), None, frozenset({1.5})},
        "complex": complex(1.5, -0.0),
        "datetime": dt.datetime(2024, 10, 27, 2, 30, 1, 5, tzinfo=berlin, fold=1),
        "datetime utc": dt.datetime(2024, 1, 2, 3, 4, tzinfo=dt.UTC),
        "datetime naive": dt.datetime.max,
        "date": dt.date(1, 1, 1),
        "time": dt.time(23, 59, 59, 999999, tzinfo=dt.timezone(dt.timedelta(hours=-3), "here")),
        "timedelta": dt.timedelta.min,
        "decimal": [Decimal("1.10"), Decimal("-0E+5"), Decimal("sNaN12"), Decimal("-Infinity")],
        "uuid": UUID(int=2**100),
        "paths": [PurePosixPath("/a/b"), PureWindowsPath("C:\\a")],
        "deque": deque([1, "a"], maxlen=3),
        "ordered dict": OrderedDict([("z", 1), ("a", 2)]),
        "defaultdict": defaultdict(list, {"a": [1]}),
        "enum": [HTTPStatus.OK, RegexFlag.A | RegexFlag.I],
        "dataclass": ContentRef(Digest(bytes(32)), "raw", 5, "somewhere"),
        "named tuple": ArgInfo(["a"], None, "kw", {}),
        "array": np.arange(6, dtype="<i4").reshape(2, 3),
        "array in Fortran order": np.asfortranarray(np.arange(6, dtype=">f8").reshape(2, 3)),
        "structured array": np.array([(1, b"ab")], dtype=[("a", "<u2"), ("b", "S3")]),
        "array of times": np.array(["2024-01-01", "NaT"], dtype="datetime64[D]"),
        "numpy scalars": [np.float32(0.5), np.int64(-3), np.bool_(True), np.datetime64(5, "ns")],
        "text just inside": text(8 * 1024),
        "text just outside": text(16 * 1024 + 1),
        "long text in a dict": {"a": 1, "text": text(9000), "z": {"text": text(9000)}},
        "text of 300 KB": text(300_000),
        "bytes of 300 KB": text(300_000).encode(),
        "numbers": list(range(20_000)),
        "documents": documents(300, 300),
        "long documents": documents(30, 20_000),
        "large dict": {f"key {number}": text(100, str(number)) for number in range(400)},
        "large set": set(range(5000)),
        "large array": np.arange(70_000, dtype="<f8").reshape(700, 100),
        "large things in a tuple": (documents(100, 300), {"k": text(9000)}, frozenset({text(9000), "b"})),
    }


def golden(value: object) -> dict[str, object]:
    """What is pinned of a value: its ref, and its blobs if they are few and small."""
    builder = TreeBuilder()
    link = ValueCodec().encode(value, builder)
    blobs = [
        (digest, pending.kind.name, bytes(pending.canonical())) for digest, pending in builder.blobs.items()
    ]
    pinned: dict[str, object] = {
        "digest": link.digest.hex(),
        "codec": ValueCodec.id,
        "size": link.size,
        "blobs": len(blobs),
    }
    if sum(len(data) for _, _, data in blobs) <= SMALL:
        pinned["bytes"] = [
            [digest.hex(), kind, base64.b64encode(data).decode()] for digest, kind, data in blobs
        ]
    return pinned


def main(arguments: list[str]) -> None:
    pinned = {name: golden(value) for name, value in values().items()}
    if arguments == ["--refs"]:
        print(json.dumps({name: [entry["digest"], entry["size"]] for name, entry in pinned.items()}))
        return
    Path(__file__).with_name(GOLDEN).write_text(json.dumps(pinned, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])

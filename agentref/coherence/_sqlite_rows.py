"""Rows as columns of SQLite, and back: what is read may be damaged."""

from typing import Any, Final

from agentref.coherence.rows import Row, pack_leases, ref_of, unpack_leases
from agentref.errors import MalformedBlobError

__all__ = ["SELECT_ROW", "UPSERT_ROW", "columns_of", "key_of", "row_of"]

_READ: Final = "revision, version, epoch, fence, digest, codec, size, backend_id, writer, at, leases"
_ALL: Final = (*_READ.split(", "), "until")

SELECT_ROW: Final = f"SELECT key, {_READ} FROM artifact"  # noqa: S608  (no input)
UPSERT_ROW: Final = (
    f"INSERT INTO artifact(key, {', '.join(_ALL)}) VALUES ({', '.join('?' * (1 + len(_ALL)))}) "  # noqa: S608
    f"ON CONFLICT(key) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _ALL)}"
)


def columns_of(key: bytes, row: Row) -> tuple[Any, ...]:
    """What `UPSERT_ROW` takes."""
    revision, version, epoch, fence, ref, writer, at, leases = row
    content = (None, None, None, None) if ref is None else (ref.digest, ref.codec, ref.size, ref.backend_id)
    return (
        key,
        revision,
        version,
        epoch,
        fence,
        *content,
        writer,
        at,
        pack_leases(leases),
        row.until if leases else None,
    )


def row_of(columns: tuple[Any, ...]) -> Row:
    """The row that `SELECT_ROW` found. Raises `MalformedBlobError` for what is none."""
    _, revision, version, epoch, fence, digest, codec, size, backend_id, writer, at, leases = columns
    if not (
        type(revision) is type(version) is type(epoch) is type(fence) is int
        and revision > 0
        and version >= 0
        and epoch >= 0
        and fence >= 0
        and type(writer) is str
        and type(at) is float
    ):
        raise MalformedBlobError(
            f"The row of {columns[0]!r:.80} is damaged in its database: restore it from a backup."
        )
    return Row(
        revision,
        version,
        epoch,
        fence,
        None if digest is None else ref_of(digest, codec, size, backend_id),
        writer,
        at,
        () if leases is None else unpack_leases(leases),
    )


def key_of(key: object) -> bytes:
    """The key, if it is bytes. Raises `MalformedBlobError`."""
    if type(key) is not bytes:
        raise MalformedBlobError(f"A key is damaged in the coordinator's database: {key!r:.80}.")
    return key

"""What is said to the table of artifacts in SQLite."""

from typing import Final

from agentref.errors import MalformedBlobError

__all__ = ["SELECT_ROW", "UPSERT_ROW", "key_of"]

_READ: Final = "revision, version, epoch, fence, digest, codec, size, backend_id, writer, at, leases"
_ALL: Final = _READ.replace("leases", "until, leases").split(", ")

SELECT_ROW: Final = f"SELECT key, {_READ} FROM artifact"  # noqa: S608  (no input)
UPSERT_ROW: Final = (
    f"INSERT INTO artifact(key, {', '.join(_ALL)}) VALUES ({', '.join('?' * (1 + len(_ALL)))}) "  # noqa: S608
    f"ON CONFLICT(key) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _ALL)}"
)


def key_of(key: object) -> bytes:
    """The key, if it is bytes. Raises `MalformedBlobError`."""
    if type(key) is not bytes:
        raise MalformedBlobError(f"A key is damaged in the coordinator's database: {key!r:.80}.")
    return key

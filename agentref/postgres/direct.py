"""Small statements by libpq alone: a cursor of psycopg takes thrice the processor's time."""

import hashlib
import select
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final
from weakref import WeakKeyDictionary, ref

import psycopg
from psycopg.pq import DiagnosticField, ExecStatus, Format, PipelineStatus, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult

__all__ = ["Statement"]

_Connection = psycopg.Connection[Any]
_Value = bool | bytes | float | int | str | None | tuple[Any, ...]

_CAN_WAIT: Final = hasattr(select, "poll")
_CANCEL_SECONDS: Final = 5.0

# As psycopg does it.
_OFTEN: Final = 5
_READY: Final = -1
_NEVER: Final = -2
# The statement is not there: a pooler gave the session to somebody else. Or it has become another one.
_UNPREPARED: Final = {"26000", "0A000"}

_INT4: Final = struct.Struct(">i")
_INT8: Final = struct.Struct(">q")
_FLOAT8: Final = struct.Struct(">d")
_FIELD: Final = struct.Struct(">Ii")
_ENCODERS: Final[dict[str, Callable[[Any], bytes]]] = {
    "bytea": bytes,
    "float8": _FLOAT8.pack,
    "int4": _INT4.pack,
    "int8": _INT8.pack,
    "text": str.encode,
}
_OIDS: Final = {name: psycopg.adapters.types.get_oid(name) for name in [*_ENCODERS, "bool", "record"]}


def _record(data: bytes) -> tuple[_Value, ...]:
    """A row within a value, as record_send() of PostgreSQL writes it."""
    fields, at = [], _INT4.size
    while at < len(data):
        oid, size = _FIELD.unpack_from(data, at)
        begin = at + _FIELD.size
        at = begin + max(size, 0)
        fields.append(None if size < 0 else _DECODERS[oid](data[begin:at]))
    return tuple(fields)


_DECODERS: Final[dict[int, Callable[[bytes], Any]]] = {
    _OIDS["bool"]: lambda data: data != b"\0",
    _OIDS["bytea"]: bytes,
    _OIDS["float8"]: lambda data: _FLOAT8.unpack(data)[0],
    _OIDS["int4"]: lambda data: _INT4.unpack(data)[0],
    _OIDS["int8"]: lambda data: _INT8.unpack(data)[0],
    _OIDS["text"]: bytes.decode,
    _OIDS["record"]: _record,
}


class Statement:
    """One that is said often, and finds one row at most. Safe for threads.

    A session that says it often has it prepared there, which saves the server a fifth of its time. Where
    that does not hold, as behind a pooler that knows nothing of it, the session goes on without.

    Args:
        text: what is said, with `$1`, `$2` for its parameters.
        types: what each of them is, with spaces between: bytea, float8, int4, int8 or text.
    """

    def __init__(self, text: str, types: str) -> None:
        self._text = text.encode()
        self._encoders = [_ENCODERS[name] for name in types.split()]
        self._oids = [_OIDS[name] for name in types.split()]
        self._formats = [Format.BINARY] * len(self._oids)
        self._name = b"agentref_" + hashlib.sha256(f"{types} {text}".encode()).hexdigest()[:16].encode()
        self._sessions: WeakKeyDictionary[_Connection, _Session] = WeakKeyDictionary()

    def row(self, connection: _Connection, values: Sequence[_Value]) -> tuple[_Value, ...] | None:
        """What it finds: values of the types above, bool, or rows of such.

        None if there is no row, or if it cannot be sent so, as within a transaction or a pipeline, or the
        connection is lost: psycopg may try, and say why. Raises `psycopg.Error` for what the server
        refuses. For a connection that this thread has to itself. If Ctrl-C interrupts the wait, the
        statement is cancelled, and a pool closes the connection.
        """
        pgconn = connection.pgconn
        is_free = connection.autocommit and pgconn.transaction_status == TransactionStatus.IDLE
        if not (_CAN_WAIT and is_free and pgconn.pipeline_status == PipelineStatus.OFF):
            return None
        try:
            given = [
                None if value is None else encode(value)
                for encode, value in zip(self._encoders, values, strict=True)
            ]
            result = self._result(connection, given)
        except (psycopg.Error, struct.error):  # also of a number that is too large
            return None
        if result is None:
            return None
        if result.status == ExecStatus.FATAL_ERROR:
            raise _error(result)
        return _first(result) if result.ntuples else None

    def _result(self, connection: _Connection, given: list[bytes | None]) -> PGresult | None:
        session = self._sessions.get(connection)
        if session is None:
            session = self._sessions[connection] = _Session(connection)
        pgconn = connection.pgconn
        if session.uses == _OFTEN:
            result = session.outcome(pgconn.send_prepare, self._name, self._text, self._oids)
            done = result is not None and result.status == ExecStatus.COMMAND_OK
            session.uses = _READY if done else _NEVER
        elif session.uses >= 0:
            session.uses += 1
        if session.uses == _READY:
            result = session.outcome(
                pgconn.send_query_prepared, self._name, given, self._formats, Format.BINARY
            )
            if result is None or not _is_unprepared(result):
                return result
            session.uses = _NEVER
        return session.outcome(
            pgconn.send_query_params,
            self._text,
            given,
            self._oids,
            self._formats,
            Format.BINARY,
        )


class _Session:
    """A connection as one statement uses it. `uses` are counted until it is prepared there."""

    def __init__(self, connection: _Connection) -> None:
        self.uses = 0
        self._connection = ref(connection)
        self._waiting = select.poll()
        self._waiting.register(connection.pgconn.socket, select.POLLIN)

    def outcome(self, send: Callable[..., None], *arguments: Any) -> PGresult | None:
        """What comes of something that is sent: the last of its results. Raises `psycopg.Error` if the
        connection is lost."""
        connection = self._connection()
        assert connection is not None  # noqa: S101  (whoever called has it)
        pgconn = connection.pgconn
        result = None
        try:
            send(*arguments)
            if pgconn.flush():
                self._flush(pgconn)
            else:
                self._waiting.poll()
                pgconn.consume_input()
            while True:
                while pgconn.is_busy():
                    self._waiting.poll()
                    pgconn.consume_input()
                if (another := pgconn.get_result()) is None:
                    return result
                result = another  # the last is an error, where it was the commit that failed
        except psycopg.Error:
            raise
        except BaseException:
            with suppress(psycopg.Error):
                connection.cancel_safe(timeout=_CANCEL_SECONDS)
            raise

    def _flush(self, pgconn: PGconn) -> None:
        """Send the rest: the server may have to be listened to meanwhile."""
        try:
            self._waiting.modify(pgconn.socket, select.POLLIN | select.POLLOUT)
            while pgconn.flush():
                self._waiting.poll()
                pgconn.consume_input()
        finally:
            self._waiting.modify(pgconn.socket, select.POLLIN)


def _first(result: PGresult) -> tuple[_Value, ...]:
    found = []
    for number in range(result.nfields):
        data = result.get_value(0, number)
        found.append(None if data is None else _DECODERS[result.ftype(number)](data))
    return tuple(found)


def _state(result: PGresult) -> str:
    return (result.error_field(DiagnosticField.SQLSTATE) or b"").decode()


def _is_unprepared(result: PGresult) -> bool:
    return result.status == ExecStatus.FATAL_ERROR and _state(result) in _UNPREPARED


def _error(result: PGresult) -> psycopg.Error:
    state = _state(result)
    message = (result.error_field(DiagnosticField.MESSAGE_PRIMARY) or b"").decode(errors="replace")
    try:
        return psycopg.errors.lookup(state)(message)
    except KeyError:
        return psycopg.OperationalError(message or "the connection was lost")

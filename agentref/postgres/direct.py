"""A small statement by libpq alone: a cursor of psycopg takes thrice the processor's time."""

import select
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import psycopg
from psycopg.pq import DiagnosticField, ExecStatus, Format, TransactionStatus
from psycopg.pq.abc import PGresult

__all__ = ["value_of"]

_CAN_WAIT: Final = hasattr(select, "poll")
_CANCEL_SECONDS: Final = 5.0


def value_of(
    connection: psycopg.Connection[Any], statement: bytes, parameters: Sequence[bytes]
) -> bytes | None:
    """The value that a statement finds, with `$1`, `$2` for its parameters; all of them in binary.

    None if it cannot be sent so, as within a transaction, or the connection is lost: psycopg may try, and
    say why. Raises `psycopg.Error` for what the server refuses. For a connection that this thread has to
    itself. If Ctrl-C interrupts the wait, the statement is cancelled, and a pool closes the connection.
    """
    pgconn = connection.pgconn
    is_free = connection.autocommit and pgconn.transaction_status == TransactionStatus.IDLE
    if not (_CAN_WAIT and is_free):
        return None
    results = []
    try:
        formats = [Format.BINARY] * len(parameters)
        pgconn.send_query_params(statement, parameters, param_formats=formats, result_format=Format.BINARY)
        waiting = select.poll()
        while True:
            while (is_sending := pgconn.flush()) or pgconn.is_busy():
                waiting.register(pgconn.socket, select.POLLIN | select.POLLOUT * is_sending)
                waiting.poll()
                pgconn.consume_input()
            if (result := pgconn.get_result()) is None:
                break
            results.append(result)
    except psycopg.Error:
        return None
    except BaseException:
        with suppress(psycopg.Error):
            connection.cancel_safe(timeout=_CANCEL_SECONDS)
        raise
    for result in results:
        if result.status == ExecStatus.FATAL_ERROR:  # last, where it was the commit that failed
            raise _error(result)
    if len(results) != 1 or not results[0].ntuples:
        return None
    return results[0].get_value(0, 0)


def _error(result: PGresult) -> psycopg.Error:
    state, message = (
        (result.error_field(field) or b"").decode(errors="replace")
        for field in (DiagnosticField.SQLSTATE, DiagnosticField.MESSAGE_PRIMARY)
    )
    try:
        return psycopg.errors.lookup(state)(message)
    except KeyError:
        return psycopg.OperationalError(message or "the connection was lost")

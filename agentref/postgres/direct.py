"""A small statement by libpq alone: a cursor of psycopg takes thrice the processor's time."""

import select
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import psycopg
from psycopg.pq import ExecStatus, Format, TransactionStatus

__all__ = ["value_of"]

_CAN_WAIT: Final = hasattr(select, "poll")


def value_of(
    connection: psycopg.Connection[Any], statement: bytes, parameters: Sequence[bytes]
) -> bytes | None:
    """The value that a statement finds, with `$1`, `$2` for its parameters; all of them in binary.

    None if it failed or cannot be sent so, as within a transaction: psycopg may try, and say why. For a
    connection that this thread has to itself. If Ctrl-C interrupts the wait, the statement goes on, and a
    pool closes the connection.
    """
    pgconn = connection.pgconn
    is_free = connection.autocommit and pgconn.transaction_status == TransactionStatus.IDLE
    if not (_CAN_WAIT and is_free):
        return None
    results = []
    with suppress(psycopg.Error):
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
    # A commit that fails is a result of its own.
    if [result.status for result in results] != [ExecStatus.TUPLES_OK] or not results[0].ntuples:
        return None
    return results[0].get_value(0, 0)

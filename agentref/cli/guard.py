"""How a command ends: errors of ours as one line, a code for each kind, no traceback for a closed pipe."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import typer
from typer.core import TyperGroup

from agentref.cli.output import one_line
from agentref.cli.secrets import forget, remember_arguments, scrub
from agentref.errors import AgentRefError, ConfigurationError, InvalidInputError, StorageError

__all__ = ["Guarded"]

_USAGE: Final = (InvalidInputError, StorageError, ConfigurationError)
_INTERRUPTED: Final = 130
_PIPE_CLOSED: Final = 141  # what a shell says of a program that SIGPIPE ended


class Guarded(TyperGroup):
    """A group of commands that lets nothing out but an exit code and what is fit to be printed."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Read the arguments."""
        if parent is None:
            forget()
            if isinstance(sys.stdout, io.TextIOWrapper):  # a name that its encoding lacks is spelled out
                sys.stdout.reconfigure(errors="backslashreplace")
        remember_arguments(args)
        with _guarded():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        with _guarded():
            return super().invoke(ctx)


@contextmanager
def _guarded() -> Iterator[None]:
    try:
        try:
            yield
        except typer.Exit:
            sys.stdout.flush()
            raise
        sys.stdout.flush()  # here, where a closed pipe or a full disk can still be dealt with
    except AgentRefError as error:
        _say(str(error))
        raise typer.Exit(2 if isinstance(error, _USAGE) else 1) from None
    except KeyboardInterrupt:
        raise typer.Exit(_INTERRUPTED) from None
    except BrokenPipeError:
        _forget_stdout()
        raise typer.Exit(_PIPE_CLOSED) from None
    except OSError as error:
        _forget_stdout()
        _say(f"A file, or the output, cannot be read or written: {error}.")
        raise typer.Exit(2) from None
    except Exception as error:
        _scrub_usage(error)
        raise


def _say(message: str) -> None:
    sys.stderr.write(f"error: {one_line(scrub(message))}\n")


def _scrub_usage(error: Exception) -> None:
    """A DSN that stands where none belongs is quoted by whoever complains of it."""
    message = getattr(error, "message", None)
    if isinstance(message, str):
        error.message = scrub(message)  # type: ignore[attr-defined]


def _forget_stdout() -> None:
    """Let what the interpreter still flushes at its end go nowhere."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)

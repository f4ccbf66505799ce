"""What goes around each verb of a store over a database."""

from types import TracebackType

from agentref.sqlite import Database, Session, storage_errors

__all__ = ["Verb"]


class Verb(Session):
    """A session of the database, whose errors become ours."""

    __slots__ = ("_errors",)

    def __init__(self, database: Database, errors: storage_errors) -> None:
        super().__init__(database)
        self._errors = errors

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._errors.__exit__(kind, error, trace)

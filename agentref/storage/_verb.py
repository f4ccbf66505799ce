"""What goes around each verb of a store over a database."""

from types import TracebackType

from agentref.sqlite import Database, Subject, storage_errors

__all__ = ["Verb"]


class Verb(storage_errors):
    """A session of the database, whose errors become ours."""

    __slots__ = ("__weakref__", "_database")

    def __init__(self, subject: Subject, database: Database) -> None:
        self._database = database
        super().__init__(subject)

    def __enter__(self) -> None:
        self._database.enter(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.leave(self)
        super().__exit__(kind, error, trace)

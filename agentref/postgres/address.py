"""Where a database is: read once, and shown without its password."""

from typing import Final, NamedTuple, Self

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from agentref.errors import InvalidInputError

__all__ = ["Address"]

_EXAMPLE: Final = "postgresql://user:password@host:5432/dbname"
_CONNECT_SECONDS: Final = 10
# Names are any text: a session in another encoding could neither send all of them nor receive them.
_FORCED: Final = {"client_encoding": "UTF8"}
_DEFAULTS: Final = {"connect_timeout": str(_CONNECT_SECONDS), "application_name": "agentref"}


class Address(NamedTuple):
    """A connection string that was read, and `shown`, the host/dbname that messages name it by."""

    conninfo: str
    shown: str

    @classmethod
    def read(cls, dsn: object) -> Self:
        """Read a URI or a keyword string, as libpq does. Raises `InvalidInputError`; connects to nothing.

        Unless it says otherwise, a connection is given up after 10 seconds and is named `agentref`. It
        speaks UTF-8, whatever it says.
        """
        if not isinstance(dsn, str) or not dsn.strip() or "\0" in dsn:
            raise InvalidInputError(
                f"dsn must be a connection string, such as '{_EXAMPLE}', not {_kind(dsn)}."
            )
        try:
            parts = conninfo_to_dict(dsn)
            conninfo = make_conninfo("", **{**_DEFAULTS, **parts, **_FORCED})
        except (psycopg.Error, UnicodeError):
            parts = {}
            conninfo = ""
        # A password with an unescaped @, : or / is read as a host or a port, which messages would show.
        host, port = str(parts.get("host") or ""), str(parts.get("port") or "")
        if not conninfo or "@" in host or (port and not port.replace(",", "").isdecimal()):
            raise InvalidInputError(
                f"dsn is not a connection string that libpq can read (and may hold a password: it is not "
                f"shown). Write '{_EXAMPLE}'; in a URI, a password's special characters are "
                f"percent-encoded: urllib.parse.quote(password, safe='')."
            )
        return cls(conninfo, f"{host or 'localhost'}/{parts.get('dbname') or parts.get('user') or ''}")

    @classmethod
    def of(cls, connection: "psycopg.Connection[object]") -> Self:
        """The address of a connection that is open."""
        info = connection.info
        return cls("", f"{info.host or 'localhost'}/{info.dbname}")


def _kind(dsn: object) -> str:
    if not isinstance(dsn, str):
        return type(dsn).__name__
    return "one with a NUL in it" if "\0" in dsn else "an empty one"

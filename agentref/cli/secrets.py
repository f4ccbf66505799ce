"""What must not be printed: the password in a DSN, in whatever text it turns up."""

import re
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

__all__ = ["remember", "scrub"]

_IN_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://[^\s:/@]*):[^\s]*@")
_NAMED: Final = re.compile(r"((?:ssl)?password\s*=\s*)('(?:\\.|[^'\\])*'|[^\s&'\"]+)", re.IGNORECASE)
_HIDDEN: Final = "***"

_known: set[str] = set()


def remember(dsn: str) -> None:
    """From now on `scrub` knows the passwords of this DSN, wherever a driver may quote them."""
    _, _, rest = dsn.partition("://")
    userinfo, at, _ = rest.rpartition("@")
    found = {userinfo.partition(":")[2]} if at else set[str]()
    try:
        parts = urlsplit(dsn)
        found.add(parts.password or "")
        found.update(value for key, value in parse_qsl(parts.query) if "password" in key.lower())
    except ValueError:
        pass  # no URL: the driver will say so
    _known.update(text for secret in found if secret for text in (secret, unquote(secret)))


def scrub(text: str) -> str:
    """The text with `***` where a password stands."""
    text = _NAMED.sub(rf"\1{_HIDDEN}", _IN_URL.sub(rf"\1:{_HIDDEN}@", text))
    for secret in sorted(_known, key=len, reverse=True):
        # A very short one would blot out half of the text and tell its own letters by that.
        if len(secret) > 2:
            text = text.replace(secret, _HIDDEN)
    return text

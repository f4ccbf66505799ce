"""What must not be printed: the password in a DSN, in whatever text it turns up, and however mistyped."""

import re
from collections.abc import Collection
from typing import Final
from urllib.parse import parse_qsl, unquote

__all__ = ["forget", "is_address", "remember", "remember_arguments", "scrub", "shown"]

_HIDDEN: Final = "***"
_SHORT: Final = 2  # what is no longer would blot out half of a text, and tell its own letters by that
_HOST: Final = r"(?:[\w.%-]*|\[[0-9A-Fa-f:.%]*\])(?::[0-9]*)?"
# Narrower than libpq reads it: of what could be another thing than it seems nothing is shown.
_DSN: Final = re.compile(
    r"(?P<scheme>postgres(?:ql)?://)(?:(?P<user>[\w.%+~-]+)(?P<password>:[^\s:/?#@\[\]]*)?@)?"
    rf"(?P<place>{_HOST}(?:,{_HOST})*(?:/[\w.%+~-]*)?)(?:\?(?P<query>[^\s@#]*))?"
)
_HARMLESS: Final = re.compile(r"(?:host|hostaddr|port|dbname|user)=[\w./,:%-]*")
_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)(\S*?)(['\"`.,;:)\]]*(?:\s|$))")
_PLAIN: Final = re.compile(r"[\w./,%-]*(?::[0-9]+(?:/[\w.%-]*)?)?")
_HIDDEN_KEY: Final = r"\b\w*(?:pass|pwd|secret|token|key|options)\w*\s*=\s*"
_NAMED: Final = re.compile(
    rf"({_HIDDEN_KEY})('(?:\\.|[^'\\])*(?:'|$)|(?:\\.|[^\s&'\"])+)", re.IGNORECASE | re.DOTALL
)
_ADDRESS: Final = re.compile(
    rf"://|:.*@|^\W*(?:postg|pgsql|psql)\w*(?://|.*[:@=])|{_HIDDEN_KEY}|\b(?:host|hostaddr|dbname|user)\s*=",
    re.IGNORECASE | re.DOTALL,
)
_HEAD: Final = re.compile(r"\W*\w[\w+.-]*(?::/*|//|\s*=\s*)?")

_known: set[str] = set()
_whole: dict[str, str] = {}


def forget() -> None:
    """Begin anew, with no secret known."""
    _known.clear()
    _whole.clear()


def is_address(text: str) -> bool:
    """Whether it looks like the address of a database, right or mistyped, which may hold a password."""
    return bool(_ADDRESS.search(text))


def shown(dsn: str) -> str:
    """A DSN with `***` where a secret stands, or may stand."""
    found = _DSN.fullmatch(dsn)
    if not found:
        return _HIDDEN
    user = found["user"] or ""
    if user:  # alone it may be a password, too, with the colon left out
        user = f"{user}:{_HIDDEN}@" if found["password"] else f"{_HIDDEN}@"
    query = "&".join(
        part if _HARMLESS.fullmatch(part) else f"{part.partition('=')[0]}={_HIDDEN}"
        for part in (found["query"] or "").split("&")
        if "=" in part
    )
    return f"{found['scheme']}{user}{found['place']}{query and '?'}{query}"


def remember(text: str) -> None:
    """From now on `scrub` knows this text, if it looks like an address, and the secrets in it, wherever a
    driver may quote them."""
    if not is_address(text):
        return
    _hide(text)
    _, _, rest = text.partition("://")
    found = _DSN.fullmatch(text)
    if found:
        secrets = [(found["password"] or "")[1:]]
    else:  # a part of it may be taken for a host or a port, and be quoted as that
        secret = (rest.rpartition("@")[0] or rest).partition(":")[2]
        secrets = [secret, *re.split(r"[@:/?#&=\s]", secret)]
    for key, value in parse_qsl(rest.partition("?")[2]):
        if not _HARMLESS.fullmatch(f"{key}="):
            secrets += [value, *re.split(r"[\s=]", value)]
    _known.update(each for secret in secrets for each in (secret, unquote(secret)) if len(each) > _SHORT)


def remember_arguments(arguments: Collection[str]) -> None:
    """`remember` each that a shell was given, and what it made of an address with a space in it."""
    unfinished = False
    taken_apart = any(map(is_address, arguments))
    for text in arguments:
        if unfinished or (taken_apart and re.match(r"[^-@].*[=@]", text, re.DOTALL)):
            _hide(text)
            unfinished = unfinished and "@" not in text
        for part in (text, text.lstrip("@"), *_glued(text)):
            remember(part)
        if is_address(text) and "@" not in text:
            unfinished = not _DSN.fullmatch(text) or bool(re.search(r":[0-9]+$", text))


def _glued(text: str) -> tuple[str, ...]:
    """What may be the value of an option in an argument, -sVALUE or --store=VALUE."""
    return (text.partition("=")[2], text[2:]) if text.startswith("-") else ()


def _hide(text: str) -> None:
    _whole.update({form: shown(text) for form in (text, repr(text)[1:-1])})
    pieces = "".join(char if char.isprintable() else "\0" for char in text).split("\0")
    if len(pieces) > 1:  # there are several ways to spell out what a terminal would act upon
        _whole.update(dict.fromkeys(filter(None, pieces), _HIDDEN))


def scrub(text: str) -> str:
    """The text with `***` where a password stands."""
    for form in sorted(_whole, key=len, reverse=True):
        if len(form) > _SHORT:
            text = text.replace(form, _whole[form])
        else:
            text = re.sub(rf"(?<!\w){re.escape(form)}(?!\w)", _HIDDEN, text)
    fit = tuple(instead for instead in _whole.values() if instead != _HIDDEN)
    for form in _whole:  # messages may cut it short, or spell it in another way
        if len(form) > _SHORT:
            text = re.sub(
                rf"{re.escape(_beginning(form))}\S*",
                lambda found: found[0] if found[0].startswith(fit) else _HIDDEN,
                text,
            )
    text = _NAMED.sub(rf"\1{_HIDDEN}", _URL.sub(_scrub_url, text))
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, _HIDDEN)
    return text


def _scrub_url(found: re.Match[str]) -> str:
    scheme, rest, end = found.groups()
    if _PLAIN.fullmatch(rest):
        return found[0]
    url = shown(scheme + rest)
    return (scheme + url if url == _HIDDEN else url) + end


def _beginning(text: str) -> str:
    """So much of it that it is no chance if a message has the same: more than `postgresql://`."""
    head = _HEAD.match(text)
    return text[: max(head.end() + 1 if head else 0, 4)]

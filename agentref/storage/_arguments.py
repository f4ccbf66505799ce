"""The checks that every store makes of its arguments, before anything is touched."""

import math
import os
import re
from collections.abc import Collection, Iterable, Mapping
from itertools import repeat
from operator import is_
from typing import Final, TypeGuard, TypeVar

from agentref.codecs import ValueCodec
from agentref.errors import InvalidDigestError, InvalidInputError
from agentref.refs import DIGEST_SIZE, Digest
from agentref.storage.protocol import AliasRow, BlobStore, PinRow

__all__ = [
    "check_alias",
    "check_codec",
    "check_digest",
    "check_expect",
    "check_level",
    "check_limit",
    "check_max_value_bytes",
    "check_name",
    "check_owner",
    "check_prefix",
    "check_root",
    "check_store",
    "check_time",
    "each_of",
    "unique_digests",
    "unique_owners",
    "unique_pins",
    "valid_blobs",
]

_Item = TypeVar("_Item")

_DSN: Final = re.compile(r"\s*postgres(?:ql)?:", re.IGNORECASE)  # a Path has made one slash of two
_MAX_NAME_BYTES: Final = 512
_MAX_LEVEL: Final = 19  # zstd's own range, without its ultra levels


def check_root(root: object) -> str:
    """The text of a path. Raise `InvalidInputError` for what can be the name of no directory."""
    try:
        path = os.fspath(root)  # type: ignore[call-overload]
        if isinstance(path, str) and ("://" in path or _DSN.match(path)):
            raise InvalidInputError(
                "root must be the path of a directory, not a URL (it may hold a password: it is not "
                "shown). For a database of PostgreSQL write PostgresCAS(dsn)."
            )
        if isinstance(path, str) and path and b"\0" not in os.fsencode(path):
            return path
    except (TypeError, UnicodeEncodeError):
        pass
    raise InvalidInputError(
        f"root must be the path of a directory, a str or Path that is not empty and has no NUL in it, not "
        f"{root!r:.80}. Write FilesystemCAS('./state_blobs'), or InMemoryCAS() for a store without one."
    )


def check_store(store: object) -> None:
    """Raise `InvalidInputError` unless `store` has all verbs of a `BlobStore`."""
    if isinstance(store, type) or not isinstance(store, BlobStore):
        raise InvalidInputError(
            f"store must be a BlobStore, not {_kind(store)}. Ready to use are "
            f"FilesystemCAS('./state_blobs') and InMemoryCAS()."
        )


def check_max_value_bytes(limit: object) -> None:
    """Raise `InvalidInputError` unless `limit` is a size that a ref can have."""
    if type(limit) is not int or not 0 < limit < 2**63:
        raise InvalidInputError(
            f"max_value_bytes must be a number of bytes, an int from 1 to 2**63-1, not {limit!r:.40}."
        )


def check_level(level: object) -> None:
    """Raise `InvalidInputError` unless `level` is one of zstd's, or None."""
    if level is not None and (type(level) is not int or not 1 <= level <= _MAX_LEVEL):
        raise InvalidInputError(
            f"compression_level must be an int from 1 to {_MAX_LEVEL}, or None; not {level!r:.40}."
        )


def check_codec(codec: object) -> None:
    """Raise `InvalidInputError` unless `codec` is a `ValueCodec`."""
    if not isinstance(codec, ValueCodec):
        raise InvalidInputError(f"codec must be a ValueCodec, such as ValueCodec(), not {_kind(codec)}.")


def each_of(what: str, items: Iterable[_Item]) -> Iterable[_Item]:
    """The items, if they are several. A text or a mapping is one, though Python would take it apart."""
    if isinstance(items, (str, bytes, bytearray, memoryview, Mapping)) or not isinstance(items, Iterable):
        single = what.replace("_many", "")
        remedy = "give a list of one" if single == what else f"there is {single}"
        raise InvalidInputError(
            f"{what} takes a list, or another iterable, not {_kind(items)}. For a single one {remedy}."
        )
    return items


def _kind(given: object) -> str:
    return f"the class {given.__qualname__}" if isinstance(given, type) else type(given).__qualname__


def check_digest(digest: object) -> None:
    """Raise `InvalidDigestError` unless `digest` is 32 raw bytes."""
    if not isinstance(digest, bytes) or len(digest) != DIGEST_SIZE:
        raise InvalidDigestError(
            f"{digest!r:.80} is no Digest. A blob store takes 32 raw bytes; parse_digest() reads hex."
        )


def unique_digests(digests: Iterable[Digest]) -> list[Digest]:
    """The digests, each once, in the order given."""
    given = list(digests)
    _check_digests(given)
    return list(dict.fromkeys(given))


def _check_digests(digests: Collection[object]) -> None:
    # In C, where all are as they should be: a batch has hundreds.
    if not (_are_bytes(digests) and {DIGEST_SIZE}.issuperset(map(len, digests))):
        for digest in digests:
            check_digest(digest)


def _are_bytes(things: Iterable[object]) -> TypeGuard[Collection[bytes]]:
    return all(map(is_, map(type, things), repeat(bytes)))


def valid_blobs(blobs: Mapping[Digest, bytes]) -> dict[Digest, bytes]:
    """A copy of the mapping that no other thread can change, its names and bytes checked."""
    copy = dict(blobs)
    _check_digests(copy)
    if not _are_bytes(copy.values()):
        for digest, data in copy.items():
            if not isinstance(data, bytes):
                raise InvalidInputError(f"Blob {digest.hex()} must be bytes, not {type(data).__name__}.")
    return copy


def check_time(name: str, value: object) -> None:
    """Raise `InvalidInputError` unless `value` is a number of seconds, or infinity."""
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value):
            return
    except OverflowError:  # an int that is longer than any float
        pass
    raise InvalidInputError(f"{name} must be seconds since the epoch, or FOREVER, not {value!r:.80}.")


def check_limit(limit: object) -> None:
    """Raise `InvalidInputError` unless `limit` is a positive int."""
    if isinstance(limit, bool) or not isinstance(limit, int) or not 0 < limit < 2**63:
        raise InvalidInputError(f"limit must be a positive int, not {limit!r:.80}.")


def check_name(what: str, name: object) -> None:
    """Raise `InvalidInputError` unless `name` is text that every store can keep and compare alike."""
    if isinstance(name, str) and name and "\0" not in name:
        if name.isascii() and len(name) <= _MAX_NAME_BYTES:
            return
        try:
            if len(name.encode()) <= _MAX_NAME_BYTES:
                return
        except UnicodeEncodeError:
            pass
    raise InvalidInputError(
        f"{what} must be a text of 1 to {_MAX_NAME_BYTES} bytes in UTF-8, without a NUL; not {name!r:.80}."
    )


def check_prefix(prefix: object) -> None:
    """Raise `InvalidInputError` unless names can begin with `prefix`; all begin with the empty one."""
    if prefix != "":
        check_name("prefix", prefix)


def check_owner(owner: object) -> None:
    """Raise `InvalidInputError` unless `owner` can own pins."""
    check_name("The owner of a pin", owner)


def unique_owners(owners: Collection[str]) -> list[str]:
    """The owners, each once, in the order given. A single text is no collection of them."""
    if isinstance(owners, (str, bytes)) or not isinstance(owners, Collection):
        raise InvalidInputError(
            f"owners must be a list of texts, not {_kind(owners)}. For a single one: unpin([owner])."
        )
    for owner in owners:
        check_owner(owner)
    return list(dict.fromkeys(owners))


def unique_pins(rows: Collection[PinRow]) -> list[PinRow]:
    """The pins, each once, with the longest of its lives, in the order of owner and digest."""
    for owner, digest, expires_at in rows:
        check_owner(owner)
        if type(digest) is not bytes or len(digest) != DIGEST_SIZE:
            check_digest(digest)
        if type(expires_at) is not float or math.isnan(expires_at):
            check_time("expires_at", expires_at)
    lives = {row[:2]: row for row in sorted(rows)}  # the longest comes last
    return list(lives.values())


def check_expect(expect: object) -> None:
    """Raise `InvalidInputError` unless `expect` is a version of an alias, 0 for none, or None."""
    if expect is not None and (type(expect) is not int or not 0 <= expect < 2**63):
        raise InvalidInputError(
            f"expect must be the version of an alias, 0 for an absent one, or None; not {expect!r:.40}."
        )


def check_alias(alias: object) -> None:
    """Raise `InvalidInputError` unless `alias` can be kept."""
    if not isinstance(alias, AliasRow):
        raise InvalidInputError(f"An AliasRow is needed, not {_kind(alias)}.")
    check_name("The name of an alias", alias.name)
    check_digest(alias.digest)
    check_name("The codec of an alias", alias.codec)
    if type(alias.size) is not int or not 0 <= alias.size < 2**63:
        raise InvalidInputError(f"The size of an alias must be an int, 0 or more, not {alias.size!r:.40}.")
    check_time("expires_at", alias.expires_at)

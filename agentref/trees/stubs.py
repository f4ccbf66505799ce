"""What stands in a tree for something that is kept in a store: its wire forms, and how they are read back.

A state file comes back from outside. So a dict that only looks like one of ours is escaped on the way in,
and on the way back a ref counts only if it was sealed with a key of ours, where there are keys.
"""

import hmac
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from blake3 import blake3

from agentref.errors import ConfigurationError, InvalidInputError, InvalidRefError, UntrustedRefError
from agentref.refs import REF_KEY, ContentRef

__all__ = ["MAX_TENANT", "Escaped", "Part", "Seals", "Stub", "escape", "is_marker", "is_segment"]

MAX_TENANT: Final = 256
_KEY_SIZE: Final = 32
_SEAL_SIZE: Final = 16  # 128 bits: what a forger can try is bounded by how often we read
_MAX_COUNT: Final = 2**31 - 1
_CONTEXT: Final = "agentref tree part 1"
_ESCAPED: Final = "escaped"


class Stub(dict[str, Any]):
    """In an externalized tree: the wire form of a ref, or of a user's dict that looks like one.

    Equal to the plain dict that it is written as, by json, msgpack and every other encoder of dicts. Its
    type tells the two apart in this process: `externalize` leaves a stub as it is, and escapes a dict.
    """

    __slots__ = ()


class Part(NamedTuple):
    """A ref in a tree: to one value, or to so many items of the list that it stands in."""

    ref: ContentRef
    items: int | None


class Escaped(NamedTuple):
    """A user's dict that looked like a ref."""

    data: dict[str, Any]


def is_marker(data: dict[Any, Any]) -> bool:
    """Whether this is a wire form, or looks like one."""
    return len(data) == 1 and REF_KEY in data


def is_segment(part: object) -> bool:
    """Whether this is a stub that stands for items of a list."""
    if type(part) is not Stub:
        return False
    body = part.get(REF_KEY)
    return isinstance(body, list) and len(body) == 7 and body[5] is not None


def escape(data: dict[str, Any]) -> Stub:
    """The wire form of a user's dict that looks like a ref."""
    return Stub({REF_KEY: {_ESCAPED: data}})


class Seals:
    """Writes parts and reads them, under the secrets of one tenant. Immutable, thread-safe, pure.

    A seal is a keyed BLAKE3 over all that a part says and the tenant's name. The first key seals, all of
    them are tried on the way back. Without keys nothing is sealed, and a part is believed as it stands.
    """

    def __init__(self, keys: bytes | Sequence[bytes], tenant: str) -> None:
        self._keys = (keys,) if isinstance(keys, bytes) else tuple(keys)
        for key in self._keys:
            _check_key(key)
        if not _is_tenant(tenant):
            raise InvalidInputError(f"tenant must be a text of at most {MAX_TENANT} characters.")
        if tenant and not self._keys:
            raise InvalidInputError(
                "tenant= binds refs by a seal, and that needs a secret: pass keys= too."
            )
        self._tenant = tenant

    def keeper(self, owner: str) -> str:
        """The name that this owner's pins go by: no tenant's is another's, nor that of an owner without
        tenant, whatever they are called."""
        if not isinstance(owner, str):
            raise InvalidInputError(f"An owner is a text, not {owner!r:.60}.")
        if self._tenant:
            return f"%{self._tenant.replace('%', '%25').replace(':', '%3A')}:{owner}"
        return f"%:{owner}" if owner.startswith("%") else owner

    def write(self, part: Part) -> dict[str, Any]:
        """The wire form: of a ref alone where that says all, with a count and a seal otherwise."""
        wire = part.ref.to_dict()
        if part.items is not None or self._keys:
            wire[REF_KEY] += [part.items, self._seal(self._keys[0], part) if self._keys else None]
        return wire

    def read(self, data: dict[str, Any]) -> Part | Escaped:
        """What a dict means for which `is_marker` holds.

        Raises `InvalidRefError` or `InvalidDigestError` for one that is malformed, `UntrustedRefError` for
        one that was not sealed by us for this tenant, `ConfigurationError` for one that is sealed when
        there are no keys here.
        """
        body = data[REF_KEY]
        if isinstance(body, dict):
            inner = body.get(_ESCAPED)
            if len(body) != 1 or not isinstance(inner, dict):
                raise InvalidRefError(
                    f"{data!r:.80} is neither a ref nor an escaped dict. Was it externalized at all? "
                    f"Only what externalize() returned can be rehydrated."
                )
            return Escaped(inner)
        count = seal = None
        if isinstance(body, (list, tuple)) and len(body) == 7:
            *body, count, seal = body
        part = Part(ContentRef.from_dict({REF_KEY: body}), count)
        if count is not None and (type(count) is not int or not 0 < count <= _MAX_COUNT):
            raise InvalidRefError(f"{count!r:.40} is no number of items that a ref could stand for.")
        self._check(part, seal)
        return part

    def _check(self, part: Part, seal: object) -> None:
        if not self._keys:
            if seal is not None:
                raise ConfigurationError(
                    f"The ref to {part.ref.hash} is sealed, and there is no key here to check it by: "
                    f"pass keys= as where it was written."
                )
            return
        if not isinstance(seal, str) or not any(
            hmac.compare_digest(self._seal(key, part).encode(), seal.encode(errors="replace"))
            for key in self._keys
        ):
            found = (
                "is sealed by another key, or for another tenant, or was edited" if seal else "has no seal"
            )
            raise UntrustedRefError(
                f"The ref to {part.ref.hash} {found}. Nothing was loaded. Pass the keys= and tenant= that "
                f"it was written with, if it is to be trusted."
            )

    def _seal(self, key: bytes, part: Part) -> str:
        ref = part.ref
        said = (_CONTEXT, self._tenant, ref.hash, ref.codec, ref.size, ref.backend_id, part.items)
        return blake3(repr(said).encode(errors="surrogatepass"), key=key).hexdigest(length=_SEAL_SIZE)


def _check_key(key: object) -> None:
    if not isinstance(key, bytes) or len(key) != _KEY_SIZE:
        shown = f"{len(key)} bytes" if isinstance(key, bytes) else type(key).__name__
        raise InvalidInputError(
            f"keys must be secrets of {_KEY_SIZE} bytes each, such as secrets.token_bytes({_KEY_SIZE}), "
            f"not {shown}."
        )


def _is_tenant(tenant: object) -> bool:
    return isinstance(tenant, str) and len(tenant) <= MAX_TENANT

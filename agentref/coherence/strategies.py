"""How a peer keeps what it has read: when it asks the coordinator, and when it fetches the content."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, Self

from agentref.coherence._arguments import check_limit, check_seconds
from agentref.coherence.keys import Key, encode_key
from agentref.errors import InvalidInputError

__all__ = ["Strategies", "Strategy"]

_TTL: Final = 30.0
_ACCESSES: Final = 100


@dataclass(frozen=True, slots=True)
class Strategy:
    """What a peer does about what it has read. Whatever it is, a read shows what the coordinator would
    accept as a base at the moment at which the read looked.

    | strategy | a read asks the coordinator | content is fetched | staleness of a read | others' commits |
    |---|---|---|---|---|
    | `lazy()` | every time, for one number | when `.value` is asked for | 0 | go through |
    | `eager()` | every time | when the feed says that something the peer has read moved | 0 | go through |
    | `broadcast()` | every time | when the feed says that anything moved | 0 | go through |
    | `lease(ttl)` | once in `ttl` seconds | as lazy | 0 | refused for up to `ttl` seconds |
    | `access_count(n, ttl)` | once in `n` reads or `ttl` seconds | as lazy | 0 | as lease |

    The last two take a shared lease, under which nobody can commit: that is why they need not ask. A peer
    that cannot have one, because somebody writes, reads as lazy does. They pay where asking is a round trip
    to another machine, and what is read changes seldom. A writer that waits (`update`, `lease(wait=)`)
    comes next: no shared lease is granted before it.
    """

    name: str
    ttl: float | None = None
    max_accesses: int | None = None

    NAMES: ClassVar = ("lazy", "eager", "lease", "access_count", "broadcast")

    @classmethod
    def lazy(cls) -> Self:
        """Ask each time whether something changed; fetch when the value is asked for. The default."""
        return cls("lazy")

    @classmethod
    def eager(cls) -> Self:
        """Fetch again, in the background, whatever this peer has read and others change."""
        return cls("eager")

    @classmethod
    def broadcast(cls) -> Self:
        """Fetch, in the background, whatever anybody changes."""
        return cls("broadcast")

    @classmethod
    def lease(cls, ttl: float = _TTL) -> Self:
        """Keep others from committing for `ttl` seconds after a read, and ask nobody meanwhile."""
        return cls("lease", check_seconds("ttl", ttl))

    @classmethod
    def access_count(cls, max_accesses: int = _ACCESSES, *, ttl: float = _TTL) -> Self:
        """As `lease`, which is given back after so many reads."""
        return cls("access_count", check_seconds("ttl", ttl), check_limit(max_accesses))

    @classmethod
    def of(cls, given: object) -> "Strategy":
        """A strategy, or that of a name with what it is by default. Raises `InvalidInputError`."""
        if isinstance(given, Strategy):
            return given
        if isinstance(given, str) and given in cls.NAMES:
            made: Strategy = getattr(cls, given)()
            return made
        raise InvalidInputError(
            f"strategy must be a Strategy or one of {', '.join(map(repr, cls.NAMES))}; not {given!r:.80}. "
            f"With options: Strategy.lease(ttl=10)."
        )


class Strategies:
    """The strategy for each key: that of the longest beginning that it has in common with a key given."""

    def __init__(self, strategy: object, by_prefix: Mapping[Key, object] | None) -> None:
        self._default = Strategy.of(strategy)
        self._by_prefix = {
            (prefix, encode_key(prefix))[0]: Strategy.of(s) for prefix, s in (by_prefix or {}).items()
        }

    def of(self, key: Key) -> Strategy:
        """The strategy for a key."""
        if self._by_prefix:
            for length in range(len(key), 0, -1):
                if (found := self._by_prefix.get(key[:length])) is not None:
                    return found
        return self._default

    def any_of(self, *names: str) -> bool:
        """Whether one of these is in use."""
        return any(each.name in names for each in (self._default, *self._by_prefix.values()))

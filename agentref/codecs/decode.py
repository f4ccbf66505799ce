"""Canonical MessagePack back to values. The bytes were verified, but who wrote them is not trusted."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, Protocol

import msgpack

from agentref.codecs import builtin_types, class_types
from agentref.codecs.class_types import ClassFamily
from agentref.codecs.extension import Extensions, Foreign
from agentref.codecs.trust import TypeTrust
from agentref.codecs.wire import MAX_NESTING, Ext
from agentref.errors import AgentRefError, MalformedBlobError, UntrustedTypeError

__all__ = ["Decoder", "Source"]

# What a `make` may raise on a state that no `take` gave.
_BAD_STATE: Final = (
    TypeError,
    ValueError,
    LookupError,
    ArithmeticError,
    AttributeError,
    MemoryError,
    OSError,
    SyntaxError,
)


class Source(Protocol):
    """Gives what links lead to."""

    def raw(self, links: Iterable[Any], /) -> Iterator[bytes | memoryview]:
        """The bytes below the links, in order."""
        ...

    def values(self, links: Iterable[Any], /) -> Iterator[tuple[bytes | memoryview, tuple[Any, ...]]]:
        """The packed values below the links, in order, each with its own links."""
        ...


class Decoder:
    """Decodes values from a source. For one thread, for one value."""

    def __init__(
        self,
        source: Source,
        trust: TypeTrust,
        extensions: Extensions,
        foreign: Foreign | None,
        *,
        lenient: bool,
    ) -> None:
        self._source = source
        self._lenient = lenient
        self._trust = trust
        self._extensions = extensions
        self._foreign = foreign
        self._depth = 0
        self._links: Sequence[Any] = ()
        self._used = 0
        self._unicode_errors = "strict"

    def decode(self, link: Any) -> object:
        """The value below a link. Raises `MalformedBlobError` or `UntrustedTypeError`, and
        `RecursionError` where the caller's stack leaves too little room."""
        values = list(self._source.values([link]))
        if len(values) != 1:
            raise MalformedBlobError("A ref to a value leads to several of them.")
        return self._blob(*values[0])

    def _blob(self, payload: bytes | memoryview, links: Sequence[Any]) -> object:
        outer = self._links, self._used
        self._links, self._used = links, 0
        value = self._unpack(payload)
        if self._used != len(links):
            raise MalformedBlobError("A stored value has more links than it uses.")
        self._links, self._used = outer
        return value

    def _unpack(self, payload: bytes | memoryview) -> Any:
        if self._depth > 2 * MAX_NESTING:  # richer types, and trees within one another
            raise MalformedBlobError("A stored value is nested too deeply.")
        self._depth += 1
        used = self._used
        try:
            try:
                return msgpack.unpackb(
                    payload, ext_hook=self._ext, strict_map_key=False, unicode_errors=self._unicode_errors
                )
            except UnicodeDecodeError:
                # Lone surrogates. Allowing for them takes a third longer, so it is done from here on only:
                # were it tried at every level anew, a few nested levels would take for ever.
                self._unicode_errors = "surrogatepass"
                self._used = used
                return msgpack.unpackb(
                    payload, ext_hook=self._ext, strict_map_key=False, unicode_errors="surrogatepass"
                )
        except (AgentRefError, RecursionError):
            raise
        except (*_BAD_STATE, msgpack.UnpackException) as error:
            raise MalformedBlobError(f"A stored value cannot be decoded: {error!r:.200}") from error
        finally:
            self._depth -= 1

    def _ext(self, code: int, data: bytes) -> object:
        if Ext.TEXT_TREE <= code <= Ext.DICT_TREE:
            return self._tree(code, data)
        state = self._unpack(data)
        if code == Ext.SET:
            return set(state)
        if code == Ext.FROZENSET:
            return frozenset(state)
        builtin = builtin_types.BY_CODE.get(code)
        if builtin is not None:
            return builtin.make(state)
        family = class_types.BY_CODE.get(code)
        if family is not None:
            return self._object(family, state)
        if code == Ext.EXTENSION:
            tag, inner = state
            return self._extension(tag).make(inner)
        if code == Ext.FOREIGN:
            return self._ask_foreign(*state)
        raise MalformedBlobError(
            f"A stored value uses extension type {code}, unknown here; update agentref."
        )

    def _object(self, family: ClassFamily, state: Any) -> object:
        try:
            return family.make(state, self._trust)
        except UntrustedTypeError as error:
            if not self._lenient:
                raise
            warnings.warn(f"{error.message} Its plain fields are used instead.", UserWarning, stacklevel=2)
            return family.plain(state)

    def _tree(self, code: int, data: bytes) -> object:
        count = data[0] if len(data) == 1 else 0
        links = self._links[self._used : self._used + count]
        if not count or len(links) != count:
            raise MalformedBlobError("A stored value uses more links than it has.")
        self._used += count
        if code == Ext.LIST_TREE:
            items: list[Any] = []
            for leaf in self._leaves(links, list):
                items.extend(leaf)
            return items
        if code == Ext.DICT_TREE:
            mapping: dict[Any, Any] = {}
            for leaf in self._leaves(links, dict):
                mapping.update(leaf)
            return mapping
        joined = b"".join(self._source.raw(links))
        return joined.decode("utf-8", "surrogatepass") if code == Ext.TEXT_TREE else joined

    def _leaves(self, links: Sequence[Any], kind: type) -> Iterator[Any]:
        for payload, own in self._source.values(links):
            leaf = self._blob(payload, own)
            if type(leaf) is not kind:
                raise MalformedBlobError(f"A leaf of a stored {kind.__name__} is none.")
            yield leaf

    def _extension(self, tag: object) -> Any:
        found = self._extensions.by_tag.get(tag) if isinstance(tag, str) else None
        if found is None:
            raise UntrustedTypeError(
                f"Stored data holds a {tag!r:.80}, which is not known here. Load it through the adapter "
                f"of the framework that it belongs to."
            )
        return found

    def _ask_foreign(self, tag: str, data: bytes) -> object:
        if self._foreign is None:
            raise UntrustedTypeError(
                "Stored data holds an object of a framework's own serializer. Load it through the adapter "
                "of that framework."
            )
        try:
            return self._foreign.loads_typed((tag, data))
        except RecursionError:
            raise
        except Exception as error:
            raise MalformedBlobError(
                f"The framework's serializer cannot read a stored object: {error!r:.200}"
            ) from error

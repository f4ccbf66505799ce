"""The facade that every adapter uses: values to refs, refs to values, over one or several stores."""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from operator import attrgetter
from typing import Any

from agentref.codecs import ValueCodec, name_error, surely_fits
from agentref.errors import (
    BlobNotFoundError,
    ConfigurationError,
    InvalidInputError,
    StateDefinitionError,
    UnknownBackendError,
    UnsupportedTypeError,
)
from agentref.refs import ContentRef
from agentref.state import AgentRefState
from agentref.storage import CAS, LEASE_SECONDS, Encoded

__all__ = ["Outgoing", "Runtime", "typed_runtime"]


class Outgoing:
    """Values that were encoded: a ref for each one over the threshold, None for the others."""

    __slots__ = ("encoded", "refs")

    def __init__(self, refs: list[ContentRef | None], encoded: list[Encoded]) -> None:
        self.refs = refs
        self.encoded = encoded


class Runtime:
    """Stores values that are over a threshold, and loads refs from whichever store keeps them.

    Args:
        backend: where values are written, and read.
        also: more stores, that are only read: the ones that older refs name.
        inline_threshold_bytes: values of a larger encoded size get a ref; 0 means every value.
        pins: whether what `keep` stores lives by its pins, after a lease. Without, and where the backend
            keeps no pins, it has no end but the backend's own default.

    Thread-safe.
    """

    def __init__(
        self,
        backend: CAS,
        *,
        also: Iterable[CAS] = (),
        inline_threshold_bytes: int,
        pins: bool = False,
    ) -> None:
        if isinstance(also, CAS) or not isinstance(also, Iterable):
            raise InvalidInputError(
                f"also must be a list of stores, also=[FilesystemCAS(...)], not {type(also).__name__}."
            )
        self.also = tuple(also)
        stores = (*self.also, backend)
        names = (*(f"also[{index}]" for index in range(len(self.also))), "backend")
        for name, store in zip(names, stores, strict=True):
            if not isinstance(store, CAS):
                raise InvalidInputError(
                    f"{name} must be a content-addressed store such as FilesystemCAS('./state_blobs'), "
                    f"not {type(store).__name__}."
                )
        if type(inline_threshold_bytes) is not int or inline_threshold_bytes < 0:
            raise InvalidInputError(
                f"inline_threshold_bytes must be a whole number of bytes, 0 or more, "
                f"not {inline_threshold_bytes!r:.40}."
            )
        self.backend = backend
        self.inline_threshold_bytes = inline_threshold_bytes
        self.pins = pins and backend.keeps_roots
        self._stores = {store.backend_id: store for store in stores}
        self._only = backend.backend_id if len(self._stores) == 1 else ""
        # A store's own name goes before what another one answers to as well; the backend's before others'.
        self._keepers: dict[str, list[CAS]] = {}
        for store in filter(attrgetter("keeps_roots"), self._stores.values()):
            for name in {store.backend_id, *store.backend_aliases}:
                self._keepers.setdefault(name, []).append(store)
        self._answering = {name: store for store in stores for name in store.backend_aliases} | self._stores

    def with_codec(self, codec: ValueCodec) -> "Runtime":
        """The same stores and threshold, under another codec."""
        return Runtime(
            self.backend.with_codec(codec),
            also=[store.with_codec(codec) for store in self._stores.values() if store is not self.backend],
            inline_threshold_bytes=self.inline_threshold_bytes,
            pins=self.pins,
        )

    def encode(self, values: Sequence[object], *, names: Sequence[str] = ()) -> Outgoing:
        """Encode values and tell those over the threshold from the others. CPU only. `names` are what
        errors call the values.

        A value of a type that the codec does not know counts as under the threshold.
        """
        refs: list[ContentRef | None] = []
        kept: list[Encoded] = []
        for index, value in enumerate(values):
            encoded = None if self.is_small(value) else self._encode(value, names[index : index + 1])
            if encoded is None or encoded.refs[0].size <= self.inline_threshold_bytes:
                refs.append(None)
            else:
                refs.append(encoded.refs[0])
                kept.append(encoded)
        return Outgoing(refs, kept)

    def is_small(self, value: object) -> bool:
        """Whether a value gets no ref, as far as a look at it can tell: False may mean either. Nothing that
        may hold refs is small."""
        return value is None or surely_fits(value, self.inline_threshold_bytes)

    @property
    def lease_seconds(self) -> float:
        """How long what was stored to be pinned lives until then."""
        return max(LEASE_SECONDS, self.backend.default_ttl_seconds or 0.0)

    def knows(self, backend_id: str) -> bool:
        """Whether one of the stores answers to that name."""
        return backend_id in self._answering

    def store(
        self,
        externalized: Outgoing,
        *,
        ttl: float | None = None,
        pins: Mapping[str, Collection[ContentRef]] | None = None,
    ) -> None:
        """Make what was encoded durable, in one batch, and with that pins of the backend."""
        if externalized.encoded:
            blobs = {digest: blob for part in externalized.encoded for digest, blob in part.blobs.items()}
            refs = [ref for part in externalized.encoded for ref in part.refs]
            self.backend.store(Encoded(refs, blobs), ttl=ttl, pins=pins)

    async def astore(self, externalized: Outgoing, *, ttl: float | None = None) -> None:
        """`store` for the event loop."""
        if externalized.encoded:
            await asyncio.to_thread(self.store, externalized, ttl=ttl)

    def keep(self, externalized: Outgoing, owner: str, refs: Sequence[ContentRef]) -> None:
        """Make what was encoded durable, and with that let `owner` keep `refs`, which are among it or kept
        by somebody else: each in every store that answers to its name, for one of these may take the place
        of another.

        One into a store that is not configured here is passed over: it cannot be read here either.
        """
        if not self.pins:
            self.store(externalized)
            return
        kept = dict(self._keepers_of(refs))
        if externalized.encoded:
            own = kept.pop(self.backend, [])
            self.store(externalized, ttl=self.lease_seconds, pins={owner: own})
        for store, few in kept.items():
            store.pin(owner, few, look=False)

    async def akeep(self, externalized: Outgoing, owner: str, refs: Sequence[ContentRef]) -> None:
        """`keep` for the event loop."""
        if externalized.encoded or (refs and self.pins):
            await asyncio.to_thread(self.keep, externalized, owner, refs)

    def inherit(self, heir: str, refs: Sequence[ContentRef], *, parent: str) -> bool:
        """Let an owner keep refs that `parent` has pinned: see `CAS.inherit_pins`. False if it takes
        `keep`."""
        if not self.pins:
            return True
        if len(refs) == 1 and refs[0].backend_id == self._only:  # mostly
            return self.backend.inherit_pins(heir, refs, parent=parent)
        keepers = self._keepers_of(refs)
        return all(store.inherit_pins(heir, few, parent=parent) for store, few in keepers)

    def pin_each(self, pins: Mapping[str, Sequence[ContentRef]]) -> None:
        """Let owners keep refs that are kept by somebody else, as `keep` does: in few transactions."""
        kept: dict[str, dict[str, list[ContentRef]]] = {}
        for owner, refs in pins.items():
            for store, few in self._keepers_of(refs):
                kept.setdefault(store.backend_id, {})[owner] = few
        for name, few_of_each in kept.items():
            self._stores[name].pin_each(few_of_each)

    def _keepers_of(self, refs: Sequence[ContentRef]) -> Iterable[tuple[CAS, list[ContentRef]]]:
        kept: dict[str, list[ContentRef]] = {}
        for ref in refs:
            for store in self.stores_for(ref):
                kept.setdefault(store.backend_id, []).append(ref)
        return [(self._stores[name], few) for name, few in kept.items()]

    def check_owner(self, owner: str | None) -> None:
        """Raise `ConfigurationError` for an owner, if the backend keeps no pins."""
        if owner is not None and not self.pins:
            raise ConfigurationError(
                f"owner= pins what is stored, and the store {self.backend.backend_id!r} keeps no pins. "
                f"Leave it out, or take a store that does: FilesystemCAS, PostgresCAS."
            )

    def renew(self, ref: ContentRef, ttl: float) -> None:
        """Lengthen the life of what a ref needs to `ttl` seconds from now. What is lost is passed over."""
        for store in self.stores_for(ref):
            with suppress(BlobNotFoundError):
                store.touch([ref], ttl=ttl)

    def unpin(self, owners: Collection[str]) -> None:
        """Let go of all that these owners keep, in every store."""
        for store in self._stores.values():
            if owners and store.keeps_roots:
                store.unpin(*owners)

    async def aunpin(self, owners: Collection[str]) -> None:
        """`unpin` for the event loop."""
        await asyncio.to_thread(self.unpin, owners)

    def load_many(self, refs: Sequence[ContentRef], *, names: Sequence[str] = ()) -> list[object]:
        """The value of each ref, in order: one batch for each store. No result shares a part with another.
        `names` are what errors call the refs.

        Raises `UnknownBackendError` for a ref whose store was not given to this runtime.
        """
        wanted: dict[str, list[int]] = {}
        for index, ref in enumerate(refs):
            store = self._store_of(ref, f"{names[index]}: ref" if names else "Ref")
            wanted.setdefault(store.backend_id, []).append(index)
        values: list[object] = [None] * len(refs)
        for name, indexes in wanted.items():
            called = [names[index] for index in indexes] if names else ()
            loaded = self._stores[name].load_many([refs[index] for index in indexes], names=called)
            for index, value in zip(indexes, loaded, strict=True):
                values[index] = value
        return values

    async def aload_many(self, refs: Sequence[ContentRef], *, names: Sequence[str] = ()) -> list[object]:
        """`load_many` for the event loop."""
        return await asyncio.to_thread(self.load_many, refs, names=names) if refs else []

    @property
    def stores(self) -> tuple[CAS, ...]:
        """Every store that is configured here, each once."""
        return tuple(self._stores.values())

    def store_for(self, ref: ContentRef) -> CAS | None:
        """The store that a ref names; None if that is not configured here."""
        return self.backend if ref.backend_id is None else self._answering.get(ref.backend_id)

    def stores_for(self, ref: ContentRef) -> list[CAS]:
        """The stores that answer to the name in a ref and keep pins."""
        return self._keepers.get(self.backend.backend_id if ref.backend_id is None else ref.backend_id, [])

    def _store_of(self, ref: ContentRef, name: str) -> CAS:
        store = self.store_for(ref)
        if store is None:
            raise UnknownBackendError(
                f"{name} {ref.hash} is kept in the store {ref.backend_id!r}, which is not configured here; "
                f"{', '.join(map(repr, self._answering))} are. "
                f"Pass that store too: also=[FilesystemCAS(...)]."
            )
        return store

    def _encode(self, value: object, names: Sequence[str]) -> Encoded | None:
        try:
            return self.backend.encode([value])
        except UnsupportedTypeError:
            return None
        except InvalidInputError as error:
            name_error(error, names)
            raise


def typed_runtime(  # noqa: PLR0913
    adapter: str,
    state_class: Any,
    backend: CAS | None,
    *,
    also: Iterable[CAS],
    inline_threshold_bytes: int,
    pins: bool = False,
) -> Runtime:
    """The runtime of an adapter of that name for a typed state.

    Raises `StateDefinitionError` for what is no state class, or one without fields, `ConfigurationError`
    without a backend, `InvalidInputError` otherwise.
    """
    if not (isinstance(state_class, type) and issubclass(state_class, AgentRefState)):
        raise StateDefinitionError(
            f"{state_class!r:.80} is no subclass of AgentRefState. Write "
            f"`class State(AgentRefState): docs: Externalized[list[dict]]`."
        )
    if not state_class.schema().fields:
        raise StateDefinitionError(
            f"{state_class.__qualname__} declares no field, so nothing could be kept in it. "
            f"Write `docs: Externalized[list[dict]]` in its body."
        )
    if backend is None:
        raise ConfigurationError(
            f"{adapter} needs a store for external values: backend=FilesystemCAS('./state_blobs')."
        )
    if type(inline_threshold_bytes) is not int or inline_threshold_bytes < 1:
        raise InvalidInputError(
            f"inline_threshold_bytes must be a positive int (bytes), not {inline_threshold_bytes!r:.40}."
        )
    return Runtime(backend, also=also, inline_threshold_bytes=inline_threshold_bytes, pins=pins)

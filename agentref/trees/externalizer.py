"""`Externalizer`: nested plain data, with refs in place of what is large, and back."""

import inspect
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, Protocol, runtime_checkable

from agentref.errors import InvalidInputError, ValueTooLargeError
from agentref.refs import ContentRef
from agentref.runtime import Outgoing, Runtime
from agentref.storage import CAS
from agentref.trees.drafts import Draft, to_the_end
from agentref.trees.inward import Gaps, adopt
from agentref.trees.lives import Lives
from agentref.trees.outward import Limits, Pending, Shrunk, shrink
from agentref.trees.stubs import Part, Seals

__all__ = ["DEFAULT_MAX_BYTES", "DEFAULT_SEGMENT", "DEFAULT_THRESHOLD_BYTES", "Externalizer", "Stateful"]

DEFAULT_THRESHOLD_BYTES: Final = 4096
DEFAULT_SEGMENT: Final = 32
DEFAULT_MAX_BYTES: Final = 4 * 1024**3


@runtime_checkable
class Stateful(Protocol):
    """What saves its state as plain data, and loads it again: agents, teams, runtimes. Either verb may be
    async."""

    def save_state(self) -> Any:
        """The state, or an awaitable of it."""
        ...

    def load_state(self, state: Any, /) -> Any:
        """Take up a state that was saved; may be an awaitable."""
        ...


class Externalizer:
    """Puts refs in place of what is large in nested plain data, and values in place of the refs.

        external = Externalizer(FilesystemCAS("./state_blobs"))
        small = external.externalize(team_state)         # JSON-safe, if team_state is
        assert external.rehydrate(json.loads(json.dumps(small))) == team_state

    Walks dicts, lists and tuples (of a subclass of dict or list, if something in it is large, a plain one
    comes back); other objects stay where they are, and texts are opaque, base64 too.
    A ref takes the place of
    - a text or bytes of more than `threshold_bytes` (UTF-8),
    - a list of numbers of about as much, such as an embedding,
    - the front of a list that grows: segments of `segment` items, which are stored once, however often the
      list is saved; the rest stays,
    - a dict or tuple of much that is small, of more than 16 thresholds together; never the tree itself.

    Nothing is mutated, and what holds no ref is not copied. A user's dict that looks like a ref is escaped,
    and comes back as it was. What `externalize` returned may be changed and externalized again: stubs stay,
    but for those in the last items of a list that has grown by a segment: these are loaded, to be sealed.

    A hash is no authorization: whoever can edit a state file can write any hash into it. With `keys` each
    ref carries a seal, bound to `tenant`, and none without it is loaded.

    Args:
        backend: where values go, and come from.
        also: more stores, that are only read: the ones that older refs name.
        threshold_bytes: 0 or more.
        segment: items, 2 or more.
        keys: secrets of 32 bytes. The first one seals; all of them are tried, so that keys can rotate.
        tenant: whose state this is; needs keys. Owners of two tenants are never the same.
        max_bytes: what one `rehydrate` may load, as encoded.

    Thread-safe. The async twins encode on the event loop, so that nothing can change meanwhile, and do the
    I/O in a thread. Raises `InvalidInputError`.
    """

    def __init__(  # noqa: PLR0913
        self,
        backend: CAS,
        *,
        also: Iterable[CAS] = (),
        threshold_bytes: int = DEFAULT_THRESHOLD_BYTES,
        segment: int = DEFAULT_SEGMENT,
        keys: bytes | Sequence[bytes] = (),
        tenant: str = "",
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> None:
        self._runtime = Runtime(backend, also=also, inline_threshold_bytes=0, pins=True)
        self._limits = _limits(threshold_bytes, segment)
        if type(max_bytes) is not int or max_bytes < 1:
            raise InvalidInputError(f"max_bytes must be a positive whole number, not {max_bytes!r:.40}.")
        self._max_bytes = max_bytes
        self._seals = Seals(keys, tenant)
        self._tenant = tenant
        self._lives = Lives(self._runtime)

    @property
    def backend(self) -> CAS:
        """The store."""
        return self._runtime.backend

    def externalize(
        self,
        tree: Any,
        *,
        owner: str | None = None,
        threshold_bytes: int | None = None,
        segment: int | None = None,
        all_bytes: bool = False,
    ) -> Any:
        """The tree with refs in place of what is large: stored durably, in one batch, when this returns.

        Args:
            tree: nested plain data.
            owner: pins all that the result refers to under this name, until `release`. Without, what is
                stored lives as long as the store's default says.
            threshold_bytes: in place of the externalizer's own, for this tree.
            segment: the same.
            all_bytes: a ref for bytes of any size, for JSON, which has none.

        Raises `InvalidInputError` for a tree that is too deep, `StorageError` if the store cannot take it,
        and `BlobNotFoundError` if what the tree refers to already is gone: no tree comes back that refers
        to what is not there. What it refers to already lives on as if it were stored anew.
        """
        limits = self._limits_of(threshold_bytes, segment, all_bytes=all_bytes)
        shrunk = self._shrunk(tree, owner, limits)
        if shrunk.stuck:
            gaps = self._bounded(self._read(tree, within=shrunk.stuck))
            shrunk = shrink(gaps.fill(self._runtime.load_many([part.ref for part in gaps.parts])), limits)
        draft = self._draft(shrunk, owner)
        draft.store(self._runtime, self._lives)
        return draft.tree

    async def aexternalize(
        self,
        tree: Any,
        *,
        owner: str | None = None,
        threshold_bytes: int | None = None,
        segment: int | None = None,
        all_bytes: bool = False,
    ) -> Any:
        """`externalize` for the event loop. Cancelled while it stores, it ends with that: a `release` that
        comes after it has nothing to miss."""
        limits = self._limits_of(threshold_bytes, segment, all_bytes=all_bytes)
        shrunk = self._shrunk(tree, owner, limits)
        if shrunk.stuck:
            gaps = self._bounded(self._read(tree, within=shrunk.stuck))
            values = await self._runtime.aload_many([part.ref for part in gaps.parts])
            shrunk = shrink(gaps.fill(values), limits)
        draft = self._draft(shrunk, owner)
        if draft.needs_store(self._lives):
            await to_the_end(partial(draft.store, self._runtime, self._lives))
        return draft.tree

    def rehydrate(self, tree: Any) -> Any:
        """The tree with values in place of its refs, loaded in one batch; all of it, or it raises.

        What was never externalized comes back as it is, if nothing in it looks like a ref. Raises
        `InvalidRefError`, `UntrustedRefError`, `UnknownBackendError`, `BlobNotFoundError`,
        `IntegrityError`, `StorageError`, and `ValueTooLargeError` for more than `max_bytes`.
        """
        gaps = self._bounded(self._read(tree))
        return gaps.fill(self._runtime.load_many([part.ref for part in gaps.parts]) if gaps.parts else [])

    async def arehydrate(self, tree: Any) -> Any:
        """`rehydrate` for the event loop."""
        gaps = self._bounded(self._read(tree))
        return gaps.fill(await self._runtime.aload_many([part.ref for part in gaps.parts]))

    def refs(self, tree: Any) -> list[ContentRef]:
        """What an externalized tree refers to, in order, checked as `rehydrate` does. Loads nothing."""
        return [part.ref for part in self._read(tree).parts]

    def adopt(self, tree: Any) -> Any:
        """An externalized tree that comes from outside, from JSON say, as `externalize` returned it: so
        that it can be changed and externalized again without loading anything. Raises what `refs` does.
        """
        with _room():
            return adopt(tree, self._seals)

    def pin(self, owner: str, tree: Any) -> None:
        """Let `owner` keep all that an externalized tree refers to, until `release`. Raises what `refs`
        does, and `BlobNotFoundError` if anything of it is gone."""
        self._pinning(owner, self.refs(tree))()

    async def apin(self, owner: str, tree: Any) -> None:
        """`pin` for the event loop."""
        await to_the_end(self._pinning(owner, self.refs(tree)))

    def release(self, owner: str) -> None:
        """Let go of all that was externalized for this owner, of this tenant if there is one. What nothing
        else keeps can be pruned."""
        self._runtime.unpin([self._owned(owner)])

    async def arelease(self, owner: str) -> None:
        """`release` for the event loop."""
        await self._runtime.aunpin([self._owned(owner)])

    async def save_state(self, stateful: Stateful, *, owner: str | None = None) -> Any:
        """What `stateful.save_state()` returns, externalized."""
        return await self.aexternalize(await _result(_stateful(stateful).save_state()), owner=owner)

    async def load_state(self, stateful: Stateful, state: Any) -> None:
        """Give `stateful` a state that `save_state` returned: all of it is loaded, or it sees nothing."""
        loaded = await self.arehydrate(state)
        await _result(_stateful(stateful).load_state(loaded))

    def _limits_of(self, threshold: int | None, segment: int | None, *, all_bytes: bool) -> Limits:
        own = self._limits
        if threshold is None and segment is None:
            return own._replace(all_bytes=all_bytes)
        limits = _limits(
            own.threshold if threshold is None else threshold, own.segment if segment is None else segment
        )
        return limits._replace(all_bytes=all_bytes)

    def _shrunk(self, tree: Any, owner: str | None, limits: Limits) -> Shrunk:
        self._runtime.check_owner(owner)
        with _room():
            return shrink(tree, limits)

    def _draft(self, shrunk: Shrunk, owner: str | None) -> Draft:
        outgoing = self._runtime.encode(
            [each.value for each in shrunk.pending], names=[each.path for each in shrunk.pending]
        )
        fresh = [self._name(each, ref) for each, ref in zip(shrunk.pending, outgoing.refs, strict=True)]
        kept = [part.ref for part in self._read(shrunk.kept).parts] if shrunk.kept else []
        keeper = None if owner is None else self._owned(owner)
        return Draft(shrunk.tree, outgoing, fresh=fresh, kept=kept, owner=keeper)

    def _name(self, pending: Pending, ref: ContentRef | None) -> ContentRef:
        if (
            ref is None
        ):  # of what texts, bytes and numbers are in, there is nothing that a codec does not know
            raise InvalidInputError(f"{pending.path} cannot be encoded.")
        pending.stub.update(self._seals.write(Part(ref, pending.items)))
        return ref

    def _owned(self, owner: str) -> str:
        """The name of a pin: no tenant's is another's, whatever either is called."""
        if not self._tenant:
            return owner
        return f"{self._tenant.replace('%', '%25').replace(':', '%3A')}:{owner}"

    def _pinning(self, owner: str, refs: list[ContentRef]) -> Callable[[], None]:
        self._runtime.check_owner(owner)
        draft = Draft(None, Outgoing([], []), fresh=[], kept=refs, owner=self._owned(owner))
        return partial(draft.store, self._runtime, self._lives)

    def _read(self, tree: Any, *, within: list[list[Any]] | None = None) -> Gaps:
        with _room():
            return Gaps(tree, self._seals, within=within)

    def _bounded(self, gaps: Gaps) -> Gaps:
        size = sum(part.ref.size for part in gaps.parts)
        if size > self._max_bytes:
            raise ValueTooLargeError(
                f"The tree refers to {size:,} bytes, over the limit of {self._max_bytes:,}. Rehydrate a "
                f"part of it, or raise max_bytes."
            )
        return gaps


def _limits(threshold: object, segment: object) -> Limits:
    if type(threshold) is not int or threshold < 0:
        raise InvalidInputError(
            f"threshold_bytes must be a whole number of bytes, 0 or more, not {threshold!r:.40}."
        )
    if type(segment) is not int or segment < 2:
        raise InvalidInputError(f"segment must be a whole number of items, 2 or more, not {segment!r:.40}.")
    return Limits(threshold, segment)


def _stateful(given: object) -> Stateful:
    if not isinstance(given, Stateful):
        raise InvalidInputError(
            f"{type(given).__qualname__} has not got both save_state() and load_state(). Save what "
            f"it is made of by externalize()."
        )
    return given


async def _result(given: Any) -> Any:
    return await given if inspect.isawaitable(given) else given


@contextmanager
def _room() -> Generator[None]:
    """A tree may be within bounds, and the stack too full for it."""
    try:
        yield
    except RecursionError:
        raise InvalidInputError(
            "The tree is nested more levels deep than this thread's stack has room for now. Call from a "
            "thread of its own, or from higher up."
        ) from None

"""`LlamaIndexAdapter`: a typed state for LlamaIndex workflows, whose large fields live in a store."""

from collections.abc import Iterable, Sequence
from typing import Any, Generic, TypeVar, Unpack
from weakref import WeakSet

from pydantic import BaseModel
from workflows.context.state_store import StateStore, StateStoreFacade

from agentref.adapters.llamaindex.cells import check_model
from agentref.adapters.llamaindex.context import ContextStore
from agentref.adapters.llamaindex.fields import Fields
from agentref.adapters.llamaindex.models import model_for
from agentref.adapters.llamaindex.options import TreeOptions
from agentref.adapters.llamaindex.serializer import AgentRefSerializer
from agentref.errors import InvalidInputError
from agentref.runtime import typed_runtime
from agentref.state import DEFAULT_INLINE_THRESHOLD_BYTES, AgentRefState
from agentref.storage import CAS
from agentref.trees import Seals

__all__ = ["LlamaIndexAdapter"]


StateT = TypeVar("StateT", bound=AgentRefState)


class LlamaIndexAdapter(Generic[StateT]):
    """Keeps the large fields of an `AgentRefState` out of the contexts of LlamaIndex workflows.

        adapter = LlamaIndexAdapter(WorkflowState, backend=FilesystemCAS("./state_blobs"))

        @step
        async def retrieve(self, ctx: Context, ev: StartEvent) -> Retrieved:
            store = adapter.context_store(ctx.store)
            await store.set("docs", [...])          # the context gets a ref

    The context holds inline values and the wire forms of refs, both plain JSON, so that every serializer
    and every state store of LlamaIndex keeps it as it is, and `Context.to_dict` carries no payload. Equal
    values are kept once. A value that only looks like a ref is a value.

    Args:
        state_class: the fields.
        backend: where external values go, and come from.
        also: further stores that older contexts refer to; they are only read.
        inline_threshold_bytes: what an inline field may hold, as encoded.
        keys: secrets of 32 bytes. A context comes back from outside, and a hash in it is no authorization:
            each ref is sealed with the first key, and none is loaded that is not sealed with any of them.
        tenant: whose contexts these are, bound into the seals; needs keys.

    Thread-safe; one adapter serves any number of workflows. Raises `StateDefinitionError` for a class that
    LlamaIndex could not keep, `ConfigurationError` without a backend, `InvalidInputError` otherwise.
    """

    def __init__(  # noqa: PLR0913
        self,
        state_class: type[StateT],
        *,
        backend: CAS | None = None,
        also: Iterable[CAS] = (),
        inline_threshold_bytes: int = DEFAULT_INLINE_THRESHOLD_BYTES,
        keys: bytes | Sequence[bytes] = (),
        tenant: str = "",
    ) -> None:
        runtime = typed_runtime(
            "LlamaIndexAdapter",
            state_class,
            backend,
            also=also,
            inline_threshold_bytes=inline_threshold_bytes,
            pins=True,
        )
        self.state_class = state_class
        self._sealed_by: TreeOptions = {"keys": keys, "tenant": tenant} if keys else {}
        self._seals = Seals(keys, tenant)
        self._fields = Fields(state_class.schema(), runtime, inline_threshold_bytes, self._seals)
        self._checked: WeakSet[type[BaseModel]] = WeakSet()
        self.schema()

    @property
    def backend(self) -> CAS:
        """The store."""
        return self._fields.runtime.backend

    def schema(self) -> type[BaseModel]:
        """The pydantic model for `Context[...]`, and so for typed state; the same object at each call.

        `ctx.store` then refuses names that are no fields, `context_store` refuses inline values with which
        a saved context could not be read, they come back from JSON in their types, and external fields hold
        the wire form of a ref, or None. Without it (`Context` alone) the state is LlamaIndex's `DictState`.
        `context_store` works over both, and over a user's own model with the same fields, external ones
        annotated with `Any`; there nothing is checked.
        """
        return model_for(self.state_class)

    def context_store(self, store: StateStore[Any], *, owner: str | None = None) -> ContextStore[StateT]:
        """`ctx.store` with the fields of the state class. Costs nothing; make one in each step.

        Args:
            store: any state store of LlamaIndex: a context's in memory, a server's durable one.
            owner: pins what is written through it under this name, until `release`: a run, a user. What it
                wrote before stays too, so that every context that was saved can be read. Without, it lives
                as long as the store's default says. Of two tenants of one store, each has its own names.

        Raises `InvalidInputError` for what is no state store, `ConfigurationError` for one of a model
        without these fields, or for an owner where the backend keeps no pins.
        """
        self._fields.runtime.check_owner(owner)
        owner = owner if owner is None else self._seals.keeper(owner)
        given: Any = store  # whatever the type checker was told
        if isinstance(given, ContextStore) and given.is_over(self._fields):
            return given.of(owner)
        # LlamaIndex's own stores are told by their class: to ask a protocol takes ten times as long.
        if not isinstance(given, StateStoreFacade) and (
            isinstance(given, type) or not isinstance(given, StateStore)
        ):
            raise InvalidInputError(
                f"context_store() takes the state store of a context, `ctx.store`, not {store!r:.80}."
            )
        model = store.state_type
        if model not in self._checked:
            check_model(model, self._fields.schema)
            self._checked.add(model)
        return ContextStore(store, self._fields, self.state_class, owner)

    def release(self, owner: str) -> None:
        """Let go of all that was written for this owner. What nothing else keeps can be pruned."""
        self._fields.runtime.unpin([self._seals.keeper(owner)])

    async def arelease(self, owner: str) -> None:
        """`release` for the event loop."""
        await self._fields.runtime.aunpin([self._seals.keeper(owner)])

    def serializer(
        self, *, allowed_types: Iterable[type[Any] | str] | None = None, **options: Unpack[TreeOptions]
    ) -> AgentRefSerializer:
        """A serializer over this adapter's stores, for `Workflow(serializer=)`,
        `WorkflowServer(serializer=)` and `Context.to_dict(serializer=)`: for what else is large there,
        events above all. Takes what
        `AgentRefSerializer` does.
        """
        given: TreeOptions = {"also": self._fields.runtime.also, **self._sealed_by, **options}
        return AgentRefSerializer(self.backend, allowed_types=allowed_types, **given)

"""`LangGraphAdapter`: a typed state for LangGraph, whose large fields live in a store."""

from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any, overload

from langchain_core.runnables import Runnable
from langgraph.checkpoint.base import BaseCheckpointSaver

from agentref.adapters.langgraph.coherent import Coherence
from agentref.adapters.langgraph.fields import Fields
from agentref.adapters.langgraph.gate import Gate
from agentref.adapters.langgraph.hints import read_hints
from agentref.adapters.langgraph.hydrate import refs_in, with_values
from agentref.adapters.langgraph.nodes import Leave, wrapped_function, wrapped_runnable
from agentref.adapters.langgraph.saver import ExternalizingSaver, wrap
from agentref.adapters.langgraph.schema import graph_schema
from agentref.adapters.langgraph.updates import Translation
from agentref.adapters.langgraph.visit import Visit
from agentref.errors import InvalidInputError, StateDefinitionError
from agentref.runtime import Runtime, typed_runtime
from agentref.state import DEFAULT_INLINE_THRESHOLD_BYTES, AgentRefState
from agentref.storage import CAS

if TYPE_CHECKING:
    from agentref.coherence import Coordinator

__all__ = ["LangGraphAdapter"]


class LangGraphAdapter:
    """Builds LangGraph graphs whose state is an `AgentRefState`.

        adapter = LangGraphAdapter(RAGState, backend=FilesystemCAS("./state_blobs"))
        graph = StateGraph(adapter.schema())
        graph.add_node("retrieve", adapter.wrap_node(retrieve))
        graph.add_conditional_edges("retrieve", adapter.wrap_router(route))
        app = graph.compile(checkpointer=adapter.checkpointer(SqliteSaver(conn)))
        result = adapter.hydrate(app.invoke({"question": "..."}, config))

    In the graph, in its streams and snapshots an external field is a `ContentRef`; wrapped nodes and
    routers see values, loaded when first touched, and `hydrate` turns refs into values for everybody else.
    Equal values are kept once. A value that only looks like a ref is a value.

    Args:
        state_class: the fields.
        backend: where external values go, and come from.
        also: further stores that older threads refer to; they are only read.
        inline_threshold_bytes: what an inline field may hold, as encoded.

    Thread-safe; one adapter serves any number of graphs. Raises `StateDefinitionError` for a class that
    LangGraph could not keep, `ConfigurationError` without a backend, `InvalidInputError` otherwise.
    """

    def __init__(
        self,
        state_class: type[AgentRefState],
        *,
        backend: CAS | None = None,
        also: Iterable[CAS] = (),
        inline_threshold_bytes: int = DEFAULT_INLINE_THRESHOLD_BYTES,
    ) -> None:
        runtime = typed_runtime(
            "LangGraphAdapter",
            state_class,
            backend,
            also=also,
            inline_threshold_bytes=inline_threshold_bytes,
        )
        self.state_class = state_class
        self._also = runtime.also
        self._fields = Fields(state_class.schema(), runtime, inline_threshold_bytes)
        self._schemas: dict[type[AgentRefState], type[Any]] = {}
        self.schema()

    @property
    def backend(self) -> CAS:
        """The store."""
        return self._fields.runtime.backend

    def schema(self, state_class: type[AgentRefState] | None = None) -> type[Any]:
        """The TypedDict for `StateGraph`; the same object at each call.

        With a narrower state class: one with its fields only, for `input_schema` or `output_schema`.
        """
        wanted: Any = self.state_class if state_class is None else state_class
        if not (isinstance(wanted, type) and issubclass(wanted, AgentRefState)):
            raise StateDefinitionError(
                f"{wanted!r:.80} is no subclass of AgentRefState. Give schema() a narrower state class "
                f"than {self.state_class.__qualname__}, or nothing."
            )
        if wanted not in self._schemas:
            self._schemas.setdefault(wanted, graph_schema(wanted, self._fields))
        return self._schemas[wanted]

    def wrap_node(self, node: Any, *, prefetch: Collection[str] | None = None) -> Any:
        """A node for `add_node`, from a function, callable, generator, Runnable or compiled graph.

        It gets an instance of the `AgentRefState` that its first parameter is hinted with, or else a dict
        (`LazyState`). Hinted with a narrower class, it reads the fields of that class only. What it
        returns may be all that LangGraph takes, and a state object. A value that it changes in place is
        written back when it returns; with a reducer that is an `InPlaceMutationError`. Inline values are
        LangGraph's own business, except for what is set on a state object.

        External fields load when they are first touched, which blocks. On an event loop that is logged
        as a warning when it takes long: an async node should `await state.aload(...)` first, or say what
        it needs by `prefetch`, or by a narrower hint, whose external fields are all loaded ahead, in a
        thread, in one batch.

        Args:
            node: as for `add_node`.
            prefetch: external fields to load in one batch before the node runs.

        For what it returns the node raises `InlineSizeExceeded`, `UnsupportedTypeError`, `StorageError`.
        """
        return self._wrapped(node, self._external(prefetch), Visit.leave)

    @overload
    def node(self, node: Any, /) -> Any: ...
    @overload
    def node(self, /, *, prefetch: Collection[str]) -> Callable[[Any], Any]: ...
    def node(self, node: Any = None, /, *, prefetch: Collection[str] | None = None) -> Any:
        """`wrap_node` as a decorator: `@adapter.node` or `@adapter.node(prefetch=[...])`."""
        if node is None:
            return lambda decorated: self.wrap_node(decorated, prefetch=prefetch)
        return self.wrap_node(node, prefetch=prefetch)

    def wrap_router(self, router: Any) -> Any:
        """A function for `add_conditional_edges` that gets the state as a wrapped node does.

        What it sends to nodes is kept by ref where the state does so. It cannot write: changing a value in
        place is an `InPlaceMutationError`.
        """
        return self._wrapped(router, None, Visit.leave_router)

    def checkpointer(
        self,
        saver: BaseCheckpointSaver[Any],
        *,
        inline_threshold_bytes: int = 2048,
        coordinator: "Coordinator | None" = None,
        worker: str | None = None,
        writer_lease: float | None = None,
    ) -> ExternalizingSaver:
        """`externalize(saver, ...)` for graphs of this adapter's schema, with its arguments.

        It also keeps what comes in from outside by the rules of the fields: inputs, `update_state`, nodes
        that are not wrapped. External values become refs whatever their size, and an inline value over the
        adapter's limit is `InlineSizeExceeded` before anything is stored. Other values, and subgraphs, are
        as with `externalize`, whose threshold `inline_threshold_bytes` is.

        Each checkpoint pins the refs in it, as with `externalize`. So from the first call on, what the
        adapter stores lives for a day unless it is pinned, and a node that runs in a graph with another
        saver is a `ConfigurationError`.
        """
        runtime = Runtime(
            self.backend, also=self._also, inline_threshold_bytes=inline_threshold_bytes, pins=True
        )
        coherence = Coherence(coordinator, worker=worker, writer_lease=writer_lease)
        checkpointer = wrap(saver, runtime, coherence, Gate(self._fields))
        if runtime.pins:
            self._fields.life.lease()
        return checkpointer

    def externalize(self, values: Any) -> Any:
        """A graph's input or update with refs for its external values: then no checkpointer sees them.

        Takes what a node may return. Raises as a node does.
        """
        translation = Translation(self._fields)
        result = translation.result(values)
        translation.batch.store()
        return result

    async def aexternalize(self, values: Any) -> Any:
        """`externalize` for the event loop."""
        translation = Translation(self._fields)
        result = translation.result(values)
        await translation.batch.astore()
        return result

    def hydrate(self, shown: Any) -> Any:
        """What `invoke`, `stream` or `get_state` shows, with values in place of refs, in one batch.

        Takes dicts, lists, tuples and snapshots, nested at will; changes none of them. Raises
        `BlobNotFoundError`, `IntegrityError` or `UnknownBackendError`, naming the ref.
        """
        return with_values(shown, iter(self._fields.runtime.load_many(list(refs_in(shown)))))

    async def ahydrate(self, shown: Any) -> Any:
        """`hydrate` for the event loop."""
        return with_values(shown, iter(await self._fields.runtime.aload_many(list(refs_in(shown)))))

    def _wrapped(self, node: Any, prefetch: Collection[str] | None, leave: Leave) -> Any:
        if isinstance(node, Runnable):
            return wrapped_runnable(node, self._fields, prefetch, leave)
        if not callable(node):
            raise InvalidInputError(f"A node is a function or a Runnable, not {node!r:.80}.")
        hints = read_hints(node, self._fields, self.state_class, self.schema)
        return wrapped_function(node, hints, self._fields, prefetch, leave)

    def _external(self, names: Collection[str] | None) -> Collection[str] | None:
        if names is None:
            return None
        if isinstance(names, (str, bytes)) or not isinstance(names, Iterable):
            raise InvalidInputError(
                f"prefetch must be a list of fields, prefetch=['docs'], not {names!r:.80}."
            )
        names = tuple(names)
        for name in names:
            if self._fields.schema[name].name not in self._fields.external:
                raise InvalidInputError(f"{name!r} is inline, so there is nothing to prefetch.")
        return names

"""One run of one node: what it gets, and what becomes of what it returns and of what it changed."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from agentref.adapters.langgraph.fields import Batch, Fields
from agentref.adapters.langgraph.lazy import LazyState, LoadedStore, Loads
from agentref.adapters.langgraph.updates import Translation, amended
from agentref.errors import InPlaceMutationError
from agentref.refs import ContentRef
from agentref.state import AgentRefState

__all__ = ["NodePlan", "Visit"]

_ABSENT = object()


class NodePlan(NamedTuple):
    """How a node is to be called.

    Attributes:
        fields: those of the graph's state.
        name: for messages.
        state_class: what the node wants to get; a dict if None.
        prefetch: fields to load before the node runs; all that it is given if None.
    """

    fields: Fields
    name: str
    state_class: type[AgentRefState] | None
    prefetch: Collection[str] | None


class Visit:
    """One run of a node. `state` is what to call it with.

    What the node changes in place in an external value that it loaded is written back, also what it sets
    on an `AgentRefState`. With a reducer that cannot be: it is an `InPlaceMutationError`. An update that
    the node returns for such a field counts instead of the change.
    """

    def __init__(self, plan: NodePlan, given: Any) -> None:
        self.plan = plan
        self.state = given
        self._loads = Loads(plan.fields, plan.name, given if isinstance(given, dict) else {})
        self._before: dict[str, Any] = {}
        if not isinstance(given, dict):
            return
        given = {**given, **self._loads.origins}
        if plan.state_class is None:
            self.state = LazyState(self._loads, given)
        else:
            self.state = self._typed_state(plan.state_class, given)

    @property
    def prefetch(self) -> Collection[str]:
        """The fields to load before the node runs."""
        return self._loads.origins if self.plan.prefetch is None else self.plan.prefetch

    def load(self) -> None:
        """Load what is to be there before the node runs."""
        self._loads.load(self.prefetch)

    async def aload(self) -> None:
        """`load` for the event loop."""
        await self._loads.aload(self.prefetch)

    def leave(self, result: Any) -> tuple[Any, Batch]:
        """What LangGraph gets for what the node returned, and what must be stored before."""
        translation = Translation(self.plan.fields)
        if result is self.state and isinstance(result, AgentRefState):
            result = self._assigned()
        translated = translation.result(result)
        extra = {}
        for name, value in self._changes(translation.written).items():
            self._refuse_reduced(name)
            extra[name] = translation.value(name, value)
        return amended(translated, extra, self.plan.name), translation.batch

    def leave_router(self, result: Any) -> tuple[Any, Batch]:
        """The same for a function that only chooses what runs next."""
        if changed := self._changes(frozenset()):
            raise InPlaceMutationError(
                f"Router {self.plan.name!r} changed {', '.join(changed)}, but a router cannot write to the "
                f"state. Copy the value first, or change it in a node."
            )
        translation = Translation(self.plan.fields)
        return translation.route(result), translation.batch

    def _typed_state(self, state_class: type[AgentRefState], given: Mapping[str, Any]) -> AgentRefState:
        loads = self._loads
        held = [name for name, origin in loads.origins.items() if type(origin) is not ContentRef]
        loads.load(held)
        state = state_class.from_checkpoint_dict(
            {**given, **{name: loads.values[name] for name in held}}, LoadedStore(loads)
        )
        unloaded = state.refs()
        self._before = {name: state[name] for name in state if name not in unloaded}
        return state

    def _assigned(self) -> dict[str, Any]:
        """What the node set on the state object that it got."""
        state = self.state
        if not isinstance(state, AgentRefState):
            return {}
        unloaded = state.refs()
        before = self._before | self._loads.values
        return {
            name: state[name]
            for name in state
            if name not in unloaded and state[name] is not before.get(name, _ABSENT)
        }

    def _changes(self, written: Collection[str]) -> dict[str, Any]:
        changed = {name: self._loads.values[name] for name in self._loads.changed(written)}
        return changed | {name: value for name, value in self._assigned().items() if name not in written}

    def _refuse_reduced(self, name: str) -> None:
        kind = self.plan.fields.kinds[name]
        if kind.reducer is not None or kind.is_foreign:
            raise InPlaceMutationError(
                f"Node {self.plan.name!r} changed {name!r} without returning it, and the field has a "
                f"reducer, which takes what is new and not the whole. Return {{{name!r}: the new items}}, "
                f"or {{{name!r}: Overwrite(the whole value)}}."
            )

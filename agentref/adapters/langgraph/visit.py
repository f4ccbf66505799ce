"""One run of one node: what it gets, and what becomes of what it returns and of what it changed."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from langgraph._internal._constants import PUSH
from langgraph.config import get_config

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
    """One run of a node. `state` is what to call it with, `prefetch` the fields to load before.

    What the node changes in place in an external value that it loaded is written back, also what it sets
    on an `AgentRefState`. With a reducer that cannot be: it is an `InPlaceMutationError`, unless the node
    overwrites the field. Without one, an update that the node returns counts instead of the change. What
    came by a `Send` is the node's own and no part of the state: nothing of it is written back.
    """

    def __init__(self, plan: NodePlan, given: Any) -> None:
        plan.fields.life.check()
        self.plan = plan
        self.state = given
        self._loads = Loads(plan.fields, plan.name, given if isinstance(given, dict) else {})
        self._before: dict[str, Any] = {}
        self.prefetch = self._loads.origins if plan.prefetch is None else plan.prefetch
        if not isinstance(given, dict):
            return
        if plan.state_class is None:
            self.state = LazyState(self._loads, given)
        else:
            self.state = self._typed_state(plan.state_class, given)

    def load(self) -> None:
        """Load what is to be there before the node runs."""
        self._loads.load(self.prefetch)

    async def aload(self) -> None:
        """`load` for the event loop."""
        await self._loads.aload(self.prefetch)

    def leave(self, result: Any) -> tuple[Any, Batch | None]:
        """What LangGraph gets for what the node returned, and what must be stored before."""
        fields = self.plan.fields
        is_unchanged = not self._loads.values and not isinstance(self.state, AgentRefState)
        if is_unchanged and type(result) is dict and fields.all_fit(result):
            return result, None
        translation = Translation(fields)
        if result is self.state and isinstance(result, AgentRefState):
            result = self._assigned()
        translated = translation.result(result)
        if is_unchanged:  # what was not loaded
            return translated, translation.batch
        extra = {}
        for name, value in self._changes(self._settled(translation), translation.written).items():
            self._refuse_reduced(name)
            extra[name] = translation.value(name, value)
        return amended(translated, extra, self.plan.name), translation.batch

    def leave_router(self, result: Any) -> tuple[Any, Batch | None]:
        """The same for a function that only chooses what runs next."""
        if changed := self._changes((), ()):
            raise InPlaceMutationError(
                f"Router {self.plan.name!r} changed {', '.join(changed)}, but a router cannot write to the "
                f"state. Copy the value first, or change it in a node."
            )
        translation = Translation(self.plan.fields)
        return translation.route(result), translation.batch

    def _typed_state(self, state_class: type[AgentRefState], given: Mapping[str, Any]) -> AgentRefState:
        loads = self._loads
        loads.origins = LoadedStore.told_apart(loads.origins)
        held = [name for name, origin in loads.origins.items() if type(origin) is not ContentRef]
        loads.load(held)
        state = state_class.from_checkpoint_dict(
            {**given, **loads.origins, **{name: loads.values[name] for name in held}}, LoadedStore(loads)
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

    def _settled(self, translation: Translation) -> Collection[str]:
        """The fields of which a change in place does not matter any more."""
        if _came_by_send():
            if assigned := self._assigned().keys() - translation.written:
                raise InPlaceMutationError(
                    f"Node {self.plan.name!r} set {', '.join(sorted(assigned))} on what it got by a Send, "
                    f"which is no part of the state. Return what is to be written."
                )
            return self.plan.fields.kinds
        reduced = {name for name in translation.written if self._is_reduced(name)}
        return translation.written - (reduced - translation.overwritten)

    def _is_reduced(self, name: str) -> bool:
        kind = self.plan.fields.kinds.get(name)
        return kind is not None and (kind.reducer is not None or kind.is_foreign)

    def _changes(self, settled: Collection[str], written: Collection[str]) -> dict[str, Any]:
        """What was changed in place, except for settled fields, or set, except for written ones."""
        changed = {name: self._loads.values[name] for name in self._loads.changed(settled)}
        return changed | {name: value for name, value in self._assigned().items() if name not in written}

    def _refuse_reduced(self, name: str) -> None:
        if self._is_reduced(name):
            raise InPlaceMutationError(
                f"Node {self.plan.name!r} changed {name!r} in place, and the field has a reducer, which "
                f"takes what is new and not the whole. Leave what was loaded as it is and return "
                f"{{{name!r}: the new items}}, or return {{{name!r}: Overwrite(the whole value)}}."
            )


def _came_by_send() -> bool:
    try:
        metadata = get_config().get("metadata") or {}
    except RuntimeError:  # called outside of a graph
        return False
    path = metadata.get("langgraph_path") or ("",)
    return bool(path[0] == PUSH)

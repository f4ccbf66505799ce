"""Channels that keep the promises of a state's fields, whichever way a value comes in.

Inputs, nodes, commands, subgraphs and `update_state` all end in `update` of a channel. An external field
holds its ref, and the value is dropped. An inline field refuses to put what is too large into a checkpoint:
only there, so that a thread with such a write pending can still be read, and mended by `update_state`. In
all other ways they are LangGraph's own LastValue and BinaryOperatorAggregate.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, Self

from langgraph._internal._typing import MISSING
from langgraph.channels.base import BaseChannel
from langgraph.channels.binop import BinaryOperatorAggregate, _get_overwrite, _operators_equal
from langgraph.channels.last_value import LastValue
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.errors import EmptyChannelError
from langgraph.types import Overwrite

from agentref.adapters.langgraph.fields import Batch, Fields
from agentref.adapters.langgraph.life import Held
from agentref.codecs import surely_fits
from agentref.refs import ContentRef
from agentref.state import Field, Placement

__all__ = ["ExternalChannel", "channel_for"]

Reducer = Callable[[Any, Any], Any]


def channel_for(declared: Field, fields: Fields) -> BaseChannel[Any, Any, Any]:
    """The channel for a field that does not bring its own."""
    reducer = fields.kinds[declared.name].reducer
    if declared.placement is Placement.EXTERNALIZED:
        return ExternalChannel(declared, fields, reducer)
    return InlineValue(declared, fields) if reducer is None else InlineAggregate(declared, fields, reducer)


class ExternalChannel(BaseChannel[Any, Any, Any]):
    """Holds the ref of a value that is kept in the store.

    Without a reducer it takes one write a step, as LastValue. With one, the writes of a step are folded as
    in BinaryOperatorAggregate: the current value and all operands are loaded in one batch, the result is
    stored once. Like all reducers of LangGraph, that runs on the event loop of an async graph.

    What was never written is the field's default, or what LangGraph would start the reducer with. That,
    and a value from before the field was externalized, stands here itself until it is next written.
    """

    def __init__(self, declared: Field, fields: Fields, reducer: Reducer | None) -> None:
        super().__init__(declared.type, declared.name)
        self.declared = declared
        self.fields = fields
        self.reducer = reducer
        self.value = _initial(declared, reducer)
        self._held = Held(fields.life, fields.runtime)

    def __eq__(self, other: object) -> bool:
        # The same field, declared again by a narrower schema. One without a marker has LangGraph's channel.
        if isinstance(other, BinaryOperatorAggregate):
            return self.reducer is not None and _operators_equal(self.reducer, other.operator)
        return isinstance(other, ExternalChannel) and (
            (self.key, self.reducer, self.fields.runtime.backend.backend_id)
            == (other.key, other.reducer, other.fields.runtime.backend.backend_id)
        )

    __hash__ = None  # type: ignore[assignment]

    @property
    def ValueType(self) -> Any:  # noqa: N802  (the interface's own name)
        """What strict serializers must be able to construct."""
        return ContentRef

    @property
    def UpdateType(self) -> Any:  # noqa: N802
        """The declared type."""
        return self.typ

    def copy(self) -> Self:
        """A channel with the same ref."""
        twin = type(self).__new__(type(self))  # LangGraph makes one at each step
        twin.key, twin.typ, twin.value = self.key, self.typ, self.value
        twin.declared, twin.fields = self.declared, self.fields
        twin.reducer, twin._held = self.reducer, self._held  # noqa: SLF001
        return twin

    def from_checkpoint(self, checkpoint: Any) -> Self:
        """The channel of a checkpoint. Reads nothing from the store."""
        twin = type(self)(self.declared, self.fields, self.reducer)
        if checkpoint is not MISSING:
            twin.value = _without_snapshot(checkpoint)
        return twin

    def get(self) -> Any:
        """The ref, or what stands here itself."""
        if self.value is MISSING:
            raise EmptyChannelError
        return self.value

    def is_available(self) -> bool:
        """Whether there is a value, written or initial."""
        return self.value is not MISSING

    def update(self, values: Sequence[Any]) -> bool:
        """Take the writes of one step. What is not a ref yet is stored, durably, before this returns."""
        if not values:  # a step without a write to this field
            if time.monotonic() > self._held.due:
                self._held.renew(self.value)
            return False
        batch = Batch(self.fields)
        self.value = batch.ref(self.key, self._folded(values))
        batch.store()
        self._held = Held(self.fields.life, self.fields.runtime)
        return True

    def _folded(self, values: Sequence[Any]) -> Any:
        if self.reducer is None:
            LastValue(self.typ, self.key).update(values)  # refuses two writes in LangGraph's own words
            return values[0].value if isinstance(values[0], Overwrite) else values[0]
        aggregate = BinaryOperatorAggregate(self.typ, self.reducer)
        aggregate.key = self.key
        overwriting = [value for value in values if _get_overwrite(value)[0]]
        if overwriting:  # it wins over all else, so that nothing has to be loaded
            aggregate.value = None
            aggregate.update(overwriting)
        else:
            known = [] if self.value is MISSING else [self.value]
            aggregate.value, *operands = self.fields.load([*known, *values])
            aggregate.update(operands)
        return aggregate.value


class InlineValue(LastValue[Any]):
    """LastValue with the field's default, that does not carry what is too large."""

    def __init__(self, declared: Field, fields: Fields) -> None:
        super().__init__(declared.type, declared.name)
        self.declared = declared
        self.fields = fields
        self.value = _initial(declared, None)

    def copy(self) -> Self:
        """A channel with the same value."""
        twin = type(self).__new__(type(self))
        twin.key, twin.typ, twin.value = self.key, self.typ, self.value
        twin.declared, twin.fields = self.declared, self.fields
        return twin

    def from_checkpoint(self, checkpoint: Any) -> Self:
        """The channel of a checkpoint."""
        twin = type(self)(self.declared, self.fields)
        if checkpoint is not MISSING:
            twin.value = checkpoint
        return twin

    def checkpoint(self) -> Any:
        """What the checkpoint carries. Raises `InlineSizeExceeded`."""
        value = self.value
        if surely_fits(value, self.fields.inline_limit):  # mostly
            return value
        return self.fields.checked(self.key, value)


class InlineAggregate(BinaryOperatorAggregate[Any]):
    """BinaryOperatorAggregate with the field's default, that does not carry what is too large."""

    def __init__(self, declared: Field, fields: Fields, reducer: Reducer) -> None:
        super().__init__(declared.type, reducer)
        self.key = declared.name
        self.declared = declared
        self.fields = fields
        self.value = _initial(declared, reducer)

    def copy(self) -> Self:
        """A channel with the same value."""
        twin = type(self)(self.declared, self.fields, self.operator)
        twin.value = self.value
        return twin

    def from_checkpoint(self, checkpoint: Any) -> Self:
        """The channel of a checkpoint."""
        twin = type(self)(self.declared, self.fields, self.operator)
        if checkpoint is not MISSING:
            twin.value = _without_snapshot(checkpoint)
        return twin

    def checkpoint(self) -> Any:
        """What the checkpoint carries. Raises `InlineSizeExceeded`."""
        return self.fields.checked(self.key, self.value)


def _initial(declared: Field, reducer: Reducer | None) -> Any:
    if declared.default_factory is not None:
        return declared.default_factory()
    return MISSING if reducer is None else BinaryOperatorAggregate(declared.type, reducer).value


def _without_snapshot(checkpoint: Any) -> Any:
    """The value, also from when the field was a DeltaChannel."""
    return checkpoint.value if isinstance(checkpoint, _DeltaSnapshot) else checkpoint

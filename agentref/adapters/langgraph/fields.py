"""The fields of a state class with the store behind them: what may stay inline, and what becomes a ref."""

from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Any, Final

from langgraph._internal._serde import build_serde_allowlist
from langgraph._internal._typing import MISSING
from langgraph.channels.binop import _get_overwrite
from langgraph.checkpoint.serde import jsonplus
from langgraph.types import Overwrite

from agentref.adapters.langgraph.kinds import ChannelKind, kind_of
from agentref.adapters.langgraph.life import Life
from agentref.adapters.langgraph.serde import codec_for
from agentref.codecs import name_error, surely_fits
from agentref.errors import AgentRefError, InlineSizeExceeded, UnsupportedTypeError, UntrustedTypeError
from agentref.refs import ContentRef
from agentref.runtime import Outgoing, Runtime
from agentref.state import Schema

__all__ = ["Batch", "Fields"]

# LangGraph logs a warning for each type that it meets in a checkpoint and does not know.
_warned: set[tuple[str, str]] = getattr(jsonplus, "_warned_unregistered_types", set())
_warned.add((ContentRef.__module__, ContentRef.__name__))

_REF_ATTRIBUTES: Final = frozenset(ContentRef.__dataclass_fields__)


class Fields:
    """What a state class declares, and the runtime that keeps it. Thread-safe.

    Attributes:
        schema: the declared fields.
        kinds: how LangGraph is to treat each of them.
        external: those whose values are kept in the store.
        runtime: the stores. Under LANGGRAPH_STRICT_MSGPACK they construct what the schema names, only.
        life: how long what is stored here lives.
        inline_limit: what an inline field may hold, in bytes as encoded.
        limits: that limit for each field that is held to it, and -1 for external ones.
    """

    def __init__(self, schema: Schema, runtime: Runtime, inline_limit: int) -> None:
        self.schema = schema
        self.kinds: Mapping[str, ChannelKind] = {name: kind_of(schema, name) for name in schema.fields}
        self.external = schema.external
        self.inline_limit = inline_limit
        self.limits = {
            name: -1 if name in self.external else inline_limit
            for name, kind in self.kinds.items()
            if kind.is_checked or name in self.external
        }
        serde = jsonplus.JsonPlusSerializer()
        allowed = build_serde_allowlist(schemas=[each.type for each in schema.fields.values()])
        strict = serde.with_msgpack_allowlist(allowed)
        self.runtime = runtime if strict is serde else runtime.with_codec(codec_for(strict))
        self.life = Life(self.runtime)
        # An inline value is the serializer's: it may be of a type that only that one knows.
        self._meter = runtime.backend.with_codec(codec_for(strict))

    def checked(self, name: str, value: Any) -> Any:
        """The value, unless it is too large for an inline field: `InlineSizeExceeded`.

        Fields with a channel of their own (UntrackedValue, DeltaChannel...) are left to that channel.
        """
        if not self.kinds[name].is_checked or value is MISSING:
            return value
        if surely_fits(value, self.inline_limit):
            return value
        overwrites, overwritten = _get_overwrite(value)
        try:
            size = self._meter.size_of(overwritten if overwrites else value)
        except UnsupportedTypeError:
            return value  # nor does it get into a checkpoint: whatever writes that will say so
        except AgentRefError as error:
            name_error(error, [self.qualified(name)])
            raise
        if size > self.inline_limit:
            raise InlineSizeExceeded(name, size, self.inline_limit)
        return value

    def all_fit(self, update: Mapping[str, Any]) -> bool:
        """Whether all writes stay as they are, as far as a look tells: False may mean either."""
        limits = self.limits
        for name, value in update.items():
            limit = limits.get(name)
            if limit is not None and not surely_fits(value, limit):
                return False
        return True

    def qualified(self, name: str) -> str:
        """What errors call a field."""
        return f"{self.schema.name}.{name}"

    @contextmanager
    def naming(self, names: Iterable[str]) -> Generator[None]:
        """Add to what the store has to say the names of the fields, or in front that of the one field."""
        try:
            yield
        except AgentRefError as error:
            if not name_error(error, [self.qualified(name) for name in names]):
                error.add_note(f"In field {', '.join(names)} of the graph's state.")
            raise

    def load(self, values: Iterable[Any]) -> list[Any]:
        """The values, with what each ref names in its place, also in an `Overwrite`; in one batch."""
        values = list(values)
        bare = [value.value if isinstance(value, Overwrite) else value for value in values]
        loaded = iter(self.runtime.load_many([each for each in bare if type(each) is ContentRef]))
        whole = [next(loaded) if type(each) is ContentRef else each for each in bare]
        return [
            Overwrite(new) if isinstance(old, Overwrite) else new
            for old, new in zip(values, whole, strict=True)
        ]


class Batch:
    """Values on their way to the store: named at once, made durable together. For one thread."""

    def __init__(self, fields: Fields) -> None:
        self._fields = fields
        self._runtime = fields.runtime
        self.pending = Outgoing([], [])

    def ref(self, name: str, value: Any) -> ContentRef:
        """The name of an external field's value. A `ContentRef` is trusted to be one of ours.

        A dict that looks like a ref is a value like any other: only this class of objects names content.
        """
        if type(value) is ContentRef:
            return value
        if (
            isinstance(value, dict)
            and value.keys() == _REF_ATTRIBUTES
            and isinstance(value["digest"], bytes)
        ):
            raise UntrustedTypeError(
                f"The ref in field {name!r} came back as plain data: the serializer that kept it may not "
                f"construct ContentRef. Give that checkpointer or cache "
                f"serde=JsonPlusSerializer(allowed_msgpack_modules=[('agentref.refs', 'ContentRef')])."
            )
        with self._fields.naming([name]):
            encoded = self._runtime.backend.encode([value])
        self.pending.refs.extend(encoded.refs)
        self.pending.encoded.append(encoded)
        return encoded.refs[0]

    def operand(self, name: str, value: Any) -> Any:
        """What is written to an external field: a ref, or the command to overwrite with one."""
        overwrites, overwritten = _get_overwrite(value)
        return Overwrite(self.ref(name, overwritten)) if overwrites else self.ref(name, value)

    def store(self) -> None:
        """Make everything that was named durable."""
        self._runtime.store(self.pending, ttl=self._fields.life.seconds)

    async def astore(self) -> None:
        """`store` for the event loop."""
        await self._runtime.astore(self.pending, ttl=self._fields.life.seconds)

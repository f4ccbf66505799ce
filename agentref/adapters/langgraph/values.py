"""Where refs stand in a checkpoint, and how user data that looks like one is told apart.

A ref takes the place of a whole channel value or of a whole pending write, never of a part of one:
so only those places are ever read as refs. What stands there in its own right and merely looks like
a ref is put into an envelope under the same reserved key. So is a `ContentRef` that is itself the value,
as in typed state: it comes back as a `ContentRef`.

What a thread holds from before it was wrapped, and has exactly one of these forms, is taken for ours. A
mark on what this package wrote could not tell them apart: a checkpoint has room for one (a key of its own),
but a pending write is a channel and a value, nothing else, and hangs on a checkpoint that another saver may
have written; the walk of a DeltaChannel hands out writes and seeds without their checkpoints; metadata is
shown to users and filtered by; one more write for a mark would be seen by savers that count or copy them.
A form that only the store could have made (a MAC) would turn a damaged ref into user data, in silence.
"""

from collections.abc import Sequence
from typing import Any, Final

from langgraph.checkpoint.serde.types import _DeltaSnapshot

from agentref.refs import REF_KEY, ContentRef

__all__ = ["handed_on", "inner_value", "place", "placed_ref", "unplaced"]

_PLACED: Final = "placed"
_ENVELOPE: Final = "value"
_REF: Final = "ref"


def inner_value(value: object) -> object:
    """What of a value may be replaced: all of it, or what a snapshot of a DeltaChannel holds.

    Savers look for the snapshot itself (it ends a walk, and marks threads that must not be pruned),
    so it stays where it is. Of a ref there is nothing to replace.
    """
    if type(value) is ContentRef:
        return None
    return value.value if type(value) is _DeltaSnapshot else value


def place(value: Any, ref: ContentRef | None) -> Any:
    """What the checkpoint carries for `value`: its ref if it has one, else the value itself."""
    if type(value) is _DeltaSnapshot:
        return _DeltaSnapshot(place(value.value, ref))
    if ref is not None:
        return ref.to_dict()
    if type(value) is ContentRef:
        return {REF_KEY: {_REF: value.to_dict()[REF_KEY]}}
    return {REF_KEY: {_ENVELOPE: value}} if _looks_placed(value) else value


def placed_ref(value: Any) -> ContentRef | None:
    """The ref whose value belongs there, if there is one.

    Raises `InvalidRefError` or `InvalidDigestError` for a ref of any kind that is damaged.
    """
    kind, body = _placed(inner_value(value))
    if kind == _REF:
        ContentRef.from_dict({REF_KEY: body})
    return ContentRef.from_dict({REF_KEY: body}) if kind == _PLACED else None


def handed_on(value: Any, backend_id: str) -> tuple[bool, bool]:
    """Whether what stands there may stand in the next checkpoint, too, and whether it stands for a value.

    A value of an older store is not handed on: with time, all of a thread moves to the new one. A ref that
    is itself the value is.
    """
    kind, _ = _placed(inner_value(value))
    if kind == _REF:
        return True, False
    ref = placed_ref(value)
    return ref is not None and ref.backend_id == backend_id, True


def unplaced(value: Any, loaded: Sequence[object]) -> Any:
    """The user's value: what was loaded for its ref (one item, or none), or what the envelope holds."""
    if type(value) is _DeltaSnapshot:
        return _DeltaSnapshot(unplaced(value.value, loaded))
    if loaded:
        return loaded[0]
    kind, body = _placed(value)
    if kind == _REF:
        return ContentRef.from_dict({REF_KEY: body})
    return body if kind == _ENVELOPE else value


def _looks_placed(value: object) -> bool:
    return isinstance(value, dict) and len(value) == 1 and REF_KEY in value


def _placed(value: Any) -> tuple[str, Any]:
    """What stands there: a ref, an envelope and what is in it, or nothing of ours. A thread from before
    may hold anything under our key; only the three forms that are ever written are read."""
    if not _looks_placed(value):
        return "", None
    body = value[REF_KEY]
    if isinstance(body, list):
        return _PLACED, body
    if isinstance(body, dict) and len(body) == 1:
        ((kind, inner),) = body.items()
        if kind in {_ENVELOPE, _REF}:
            return kind, inner
    return "", None

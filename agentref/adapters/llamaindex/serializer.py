"""`AgentRefSerializer`: a serializer of workflows that puts refs in place of what is large."""

import json
from collections.abc import Iterable
from typing import Any, Final, Unpack

from pydantic import BaseModel
from workflows.context.serializers import JsonSerializer
from workflows.context.utils import get_qualified_name

from agentref.adapters.llamaindex.dumping import dumped_with_bytes, holds_bytes
from agentref.adapters.llamaindex.envelopes import closed, opened
from agentref.adapters.llamaindex.options import TreeOptions, externalizer_of
from agentref.errors import AgentRefError, InvalidInputError
from agentref.storage import CAS
from agentref.trees import Externalizer

__all__ = ["AgentRefSerializer"]

_VERSION: Final = 1
_MARK: Final = "agentref_value"
_TREE: Final = "tree"


class AgentRefSerializer(JsonSerializer):
    """LlamaIndex's `JsonSerializer`, with refs in place of large texts, bytes and lists.

        serializer = AgentRefSerializer(FilesystemCAS("./state_blobs"))
        saved = ctx.to_dict(serializer=serializer)
        ctx = Context.from_dict(workflow, saved, serializer=serializer)

    For state, events and pydantic models alike, with no change to the workflow. Bytes of any size are
    accepted and come back as bytes, except within events that a tick or queue carries, which LlamaIndex
    dumps on its own: there they must be UTF-8, as without agentref, and become a text in a field that is
    not declared as bytes. Names of classes are never externalized, so that `allowed_types` holds as before.
    A text that holds refs is marked; any other is what `JsonSerializer` writes, and is read as that reads
    it, so that nothing in it is taken for a ref.

    It is called on the event loop and waits for the store there. Over a store on the network use
    `AgentRefStateStorage` or `AgentRefWorkflowStore`, which do not.

    Only what is serialized to text is externalized; the trees that LlamaIndex makes for JSON patches of a
    state (`state_checkpoint()`) are addressed by their structure and stay as they are.

    Args:
        backend: where large values go and come from; or an `Externalizer`.
        allowed_types: as for `JsonSerializer`.
        **options: settings of an `Externalizer`: `threshold_bytes`, `keys`, `tenant`, ...

    Thread-safe. `serialize` raises `InvalidInputError`, a `ValueError`, for what is not JSON, and
    `StorageError`; `deserialize` what `Externalizer.rehydrate` does.
    """

    def __init__(
        self,
        backend: CAS | Externalizer | None = None,
        *,
        allowed_types: Iterable[type[Any] | str] | None = None,
        **options: Unpack[TreeOptions],
    ) -> None:
        super().__init__(allowed_types=allowed_types)
        self._externalizer = externalizer_of(type(self).__name__, backend, options)

    @property
    def externalizer(self) -> Externalizer:
        """What it externalizes with."""
        return self._externalizer

    def with_types(self, *classes: type[Any]) -> "AgentRefSerializer":
        """A serializer that also resolves these classes, and externalizes as this one does."""
        wider = super().with_types(*classes)
        if wider is self:
            return self
        clone = object.__new__(type(self))
        clone.__dict__.update(self.__dict__)
        clone.__dict__.update(wider.__dict__)  # the other one's type is lost, its types are what counts
        return clone

    def resolve_class(self, qualified_name: str) -> type[Any]:
        """The class of that name, as in LlamaIndex. `InvalidInputError` for what is no name."""
        if not isinstance(qualified_name, str):
            raise InvalidInputError(
                f"{qualified_name!r:.80} is no name of a class. What is to be deserialized was edited."
            )
        return super().resolve_class(qualified_name)

    def serialize(self, value: Any) -> str:
        """A value as JSON text, once all that is large in it is stored."""
        try:
            tree = (_trees if holds_bytes(value) else self).serialize_value(value)
            trees = opened(tree)
            shrunk = self._externalizer.externalize(trees, all_bytes=True)
            if shrunk is trees and not _is_marked(tree):
                return json.dumps(tree)
            return json.dumps({_MARK: _VERSION, _TREE: closed(shrunk)})
        except AgentRefError:
            raise
        except (TypeError, ValueError, RecursionError, AttributeError) as error:
            # Not the value itself, as LlamaIndex has it: it may be megabytes, and secret.
            raise InvalidInputError(f"Failed to serialize value: {type(value)}: {error}") from error

    def deserialize(self, value: str) -> Any:
        """The value of a text that `serialize` returned, or that of a `JsonSerializer`."""
        try:
            tree = json.loads(value)
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidInputError(
                f"What is to be deserialized is no JSON, or not all of it: {error}"
            ) from error
        if _is_marked(tree):
            tree = closed(self._externalizer.rehydrate(opened(_unmarked(tree))))
        try:
            return self.deserialize_value(tree)
        except AgentRefError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, ImportError, RecursionError) as error:
            raise InvalidInputError(
                f"What is to be deserialized cannot be made an object again: {type(error).__name__}: "
                f"{error!s:.400}"
            ) from error


def _is_marked(tree: Any) -> bool:
    return isinstance(tree, dict) and _MARK in tree


def _unmarked(tree: dict[str, Any]) -> Any:
    if tree.keys() != {_MARK, _TREE} or tree[_MARK] != _VERSION:
        raise InvalidInputError(
            f"What is to be deserialized is marked as agentref's and is none of version {_VERSION}: "
            f"{tree!r:.80}. It was edited, or written by a newer agentref."
        )
    return tree[_TREE]


class _Trees(JsonSerializer):
    """JSON trees, but for bytes in them."""

    def serialize_value(self, value: Any) -> Any:
        if isinstance(value, BaseModel) and not hasattr(value, "class_name") and holds_bytes(value):
            return {
                "__is_pydantic": True,
                "value": dumped_with_bytes(value),
                "qualified_name": get_qualified_name(value),
            }
        return super().serialize_value(value)


_trees = _Trees()

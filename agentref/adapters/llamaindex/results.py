"""What a workflow returned, as a store of llama-agents-server keeps it: a `StopEvent` with refs in it.

Or what it raised: a text, or one that stands for it.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from llama_agents.server import PersistentHandler
from workflows.context.serializers import JsonSerializer
from workflows.events import StopEvent

from agentref.adapters.llamaindex.stored import Stored
from agentref.errors import AgentRefError, StorageError

__all__ = ["shrunk_handler", "whole_handlers"]

_log: Final = logging.getLogger("agentref.adapters.llamaindex")
_Read = Callable[[Sequence[Any]], Awaitable[list[Any]]]

_GONE: Final = object()
_LOST: Final = "What the run raised was kept in the content store, and cannot be read: see the log."
_KEY: Final = "agentref"
_plain: Final = JsonSerializer()


async def shrunk_handler(handler: PersistentHandler, stored: Stored) -> PersistentHandler:
    """The handler, with what stands for its result and its error if those are large."""
    changed: dict[str, Any] = {}
    if handler.result is not None:
        tree = _plain.serialize_value(handler.result)
        # One that looks like a stand-in gets one, so that it comes back as itself.
        shrunk = await stored.shrunk({_KEY: tree} if _stand_in(handler.result) is not None else tree)
        if shrunk is not tree:
            changed["result"] = StopEvent(result=shrunk)
    if handler.error is not None:
        changed["error"] = await stored.shrunk_text(handler.error)
    return handler.model_copy(update=changed) if changed else handler


async def whole_handlers(
    handlers: Sequence[PersistentHandler], stored: Stored, decoder: Callable[[str], JsonSerializer] | None
) -> list[PersistentHandler]:
    """The handlers with their results, in one batch, and their errors, in another; each result read by the
    decoder of its workflow.

    A result that cannot be had is marked unreadable, as LlamaIndex does it, if it is this one's own fault:
    its content is gone, it was edited. So an error says. That a store is down is a `StorageError`.
    """
    found = list(handlers)
    places = [place for place, handler in enumerate(found) if _stand_in(handler.result) is not None]
    trees = await _whole(stored.whole, [_stand_in(found[place].result) for place in places])
    for place, tree in zip(places, trees, strict=True):
        result = tree.get(_KEY, tree) if isinstance(tree, dict) else tree
        found[place] = _with_result(found[place], result, decoder)
    places = [place for place, handler in enumerate(found) if handler.error is not None]
    for place, text in zip(
        places, await _whole(stored.whole_texts, [found[place].error for place in places]), strict=True
    ):
        found[place] = found[place].model_copy(update={"error": _LOST if text is _GONE else text})
    return found


async def _whole(read: _Read, trees: Sequence[Any]) -> list[Any]:
    """Each as it was; `_GONE` for one that cannot be had."""
    try:
        return await read(trees)
    except StorageError:
        raise
    except AgentRefError as error:
        if len(trees) > 1:  # one of them is to blame, and the others are looked at alone
            return [part for tree in trees for part in await _whole(read, [tree])]
        _log.warning("What came of a run cannot be read: %s", error)
        return [_GONE]


def _with_result(
    handler: PersistentHandler, tree: Any, decoder: Callable[[str], JsonSerializer] | None
) -> PersistentHandler:
    if tree is _GONE:
        return handler.model_copy(update={"result": None, "result_unreadable": True})
    try:
        serializer = _plain if decoder is None else decoder(handler.workflow_name)
        result = serializer.deserialize_value(tree)
    except StorageError:
        raise
    except Exception:  # noqa: BLE001  (the class is the user's, and so is its validation)
        result = None
    if not isinstance(result, StopEvent):
        return handler.model_copy(update={"result": None, "result_unreadable": True})
    return handler.model_copy(update={"result": result})


def _stand_in(result: StopEvent | None) -> dict[str, Any] | None:
    """The tree that stands for a result, if it is a stand-in, or looks like one."""
    inner = result.result if type(result) is StopEvent else None
    return inner if isinstance(inner, dict) and _KEY in inner else None

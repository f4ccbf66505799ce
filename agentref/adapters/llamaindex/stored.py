"""How a text or tree that a store of LlamaIndex keeps is written with refs in it, and read back."""

import json
import logging
from collections.abc import Sequence
from typing import Any, Final

from agentref.adapters.llamaindex.envelopes import closed, opened
from agentref.errors import AgentRefError, InvalidInputError
from agentref.refs import ContentRef
from agentref.trees import Externalizer

__all__ = ["Stored"]

_log: Final = logging.getLogger("agentref.adapters.llamaindex")
_VERSION: Final = 1
_NEVER: Final = 2**62  # a threshold that nothing is over, and a segment that nothing fills
_MARK: Final = "agentref"
_TREE: Final = "tree"
_FRONT: Final = f'{{"{_MARK}": '
_DICT_STATE: Final = "_data"  # the one key of a DictState as text; below it are texts again, one a value


class Stored:
    """Texts and trees with refs in place of what is large in them. For the event loop; thread-safe.

    What holds nothing large is kept as it is, and so is read what was written without agentref. Else the
    large leaves of a tree, and of a text that is JSON, get refs; a text that is not, a pickle in base64
    say, gets one as a whole. The result is marked, so that nothing else is ever taken for it.

    Args:
        externalizer: what puts refs there.
        or_large: of what cannot be externalized, as when the content store is down, write all with a
            warning in the log, for a record whose lack would do more harm than its size.
    """

    def __init__(self, externalizer: Externalizer, *, or_large: bool = False) -> None:
        self._externalizer = externalizer
        self._or_large = or_large

    async def shrunk(self, tree: dict[str, Any]) -> dict[str, Any]:
        """The tree, or what stands for it."""
        return await self._shrunk(tree, is_marked=_MARK in tree) or tree

    async def whole(self, trees: Sequence[Any]) -> list[Any]:
        """Each tree as it was, in one batch."""
        return await self._whole(trees, [_MARK in tree and isinstance(tree, dict) for tree in trees])

    async def shrunk_text(self, text: str, *, inline_bytes: int | None = None) -> str:
        """The text, or what stands for it. With `inline_bytes` only leaves larger than that get refs."""
        marked = await self._shrunk(_taken_apart(text), inline_bytes, is_marked=text.startswith(_FRONT))
        return json.dumps(marked) if marked else text

    async def whole_texts(self, texts: Sequence[Any]) -> list[Any]:
        """Each text as it was, in one batch. One that its database has parsed may be given as a tree."""
        are_ours = [_is_ours(text) for text in texts]
        trees = [_parsed(text) if is_ours else text for text, is_ours in zip(texts, are_ours, strict=True)]
        found = await self._whole(trees, are_ours)
        return [
            _put_together(tree) if is_ours else tree for tree, is_ours in zip(found, are_ours, strict=True)
        ]

    async def _shrunk(
        self, tree: Any, threshold: int | None = None, *, is_marked: bool
    ) -> dict[str, Any] | None:
        try:
            trees = opened(tree)
            shrunk = await self._externalizer.aexternalize(
                trees,
                threshold_bytes=threshold,
                segment=None if threshold is None else _NEVER,
                all_bytes=True,
            )
        except AgentRefError as error:
            if not self._or_large:
                raise
            _log.warning("A record is written with its payload, since it cannot be externalized: %s", error)
            if not is_marked:
                return None
            trees = opened(tree)
            shrunk = await self._externalizer.aexternalize(trees, threshold_bytes=_NEVER, segment=_NEVER)
        if shrunk is trees and not is_marked:
            return None
        return {_MARK: _VERSION, _TREE: closed(shrunk)}

    def refs(self, tree: Any) -> list[ContentRef]:
        """What a text or tree that was read refers to. Loads nothing."""
        return self._externalizer.refs(opened(_unmarked(_parsed(tree)))) if _is_ours(tree) else []

    async def _whole(self, trees: Sequence[Any], are_ours: Sequence[bool]) -> list[Any]:
        parts = [
            opened(_unmarked(tree)) if is_ours else ()
            for tree, is_ours in zip(trees, are_ours, strict=True)
        ]
        found = await self._externalizer.arehydrate(parts)
        return [
            closed(part) if is_ours else tree
            for part, tree, is_ours in zip(found, trees, are_ours, strict=True)
        ]


def _is_ours(text: Any) -> bool:
    if isinstance(text, str):
        return text.startswith(_FRONT)
    return isinstance(text, dict) and _MARK in text


def _unmarked(tree: Any) -> Any:
    if not isinstance(tree, dict) or tree.keys() != {_MARK, _TREE} or tree[_MARK] != _VERSION:
        raise InvalidInputError(
            f"A record is marked as one of agentref's and is none of version {_VERSION}: {tree!r:.80}. It "
            f"was edited, or written by a newer agentref."
        )
    return tree[_TREE]


def _parsed(text: Any) -> Any:
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"A record of agentref's is no JSON, or not all of it: {error}") from error


def _taken_apart(text: str) -> dict[str, Any]:
    """The text as a tree, with what is JSON in it parsed."""
    tree = _json_in(text)
    if not isinstance(tree, (dict, list)):
        return {"text": text}
    if isinstance(tree, dict) and tree.keys() == {_DICT_STATE} and isinstance(tree[_DICT_STATE], dict):
        values = tree[_DICT_STATE]
        if all(isinstance(value, str) for value in values.values()):
            return {"texts": {key: _taken_apart(value) for key, value in values.items()}}
    return {"json": tree}


def _put_together(tree: Any) -> str:
    match tree:
        case {"text": str(text)}:
            return text
        case {"json": (dict() | list()) as parsed}:
            return json.dumps(parsed)
        case {"texts": dict(texts)}:
            return json.dumps({_DICT_STATE: {key: _put_together(value) for key, value in texts.items()}})
        case _:
            raise InvalidInputError(f"A record of agentref's holds no text: {tree!r:.80}. It was edited.")


def _json_in(text: str) -> Any:
    """What a text is as JSON. A text of another kind could be a number by chance, but no dict or list."""
    if not text.startswith(("{", "[")):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None

"""A memory whose contents live in a store, and whose config names them."""

from collections.abc import Iterable
from typing import Any, Self

from autogen_core import CancellationToken, Component, Image
from autogen_core.memory import (
    Memory,
    MemoryContent,
    MemoryMimeType,
    MemoryQueryResult,
    UpdateContextResult,
)
from autogen_core.model_context import ChatCompletionContext
from autogen_core.models import SystemMessage
from pydantic import BaseModel, Field

from agentref.adapters.autogen.adapter import AutoGenAdapter
from agentref.adapters.autogen.owned import Owned
from agentref.adapters.autogen.registry import adapter_for
from agentref.errors import InvalidInputError, MalformedBlobError, UnsupportedTypeError
from agentref.trees import Stub

__all__ = ["AgentRefMemory", "AgentRefMemoryConfig"]


class AgentRefMemoryConfig(BaseModel):
    """What a dumped memory says: names, and a ref for each content."""

    backend_id: str
    name: str | None = None
    memory_contents: list[Any] = Field(default_factory=list)
    owner: str | None = None


class AgentRefMemory(Memory, Component[AgentRefMemoryConfig]):
    """A memory in the order of time, as AutoGen's `ListMemory`, whose contents live in a store.

        memory = AgentRefMemory(adapter, name="notes")
        agent = AssistantAgent("writer", model_client, memory=[memory])

    In this process and in a dumped config there is a ref of each content, and each query loads them all, in
    one batch. So `dump_component()`, and with it the dump of an agent, holds none of them, whatever their
    size; the config of a memory that was dumped remembers what it had then.

    Args:
        adapter: which store, and how.
        name: as with `ListMemory`.
        memory_contents: what to begin with; storing that blocks.
        owner: pins the contents under this name, until `clear`. Without, they live as long as the store's
            default says. Loading a dumped memory with an owner pins what it names, which blocks.

    For one event loop at a time. A call that raises or is cancelled changed nothing. Raises
    `UnsupportedTypeError` for a dict with more than plain data in it, `StorageError`, and when contents are
    loaded `BlobNotFoundError`, `IntegrityError`.
    """

    component_type = "memory"
    component_config_schema = AgentRefMemoryConfig
    component_provider_override = "agentref.adapters.autogen.AgentRefMemory"

    def __init__(
        self,
        adapter: AutoGenAdapter,
        *,
        name: str | None = None,
        memory_contents: Iterable[MemoryContent] | None = None,
        owner: str | None = None,
    ) -> None:
        given: Any = adapter
        if not isinstance(given, AutoGenAdapter):
            raise InvalidInputError(
                f"A memory needs an AutoGenAdapter, which knows the store, not {type(given).__qualname__}."
            )
        self._adapter = adapter
        self._external = adapter.externalizer
        self._name = name or "default_list_memory"
        self._owned = Owned(self._external, owner)
        self._refs: list[Stub] = []
        if memory_contents is not None:
            self.content = list(memory_contents)

    @property
    def name(self) -> str:
        """What the memory is called."""
        return self._name

    @property
    def content(self) -> list[MemoryContent]:
        """All contents, loaded, which blocks: a new list each time. Setting it stores other ones."""
        return _contents(self._external.rehydrate(self._stored()))

    @content.setter
    def content(self, value: list[MemoryContent]) -> None:
        trees = {str(index): _tree(content) for index, content in enumerate(value)}
        self._refs = _stubs(self._external.externalize(trees, owner=self._owned.owner, threshold_bytes=0))

    async def update_context(self, model_context: ChatCompletionContext) -> UpdateContextResult:
        """Add all contents to a model context, as one system message, in the words of `ListMemory`."""
        contents = await self._load()
        if contents:
            lines = "\n".join(f"{index}. {memory.content!s}" for index, memory in enumerate(contents, 1))
            text = f"\nRelevant memory content (in chronological order):\n{lines}\n"
            await model_context.add_message(SystemMessage(content=text))
        return UpdateContextResult(memories=MemoryQueryResult(results=contents))

    async def query(
        self,
        query: str | MemoryContent = "",  # noqa: ARG002  (there is no ranking, as with ListMemory)
        cancellation_token: CancellationToken | None = None,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> MemoryQueryResult:
        """All contents, whatever the query is."""
        return MemoryQueryResult(results=await self._load())

    async def add(
        self,
        content: MemoryContent,
        cancellation_token: CancellationToken | None = None,  # noqa: ARG002
    ) -> None:
        """Store a content; it is there when this returns, after those that were added before."""
        place = Stub()
        self._refs.append(place)
        try:
            place.update(*_stubs(await self._owned.externalize({"0": _tree(content)}, threshold_bytes=0)))
        except BaseException:
            self._refs = [ref for ref in self._refs if ref is not place]
            raise

    async def clear(self) -> None:
        """Forget all contents. What was stored stays in the store, but for the pins of `owner`.

        Cancelled while the store lets go of them, it has cleared if that succeeds.
        """
        before, self._refs = self._refs, []

        def undo() -> None:
            self._refs = [*before, *self._refs]

        await self._owned.release(undo)

    async def close(self) -> None:
        """Nothing: the store is the caller's."""

    async def _load(self) -> list[MemoryContent]:
        return _contents(await self._external.arehydrate(self._stored()))

    def _stored(self) -> list[Stub]:
        """The refs of what is there: one that is being added is not, yet."""
        return [ref for ref in self._refs if ref]

    def _to_config(self) -> AgentRefMemoryConfig:
        return AgentRefMemoryConfig(
            backend_id=self._adapter.backend.backend_id,
            name=self._name,
            memory_contents=[dict(ref) for ref in self._stored()],
            owner=self._owned.owner,
        )

    @classmethod
    def _from_config(cls, config: AgentRefMemoryConfig) -> Self:
        memory = cls(adapter_for(config.backend_id), name=config.name, owner=config.owner)
        adopted = memory._external.adopt(config.memory_contents)
        if len(memory._external.refs(adopted)) != len(adopted):
            raise MalformedBlobError("memory_contents of a dumped AgentRefMemory is a list of refs.")
        if config.owner is not None:
            memory._external.pin(config.owner, adopted)
        memory._refs = adopted
        return memory


def _tree(content: MemoryContent) -> dict[str, Any]:
    body, mime = content.content, content.mime_type
    is_image = isinstance(body, Image)
    return {
        "content": body.to_base64() if isinstance(body, Image) else body,
        "image": is_image,
        "mime_type": mime.value if isinstance(mime, MemoryMimeType) else mime,
        "known": isinstance(mime, MemoryMimeType),
        "metadata": content.metadata,
    }


def _stubs(trees: dict[str, Any]) -> list[Stub]:
    for tree in trees.values():
        if type(tree) is not Stub:
            raise UnsupportedTypeError(
                "MemoryContent: content and metadata that are dicts can hold texts, bytes, numbers, lists "
                "and "
                "dicts with texts as keys."
            )
    return list(trees.values())


def _contents(trees: list[Any]) -> list[MemoryContent]:
    return [_content(tree) for tree in trees]


def _content(tree: Any) -> MemoryContent:
    try:
        body, mime = tree["content"], tree["mime_type"]
        return MemoryContent(
            content=Image.from_base64(body) if tree["image"] else body,
            mime_type=MemoryMimeType(mime) if tree["known"] else mime,
            metadata=tree["metadata"],
        )
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise MalformedBlobError(
            f"A ref of this memory is to something else than a content: {error}"
        ) from error

"""Which adapter a component config means: a config names a store, and never says where that is."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from agentref.adapters.autogen.adapter import AutoGenAdapter
from agentref.errors import ConfigurationError, InvalidInputError, UnknownBackendError

__all__ = ["adapter_for", "register", "registered", "unregister"]

_process: Final[dict[str, AutoGenAdapter]] = {}
_lock: Final = threading.Lock()
_here: Final[ContextVar[tuple[AutoGenAdapter, ...]]] = ContextVar("agentref_autogen_adapters", default=())


def register(adapter: AutoGenAdapter) -> None:
    """Let `load_component` use this adapter, in this process, for configs that name its store: by its
    `backend_id`, or by one of its aliases.

    Thread-safe. Raises `ConfigurationError` if another adapter answers to one of these names: `unregister`
    it first, or use `registered`.
    """
    names = _names(adapter)
    with _lock:
        taken = [name for name in names if _process.get(name, adapter) is not adapter]
        if taken:
            raise ConfigurationError(
                f"Another adapter is registered for the store {taken[0]!r}. unregister() it first, or use "
                f"`with registered(adapter):` around load_component()."
            )
        _process.update(dict.fromkeys(names, adapter))


def unregister(adapter: AutoGenAdapter) -> None:
    """Undo `register`. Components that were made stay as they are. Thread-safe."""
    with _lock:
        for name in [name for name, known in _process.items() if known is adapter]:
            del _process[name]


@contextmanager
def registered(adapter: AutoGenAdapter) -> Iterator[AutoGenAdapter]:
    """Let `load_component` use this adapter within the block, before any other, in this task or thread: for
    a process that serves several tenants from one store."""
    _names(adapter)
    token = _here.set((adapter, *_here.get()))
    try:
        yield adapter
    finally:
        _here.reset(token)


def adapter_for(backend_id: str) -> AutoGenAdapter:
    """The adapter whose store answers to a name. Raises `UnknownBackendError`."""
    for adapter in _here.get():
        if backend_id in _names(adapter):
            return adapter
    with _lock:
        found = _process.get(backend_id)
    if found is None:
        raise UnknownBackendError(
            f"The config names the store {backend_id!r:.140}, and no adapter in this process answers to "
            f"that. "
            f"Before load_component(): register(AutoGenAdapter(backend=...)), of agentref.adapters.autogen."
        )
    return found


def _names(adapter: Any) -> tuple[str, ...]:
    if not isinstance(adapter, AutoGenAdapter):
        raise InvalidInputError(f"An AutoGenAdapter is registered, not {type(adapter).__qualname__}.")
    return adapter.backend.backend_id, *adapter.backend.backend_aliases

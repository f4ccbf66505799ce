"""Which framework is at work in this process, and its adapter. Imports no framework until one is chosen."""

import importlib
import inspect
import sys
import threading
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from agentref.errors import (
    AmbiguousFrameworkError,
    ConfigurationError,
    InvalidInputError,
    NoFrameworkDetectedError,
    StateDefinitionError,
)
from agentref.state import AgentRefState

if TYPE_CHECKING:
    from agentref.storage import CAS

__all__ = ["Configuration", "Framework", "auto_adapt", "configure", "configured", "detect_active_framework"]


class Framework(StrEnum):
    """The frameworks that have an adapter. Members are only ever added."""

    LANGGRAPH = "langgraph"
    LLAMAINDEX = "llamaindex"
    AUTOGEN = "autogen"
    AG2 = "ag2"


# What only the framework itself brings. `workflows` alone may be a package of the user's own.
_MODULES: Final = {
    Framework.LANGGRAPH: ("langgraph.graph", "langgraph.pregel", "langgraph.checkpoint.base"),
    Framework.LLAMAINDEX: ("llama_index.core", "llama_index.workflows", "workflows.context.serializers"),
    Framework.AUTOGEN: ("autogen_agentchat", "autogen_core"),
    Framework.AG2: ("ag2",),
}
_ADAPTERS: Final = {
    Framework.LANGGRAPH: ("agentref.adapters.langgraph", "LangGraphAdapter"),
    Framework.LLAMAINDEX: ("agentref.adapters.llamaindex", "LlamaIndexAdapter"),
    Framework.AUTOGEN: ("agentref.adapters.autogen", "AutoGenAdapter"),
}
_TYPED: Final = frozenset({Framework.LANGGRAPH, Framework.LLAMAINDEX})
_SPELLINGS: Final = {
    "deepagents": Framework.LANGGRAPH,
    "llama_index": Framework.LLAMAINDEX,
    "pyautogen": Framework.AUTOGEN,
    "autogen_agentchat": Framework.AUTOGEN,
}


@dataclass(frozen=True, slots=True)
class Configuration:
    """What this process has settled. Immutable.

    Attributes:
        framework: the one that is at work, or None to look.
        backend: the store that `auto_adapt` gives to an adapter, or None if it must be given.
    """

    framework: Framework | None = None
    backend: "CAS | None" = None


_lock = threading.Lock()
_configuration = Configuration()
_UNCHANGED: Final = object()


def configure(*, framework: Any = _UNCHANGED, backend: Any = _UNCHANGED) -> Configuration:
    """Settle for this process which framework is at work, and which store is to be used; None unsettles.

    What is not named stays. Returns the new configuration. Thread-safe; a forked child inherits it. Raises
    `InvalidInputError`.
    """
    global _configuration  # noqa: PLW0603  (one process, one configuration)
    changes: dict[str, Any] = {}
    if framework is not _UNCHANGED:
        changes["framework"] = None if framework is None else _named(framework)
    if backend is not _UNCHANGED:
        from agentref.storage import CAS  # noqa: PLC0415  (`import agentref` stays light)

        if backend is not None and not isinstance(backend, CAS):
            raise InvalidInputError(
                f"backend must be a content-addressed store such as FilesystemCAS('./state_blobs'), "
                f"not {type(backend).__name__}."
            )
        changes["backend"] = backend
    with _lock:
        _configuration = replace(_configuration, **changes)
        return _configuration


def configured() -> Configuration:
    """What `configure` has settled in this process."""
    return _configuration


def detect_active_framework(explicit: Framework | str | None = None) -> Framework:
    """The framework that is at work: `explicit` if given, else what `configure` settled, else the one of
    those that agentref knows that this process has imported.

    Deep Agents runs on LangGraph and counts as it. Imports nothing. Raises `AmbiguousFrameworkError` if
    several are loaded, `NoFrameworkDetectedError` if none is, `InvalidInputError` for a name of none.
    """
    if explicit is not None:
        return _named(explicit)
    if _configuration.framework is not None:
        return _configuration.framework
    loaded = [
        framework
        for framework, modules in _MODULES.items()
        if any(sys.modules.get(module) is not None for module in modules)
    ]
    if len(loaded) > 1:
        raise AmbiguousFrameworkError(
            f"{' and '.join(loaded)} are all loaded in this process. Say which one is meant: "
            f"{', '.join(f'explicit={str(each)!r}' for each in loaded)}; or once for the process: "
            f"configure(framework={str(loaded[0])!r}).",
            candidates=tuple(map(str, loaded)),
        )
    if not loaded:
        raise NoFrameworkDetectedError(
            f"None of {', '.join(Framework)} is loaded in this process. Import the one that you use first, "
            f"or name it: explicit={str(Framework.LANGGRAPH)!r}."
        )
    return loaded[0]


def auto_adapt(
    state_class: type[AgentRefState],
    explicit: Framework | str | None = None,
    *,
    backend: "CAS | None" = None,
    **options: Any,
) -> Any:
    """The adapter for a state class, of the framework that `detect_active_framework` finds.

    LangGraph and LlamaIndex get one for the typed state. AutoGen's agents have no typed state; theirs is
    the `AutoGenAdapter` of the store.

    Args:
        state_class: the fields.
        explicit: the framework, to leave nothing to detection.
        backend: the store; that of `configure` if None.
        options: what else the adapter's constructor takes, by name.

    Raises `ConfigurationError` without a store, and for a framework without such an adapter (AG2: wrap its
    history storage), `MissingExtraError` if the framework is not installed, and what
    `detect_active_framework` and the adapter's constructor do.
    """
    framework = detect_active_framework(explicit)
    store = _configuration.backend if backend is None else backend
    if store is None:
        raise ConfigurationError(
            "auto_adapt needs a store for external values: backend=FilesystemCAS('./state_blobs'), or once "
            "for the process: configure(backend=...)."
        )
    if framework not in _ADAPTERS:
        raise ConfigurationError(
            f"{framework} has no state that a class could declare. Wrap its history storage: "
            f"agentref.adapters.{framework}."
        )
    given: Any = state_class  # whatever the type checker was told
    if not (isinstance(given, type) and issubclass(given, AgentRefState)):
        raise StateDefinitionError(f"{state_class!r:.80} is no subclass of AgentRefState.")
    module, name = _ADAPTERS[framework]
    adapter = getattr(importlib.import_module(module), name)
    known = inspect.signature(adapter).parameters.keys() - {"state_class"}
    if unknown := sorted(options.keys() - known):
        raise InvalidInputError(
            f"{name} takes no {', '.join(unknown)}; its options are "
            f"{', '.join(sorted(known - {'backend'}))}."
        )
    return adapter(*((state_class,) if framework in _TYPED else ()), backend=store, **options)


def _named(name: object) -> Framework:
    text = name.lower().replace("-", "_") if isinstance(name, str) else ""
    if text in _SPELLINGS:
        return _SPELLINGS[text]
    if text not in set(Framework):
        raise InvalidInputError(
            f"{name!r:.60} is no framework that agentref knows: {', '.join(Framework)}."
        )
    return Framework(text)

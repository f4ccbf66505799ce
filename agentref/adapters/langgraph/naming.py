"""What a coordinator calls the channels of threads, and what an agent in a graph is called."""

from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from langgraph.config import get_config

from agentref.errors import ConfigurationError

if TYPE_CHECKING:
    from agentref.coherence import Key

__all__ = ["channel_key", "current_agent", "namespace_key", "thread_key", "thread_prefixes"]

_ROOT: Final = "langgraph"
_HASHED: Final = "langgraph#"  # another first part, so that no thread can be named like the hash of one
_LONGEST: Final = 400


def channel_key(thread_id: object, channel: str, checkpoint_ns: str = "") -> "Key":
    """The artifact that a channel of a thread is for a coordinator: `peer.read(channel_key("t", "docs"))`.

    It is `("langgraph", thread_id, checkpoint_ns, channel)`. Thread ids and namespaces of over 400 bytes,
    or which UTF-8 cannot express, are hashed, both, and the first part is `"langgraph#"` then. Pure.
    """
    return (*namespace_key(thread_id, checkpoint_ns), channel)


def namespace_key(thread_id: object, checkpoint_ns: str) -> "Key":
    """How the keys of one namespace of a thread begin."""
    thread = str(thread_id)
    if _fits(thread) and _fits(checkpoint_ns):
        return _ROOT, thread, checkpoint_ns
    return _HASHED, _hash(thread), _hash(checkpoint_ns)


def thread_key(thread_id: object) -> "Key":
    """What a writer of the thread holds a lease on."""
    thread = str(thread_id)
    return (_ROOT, thread) if _fits(thread) else (_HASHED, _hash(thread))


def thread_prefixes(thread_id: object) -> "tuple[Key, ...]":
    """How the keys of all namespaces of a thread begin."""
    thread = str(thread_id)
    hashed = (_HASHED, _hash(thread))
    return ((_ROOT, thread), hashed) if _fits(thread) else (hashed,)


def current_agent() -> str:
    """The name of the node that is running, from LangGraph's own runtime: for
    `saver.peer(current_agent())`, or a `holder=` or `agent=`, in a node.

    In a subgraph it is the inner node. Copies of a node that run at once, and nodes of one name in two
    graphs, have one name: where they must be told apart, give names.

    Raises `ConfigurationError` outside of a node.
    """
    try:
        node = get_config().get("metadata", {}).get("langgraph_node")
    except RuntimeError:
        node = None
    if isinstance(node, str) and node:
        return node
    raise ConfigurationError(
        "No node of a graph is running here (a thread that a node starts knows nothing of it, either), so "
        "nobody says which agent this is. Give it a name: coordinator.peer('planner', backend=...)."
    )


def _fits(text: str) -> bool:
    try:
        return len(text.encode()) <= _LONGEST
    except UnicodeEncodeError:
        return False


def _hash(text: str) -> str:
    return blake2b(text.encode(errors="surrogatepass"), digest_size=32).hexdigest()

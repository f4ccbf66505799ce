"""Nested plain data with refs in place of what is large: the core that every adapter can stand on."""

from agentref.trees.externalizer import (
    DEFAULT_MAX_BYTES,
    DEFAULT_SEGMENT,
    DEFAULT_THRESHOLD_BYTES,
    Externalizer,
    Stateful,
)
from agentref.trees.stubs import Part, Seals, Stub

__all__ = [
    "DEFAULT_MAX_BYTES",
    "DEFAULT_SEGMENT",
    "DEFAULT_THRESHOLD_BYTES",
    "Externalizer",
    "Part",
    "Seals",
    "Stateful",
    "Stub",
]

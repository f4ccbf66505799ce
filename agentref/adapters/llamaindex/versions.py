"""Which releases of LlamaIndex this package was written for. Pure, but for what is installed."""

import re
from importlib.metadata import PackageNotFoundError, version
from typing import Final, NamedTuple

from agentref.errors import ConfigurationError, MissingExtraError

__all__ = ["CORE", "PYDANTIC", "SERVER", "WORKFLOWS", "check", "check_installed", "missing"]

_EXTRA: Final = "pip install 'agentref-checkpoint[llamaindex]'"


class Bounds(NamedTuple):
    """From `floor` on, and before `ceiling`, with what goes wrong outside."""

    package: str
    floor: tuple[int, ...]
    ceiling: tuple[int, ...]
    why: str


WORKFLOWS: Final = Bounds(
    "llama-index-workflows",
    (2, 24),
    (3,),
    "Earlier ones take no serializer, later ones may store state otherwise.",
)
CORE: Final = Bounds(
    "llama-index-core", (0, 14, 25), (0, 15), "Its chat and key-value stores change with minor releases."
)
SERVER: Final = Bounds(
    "llama-agents-server", (0, 8), (0, 9), "Its store interface changes with minor releases."
)
PYDANTIC: Final = Bounds(
    "pydantic",
    (2, 11),
    (2, 14),
    "From 2.14 on, llama-index-core 0.14 cannot dump a SimpleChatStore with messages.",
)


def check_installed(*several: Bounds) -> None:
    """`check` what is installed. What is not passes: importing it says so."""
    for bounds in several:
        try:
            check(bounds, version(bounds.package))
        except PackageNotFoundError:
            continue


def check(bounds: Bounds, found: str) -> None:
    """Raise `ConfigurationError` for a version outside of the bounds. One that is no number passes."""
    numbers = _numbers(found)
    if not numbers or bounds.floor <= numbers < bounds.ceiling:
        return
    floor, ceiling = (".".join(map(str, bound)) for bound in (bounds.floor, bounds.ceiling))
    raise ConfigurationError(
        f"agentref.adapters.llamaindex needs {bounds.package} >={floor},<{ceiling}, and {found} is "
        f"installed. {bounds.why} {_EXTRA}"
    )


def missing(what: str, error: ImportError, *, remedy: str = _EXTRA) -> MissingExtraError:
    """The error for a package that cannot be imported."""
    return MissingExtraError(f"{what}, which cannot be imported: {error}. {remedy}")


def _numbers(text: str) -> tuple[int, ...]:
    """The release numbers at the front of a version: `2.24.0rc1` is (2, 24, 0)."""
    found = re.match(r"\d+(\.\d+)*", text, re.ASCII)
    return tuple(int(part) for part in found[0].split(".")) if found else ()

"""Optional packages: that they are there, and of a version that we know."""

import importlib
import re
from importlib import metadata

from agentref.errors import ConfigurationError, MissingExtraError

__all__ = ["require"]


def require(*, extra: str, distribution: str, module: str, since: str, before: str) -> None:
    """Import `module`, of a version from `since` up to `before`, which is out.

    Args:
        extra: ours, which installs it.
        distribution: what pip calls it. Where it left no metadata, any version will do.
        module: what it is imported by.
        since, before: versions, as numbers with dots.

    Raises `MissingExtraError` if it cannot be imported, `ConfigurationError` for another version. Not for
    import time of `agentref` itself: this imports a framework.
    """
    remedy = f"pip install 'agentref-checkpoint[{extra}]'"
    try:
        found: str | None = metadata.version(distribution)
    except metadata.PackageNotFoundError:
        found = None
    if found is not None and not _key(since) <= _key(found) < _key(before):
        raise ConfigurationError(
            f"{distribution} {found} is installed, and agentref knows {since} up to {before} (not "
            f"included). "
            f"{remedy} installs one of these."
        )
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"agentref needs {distribution} here, which cannot be imported: {error}. {remedy}"
        ) from error


def _key(version: str) -> tuple[int, ...]:
    """For comparing: the numbers in front. A pre-release counts as what it precedes."""
    numbers = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, numbers[0].split("."))) if numbers else ()

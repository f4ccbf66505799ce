"""Optional packages: that they are there, and of a version that we know."""

import importlib
import importlib.util
import re
import sys
from importlib import metadata

from agentref.errors import ConfigurationError, MissingExtraError

__all__ = ["check", "require"]


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
    check(extra=extra, distribution=distribution, module=module, since=since, before=before)
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise _missing(extra, distribution, error) from error


def check(*, extra: str, distribution: str, module: str, since: str, before: str) -> None:
    """What `require` does, and raises, without the import: for what is needed together. An import that is
    of no use leaves a framework loaded that nobody uses.

    `module` is of the top level; one that is there and fails when it is imported passes.
    """
    try:
        found: str | None = metadata.version(distribution)
    except metadata.PackageNotFoundError:
        found = None
    if found is not None and not _key(since) <= _key(found) < _key(before):
        raise ConfigurationError(
            f"{distribution} {found} is installed, and agentref knows {since} up to {before} (not "
            f"included). "
            f"{_remedy(extra)} installs one of these."
        )
    try:
        is_there = sys.modules.get(module) is not None or importlib.util.find_spec(module) is not None
    except ImportError as error:
        raise _missing(extra, distribution, error) from error
    if not is_there:
        raise _missing(extra, distribution, f"No module named {module!r}")


def _missing(extra: str, distribution: str, reason: object) -> MissingExtraError:
    return MissingExtraError(
        f"agentref needs {distribution} here, which cannot be imported: {reason}. {_remedy(extra)}"
    )


def _remedy(extra: str) -> str:
    return f"pip install 'agentref-checkpoint[{extra}]'"


def _key(version: str) -> tuple[int, ...]:
    """For comparing: the numbers in front. A pre-release counts as what it precedes."""
    numbers = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, numbers[0].split("."))) if numbers else ()

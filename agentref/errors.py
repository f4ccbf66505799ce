"""Every error that agentref raises, grouped by what a handler would do about it.

Each class is also the builtin that a caller would expect (`KeyError`, `ValueError`, `OSError`...),
so that code which never heard of agentref handles it correctly.

    AgentRefError
    ├── InvalidInputError (ValueError)       fix the call
    │   ├── InvalidDigestError
    │   ├── InvalidRefError
    │   ├── InvalidKeyError
    │   ├── ForeignViewError
    │   ├── InlineSizeExceeded
    │   ├── ValueTooLargeError
    │   └── UnsupportedTypeError (TypeError)
    ├── StateError                           fix the state class, or how a node uses it
    │   ├── StateDefinitionError (TypeError)
    │   ├── UnknownFieldError (AttributeError, KeyError, TypeError)
    │   ├── UnsetFieldError (AttributeError, KeyError)
    │   └── InPlaceMutationError (RuntimeError)
    ├── BlobNotFoundError (KeyError)         restore the data, or drop the ref
    ├── AliasNotFoundError (KeyError)        set the alias, or look for another
    ├── AliasConflictError                   look at what stands there now, and decide again
    ├── CoherenceError                       look at what stands there now, and decide again
    │   ├── Conflict
    │   ├── RetriesExhaustedError (TimeoutError)
    │   ├── SnapshotLapsedError
    │   └── CursorTooOldError (LookupError)
    ├── IntegrityError (ValueError)          the bytes are not to be trusted
    │   ├── CorruptBlobError
    │   ├── MalformedBlobError
    │   ├── FutureVersionError
    │   ├── UntrustedRefError
    │   └── UntrustedTypeError
    ├── StorageError (OSError)               retry, free space, fix permissions
    │   ├── StoreUnavailableError
    │   ├── StoreBusyError (TimeoutError)
    │   ├── StoreFullError
    │   └── StoreVersionError
    └── ConfigurationError (RuntimeError)    configure a store, install an extra
        ├── AmbiguousFrameworkError
        ├── NoFrameworkDetectedError (LookupError)
        ├── UnknownBackendError (LookupError)
        └── MissingExtraError (ImportError)
"""

from typing import ClassVar

from agentref.reasons import Reason

__all__ = [
    "AgentRefError",
    "AliasConflictError",
    "AliasNotFoundError",
    "AmbiguousFrameworkError",
    "BlobNotFoundError",
    "CoherenceError",
    "ConfigurationError",
    "Conflict",
    "CorruptBlobError",
    "CursorTooOldError",
    "ForeignViewError",
    "FutureVersionError",
    "InPlaceMutationError",
    "InlineSizeExceeded",
    "IntegrityError",
    "InvalidDigestError",
    "InvalidInputError",
    "InvalidKeyError",
    "InvalidRefError",
    "MalformedBlobError",
    "MissingExtraError",
    "NoFrameworkDetectedError",
    "Reason",
    "RetriesExhaustedError",
    "SnapshotLapsedError",
    "StateDefinitionError",
    "StateError",
    "StorageError",
    "StoreBusyError",
    "StoreFullError",
    "StoreUnavailableError",
    "StoreVersionError",
    "UnknownBackendError",
    "UnknownFieldError",
    "UnsetFieldError",
    "UnsupportedTypeError",
    "UntrustedRefError",
    "UntrustedTypeError",
    "ValueTooLargeError",
]


class AgentRefError(Exception):
    """Root of the tree. The message says what is wrong and what to do next.

    `code` is stable across releases and fit for logs and metrics; codes are only ever added.
    """

    code: ClassVar[str] = "agentref"

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        # KeyError would show repr(message), OSError would look for an errno.
        return self.message


class InvalidInputError(AgentRefError, ValueError):
    """An argument is not acceptable; the call changed nothing."""

    code = "invalid_input"


class InvalidDigestError(InvalidInputError):
    """Text or bytes that should name a blob are no digest."""

    code = "invalid_digest"


class InvalidRefError(InvalidInputError):
    """A mapping or text that should be a `ContentRef` is none."""

    code = "invalid_ref"


class InvalidKeyError(InvalidInputError):
    """Something that should name an artifact is no key."""

    code = "invalid_key"


class ForeignViewError(InvalidInputError):
    """A view, lease or snapshot was given to a coordinator that it is not from."""

    code = "foreign_view"


class InlineSizeExceeded(InvalidInputError):  # noqa: N818  (the name is part of the published API)
    """An `Inline` value is larger than the checkpoint may carry.

    Attributes: `field`, `size` and `limit` in bytes.
    """

    code = "inline_size_exceeded"

    def __init__(self, field: str, size: int, limit: int) -> None:
        super().__init__(
            f"Inline field {field!r} is {size:,} bytes, over the limit of {limit:,} bytes. "
            f"Declare it as Externalized[...], make the value smaller, "
            f"or raise inline_threshold_bytes."
        )
        self.field = field
        self.size = size
        self.limit = limit

    def __reduce__(self) -> tuple[type, tuple[str, int, int], dict[str, object]]:
        return type(self), (self.field, self.size, self.limit), self.__dict__


class ValueTooLargeError(InvalidInputError):
    """A value, or a part of it, is over a configured or a format limit."""

    code = "value_too_large"


class UnsupportedTypeError(InvalidInputError, TypeError):
    """A value contains a type that the codec does not know; nothing was written."""

    code = "unsupported_type"


class StateError(AgentRefError):
    """A state class, or the use of one, is wrong."""

    code = "state"


class StateDefinitionError(StateError, TypeError):
    """A state class cannot mean what it says; raised when the class is created."""

    code = "state_definition"


class UnknownFieldError(StateError, AttributeError, KeyError, TypeError):
    """A name that the state class does not declare."""

    code = "unknown_field"


class UnsetFieldError(StateError, AttributeError, KeyError):
    """A declared field that has no value yet and no default."""

    code = "unset_field"


class InPlaceMutationError(StateError, RuntimeError):
    """A value was changed in place where the change cannot be written back."""

    code = "in_place_mutation"


class BlobNotFoundError(AgentRefError, KeyError):
    """No blob of this name is in the store."""

    code = "blob_not_found"


class AliasNotFoundError(AgentRefError, KeyError):
    """No alias of this name is in the store, or its life has ended."""

    code = "alias_not_found"


class AliasConflictError(AgentRefError):
    """An alias did not stand for what was expected; it was left as it is.

    Attributes: `name`; `current`, the `ContentRef` that it stands for now, or None if there is none.
    """

    code = "alias_conflict"

    def __init__(self, message: str = "", *, name: str = "", current: object = None) -> None:
        super().__init__(message)
        self.name = name
        self.current = current


class CoherenceError(AgentRefError):
    """What is shared is not, or no longer, as the caller believes; nothing was changed."""

    code = "coherence"


class Conflict(CoherenceError):  # noqa: N818  (the name is part of the published API)
    """A commit, a lease or an effect was refused, and nothing was changed.

    Attributes:
        reason: a `Reason`.
        key: the artifact.
        base: the view that the caller started from, or None if it was to be the first.
        current: what stands there now, a `Versioned`: its ref, version, epoch and writer.
        holder, until: who is in the way, if somebody is, and when that ends at the latest, in seconds since
            the epoch, by the coordinator's clock.
    """

    code = "conflict"

    def __init__(  # noqa: PLR0913
        self,
        message: str = "",
        *,
        reason: Reason = Reason.VERSION_MISMATCH,
        key: tuple[str, ...] = (),
        base: object = None,
        current: object = None,
        holder: str | None = None,
        until: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.key = key
        self.base = base
        self.current = current
        self.holder = holder
        self.until = until


class RetriesExhaustedError(CoherenceError, TimeoutError):
    """Others won every race for as long as the caller was willing to try; nothing was changed."""

    code = "retries_exhausted"


class SnapshotLapsedError(CoherenceError):
    """A snapshot was closed, or its hold on the contents has ended: they may be gone."""

    code = "snapshot_lapsed"


class CursorTooOldError(CoherenceError, LookupError):
    """The feed no longer reaches back to this cursor, or the cursor is of another coordinator's feed: read
    everything anew and begin from `head()`."""

    code = "cursor_too_old"


class IntegrityError(AgentRefError, ValueError):
    """Stored bytes are not what their name promises; none of them were returned."""

    code = "integrity"


class CorruptBlobError(IntegrityError):
    """The bytes of a blob do not hash to its digest: damaged, truncated or swapped."""

    code = "corrupt_blob"


class MalformedBlobError(IntegrityError):
    """The bytes hash correctly but do not follow the format, or exceed its bounds."""

    code = "malformed_blob"


class FutureVersionError(IntegrityError):
    """A view is of a version that its coordinator has not reached: the database is older than the view."""

    code = "future_version"


class UntrustedRefError(IntegrityError):
    """A ref is not sealed by a key of this tenant's: edited, forged, another's. Nothing was loaded."""

    code = "untrusted_ref"


class UntrustedTypeError(IntegrityError):
    """Stored data names a Python type that may not be constructed here."""

    code = "untrusted_type"


class StorageError(AgentRefError, OSError):
    """The store could not do its work; what was acknowledged before is unharmed."""

    code = "storage"


class StoreUnavailableError(StorageError):
    """The store cannot be opened, read or written: missing, read-only, not permitted, closed."""

    code = "store_unavailable"


class StoreBusyError(StorageError, TimeoutError):
    """Another process held the store for longer than the configured wait."""

    code = "store_busy"


class StoreFullError(StorageError):
    """The disk, or the quota, is full; nothing was half-written."""

    code = "store_full"


class StoreVersionError(StorageError):
    """The store was written by a newer agentref, or is none of ours."""

    code = "store_version"


class ConfigurationError(AgentRefError, RuntimeError):
    """Something that the call needs was not set up."""

    code = "configuration"


class AmbiguousFrameworkError(ConfigurationError):
    """Several frameworks are at work in this process, and nobody said which one is meant.

    Attributes: `candidates`, their names.
    """

    code = "ambiguous_framework"

    def __init__(self, message: str = "", *, candidates: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.candidates = candidates


class NoFrameworkDetectedError(ConfigurationError, LookupError):
    """No framework that agentref knows is at work in this process."""

    code = "no_framework_detected"


class UnknownBackendError(ConfigurationError, LookupError):
    """A ref names a store that is not configured in this process."""

    code = "unknown_backend"


class MissingExtraError(ConfigurationError, ImportError):
    """An optional dependency is not installed; the message names the pip command."""

    code = "missing_extra"

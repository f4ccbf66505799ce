"""The error tree is part of the API: handlers are written against its shape."""

import inspect
import pickle
from collections.abc import Callable

import pytest

from agentref import errors
from agentref.errors import AgentRefError, InlineSizeExceeded, UnknownFieldError

PUBLISHED = [name for name in errors.__all__ if name != "Reason"]  # which is why a Conflict was raised

# class -> (direct bases, code)
TREE: dict[str, tuple[set[type], str]] = {
    "AgentRefError": ({Exception}, "agentref"),
    "InvalidInputError": ({errors.AgentRefError, ValueError}, "invalid_input"),
    "InvalidDigestError": ({errors.InvalidInputError}, "invalid_digest"),
    "InvalidRefError": ({errors.InvalidInputError}, "invalid_ref"),
    "InvalidKeyError": ({errors.InvalidInputError}, "invalid_key"),
    "ForeignViewError": ({errors.InvalidInputError}, "foreign_view"),
    "InlineSizeExceeded": ({errors.InvalidInputError}, "inline_size_exceeded"),
    "ValueTooLargeError": ({errors.InvalidInputError}, "value_too_large"),
    "UnsupportedTypeError": ({errors.InvalidInputError, TypeError}, "unsupported_type"),
    "StateError": ({errors.AgentRefError}, "state"),
    "StateDefinitionError": ({errors.StateError, TypeError}, "state_definition"),
    "UnknownFieldError": ({errors.StateError, AttributeError, KeyError, TypeError}, "unknown_field"),
    "UnsetFieldError": ({errors.StateError, AttributeError, KeyError}, "unset_field"),
    "InPlaceMutationError": ({errors.StateError, RuntimeError}, "in_place_mutation"),
    "BlobNotFoundError": ({errors.AgentRefError, KeyError}, "blob_not_found"),
    "AliasNotFoundError": ({errors.AgentRefError, KeyError}, "alias_not_found"),
    "AliasConflictError": ({errors.AgentRefError}, "alias_conflict"),
    "CoherenceError": ({errors.AgentRefError}, "coherence"),
    "Conflict": ({errors.CoherenceError}, "conflict"),
    "RetriesExhaustedError": ({errors.CoherenceError, TimeoutError}, "retries_exhausted"),
    "SnapshotLapsedError": ({errors.CoherenceError}, "snapshot_lapsed"),
    "CursorTooOldError": ({errors.CoherenceError, LookupError}, "cursor_too_old"),
    "IntegrityError": ({errors.AgentRefError, ValueError}, "integrity"),
    "CorruptBlobError": ({errors.IntegrityError}, "corrupt_blob"),
    "MalformedBlobError": ({errors.IntegrityError}, "malformed_blob"),
    "FutureVersionError": ({errors.IntegrityError}, "future_version"),
    "AmbiguousFrameworkError": ({errors.ConfigurationError}, "ambiguous_framework"),
    "NoFrameworkDetectedError": ({errors.ConfigurationError, LookupError}, "no_framework_detected"),
    "UntrustedRefError": ({errors.IntegrityError}, "untrusted_ref"),
    "UntrustedTypeError": ({errors.IntegrityError}, "untrusted_type"),
    "StorageError": ({errors.AgentRefError, OSError}, "storage"),
    "StoreUnavailableError": ({errors.StorageError}, "store_unavailable"),
    "StoreBusyError": ({errors.StorageError, TimeoutError}, "store_busy"),
    "StoreFullError": ({errors.StorageError}, "store_full"),
    "StoreVersionError": ({errors.StorageError}, "store_version"),
    "ConfigurationError": ({errors.AgentRefError, RuntimeError}, "configuration"),
    "UnknownBackendError": ({errors.ConfigurationError, LookupError}, "unknown_backend"),
    "MissingExtraError": ({errors.ConfigurationError, ImportError}, "missing_extra"),
}
MESSAGE = "The store at './blobs' is gone.\nRestore it."


def make(name: str) -> AgentRefError:
    if name == "InlineSizeExceeded":
        return InlineSizeExceeded("docs", 70_000, 65_536)
    error: Callable[[str], AgentRefError] = getattr(errors, name)
    return error(MESSAGE)


def test_the_tree_has_exactly_the_published_classes() -> None:
    defined = {
        name
        for name, item in vars(errors).items()
        if inspect.isclass(item) and issubclass(item, BaseException)
    }
    assert defined == set(PUBLISHED) == set(TREE)


@pytest.mark.parametrize("name", TREE)
def test_a_class_keeps_its_bases_and_its_code(name: str) -> None:
    bases, code = TREE[name]
    error = getattr(errors, name)
    assert set(error.__bases__) == bases
    assert error.code == code


def test_no_two_classes_share_a_code() -> None:
    codes = [getattr(errors, name).code for name in PUBLISHED]
    assert len(codes) == len(set(codes))


def test_every_class_is_drawn_in_the_module_docstring() -> None:
    drawn = {word.strip("├└─│ ") for line in (errors.__doc__ or "").splitlines() for word in line.split()}
    assert set(PUBLISHED) <= drawn


@pytest.mark.parametrize("name", TREE)
def test_str_is_the_message_and_not_its_repr(name: str) -> None:
    error = make(name)
    assert str(error) == error.message
    if name != "InlineSizeExceeded":
        assert str(error) == MESSAGE
        assert error.args == (MESSAGE,)


@pytest.mark.parametrize("name", TREE)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_survives_pickling(name: str, protocol: int) -> None:
    error = make(name)
    copy = pickle.loads(pickle.dumps(error, protocol))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert copy.message == error.message


def test_an_oversized_inline_field_names_field_size_limit_and_remedy() -> None:
    error = InlineSizeExceeded("docs", 70_000, 65_536)
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.field, copy.size, copy.limit) == ("docs", 70_000, 65_536)
    for part in ("'docs'", "70,000 bytes", "65,536 bytes", "Externalized[...]", "inline_threshold_bytes"):
        assert part in str(error)


@pytest.mark.parametrize("builtin", [AttributeError, KeyError, TypeError])
def test_code_that_never_heard_of_agentref_handles_an_unknown_field(builtin: type[Exception]) -> None:
    with pytest.raises(builtin, match="no field"):
        raise UnknownFieldError("State has no field 'dcos'. Did you mean 'docs'?")


def test_a_storage_error_claims_no_errno() -> None:
    error = errors.StoreFullError(MESSAGE)
    assert error.errno is None
    assert error.filename is None

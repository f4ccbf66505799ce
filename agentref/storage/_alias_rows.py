"""Names as a store gives them back: whoever can write to its tables can have written anything."""

from agentref.errors import IntegrityError, InvalidInputError
from agentref.refs import ContentRef
from agentref.storage._arguments import check_alias
from agentref.storage.protocol import AliasRow

__all__ = ["is_sound", "ref_of"]


def ref_of(row: AliasRow, backend_id: str) -> ContentRef:
    """What a name stands for. Raises `IntegrityError`, which names it, if its row is damaged."""
    try:
        check_alias(row)
        return ContentRef(row.digest, row.codec, row.size, backend_id)
    except InvalidInputError as error:
        raise IntegrityError(
            f"What the store {backend_id} keeps of the alias {row.name!r:.200} is damaged: {error.message} "
            f"Set the alias again, or delete it."
        ) from error


def is_sound(row: AliasRow) -> bool:
    """Whether `ref_of` would tell what the name stands for."""
    try:
        ref_of(row, "store")
    except IntegrityError:
        return False
    return True

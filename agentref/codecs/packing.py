"""Packing by msgpack's C code, and the links that come up meanwhile."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgpack

from agentref.codecs.screen import too_deep
from agentref.codecs.wire import MAX_NESTING
from agentref.errors import AgentRefError, ValueTooLargeError

__all__ = ["Packing"]

_PACK_BUFFER: Final = 16 * 1024
"""What msgpack takes for a start; its default, 256 KiB, costs more than most values do."""

_Pack = Callable[[object], bytes]
_Mark = tuple[int, int]
"""How many links there are, and how many bytes were spilled behind them."""


class Packing(ABC):
    """What an encoder packs with. For one thread, for one value."""

    def __init__(self) -> None:
        self._links: list[Any] = []
        self._spilled = 0
        self._depth = 0
        self._packers: list[_Pack] = []

    @abstractmethod
    def _default(self, item: Any) -> msgpack.ExtType | bytes:
        """Called by msgpack for what is not plain."""

    def _pack(self, value: object) -> bytes:
        """Pack as it is. What is not plain comes back through `_default`."""
        return self._pack_all([value])[0]

    def _pack_all(self, values: Sequence[object]) -> list[bytes]:
        depth = self._depth
        if depth == len(self._packers):
            self._packers.append(self._packer("strict"))
        pack = self._packers[depth]
        mark = self._mark()
        # msgpack's packer is not reentrant: objects met within `_default` use the next one.
        self._depth = depth + 1
        try:
            return [pack(value) for value in values]
        except UnicodeEncodeError:
            # Lone surrogates, as JSON from a model may hold. Always allowing for them would make the
            # packing of any text seven times slower.
            self._back_to(mark)
            pack = self._packer("surrogatepass")
            return [pack(value) for value in values]
        except AgentRefError:
            raise
        except ValueError as error:
            if "recursion" in str(error):
                raise too_deep() from error
            raise ValueTooLargeError(f"The value cannot be packed: {error}.") from error
        finally:
            self._depth = depth

    def _packer(self, unicode_errors: str) -> _Pack:
        if self._depth > MAX_NESTING:
            raise too_deep()
        packer = msgpack.Packer(
            strict_types=True, default=self._default, unicode_errors=unicode_errors, buf_size=_PACK_BUFFER
        )
        return packer.pack  # type: ignore[no-any-return]

    def _mark(self) -> _Mark:
        return len(self._links), self._spilled

    def _back_to(self, mark: _Mark) -> None:
        del self._links[mark[0] :]
        self._spilled = mark[1]

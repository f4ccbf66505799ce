"""Pins and aliases on their way from one store to another, each after all that it needs.

Blobs first, pointers last: a page of roots is set as soon as what it needs is there, so that what was
brought is kept from then on, however long the rest takes.
"""

from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Final

from agentref.refs import Digest
from agentref.storage._alias_rows import is_sound
from agentref.storage._transfer import PAGE, Transfer
from agentref.storage.protocol import AliasRow, PinRow, RootStore

__all__ = ["RootTransfer"]

_CONTENT: Final = itemgetter(1, 2, 3)

_Place = tuple[str, Digest]


class RootTransfer:
    """Brings pins and aliases to a target, and what they need by way of `blobs`.

    `pins`, `aliases`: how many of the source's stand in the target. `conflicts`: names that stand for
    something else there. `skipped`: names whose content is not all in the target, or that are damaged.
    """

    def __init__(
        self,
        source: RootStore,
        target: RootStore,
        blobs: Transfer,
        *,
        overwrite: bool,
    ) -> None:
        self.source, self.target = source, target
        self.pins = self.aliases = 0
        self.conflicts: list[str] = []
        self.skipped: list[str] = []
        self._blobs, self._overwrite = blobs, overwrite

    # Pins

    def bring_pins(self) -> None:
        """All that the source has, but for those that went meanwhile, or need what is lost."""
        after: _Place | None = None
        while page := self.source.scan_pins(after=after, limit=PAGE):
            last = page[-1].owner, page[-1].digest

            def standing(_: object, after: _Place | None = after, last: _Place = last) -> list[Digest]:
                return list({row.digest for row in _pins(self.source, after, last)})

            self._blobs.bring(list({row.digest for row in page}), standing=standing)
            incomplete = self._blobs.incomplete({row.digest for row in page})
            brought = {row[:2] for row in page if row.digest not in incomplete}
            rows = [row for row in _pins(self.source, after, last) if row[:2] in brought]
            self._set_pins(rows, after, last)
            self.pins += len(rows)
            after = last

    def _set_pins(self, rows: Sequence[PinRow], after: _Place | None, last: _Place) -> None:
        if self._blobs.dry_run:
            return
        there = {row[:2]: row.expires_at for row in _pins(self.target, after, last)}
        moved = [row._replace(expires_at=row.expires_at + self._blobs.shift) for row in rows]
        short = [row for row in moved if there.get(row[:2], -1.0) < row.expires_at]
        if short:
            self.target.pin(short)

    # Aliases

    def bring_aliases(self) -> None:
        """All that the source has, as they stand when their content has come."""
        after: str | None = None
        while page := self.source.scan_aliases(after=after, limit=PAGE):
            last = page[-1].name
            sound = list(filter(is_sound, page))
            self._bring(sound)
            self.skipped += [alias.name for alias in page if not is_sound(alias)]
            brought = {alias.name: alias.version for alias in sound}
            stand = [alias for alias in _aliases(self.source, after, last) if alias.name in brought]
            stand = list(filter(is_sound, stand))
            self._bring([alias for alias in stand if alias.version != brought[alias.name]])
            incomplete = self._blobs.incomplete({alias.digest for alias in stand})
            for alias in stand:
                if alias.digest in incomplete:
                    self.skipped.append(alias.name)
                else:
                    self._set_alias(alias._replace(expires_at=alias.expires_at + self._blobs.shift))
            after = last

    def _bring(self, aliases: Sequence[AliasRow]) -> None:
        def standing(_: object) -> list[Digest]:
            now = [self.source.alias(alias.name) for alias in aliases]
            return list({alias.digest for alias in now if alias is not None} & digests)

        digests = {alias.digest for alias in aliases}
        self._blobs.bring(list(digests), standing=standing)

    def _set_alias(self, alias: AliasRow) -> None:
        there = self.target.alias(alias.name)
        is_same = there is not None and _CONTENT(there) == _CONTENT(alias)
        if there is None or (there.expires_at < alias.expires_at if is_same else self._overwrite):
            if self._blobs.dry_run:
                there = alias
            else:
                version = there.version if there else 0
                there = self.target.set_alias(alias, expect=version) or self.target.alias(alias.name)
        if there is not None and _CONTENT(there) == _CONTENT(alias):
            self.aliases += 1
        else:
            self.conflicts.append(alias.name)


def _pins(store: RootStore, after: _Place | None, last: _Place) -> Iterator[PinRow]:
    """Those that follow `after`, up to `last`."""
    while page := store.scan_pins(after=after, limit=PAGE):
        for row in page:
            if (row.owner, row.digest) > last:
                return
            yield row
        after = page[-1].owner, page[-1].digest


def _aliases(store: RootStore, after: str | None, last: str) -> Iterator[AliasRow]:
    """Those that follow `after`, up to `last`."""
    while page := store.scan_aliases(after=after, limit=PAGE):
        for row in page:
            if row.name > last:
                return
            yield row
        after = page[-1].name

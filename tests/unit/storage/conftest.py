"""A forge of blobs, for tests that know the format as well as an attacker does."""

import pytest

from agentref.chunks import Kind, Link, blob_digest, link_table
from agentref.codecs import CODEC_ID
from agentref.refs import ContentRef
from agentref.storage import CAS
from agentref.storage.frames import pack_frame
from agentref.storage.memory import MemoryBlobStore


class Forge:
    """A store, and blobs of any content under their correct digests."""

    def __init__(self) -> None:
        self.store = MemoryBlobStore()
        self.cas = CAS(self.store)

    def blob(self, kind: Kind, data: bytes, size: int) -> Link:
        digest = blob_digest(kind, data)
        self.store.store({digest: pack_frame(kind, data, 1) if data else bytes([0x10 | kind, 0])})
        return Link(digest, size)

    def raw(self, data: bytes) -> Link:
        return self.blob(Kind.RAW, data, len(data))

    def value(self, payload: bytes, links: list[Link] = []) -> Link:  # noqa: B006  (never changed)
        return self.blob(
            Kind.VALUE, link_table(links) + payload, len(payload) + sum(link.size for link in links)
        )

    def node(self, links: list[Link]) -> Link:
        return self.blob(Kind.NODE, link_table(links), sum(link.size for link in links))

    def load(self, link: Link, codec: str = CODEC_ID) -> object:
        return self.cas.load(ContentRef(link.digest, codec, link.size))


@pytest.fixture(name="new_forge", scope="session")
def forge_class() -> type[Forge]:
    return Forge


@pytest.fixture
def forge() -> Forge:
    return Forge()

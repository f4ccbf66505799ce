"""Bytes and elements to chunks and trees of them, and back. Pure: no I/O, no clock."""

from agentref.chunks.blob import (
    MAX_BLOB_BYTES,
    Blob,
    Kind,
    Link,
    blob_digest,
    link_table,
    read_varint,
    unpack_blob,
    varint,
)
from agentref.chunks.cut import WHOLE_BYTES, cut_bytes, cut_stream
from agentref.chunks.memo import IdentityMemo, Memo
from agentref.chunks.tree import MAX_DEPTH, Pending, TreeBuilder, encode_text

__all__ = [
    "MAX_BLOB_BYTES",
    "MAX_DEPTH",
    "WHOLE_BYTES",
    "Blob",
    "IdentityMemo",
    "Kind",
    "Link",
    "Memo",
    "Pending",
    "TreeBuilder",
    "blob_digest",
    "cut_bytes",
    "cut_stream",
    "encode_text",
    "link_table",
    "read_varint",
    "unpack_blob",
    "varint",
]

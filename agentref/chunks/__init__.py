"""Bytes and elements to chunks and trees of them, and back. Pure: no I/O, no clock."""

from agentref.chunks.blob import MAX_BLOB_BYTES, Blob, Kind, Link, blob_digest, link_table, unpack_blob
from agentref.chunks.blob import read_varint, varint
from agentref.chunks.cut import WHOLE_BYTES, cut_bytes, cut_stream
from agentref.chunks.tree import MAX_DEPTH, IdentityMemo, Pending, TreeBuilder, encode_text

__all__ = [
    "MAX_BLOB_BYTES",
    "MAX_DEPTH",
    "WHOLE_BYTES",
    "Blob",
    "Kind",
    "IdentityMemo",
    "Link",
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

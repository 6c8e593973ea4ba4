"""Content to chunks: at most 64 KiB each, named by the BLAKE3-256 of their bytes (WS-14).

Owns: `Piece` and `split`.
Never: I/O. What is small travels inline and is not a chunk here.
Chunks are cut at fixed offsets: files of a source tree are mostly smaller than one chunk, and the spec asks for
shared storage of equal content at equal offsets, not for content-defined cuts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from blake3 import blake3

from hypercluster.errors import check
from hypercluster.limits import CHUNK_BYTES_MAX, INLINE_BYTES_MAX, WRITE_BYTES_MAX, WRITE_EXTENTS_MAX
from hypercluster.values import ChunkHash

check(WRITE_BYTES_MAX <= WRITE_EXTENTS_MAX * CHUNK_BYTES_MAX, "whole chunks fill a write before its pieces run out")


@dataclass(frozen=True, slots=True)
class Piece:
    """A whole chunk at its place in a file."""

    offset: int
    chunk_hash: ChunkHash
    content: bytes


def hash_of(content: bytes) -> ChunkHash:
    return ChunkHash(blake3(content).digest())


def is_inline(content: bytes | memoryview) -> bool:
    return len(content) <= INLINE_BYTES_MAX


def split(content: bytes | memoryview, offset: int = 0) -> Iterator[Piece]:
    """Pieces of at most CHUNK_BYTES_MAX, in order, the first at `offset` in the file."""
    view = memoryview(content)
    for start in range(0, len(view), CHUNK_BYTES_MAX):
        part = bytes(view[start : start + CHUNK_BYTES_MAX])
        yield Piece(offset + start, hash_of(part), part)

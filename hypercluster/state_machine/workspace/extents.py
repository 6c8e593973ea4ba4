"""Extents of a file: {offset, length, chunk_hash, chunk_offset} (WS-13).

Owns: their record, and the arithmetic of replacing a range: cutting, keeping remainders, merging neighbours.
Invariants: a list of extents is sorted by offset and does not overlap; two neighbours that continue each other in the
file and in one chunk are one extent; what no extent covers reads as zeros.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from struct import Struct
from typing import Final, NamedTuple

_EXTENT: Final = Struct(">QII32s")
EXTENT_BYTES: Final = _EXTENT.size


class Extent(NamedTuple):
    """`length` bytes of the file from `offset` are those of the chunk from `chunk_offset`."""

    offset: int
    length: int
    chunk_offset: int
    chunk_hash: bytes

    @property
    def end(self) -> int:
        return self.offset + self.length


_extent_of = partial(tuple.__new__, Extent)  # without a call of Python code for each


def encode_extents(extents: Iterable[Extent]) -> bytes:
    return b"".join([_EXTENT.pack(*extent) for extent in extents])


def decode_extents(record: bytes) -> list[Extent]:
    return list(map(_extent_of, _EXTENT.iter_unpack(record)))


def continues(left: Extent, right: Extent) -> bool:
    """Whether `right` is the very next piece of the same chunk."""
    return (
        left.offset + left.length == right.offset
        and left.chunk_hash == right.chunk_hash
        and left.chunk_offset + left.length == right.chunk_offset
    )


def merged(extents: Iterable[Extent]) -> Iterator[Extent]:
    """The same content with neighbours that continue each other made one."""
    last: Extent | None = None
    for extent in extents:
        if last is None:
            last = extent
        elif continues(last, extent):
            last = last._replace(length=last.length + extent.length)
        else:
            yield last
            last = extent
    if last is not None:
        yield last


def before(extent: Extent, at: int) -> Extent:
    """The part of the extent that lies below file offset `at`."""
    return extent._replace(length=at - extent.offset)


def after(extent: Extent, at: int) -> Extent:
    """The part of the extent that lies at or above file offset `at`."""
    cut = at - extent.offset
    return Extent(at, extent.length - cut, extent.chunk_offset + cut, extent.chunk_hash)


def spliced(extents: list[Extent], start: int, end: int, new: list[Extent]) -> list[Extent]:
    """A whole file's extents with `new` in place of whatever was in [start, end)."""
    if not extents or extents[-1].end <= start:
        joined = extents and new and continues(extents[-1], new[0])
        return list(merged([*extents, *new])) if joined else [*extents, *new]
    left = [before(extent, start) if extent.end > start else extent for extent in extents if extent.offset < start]
    right = [after(extent, end) if extent.offset < end else extent for extent in extents if extent.end > end]
    return list(merged([*left, *new, *right]))

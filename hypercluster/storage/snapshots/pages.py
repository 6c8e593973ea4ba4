"""The records of a tree as pages that stay the same where the tree does (WS-53).

Owns: where pages end, their bytes, and the index pages that list them.
Never: a disk, compression or a signature.
Form: a page is a flag byte and a piece of the stream of records: family, length of key, length of value, key, value.
Invariants: a page ends behind each record whose key says so, about every RECORDS_A_PAGE records; so what is inserted
or changed makes new pages around it and nowhere else, on every node the same. A page holds PAGE_BYTES_MAX at most: one
that is longer is cut, and a record that does not fit in one goes on in the next, whose flag says CONTINUES. An index
page ends behind a hash that says so, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from struct import Struct
from typing import Final

from blake3 import blake3

from hypercluster.errors import DamagedError, check
from hypercluster.limits import CHUNK_BYTES_MAX

RECORDS_A_PAGE: Final = 128
HASHES_A_PAGE: Final = 256
HASHES_A_PAGE_MAX: Final = 1_024
PAGE_BYTES_MAX: Final = CHUNK_BYTES_MAX - 16
HASH_BYTES: Final = 32

BEGINS: Final = 0
CONTINUES: Final = 1

_RECORD: Final = Struct(">BHI")
_FLAGS: Final = (bytes((BEGINS,)), bytes((CONTINUES,)))
_END_BELOW: Final = (1 << 32) // RECORDS_A_PAGE
_INDEX_END_BELOW: Final = (1 << 32) // HASHES_A_PAGE

check(_RECORD.size == 7, "a record's head is written with its parts next to one another")

Record = tuple[int, bytes, bytes]  # family, key, value


def _ends_page(family: int, key: bytes) -> bool:
    digest = blake3(bytes((family,)) + key).digest(length=4)
    return int.from_bytes(digest, "big") < _END_BELOW


class PageCutter:
    """Records in, pages out, both in order."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size_bytes = 0
        self.records = 0
        self.bytes_total = 0

    def add(self, family: int, key: bytes, value: bytes) -> list[bytes]:
        """The pages that this record completes."""
        record = _RECORD.pack(family, len(key), len(value)) + key + value
        self.records += 1
        self.bytes_total += len(record)
        pages: list[bytes] = []
        if self._parts and 1 + self._size_bytes + len(record) > PAGE_BYTES_MAX:
            pages += self.finish()
        self._parts.append(record)
        self._size_bytes += len(record)
        if self._size_bytes >= PAGE_BYTES_MAX or _ends_page(family, key):
            pages += self.finish()
        return pages

    def finish(self) -> list[bytes]:
        """What is left."""
        stream = b"".join(self._parts)
        self._parts, self._size_bytes = [], 0
        room = PAGE_BYTES_MAX - 1
        return [
            _FLAGS[BEGINS if start == 0 else CONTINUES] + stream[start : start + room]
            for start in range(0, len(stream), room)
        ]


class IndexCutter:
    """Hashes of pages in, index pages out."""

    def __init__(self) -> None:
        self._hashes: list[bytes] = []
        self.count = 0

    def add(self, page_hash: bytes) -> list[bytes]:
        self._hashes.append(page_hash)
        self.count += 1
        ends = int.from_bytes(page_hash[:4], "big") < _INDEX_END_BELOW
        return self.finish() if ends or len(self._hashes) == HASHES_A_PAGE_MAX else []

    def finish(self) -> list[bytes]:
        hashes, self._hashes = self._hashes, []
        return [b"".join(hashes)] if hashes else []


def split_index(index_page: bytes) -> list[bytes]:
    """Raises DamagedError."""
    if not index_page or len(index_page) % HASH_BYTES:
        raise DamagedError("an index page of a snapshot is not a list of hashes")
    return [index_page[start : start + HASH_BYTES] for start in range(0, len(index_page), HASH_BYTES)]


def continues(page: bytes) -> bool:
    return page[0] == CONTINUES


def read_records(pages: Iterable[bytes]) -> Iterator[Record]:
    """The records of consecutive pages, the first of which begins with one and the last ends with one. Raises
    DamagedError."""
    stream = b"".join(page[1:] for page in pages)
    position = 0
    while position < len(stream):
        if position + _RECORD.size > len(stream):
            raise DamagedError("a page of a snapshot ends in the head of a record")
        family, key_bytes, value_bytes = _RECORD.unpack_from(stream, position)
        key_at = position + _RECORD.size
        value_at = key_at + key_bytes
        position = value_at + value_bytes
        if position > len(stream):
            raise DamagedError("a page of a snapshot ends in the middle of a record")
        yield family, stream[key_at:value_at], stream[value_at:position]

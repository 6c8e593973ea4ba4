"""Content of one file: its extents in a radix tree over the file offset, hashed page by page (WS-13, WS-35).

Owns: content pages (Family.TREE, kind X) and the content digest of an inode.
Shape: the root covers [0, 16^level) with the smallest such level that holds the size. A subtree of at most
PAGE_EXTENTS extents is one page of extents, a larger one an inner page with 16 slots. So shape and digest are
functions of size and extents alone, and an append changes one path. A root of at most INLINE_EXTENTS extents stands
in the inode's record.
Bounds: an edit loads and writes the pages along the two ends of its range. What lies wholly inside is not visited: its
page goes to the reclaim queue (reclaim.py), which later commands empty a page at a time (D-4).
Pages are numbered by their inode and a number is never used twice, so one waiting to be reclaimed is in nobody's way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from struct import Struct
from typing import Final, NamedTuple

from blake3 import blake3

from hypercluster.errors import check
from hypercluster.state_machine.store import Family, MemoryStore, Reader
from hypercluster.state_machine.workspace.extents import (
    EXTENT_BYTES,
    Extent,
    after,
    before,
    continues,
    decode_extents,
    encode_extents,
    merged,
    spliced,
)
from hypercluster.state_machine.workspace.records import KIND_FILE, PAGE, ROOT_ID, ZERO_HASH, Inode, body_of

WIDTH: Final = 16
PAGE_EXTENTS: Final = 64
INLINE_EXTENTS: Final = 8

_EXTENTS_PREFIX: Final = b"\x11"
_INNER_PREFIX: Final = b"\x12"
_HASHED_HEAD: Final = Struct(">BQ")
# An inner page: level, extents, mapped bytes; 16 digests next to one another, hashed as they stand; 16 references.
_HEAD: Final = Struct(">BQQ")
_REFERENCE: Final = Struct(">QQQ")
_DIGEST_BYTES: Final = 32
_REFERENCES_AT: Final = _HEAD.size + WIDTH * _DIGEST_BYTES
_INNER_BYTES: Final = _REFERENCES_AT + WIDTH * _REFERENCE.size
_PAGE_NUMBER: Final = Struct(">Q")


class Slot(NamedTuple):
    """A subtree: its page, extents, mapped bytes and digest. Page 0 with extents is the one in the inode."""

    page: int
    extent_count: int
    mapped: int
    digest: bytes


EMPTY: Final = Slot(0, 0, 0, ZERO_HASH)


class Dropped(NamedTuple):
    """A page nothing refers to any more, whose chunks and children are still to be released."""

    page: int
    extent_count: int


def level_of(size: int) -> int:
    """The smallest level whose root covers `size` bytes."""
    return ((size - 1).bit_length() + 3) // 4 if size > 1 else 0


def extents_digest(record: bytes) -> bytes:
    return blake3(_EXTENTS_PREFIX + record).digest() if record else ZERO_HASH


def inner_digest(level: int, count: int, digests: bytes) -> bytes:
    return blake3(_INNER_PREFIX + _HASHED_HEAD.pack(level, count) + digests).digest()


def page_key(workspace_id: bytes, inode_id: bytes, page: int) -> bytes:
    return workspace_id + PAGE + inode_id + _PAGE_NUMBER.pack(page)


def slot_at(record: bytes | bytearray, digit: int) -> Slot:
    """One slot of an inner page."""
    at = _HEAD.size + digit * _DIGEST_BYTES
    page, count, mapped = _REFERENCE.unpack_from(record, _REFERENCES_AT + digit * _REFERENCE.size)
    return Slot(page, count, mapped, bytes(record[at : at + _DIGEST_BYTES]))


def put_slot(record: bytearray, digit: int, slot: Slot) -> None:
    at = _HEAD.size + digit * _DIGEST_BYTES
    record[at : at + _DIGEST_BYTES] = slot.digest
    _REFERENCE.pack_into(record, _REFERENCES_AT + digit * _REFERENCE.size, slot.page, slot.extent_count, slot.mapped)


def page_slots(record: bytes) -> list[Slot]:
    check(len(record) == _INNER_BYTES, "an inner content page has another size")
    return [slot_at(record, digit) for digit in range(WIDTH)]


class ContentReader:
    """Reads the extents of one inode through any reader; every step costs the pages of one path."""

    __slots__ = ("_key", "_lists", "_pages", "_reader", "inode")

    def __init__(self, reader: Reader, workspace_id: bytes, inode: Inode) -> None:
        self._reader = reader
        self._key = page_key(workspace_id, inode.inode_id, 0)[: -_PAGE_NUMBER.size]
        self._pages: dict[int, bytes | None] = {}  # written by an edit and not yet stored; None: gone
        self._lists: dict[int, list[Extent]] = {}  # pages of extents, decoded; never changed in place
        self.inode = inode

    def root(self) -> Slot:
        inode = self.inode
        return Slot(inode.root_page, inode.extent_count, inode.mapped_bytes, inode.content_digest)

    def record(self, page: int) -> bytes:
        if page == 0:
            return self.inode.extents
        if page in self._pages:
            found = self._pages[page]
        else:
            found = self._reader.get(Family.TREE, self._key + _PAGE_NUMBER.pack(page))
            check(found is not None, "a content page is missing")
            return body_of(found or b"")
        check(found is not None, "a content page is used after it was deleted")
        return found or b""

    def listed(self, page: int) -> list[Extent]:
        """The extents of a page."""
        found = self._lists.get(page)
        if found is None:
            found = self._lists[page] = decode_extents(self.record(page))
        return found

    def extents(self, from_offset: int = 0) -> Iterator[Extent]:
        """In order, from the first that ends above `from_offset`."""
        below = self.floor(from_offset)
        start = from_offset if below is None or below.end <= from_offset else below.offset
        yield from self._forward(self.root(), level_of(self.inode.size), 0, start)

    def _forward(self, slot: Slot, level: int, base: int, start: int) -> Iterator[Extent]:
        if slot.extent_count == 0:
            return
        if slot.extent_count <= PAGE_EXTENTS:
            yield from (extent for extent in self.listed(slot.page) if extent.offset >= start)
            return
        span = 1 << (4 * (level - 1))
        record = self.record(slot.page)
        for digit in range(max(0, (start - base) // span), WIDTH):
            yield from self._forward(slot_at(record, digit), level - 1, base + digit * span, start)

    def backwards(self) -> Iterator[Extent]:
        """From the last extent to the first."""
        yield from self._backward(self.root(), level_of(self.inode.size), 0, 1 << 64)

    def _backward(self, slot: Slot, level: int, base: int, top: int) -> Iterator[Extent]:
        """Extents that begin at or below `top`."""
        if slot.extent_count == 0:
            return
        if slot.extent_count <= PAGE_EXTENTS:
            yield from (extent for extent in reversed(self.listed(slot.page)) if extent.offset <= top)
            return
        span = 1 << (4 * (level - 1))
        record = self.record(slot.page)
        for digit in range(min(WIDTH - 1, (top - base) // span), -1, -1):
            yield from self._backward(slot_at(record, digit), level - 1, base + digit * span, top)

    def floor(self, offset: int) -> Extent | None:
        """The last extent that begins at or below `offset`."""
        return next(self._backward(self.root(), level_of(self.inode.size), 0, offset), None)


class ContentEdit(ContentReader):
    """Changes the extents of one inode; pages are kept until `take_pages`."""

    __slots__ = ("_chunk_delta", "dropped")

    def __init__(
        self, reader: Reader, workspace_id: bytes, inode: Inode, chunk_delta: Callable[[bytes, int], None]
    ) -> None:
        super().__init__(reader, workspace_id, inode)
        self._chunk_delta = chunk_delta  # told of every reference made (+1) or ended (-1)
        self.dropped: list[Dropped] = []

    def splice(self, start: int, end: int, new: list[Extent]) -> None:
        """Puts `new` in place of whatever the file has in [start, end); what sticks out at either side stays."""
        if self.inode.extent_count <= INLINE_EXTENTS and self._splice_inline(start, end, new):
            return
        low, high = start, end
        placed = list(new)
        left = self.floor(start - 1) if start else None
        if left is not None and left.end > start:
            placed.insert(0, before(left, start))
            low = left.offset
        elif left is not None and placed and continues(left, placed[0]):
            placed.insert(0, left)
            low = left.offset
        right = self.floor(end)
        if right is not None and right.end > end and right.offset < end:
            placed.append(after(right, end))
            high = end + 1
        elif right is not None and right.offset == end and placed and continues(placed[-1], right):
            placed.append(right)
            high = end + 1
        self.replace(low, high, list(merged(placed)))

    def _splice_inline(self, start: int, end: int, new: list[Extent]) -> bool:
        """The common file, whose few extents never leave the inode's record. False if they do not fit it."""
        inode = self.inode
        old = self.listed(0)
        extents = spliced(old, start, end, new)
        if len(extents) > INLINE_EXTENTS:
            return False
        self._count_difference(old, extents)
        self._lists[0] = extents
        inode.extents = record = encode_extents(extents)
        inode.extent_count = len(extents)
        inode.mapped_bytes = sum([extent[1] for extent in extents])
        inode.content_digest = extents_digest(record)
        return True

    def replace(self, low: int, high: int, new: list[Extent]) -> None:
        """Removes the extents that begin in [low, high) and puts `new`, which begin there, in their place."""
        self._set_root(self._edit(self.root(), level_of(self.inode.size), 0, low, high, new))

    def resize(self, size: int) -> None:
        """Sets the size. Extents must end at or below it: a shrinking file is cut first."""
        inode = self.inode
        old, new = level_of(inode.size), level_of(size)
        inode.size = size
        if inode.extent_count <= PAGE_EXTENTS:
            return  # a page of extents covers whatever its root covers
        root = self.root()
        for level in range(old + 1, new + 1):
            root = self._new_inner(0, level, {0: root})
        for _ in range(new, old):
            below = slot_at(self.record(root.page), 0)
            check(below.extent_count == root.extent_count, "a file was shortened below its extents")
            self._pages[root.page] = None
            root = below
        self._set_root(root)

    def take_pages(self) -> list[tuple[bytes, bytes | None]]:
        """Keys and records to store (None: delete), in the order they were first written."""
        taken = [(self._key + _PAGE_NUMBER.pack(page), record) for page, record in self._pages.items()]
        self._pages = {}
        return taken

    def _set_root(self, root: Slot) -> None:
        inode = self.inode
        self._lists.pop(0, None)
        if 0 < root.extent_count <= INLINE_EXTENTS:
            if root.page:
                inode.extents = self.record(root.page)
                self._pages[root.page] = None
                root = root._replace(page=0)
        else:
            inode.extents = b""
        inode.root_page, inode.extent_count, inode.mapped_bytes, inode.content_digest = root

    def _edit(self, slot: Slot, level: int, base: int, low: int, high: int, new: list[Extent]) -> Slot:
        if slot.extent_count <= PAGE_EXTENTS:
            old = self.listed(slot.page) if slot.extent_count else []
            kept = [extent for extent in old if extent[0] < low]
            rest = [extent for extent in old if extent[0] >= high]
            self._count(old[len(kept) : len(old) - len(rest)], -1)
            self._count(new, 1)
            return self._build(slot.page, level, base, [*kept, *new, *rest])
        span = 1 << (4 * (level - 1))
        record = bytearray(self.record(slot.page))
        count, mapped = slot.extent_count, slot.mapped
        for digit in range(max(0, (low - base) // span), min(WIDTH - 1, (high - 1 - base) // span) + 1):
            start = base + digit * span
            was = kid = slot_at(record, digit)
            mine = [extent for extent in new if start <= extent[0] < start + span]
            if low <= start and start + span <= high and kid.extent_count:
                self.dropped.append(Dropped(kid.page, kid.extent_count))
                kid = EMPTY
            now = self._edit(kid, level - 1, start, low, high, mine) if kid.extent_count or mine else EMPTY
            put_slot(record, digit, now)
            count += now.extent_count - was.extent_count
            mapped += now.mapped - was.mapped
        if count > PAGE_EXTENTS:
            return self._put_inner(slot.page, level, count, mapped, record)
        gathered: list[Extent] = []
        for kid in page_slots(bytes(record)):
            if kid.extent_count:
                gathered += self.listed(kid.page)
                self._pages[kid.page] = None
        return self._build(slot.page, level, base, gathered)

    def _build(self, page: int, level: int, base: int, extents: list[Extent]) -> Slot:
        """The subtree of these extents, in `page` if it is not 0."""
        if not extents:
            if page:
                self._pages[page] = None
            return EMPTY
        if len(extents) <= PAGE_EXTENTS:
            record = encode_extents(extents)
            page = page or self._fresh_page()
            self._pages[page], self._lists[page] = record, extents
            return Slot(page, len(extents), sum([extent[1] for extent in extents]), extents_digest(record))
        span = 1 << (4 * (level - 1))
        slots: dict[int, Slot] = {}
        first = 0
        while first < len(extents):
            digit = (extents[first].offset - base) // span
            end = first + 1
            while end < len(extents) and (extents[end].offset - base) // span == digit:
                end += 1
            slots[digit] = self._build(0, level - 1, base + digit * span, extents[first:end])
            first = end
        return self._new_inner(page, level, slots)

    def _new_inner(self, page: int, level: int, slots: dict[int, Slot]) -> Slot:
        record = bytearray(_INNER_BYTES)
        count = mapped = 0
        for digit, slot in slots.items():
            put_slot(record, digit, slot)
            count, mapped = count + slot.extent_count, mapped + slot.mapped
        return self._put_inner(page, level, count, mapped, record)

    def _put_inner(self, page: int, level: int, count: int, mapped: int, record: bytearray) -> Slot:
        page = page or self._fresh_page()
        _HEAD.pack_into(record, 0, level, count, mapped)
        self._pages[page] = bytes(record)
        return Slot(page, count, mapped, inner_digest(level, count, bytes(record[_HEAD.size : _REFERENCES_AT])))

    def _fresh_page(self) -> int:
        page = self.inode.next_page
        self.inode.next_page = page + 1
        return page

    def _count_difference(self, old: list[Extent], new: list[Extent]) -> None:
        """What both have in front is not counted."""
        same = 0
        while same < len(old) and same < len(new) and old[same] == new[same]:
            same += 1
        self._count(old[same:], -1)
        self._count(new[same:], 1)

    def _count(self, extents: list[Extent], change: int) -> None:
        for extent in extents:
            self._chunk_delta(extent.chunk_hash, change)


def is_inner(count: int) -> bool:
    """Whether a subtree of so many extents has an inner page at its top."""
    return count > PAGE_EXTENTS


def page_children(record: bytes) -> list[Dropped]:
    """The pages an inner page refers to."""
    return [Dropped(slot.page, slot.extent_count) for slot in page_slots(record) if slot.extent_count]


def page_extents(record: bytes) -> list[Extent]:
    check(len(record) % EXTENT_BYTES == 0, "a page of extents has a partial record")
    return decode_extents(record)


def content_digest(size: int, extents: list[Extent]) -> bytes:
    """The digest of a file of this size with exactly these extents, which are sound: computed from nothing else."""
    inode = Inode(ROOT_ID, KIND_FILE, 0, 0, 0, 0, 0, size, 0, 0)
    edit = ContentEdit(MemoryStore(), ROOT_ID, inode, lambda _chunk_hash, _change: None)
    edit.replace(0, max(1, size), extents)
    return inode.content_digest

"""What an object held before (D-18): versions keyed by place, linked from newest to oldest, and the floor under them.

Owns: Family.VERSIONS. Three kinds of record; a place is Raft index and ordinal, and keys that begin with it are written
in rising order, which costs a store a tenth of what keys that begin with the object do:
    "V" place family object-key -> kind, place of the object's version before this one (all zero: none), then the value
                                   or whatever the owner adds to a deletion
    "D" family object-key -> place of its last version, for an object without a head whose deletion is still kept
    "S" index -> keys of "V" records that entry `index` made needless: what it replaced, and its own deletions
The head of an object keeps the place of its version, so apply reads no version; it looks for a "D" when it makes an
object that may have been there before. A record named by "S" j serves reads below j only, so it may go once the floor
is j or more; raising the floor walks the "S" records in index order and reads no version.
Invariants: a read at or above the floor finds what was there; below it is HISTORY_GONE, on every node alike; a link
that no read at or above the floor needs may lead to a removed record, any other that does is damage; one command
removes at most FLOOR_KEYS_MAX keys.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from hypercluster.errors import REJOIN, DamagedError, HistoryGoneError, check
from hypercluster.state_machine.context import OpContext
from hypercluster.state_machine.keys import number, read_number
from hypercluster.state_machine.meta import VERSIONS_FLOOR
from hypercluster.state_machine.overlay import Overlay
from hypercluster.state_machine.store import Change, Family, Reader
from hypercluster.values import Index

FLOOR_KEYS_MAX = 1_000

PLACE: Final = struct.Struct(">QI")  # Raft index, ordinal in the entry
NO_PLACE: Final = bytes(PLACE.size)

# The kind of a version is two bits: is there a value, and is the version before it a deletion? The second tells a
# reader until when the version it links to is kept: a deletion goes before what replaces it.
_VALUE, _AFTER_DELETION = 1, 2
DELETED, LIVE, REMADE = bytes((0,)), bytes((_VALUE,)), bytes((_VALUE | _AFTER_DELETION,))

VERSION, _DELETION, _SUPERSEDED = b"V", b"D", b"S"
# Where the head record of an object keeps the place of its version, by family.
PLACE_AT: Final = {Family.HUB: 9, Family.TREE: 0}
_FAMILY: Final = tuple(bytes((family,)) for family in Family)
_LINK_END: Final = 1 + PLACE.size  # kind and link stand before the value
_OBJECT_AT: Final = 1 + PLACE.size  # where family and object key begin in the key of a version
_FLOOR = struct.Struct(">QQI")  # floor, then the cursor: entry index and how many of its keys are done
_LENGTH = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class Version:
    """`value` is None for a deletion; `rest` is what the owner stored with it."""

    index: Index
    ordinal: int
    value: bytes | None
    rest: bytes = b""


def place(index: Index, ordinal: int) -> bytes:
    """Where a version stands; the object's head record keeps it for the next `put`."""
    return PLACE.pack(index, ordinal)


def deletion_key(family: Family, key: bytes) -> bytes:
    """Of the "D" record of the object whose head is, or was, (family, key)."""
    return _DELETION + _FAMILY[family] + key


def put(ctx: OpContext, family: Family, key: bytes, value: bytes | None, previous: bytes | None) -> bytes:
    """Stores a version of the object whose head is (family, key); None is a deletion. Returns its place.

    `previous` is the place of the version it follows, as the head has it; NO_PLACE for an object that never was there
    before; None for one without a head, which may have been. A command that touches an object twice leaves one
    version, which follows what the first of them followed."""
    check(value is not None or previous is not None, "an object without a head is not deleted")
    overlay, effects = ctx.overlay, ctx.effects
    object_key = _FAMILY[family] + key
    here = PLACE.pack(ctx.index, ctx.ordinal)
    name = VERSION + here + object_key
    after = 0
    if previous is None:
        previous = overlay.get(Family.VERSIONS, _DELETION + object_key)
        if previous is None:
            previous = NO_PLACE
        else:
            after = _AFTER_DELETION
            overlay.delete(Family.VERSIONS, _DELETION + object_key)
    if previous == here:
        after, previous = effects.version_links[name]
    else:
        effects.version_links[name] = after, previous
        if previous != NO_PLACE and not after:  # a deletion is needless by its own entry
            effects.superseded[VERSION + previous + object_key] = None
    if value is None:
        effects.superseded[name] = None
        overlay.put(Family.VERSIONS, _DELETION + object_key, here)
        record = bytes((after,)) + previous
    else:
        effects.superseded.pop(name, None)  # deleted and made again by one command: that version is the present one
        record = bytes((_VALUE | after,)) + previous + value
    overlay.put_uncached(Family.VERSIONS, name, record)
    return here


def flush(overlay: Overlay, index: Index, superseded: Sequence[bytes]) -> None:
    """Once per entry: what this entry made needless."""
    if superseded:
        parts: list[bytes] = []
        for key in superseded:
            parts += (_LENGTH.pack(len(key)), key)
        overlay.put_uncached(Family.VERSIONS, _SUPERSEDED + number(index), b"".join(parts))


def floor(reader: Reader) -> Index:
    return _read_floor(reader)[0]


def backlog(reader: Reader) -> bool:
    """Whether raising the floor has left keys to remove: the leader then proposes the same floor again."""
    floor_index, done_index, _ = _read_floor(reader)
    start, end = _SUPERSEDED + number(done_index), _SUPERSEDED + number(floor_index + 1)
    return next(reader.scan(Family.VERSIONS, start, end), None) is not None


def raise_floor(overlay: Overlay, floor_index: Index) -> int:
    """Moves the floor (never down) and removes up to FLOOR_KEYS_MAX keys below it. Returns how many it removed."""
    present, cursor_index, cursor_keys = _read_floor(overlay)
    target = max(present, floor_index)
    budget = FLOOR_KEYS_MAX
    start, end = _SUPERSEDED + number(cursor_index), _SUPERSEDED + number(target + 1)
    for record_key, value in overlay.scan(Family.VERSIONS, start, end):
        index = read_number(record_key, 1)
        done = cursor_keys if index == cursor_index else 0
        names = list(_superseded_keys(value))
        # A version goes together with the record of its deletion, and the last one with the list it stands in.
        while done < len(names) and budget > 2:
            budget -= _remove(overlay, names[done], index)
            done += 1
        cursor_index, cursor_keys = Index(index), done
        if done < len(names):
            break
        overlay.record((Change(Family.VERSIONS, record_key, None),))
        budget -= 1
        cursor_index, cursor_keys = Index(index + 1), 0
    else:
        cursor_index, cursor_keys = Index(target + 1), 0
    overlay.put(Family.META, VERSIONS_FLOOR, _FLOOR.pack(target, cursor_index, cursor_keys))
    return FLOOR_KEYS_MAX - budget


def _remove(overlay: Overlay, name: bytes, index: int) -> int:
    """Removes a version that entry `index` made needless, and the "D" record that names it, but not one that names a
    later deletion. Returns how many keys it removed."""
    overlay.record((Change(Family.VERSIONS, name, None),))
    if read_number(name, 1) != index:  # replaced: only its own entry makes a deletion needless
        return 1
    key = _DELETION + name[_OBJECT_AT:]
    if name[_OBJECT_AT] != Family.HUB:
        if overlay.get(Family.VERSIONS, key) != name[1:_OBJECT_AT]:
            return 1
        overlay.delete(Family.VERSIONS, key)
        return 2
    # The hub has its own changes of this entry written at its end, so they come after this one and win.
    if overlay.reader.get(Family.VERSIONS, key) != name[1:_OBJECT_AT]:
        return 1
    overlay.record((Change(Family.VERSIONS, key, None),))
    return 2


def read_at(reader: Reader, family: Family, key: bytes, index: Index) -> Version | None:
    """What the object held once `index` was applied; None if it was not there. Raises HistoryGoneError.

    Costs a read for each version the object had after `index`, as they are linked from the newest one."""
    return next((found for found in steps_to(reader, family, key, index) if found is not None), None)


def steps_to(reader: Reader, family: Family, key: bytes, index: Index) -> Iterator[Version | None]:
    """`read_at` in steps of one read: None for each version after `index`, and then the version, if there is one.

    The state may move on between two steps; HistoryGoneError is raised once the floor has passed the index."""
    _check_floor(reader, index)
    for found in _chain(reader, family, key):
        if found.index <= index:
            yield found
            return
        yield None
    _check_floor(reader, index)


def newest(reader: Reader, family: Family, key: bytes, count_max: int) -> list[Version]:
    """The latest versions, newest first, as far as they are kept. Costs a read for each."""
    return list(islice(_chain(reader, family, key), count_max))


def _check_floor(reader: Reader, index: Index) -> None:
    floor_index = floor(reader)
    if index < floor_index:
        raise HistoryGoneError(f"index {index} is below the versions floor {floor_index}")


def _chain(reader: Reader, family: Family, key: bytes) -> Iterator[Version]:
    """Versions from the newest one on, to where the floor has removed them. Raises DamagedError."""
    head = reader.get(family, key)
    if head is None:
        here = reader.get(Family.VERSIONS, deletion_key(family, key)) or NO_PLACE
    else:
        here = head[PLACE_AT[family] : PLACE_AT[family] + PLACE.size]
    object_key = _FAMILY[family] + key
    gone_at: int | None = None  # the floor at which the version at `here` may be gone; never, while something names it
    while here != NO_PLACE:
        index, ordinal = PLACE.unpack(here)
        record = reader.get(Family.VERSIONS, VERSION + here + object_key)
        if record is None and gone_at is not None and gone_at <= floor(reader):
            return
        before = b"" if record is None else record[1:_LINK_END]
        if record is None or len(before) != PLACE.size or before >= here:
            where = f"version {index}/{ordinal} of {family.name} record {key.hex()}"
            raise DamagedError(f"{where} is {'missing' if record is None else 'wrongly linked'}. {REJOIN}")
        kind, rest = record[0], record[_LINK_END:]
        yield Version(Index(index), ordinal, rest) if kind & _VALUE else Version(Index(index), ordinal, None, rest)
        gone_at = PLACE.unpack(before)[0] if kind & _AFTER_DELETION else index
        here = before


def _superseded_keys(value: bytes) -> Iterator[bytes]:
    position = 0
    while position < len(value):
        start = position + _LENGTH.size
        position = start + _LENGTH.unpack_from(value, position)[0]
        yield value[start:position]


def _read_floor(reader: Reader) -> tuple[Index, Index, int]:
    value = reader.get(Family.META, VERSIONS_FLOOR)
    if value is None:
        return Index(0), Index(0), 0
    floor_index, cursor_index, cursor_keys = _FLOOR.unpack(value)
    return Index(floor_index), Index(cursor_index), cursor_keys

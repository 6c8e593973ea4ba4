"""What an object held before (D-18): versions under (object, Raft index, ordinal), and the floor below which none is.

Owns: Family.VERSIONS. Two kinds of record:
    "V" family escaped(object key) index ordinal -> 0x01 value, or 0x00 and whatever the owner adds for a deletion
    "S" index -> keys of "V" records that entry `index` made needless: what it replaced, and its own deletions
A record named by "S" j serves reads below j only, so it may go once the floor is j or more; raising the floor walks
the "S" records in index order and reads no version. The head of an object keeps its version's place, so that apply
never looks one up.
Invariants: a read at or above the floor finds what was there; below it is HISTORY_GONE, on every node alike; one
command removes at most FLOOR_KEYS_MAX keys.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hypercluster.errors import HistoryGoneError
from hypercluster.state_machine.context import OpContext
from hypercluster.state_machine.keys import escaped, escaped_open, number, prefix_end, read_number
from hypercluster.state_machine.meta import VERSIONS_FLOOR
from hypercluster.state_machine.overlay import Overlay
from hypercluster.state_machine.store import Change, Family, Reader
from hypercluster.values import Index

FLOOR_KEYS_MAX = 1_000

LIVE, DELETED = b"\x01", b"\x00"
PLACE = struct.Struct(">QI")  # Raft index, ordinal in the entry
NO_PLACE = b""
_NOWHERE = bytes(PLACE.size)

_VERSION, _SUPERSEDED = b"V", b"S"
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


def object_prefix(family: Family, key: bytes) -> bytes:
    return _VERSION + bytes((family,)) + escaped(key)


def open_prefix(family: Family, beginning: bytes) -> bytes:
    """What the keys of all objects begin with whose own key begins so: another escaped part may follow."""
    return _VERSION + bytes((family,)) + escaped_open(beginning)


def put(ctx: OpContext, family: Family, key: bytes, value: bytes | None, previous: bytes) -> bytes:
    """Stores a version of the object whose head is (family, key); None is a deletion. Returns its place.

    `previous` is the place of the version it follows; NO_PLACE, or all zero, if the object is new or was deleted."""
    prefix = object_prefix(family, key)
    here = place(ctx.index, ctx.ordinal)
    stored = DELETED if value is None else LIVE + value
    ctx.overlay.put_uncached(Family.VERSIONS, prefix + here, stored)
    superseded = ctx.effects.superseded
    if previous not in (NO_PLACE, _NOWHERE, here):  # a command that touches an object twice leaves one version
        superseded[prefix + previous] = None
    if value is None:
        superseded[prefix + here] = None
    else:
        superseded.pop(prefix + here, None)  # deleted and made again by one command: that version is the present one
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
    gone: list[bytes] = []
    for record_key, value in overlay.scan(Family.VERSIONS, start, end):
        index = read_number(record_key, 1)
        done = cursor_keys if index == cursor_index else 0
        keys = list(_superseded_keys(value))
        taken = keys[done : done + budget - 1]
        gone += taken
        budget -= len(taken)
        cursor_index, cursor_keys = Index(index), done + len(taken)
        if cursor_keys < len(keys):
            break
        gone.append(record_key)
        budget -= 1
        cursor_index, cursor_keys = Index(index + 1), 0
        if budget < 2:
            break
    else:
        cursor_index, cursor_keys = Index(target + 1), 0
    overlay.record([Change(Family.VERSIONS, key, None) for key in gone])
    overlay.put(Family.META, VERSIONS_FLOOR, _FLOOR.pack(target, cursor_index, cursor_keys))
    return len(gone)


def read_at(reader: Reader, family: Family, key: bytes, index: Index) -> Version | None:
    """What the object held once `index` was applied; None if it was not there. Raises HistoryGoneError."""
    floor_index = floor(reader)
    if index < floor_index:
        raise HistoryGoneError(f"index {index} is below the versions floor {floor_index}")
    prefix = object_prefix(family, key)
    found = next(reader.scan(Family.VERSIONS, prefix, prefix + number(index + 1), reverse=True), None)
    return None if found is None else _version(prefix, found)


def newest(reader: Reader, family: Family, key: bytes, count_max: int) -> list[Version]:
    """The latest versions, newest first, as far as they are kept."""
    prefix = object_prefix(family, key)
    found: list[Version] = []
    for pair in reader.scan(Family.VERSIONS, prefix, prefix_end(prefix), reverse=True):
        if len(found) == count_max:
            break
        found.append(_version(prefix, pair))
    return found


def _version(prefix: bytes, pair: tuple[bytes, bytes]) -> Version:
    index, ordinal = PLACE.unpack_from(pair[0], len(prefix))
    rest = pair[1][1:]
    if pair[1][:1] == DELETED:
        return Version(Index(index), ordinal, None, rest)
    return Version(Index(index), ordinal, rest)


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

"""Open leases: which inodes which workers have held open for long (WS-44). Content of an orphan lives as long as one.

Owns: the records in Family.COORDINATION and the pure reads of them:
    "OI" inode worker -> the stamp it was logged at
    "ON" inode -> how many workers have it open
    "OW" worker -> how many inodes it has open
Never: time. The leader counts TTLs (D-6) and proposes what was opened and what ended; here it is written down.
Invariants: a count says how many records there are, and is absent for none; a worker has OPEN_LEASES_OF_WORKER_MAX at
most; a lease is on an inode that exists, because a reap leaves those with leases alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from hypercluster.limits import OPEN_LEASES_OF_WORKER_MAX
from hypercluster.state_machine.keys import number, prefix_end, read_number
from hypercluster.state_machine.overlay import Overlay
from hypercluster.state_machine.store import Family, Reader

_LEASE: Final = b"OI"
_OF_INODE: Final = b"ON"
_OF_WORKER: Final = b"OW"
_ID_BYTES: Final = 16


class OpenLease(NamedTuple):
    """One worker has the inode open; `since_ns` is the stamp of the command that said so."""

    inode_id: bytes
    worker: str
    since_ns: int


def _count(reader: Reader, key: bytes) -> int:
    record = reader.get(Family.COORDINATION, key)
    return 0 if record is None else read_number(record, 0)


def _add(overlay: Overlay, key: bytes, change: int) -> None:
    count = _count(overlay, key) + change
    if count:
        overlay.put(Family.COORDINATION, key, number(count))
    else:
        overlay.delete(Family.COORDINATION, key)


def is_leased(reader: Reader, workspace_id: bytes, inode_id: bytes) -> bool:
    return reader.get(Family.COORDINATION, workspace_id + _OF_INODE + inode_id) is not None


def begin_lease(overlay: Overlay, workspace_id: bytes, inode_id: bytes, worker: str, stamp_ns: int) -> bool:
    """False if the worker has it already, or has too many."""
    name = worker.encode()
    key = workspace_id + _LEASE + inode_id + name
    if overlay.get(Family.COORDINATION, key) is not None:
        return False
    if _count(overlay, workspace_id + _OF_WORKER + name) >= OPEN_LEASES_OF_WORKER_MAX:
        return False
    overlay.put(Family.COORDINATION, key, number(stamp_ns))
    _add(overlay, workspace_id + _OF_INODE + inode_id, 1)
    _add(overlay, workspace_id + _OF_WORKER + name, 1)
    return True


def end_lease(overlay: Overlay, workspace_id: bytes, inode_id: bytes, worker: str) -> bool:
    """False if the worker had none."""
    name = worker.encode()
    key = workspace_id + _LEASE + inode_id + name
    if overlay.get(Family.COORDINATION, key) is None:
        return False
    overlay.delete(Family.COORDINATION, key)
    _add(overlay, workspace_id + _OF_INODE + inode_id, -1)
    _add(overlay, workspace_id + _OF_WORKER + name, -1)
    return True


def list_leases(reader: Reader, workspace_id: bytes, after: OpenLease | None, limit: int) -> tuple[OpenLease, ...]:
    """Leases of a workspace by inode and worker, from the one behind `after`: for a new leader's timers."""
    prefix = workspace_id + _LEASE
    start = prefix if after is None else prefix + after.inode_id + after.worker.encode() + b"\0"
    found: list[OpenLease] = []
    for key, record in reader.scan(Family.COORDINATION, start, prefix_end(prefix)):
        if len(found) == limit:
            break
        found.append(_decode(prefix, key, record))
    return tuple(found)


def leases_on(reader: Reader, workspace_id: bytes, inode_id: bytes) -> Iterator[OpenLease]:
    """Who has the inode open."""
    prefix = workspace_id + _LEASE
    for key, record in reader.scan(Family.COORDINATION, prefix + inode_id, prefix_end(prefix + inode_id)):
        yield _decode(prefix, key, record)


def lease_count(reader: Reader, workspace_id: bytes, worker: str) -> int:
    """How many inodes the worker has open."""
    return _count(reader, workspace_id + _OF_WORKER + worker.encode())


def _decode(prefix: bytes, key: bytes, record: bytes) -> OpenLease:
    at = len(prefix) + _ID_BYTES
    return OpenLease(key[len(prefix) : at], key[at:].decode(), read_number(record, 0))

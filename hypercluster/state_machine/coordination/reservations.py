"""Reservations of a workspace: advisory claims on paths, which end by themselves (WS-45).

Owns: the records in Family.COORDINATION, workspace `R` reservation_id -> whose, until when, on what; the verdict
whether a path is reserved by its writer or denied to him. The id of a reservation is the stamp of its command.
Never: a deadline of its own: whoever asks says as of which stamp, and one that is over counts for nothing from then on,
whether or not its record is still there (it goes with the next reservation that is made).
Invariants: RESERVATIONS_MAX records a workspace; the owner is an agent on a worker, so its processes share what it
reserved. Where reservations of several owners cover a path, the oldest decides: two that overlap never lock each other
out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from struct import Struct
from typing import Final, NamedTuple

from hypercluster.state_machine.coordination.patterns import Pattern
from hypercluster.state_machine.keys import number, prefix_end, read_number
from hypercluster.state_machine.overlay import Overlay
from hypercluster.state_machine.store import Family, Reader

_RESERVATION: Final = b"R"
_RECORD: Final = Struct(">QB16sHHHH")  # expires_ns, exclusive, client, lengths of pattern, principal, worker, agent


class Owner(NamedTuple):
    """An agent on a worker, or what acts as a principal where no worker vouches (D-19)."""

    worker: str
    principal: str  # empty where there is a worker
    agent: str


def owner_of(worker: str, principal: str, agent: str) -> Owner:
    return Owner(worker, "" if worker else principal, agent)


class Reservation(NamedTuple):
    """See ReservationRecord in the proto."""

    reservation_id: int
    pattern: bytes
    exclusive: bool
    expires_ns: int
    principal: str
    worker: str
    agent: str
    client_id: bytes

    @property
    def owner(self) -> Owner:
        return owner_of(self.worker, self.principal, self.agent)


def reservation_key(workspace_id: bytes, reservation_id: int) -> bytes:
    return workspace_id + _RESERVATION + number(reservation_id)


def encode_reservation(found: Reservation) -> bytes:
    parts = [found.pattern, found.principal.encode(), found.worker.encode(), found.agent.encode()]
    head = _RECORD.pack(found.expires_ns, found.exclusive, found.client_id, *map(len, parts))
    return head + b"".join(parts)


def _decode(reservation_id: int, record: bytes) -> Reservation:
    expires_ns, exclusive, client_id, *lengths = _RECORD.unpack_from(record)
    parts, at = [], _RECORD.size
    for length in lengths:
        parts.append(record[at : at + length])
        at += length
    pattern, principal, worker, agent = parts
    return Reservation(
        reservation_id,
        pattern,
        bool(exclusive),
        expires_ns,
        principal.decode(),
        worker.decode(),
        agent.decode(),
        client_id,
    )


def list_reservations(reader: Reader, workspace_id: bytes) -> list[Reservation]:
    """All records, those that are over included, the oldest first."""
    prefix = workspace_id + _RESERVATION
    rows = reader.scan(Family.COORDINATION, prefix, prefix_end(prefix))
    return [_decode(read_number(key, len(prefix)), record) for key, record in rows]


def live_reservations(reader: Reader, workspace_id: bytes, stamp_ns: int) -> list[Reservation]:
    """Those that hold as of a stamp."""
    return [found for found in list_reservations(reader, workspace_id) if found.expires_ns > stamp_ns]


class Claims:
    """The reservations of an open workspace. A function of its records: read when it is opened, changed with them."""

    __slots__ = ("_patterns", "_until_ns", "_workspace_id", "enforced", "reservations")

    def __init__(self, overlay: Overlay, workspace_id: bytes, enforced: bool) -> None:
        self._workspace_id = workspace_id
        self.enforced = enforced
        self.reservations = {found.reservation_id: found for found in list_reservations(overlay, workspace_id)}
        self._patterns = {key: Pattern(found.pattern) for key, found in self.reservations.items()}
        self._until_ns = max([found.expires_ns for found in self.reservations.values()], default=0)

    def may_matter(self, stamp_ns: int) -> bool:
        """Whether anything holds as of this stamp."""
        return stamp_ns < self._until_ns

    def put(self, overlay: Overlay, found: Reservation) -> None:
        key = found.reservation_id
        if key not in self._patterns:
            self._patterns[key] = Pattern(found.pattern)
        self.reservations[key] = found
        self._until_ns = max(self._until_ns, found.expires_ns)
        overlay.put(Family.COORDINATION, reservation_key(self._workspace_id, key), encode_reservation(found))

    def remove(self, overlay: Overlay, reservation_id: int) -> None:
        del self.reservations[reservation_id], self._patterns[reservation_id]
        overlay.delete(Family.COORDINATION, reservation_key(self._workspace_id, reservation_id))

    def denies(self, owner: Owner, paths: Iterable[Sequence[bytes]], stamp_ns: int) -> bool:
        """Whether one of the paths is another's: the oldest exclusive reservation that covers it is not `owner`'s."""
        live = [found for found in self.reservations.values() if found.exclusive and found.expires_ns > stamp_ns]
        if all(found.owner == owner for found in live):
            return False
        for names in paths:
            oldest = next((found for found in live if self._patterns[found.reservation_id].covers(names)), None)
            if oldest is not None and oldest.owner != owner:
                return True
        return False

    def reserves(self, owner: Owner, named: Iterable[int], paths: Iterable[Sequence[bytes]], stamp_ns: int) -> bool:
        """Whether one of the reservations the writer named is his, holds, and covers one of the paths."""
        known = [self.reservations.get(key) for key in named]
        live = [found for found in known if found is not None and found.expires_ns > stamp_ns]
        mine = [self._patterns[found.reservation_id] for found in live if found.owner == owner]
        return any(pattern.covers(names) for names in paths for pattern in mine)

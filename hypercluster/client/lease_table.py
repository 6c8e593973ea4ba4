"""The leases a client holds and waits for, and until when each is known to hold (WS-41, D-6).

Owns: `LeaseTable`: what was granted, when it was last known to hold, which leases are to be renewed, which are lost.
Never: I/O, clocks: `now_ns` and the times at which messages were *sent* are passed in, on a clock that also runs while
the host sleeps; what follows comes back as values.
Invariants: a lease is counted from when the message was sent that the cluster answered well, never from the answer;
`ends_ns` lies MARGIN_NS before the earliest moment at which the cluster can give the lock to another; a grant heard of
by an event is handed out only while enough of it is left, and confirmed by a renewal first otherwise; a lease that is
lost never comes back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from hypercluster.limits import LOCK_GRACE_MS, LOCK_MARGIN_MS, LOCK_TTL_MS
from hypercluster.pb.v1 import coordination_command_pb2 as pb

MS_NS = 1_000_000
MARGIN_NS = LOCK_MARGIN_MS * MS_NS  # between the end of a lease as its holder sees it, and as the cluster may
RETRY_NS = 100 * MS_NS
RENEWED_AT_ONCE_MAX = 1_000


@dataclass(slots=True)
class Lease:
    """`token` 0: it waits in the queue. `known_ns`: when the message was sent that last showed it held, or queued."""

    workspace_id: bytes
    lock_id: int
    token: int
    ttl_ns: int
    grace_ns: int
    known_ns: int
    renew_ns: int
    confirmed: bool = True  # False: granted, as an event says, and not handed out before a renewal has said so too

    @property
    def is_held(self) -> bool:
        return self.token > 0

    @property
    def ends_ns(self) -> int:
        """From here on it can not be known to hold. For one that waits: the cluster may have ended the wait."""
        return self.known_ns + self.ttl_ns + self.grace_ns - MARGIN_NS


class Granted(NamedTuple):
    lock_id: int
    token: int


class Lost(NamedTuple):
    """A lease that was held."""

    lock_id: int
    words: str


class WaitOver(NamedTuple):
    """A wait that ended without a grant."""

    lock_id: int
    words: str


Change = Granted | Lost | WaitOver


class Due(NamedTuple):
    """One RenewRequest."""

    workspace_id: bytes
    leases: tuple[tuple[int, int], ...]  # (lock_id, token), token 0 for one that waits


class LeaseTable:
    """See the module."""

    def __init__(self) -> None:
        self._leases: dict[int, Lease] = {}

    def __len__(self) -> int:
        return len(self._leases)

    def find(self, lock_id: int) -> Lease | None:
        return self._leases.get(lock_id)

    def workspaces(self) -> set[bytes]:
        return {lease.workspace_id for lease in self._leases.values()}

    def enter(self, workspace_id: bytes, ack: pb.LockAck, sent_ns: int, now_ns: int) -> list[Change]:
        """An acquire or reclaim was answered. Granted at once if it is held and enough is left."""
        ttl_ns = (ack.ttl_ms or LOCK_TTL_MS) * MS_NS
        grace_ns = (ack.grace_ms or LOCK_GRACE_MS) * MS_NS
        held = ack.state in (pb.LOCK_STATE_HELD, pb.LOCK_STATE_GRACE)
        lease = Lease(workspace_id, ack.lock_id, 0, ttl_ns, grace_ns, sent_ns, sent_ns + ttl_ns // 3)
        self._leases[ack.lock_id] = lease
        if held:
            return self._grant(lease, ack.token, now_ns)
        # Its grant may have been told before anybody here knew of the ticket: ask soon.
        lease.renew_ns = now_ns + RETRY_NS
        return []

    def drop(self, lock_id: int) -> None:
        """Released, or not wanted any more: it is not renewed from here on."""
        self._leases.pop(lock_id, None)

    # --- what was heard -----------------------------------------------------------------------------

    def granted(self, lock_id: int, token: int, now_ns: int) -> list[Change]:
        """An event, or a list of held locks, says so."""
        lease = self._leases.get(lock_id)
        if lease is None or lease.token == token:
            return []
        if lease.is_held:
            return self._end(lease, "the lock has another token now")
        return self._grant(lease, token, now_ns)

    def expiring(self, lock_id: int, now_ns: int) -> None:
        """The cluster warns: the lease ran out, the grace has begun."""
        lease = self._leases.get(lock_id)
        if lease is not None:
            lease.renew_ns = now_ns

    def ended(self, lock_id: int, words: str) -> list[Change]:
        """The cluster says that it is over."""
        lease = self._leases.get(lock_id)
        return [] if lease is None else self._end(lease, words)

    def answered(self, sent_ns: int, now_ns: int, asked: Due, renewed: Iterable[tuple[int, int, int]]) -> list[Change]:
        """(lock_id, state, token) of each lease of a RenewRequest that was sent at `sent_ns`."""
        changes: list[Change] = []
        tokens = dict(asked.leases)
        for lock_id, state, token in renewed:
            lease = self._leases.get(lock_id)
            if lease is None or lock_id not in tokens:
                continue
            match state:
                case pb.LOCK_STATE_HELD | pb.LOCK_STATE_GRACE:
                    self._note(lease, sent_ns)
                    if lease.is_held and lease.token == (token or tokens[lock_id]):
                        changes += self._confirm(lease)
                    elif token:
                        changes += self.granted(lock_id, token, now_ns)
                case pb.LOCK_STATE_QUEUED if not lease.is_held:
                    self._note(lease, sent_ns)
                case pb.LOCK_STATE_FREE if tokens[lock_id] or not lease.is_held:
                    changes += self._end(lease, "the cluster has ended the lease")
                case _:  # no verdict yet, or an answer older than a grant that was heard of since
                    lease.renew_ns = now_ns + RETRY_NS
        return changes

    def failed(self, asked: Due, now_ns: int) -> None:
        """A renewal was not answered."""
        for lock_id, _ in asked.leases:
            lease = self._leases.get(lock_id)
            if lease is not None:
                lease.renew_ns = now_ns + RETRY_NS

    # --- what is due --------------------------------------------------------------------------------

    def expire(self, now_ns: int) -> list[Change]:
        """Leases that can not be known to hold any more. A wait goes on as long as it is not told to be over."""
        gone = [lease for lease in self._leases.values() if lease.is_held and now_ns >= lease.ends_ns]
        changes: list[Change] = []
        for lease in gone:
            changes += self._end(lease, "it was not renewed in time: no leader answered")
        return changes

    def due(self, now_ns: int) -> list[Due]:
        """Renewals to send now. A workspace's leases go together when one of them is due."""
        wanted: dict[bytes, list[Lease]] = {}
        for lease in self._leases.values():
            wanted.setdefault(lease.workspace_id, []).append(lease)
        found: list[Due] = []
        for workspace_id, leases in wanted.items():
            if min(lease.renew_ns for lease in leases) > now_ns:
                continue
            soon = [lease for lease in leases if lease.renew_ns <= now_ns + lease.ttl_ns // 6]
            for start in range(0, len(soon), RENEWED_AT_ONCE_MAX):
                part = soon[start : start + RENEWED_AT_ONCE_MAX]
                found.append(Due(workspace_id, tuple((lease.lock_id, lease.token) for lease in part)))
        return found

    def sending(self, asked: Due, now_ns: int) -> None:
        """A renewal is on its way: its leases are not due again before it is answered, or had time to be."""
        for lock_id, _ in asked.leases:
            lease = self._leases.get(lock_id)
            if lease is not None:
                lease.renew_ns = now_ns + lease.ttl_ns // 3

    def next_ns(self) -> int | None:
        """When `expire` and `due` have to be asked again at the latest."""
        times = [lease.renew_ns for lease in self._leases.values()]
        times += [lease.ends_ns for lease in self._leases.values() if lease.is_held]
        return min(times, default=None)

    # --- one lease ----------------------------------------------------------------------------------

    def _grant(self, lease: Lease, token: int, now_ns: int) -> list[Change]:
        lease.token = token
        # What is left is counted from the last message that is known to have come before the grant.
        lease.confirmed = now_ns < lease.known_ns + lease.ttl_ns // 2
        if lease.confirmed:
            return [Granted(lease.lock_id, token)]
        lease.renew_ns = now_ns
        # Until the renewal has said so, it is held by nobody who could lose it.
        lease.known_ns = now_ns
        return []

    def _confirm(self, lease: Lease) -> list[Change]:
        if lease.confirmed:
            return []
        lease.confirmed = True
        return [Granted(lease.lock_id, lease.token)]

    def _note(self, lease: Lease, sent_ns: int) -> None:
        lease.known_ns = max(lease.known_ns, sent_ns) if lease.confirmed else sent_ns
        lease.renew_ns = sent_ns + lease.ttl_ns // 3

    def _end(self, lease: Lease, words: str) -> list[Change]:
        del self._leases[lease.lock_id]
        if lease.is_held and lease.confirmed:
            return [Lost(lease.lock_id, words)]
        return [WaitOver(lease.lock_id, words)]

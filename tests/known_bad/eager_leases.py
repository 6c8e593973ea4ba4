"""Known-bad builds of leases (D-6, WS-43, WS-44): each breaks one rule by which two clients never hold one lock, or
what is open is kept.

Each is a context manager; `install` patches this process for good, for the entry point of a test build. The product has
no setting that does any of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from hypercluster.node import lease_timers, open_leases
from hypercluster.node.lease_timers import LeaseTimers
from hypercluster.node.leases import Leases
from hypercluster.node.open_leases import OpenLeases
from hypercluster.node.reads import ReadPoint, Reads

_for_good = ExitStack()


@contextmanager
def _patched(owner: type, name: str, made: Callable[..., Any]) -> Iterator[None]:
    before = owner.__dict__[name]
    setattr(owner, name, made)
    try:
        yield
    finally:
        setattr(owner, name, before)


def no_round() -> AbstractContextManager[None]:
    """A renewal is answered by a node that only believes that it leads."""
    renew = Leases.renew

    async def without(self: Leases, *arguments: Any) -> Any:
        if isinstance(self._reads, Reads):
            self._reads = _Believing(self._reads)  # type: ignore[assignment]
        return await renew(self, *arguments)

    return _patched(Leases, "renew", without)


class _Believing:
    def __init__(self, reads: Reads) -> None:
        self._reads = reads

    async def point(self, *_: Any) -> ReadPoint:
        reads = self._reads
        return ReadPoint(int(reads._applied_index()), 0, 0, reads._node_id, reads._history_id)


def no_verdict() -> AbstractContextManager[None]:
    """A renewal does not wait for an expiry or a reclaim that is on its way."""
    renew = LeaseTimers.renew

    def without(self: LeaseTimers, lock_id: int, token: int, now_s: float) -> Any:
        lease = self.find(lock_id)
        if lease is None:
            return renew(self, lock_id, token, now_s)
        step, lease.step, claims, lease.claims = lease.step, None, lease.claims, 0
        try:
            return renew(self, lock_id, token, now_s)
        finally:
            lease.step, lease.claims = step, claims

    return _patched(LeaseTimers, "renew", without)


def old_timers() -> AbstractContextManager[None]:
    """A node that leads again goes on with the timers of its former term."""

    def without(self: LeaseTimers, now_s: float) -> None:
        self._led_since_s = now_s

    with_end = _patched(LeaseTimers, "end", lambda self: None)
    with_begin = _patched(LeaseTimers, "begin", without)
    return _both(with_begin, with_end)


@contextmanager
def _both(*parts: AbstractContextManager[None]) -> Iterator[None]:
    with ExitStack() as stack:
        for part in parts:
            stack.enter_context(part)
        yield


def hasty_reclaim() -> AbstractContextManager[None]:
    """A reclaim goes through whatever the lock's client says."""
    return _patched(LeaseTimers, "reclaim_pause_s", lambda self, lock_id, now_s: 0.0)


def reclaim_after_a_ttl() -> AbstractContextManager[None]:
    """A reclaim waits for a TTL of silence, and not until the silent holder has stopped counting on its lock."""

    def without(self: LeaseTimers, lock_id: int, now_s: float) -> float:
        return max(0.0, pause_s(self, lock_id, now_s) - (lease_timers.SILENCE_S - lease_timers.TTL_S))

    pause_s = LeaseTimers.reclaim_pause_s
    return _patched(LeaseTimers, "reclaim_pause_s", without)


def hasty_ends() -> AbstractContextManager[None]:
    """A new leader ends the open leases that nobody has reported to it yet."""

    def without(self: OpenLeases, key: tuple[bytes, str], inode_id: bytes, now_s: float) -> None:
        self._workers.setdefault(key, open_leases._Opens()).logged.add(inode_id)
        self._changed[key] = None

    return _patched(OpenLeases, "_take_in", without)


BUILDS: Mapping[str, Callable[[], AbstractContextManager[None]]] = {
    "renew_without_round": no_round,
    "renew_without_verdict": no_verdict,
    "leases_of_another_term": old_timers,
    "hasty_reclaim": hasty_reclaim,
    "reclaim_after_a_ttl": reclaim_after_a_ttl,
}
OPEN_BUILDS: Mapping[str, Callable[[], AbstractContextManager[None]]] = {"hasty_ends": hasty_ends}


def install(name: str) -> None:
    _for_good.enter_context(BUILDS[name]())

"""Working beside others in a workspace: locks, semaphores, reservations, hazards, settings (WS-40 to WS-47).

Owns: `Coordination`, the part of `Workspace` that is not files.
Never: files; leases themselves (leases.py).
Invariants: reads of locks and reservations are linearizable unless told otherwise, and bounded in pages.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from hypercluster.client.answers import raise_unless_ok
from hypercluster.client.event_watch import watch_events
from hypercluster.client.leases import LOCK_LANE, OWNER_HANDLE, Held
from hypercluster.client.local_patterns import LocalPatterns
from hypercluster.client.locks import (
    NAME_PREFIX,
    Lock,
    checked_name,
    checked_permits,
    find_target,
    target_words,
    wait_fields,
)
from hypercluster.client.reservations import Reservation
from hypercluster.client.stubs import coordination_service
from hypercluster.errors import FencedError, MalformedError, OutcomeUnknownError
from hypercluster.limits import LOCAL_PATTERNS_BYTES_MAX, RESERVATION_PATTERN_BYTES_MAX, RESERVATION_TTL_MS
from hypercluster.pb.v1 import command_pb2 as command_pb
from hypercluster.pb.v1 import coordination_command_pb2 as lock_pb
from hypercluster.pb.v1 import coordination_pb2
from hypercluster.values import ReadLevel

if TYPE_CHECKING:
    from hypercluster.client.client import Client
    from hypercluster.client.workspace import Path, Workspace

PAGE = 1_000


class Coordination:
    """See the module. Mixed into Workspace, which gives `client`, `workspace_id` and `name`."""

    client: Client
    workspace_id: bytes
    name: str

    # --- locks --------------------------------------------------------------------------------------

    def lock(
        self, path_or_name: Path, *, shared: bool = False, wait_s: float | None = None, one_at_a_time: bool = False
    ) -> Lock:
        """A lock on a path that exists, or on "name:" and a name that agents agreed on.

        `wait_s` None waits as long as it takes, 0 raises LockBusyError. With `one_at_a_time` this client says that it
        waits for one such lock at a time; a wait that would close a cycle of such clients raises DeadlockError (WS-47).
        It may take one that it holds a second time: that is the same lock, released with the last `async with`.
        """
        wait, wait_ms = wait_fields(wait_s)
        kind = lock_pb.LOCK_KIND_SHARED if shared else lock_pb.LOCK_KIND_EXCLUSIVE
        op = lock_pb.LockAcquire(kind=kind, wait=wait, wait_ms=wait_ms, one_at_a_time=one_at_a_time)
        return self._acquiring(op, path_or_name, wait_s)

    def semaphore(self, name: str, permits: int, *, wait_s: float | None = None) -> Lock:
        """One of `permits` permits; every user of the name gives the same number."""
        wait, wait_ms = wait_fields(wait_s)
        op = lock_pb.LockAcquire(
            kind=lock_pb.LOCK_KIND_PERMIT, wait=wait, wait_ms=wait_ms, permits=checked_permits(permits)
        )
        return self._acquiring(op, NAME_PREFIX + checked_name(name), wait_s)

    def reclaim(self, record: coordination_pb2.LockRecord) -> Lock:
        """Takes over a lock that an older client of this worker left behind (WS-43); see `locks`. Waits until the
        cluster has heard nothing of that client for a TTL."""

        async def enter(lock: Lock) -> Held:
            lock.target.CopyFrom(record.target)
            op = lock_pb.LockReclaim(
                lock_id=record.lock_id, token=record.token, handle_id=self.client.leases.new_handle()
            )
            return await self.client.leases.reclaim(self.workspace_id, op, lock.what)

        return Lock(self._workspace(), f"lock {record.lock_id}", enter)

    def _acquiring(self, op: lock_pb.LockAcquire, path_or_name: Path, wait_s: float | None) -> Lock:
        async def enter(lock: Lock) -> Held:
            op.target.CopyFrom(await find_target(self._workspace(), path_or_name))
            in_graph = op.one_at_a_time and op.kind == lock_pb.LOCK_KIND_EXCLUSIVE
            op.handle_id = OWNER_HANDLE if in_graph else self.client.leases.new_handle()
            lock.target.CopyFrom(op.target)
            return await self.client.leases.acquire(self.workspace_id, op, lock.what, wait_s)

        return Lock(self._workspace(), target_words(path_or_name), enter)

    def _workspace(self) -> Workspace:
        return self  # type: ignore[return-value]

    async def locks(
        self, path_or_name: Path | None = None, *, level: ReadLevel = ReadLevel.LINEARIZABLE
    ) -> list[coordination_pb2.LockRecord]:
        """All locks and waits of the workspace in the order of asking; or of one target, holders first, then the queue
        in the order in which it will be served."""
        request = coordination_pb2.LocksRequest(
            read=self.client.read_options(level, self.client.known_index()),
            workspace_id=self.workspace_id,
            limit=PAGE,
        )
        if path_or_name is not None:
            request.target.CopyFrom(await find_target(self._workspace(), path_or_name))
        found: list[coordination_pb2.LockRecord] = []
        while True:
            page: coordination_pb2.LocksResponse = await self.client.nodes.read(
                lambda channel, timeout: coordination_service(channel).Locks(request, timeout=timeout),
                f"locks of {self.name}",
                any_node=level is ReadLevel.BOUNDED_STALE,
            )
            found += page.locks
            if not page.more or not page.locks:
                return found
            request.after = page.locks[-1].lock_id

    # --- events -------------------------------------------------------------------------------------

    def events(self, *, everything: bool = False) -> AsyncIterator[coordination_pb2.CoordinationEvent]:
        """Lock events, warnings and hazards of the caller's worker as they are applied, or of all workers."""
        return watch_events(self.client, self.workspace_id, everything=everything)

    async def hazards(self, limit: int = 100) -> list[coordination_pb2.HazardEvent]:
        """The newest pairs of operations that may have undone one another (WS-46)."""
        request = coordination_pb2.HazardsRequest(
            read=self.client.read_options(ReadLevel.LINEARIZABLE), workspace_id=self.workspace_id, limit=limit
        )
        answer: coordination_pb2.HazardsResponse = await self.client.nodes.read(
            lambda channel, timeout: coordination_service(channel).Hazards(request, timeout=timeout),
            f"hazards of {self.name}",
        )
        return list(answer.hazards)

    # --- reservations -------------------------------------------------------------------------------

    async def reserve(
        self, pattern: Path, *, ttl_s: float = 600.0, exclusive: bool = True, reservation_id: int = 0
    ) -> int:
        """Says that the paths of a pattern ('*', '?', '**') are being worked on; returns the reservation_id, which
        renews it when given. Advisory unless the workspace enforces it (WS-45)."""
        raw = pattern if isinstance(pattern, bytes) else pattern.encode("utf-8", "surrogateescape")
        if not 1 <= len(raw) <= RESERVATION_PATTERN_BYTES_MAX:
            raise MalformedError(f"pattern: {len(raw)} bytes, expected 1 to {RESERVATION_PATTERN_BYTES_MAX}")
        ttl_ms = round(ttl_s * 1000)
        if not RESERVATION_TTL_MS[0] <= ttl_ms <= RESERVATION_TTL_MS[1]:
            raise MalformedError(f"ttl_s {ttl_s}: {RESERVATION_TTL_MS[0] // 1000} to {RESERVATION_TTL_MS[1] // 1000}")
        reserve = lock_pb.Reserve(pattern=raw, exclusive=exclusive, ttl_ms=ttl_ms, reservation_id=reservation_id)
        ack = await self._command(lock_pb.CoordinationCommand(reserve=reserve), f"reserve {raw!r}")
        return int(ack.lock_id)

    def reservation(self, pattern: Path, *, ttl_s: float = 600.0, exclusive: bool = True) -> Reservation:
        """A reservation for the time of an `async with`, renewed as long as it is written through."""
        return Reservation(self._workspace(), pattern, ttl_s, exclusive)

    async def unreserve(self, reservation_id: int) -> None:
        op = lock_pb.Unreserve(reservation_id=reservation_id)
        what = f"unreserve {reservation_id}"
        try:
            await self._command(lock_pb.CoordinationCommand(unreserve=op), what)
        except FencedError as error:
            words = f"{what}: there is no such reservation of this client's worker (any more)"
            raise FencedError(error.reason, words, errno=error.errno) from error

    async def reservations(self) -> list[coordination_pb2.ReservationRecord]:
        request = coordination_pb2.ReservationsRequest(
            read=self.client.read_options(ReadLevel.LINEARIZABLE, self.client.known_index()),
            workspace_id=self.workspace_id,
        )
        answer: coordination_pb2.ReservationsResponse = await self.client.nodes.read(
            lambda channel, timeout: coordination_service(channel).Reservations(request, timeout=timeout),
            f"reservations of {self.name}",
        )
        return list(answer.reservations)

    # --- settings -----------------------------------------------------------------------------------

    async def settings(self) -> lock_pb.WorkspaceSet:
        request = coordination_pb2.WorkspaceSettingsRequest(
            read=self.client.read_options(ReadLevel.LINEARIZABLE, self.client.known_index()),
            workspace_id=self.workspace_id,
        )
        answer: coordination_pb2.WorkspaceSettingsResponse = await self.client.nodes.read(
            lambda channel, timeout: coordination_service(channel).Settings(request, timeout=timeout),
            f"settings of {self.name}",
        )
        return answer.settings

    async def change_settings(self, settings: lock_pb.WorkspaceSet) -> None:
        """Fields that are absent stay as they are. Raises MalformedError for patterns that can match nothing."""
        if settings.HasField("local_patterns"):
            text = settings.local_patterns
            if len(text) > LOCAL_PATTERNS_BYTES_MAX:
                raise MalformedError(
                    f"local_patterns: {len(text)} bytes, limit LOCAL_PATTERNS_BYTES_MAX is {LOCAL_PATTERNS_BYTES_MAX}"
                )
            mistakes = LocalPatterns(text).mistakes
            if mistakes:
                words = "; ".join(f"line {mistake.line}: {mistake.words}" for mistake in mistakes[:10])
                raise MalformedError(f"local_patterns: {words}")
        await self._command(lock_pb.CoordinationCommand(workspace_set=settings), f"change settings of {self.name}")

    async def local_patterns(self) -> LocalPatterns:
        """What stays on its host (WS-56), as the setting is now."""
        return LocalPatterns((await self.settings()).local_patterns)

    async def _command(self, op: lock_pb.CoordinationCommand, what: str) -> lock_pb.LockAck:
        command = command_pb.Command(coordination=op).SerializeToString()
        settled = await self.client.lane(LOCK_LANE).submit(command, self.workspace_id)
        raise_unless_ok(settled, what)
        if settled.file is None:
            raise OutcomeUnknownError(f"{what}: the acknowledgement has no details")
        return settled.file.lock

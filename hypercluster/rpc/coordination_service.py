"""CoordinationService: renewals, the lists of locks, and the stream of what befalls them. Changes are commands.

Owns: the bounds of a request and of an answer, and the list that a watch of events begins with.
Never: a workspace of another scope; a renewal answered from belief (node/leases.py confirms); a stored event.
Invariants: a list is of one moment where it has at most EVENT_LIST_PAGE locks; a longer one is read in parts, each of
its own moment, and what moved meanwhile follows as events, so who applies both in order ends at the truth.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence

from hypercluster import limits
from hypercluster.errors import MalformedError, TooLargeError
from hypercluster.node.events import EventFanout, EventWatch, Interest
from hypercluster.node.leases import Asked, Leases
from hypercluster.node.open_leases import OpenLeases
from hypercluster.node.reads import Reads, ReadWish
from hypercluster.pb.v1 import coordination_pb2 as pb
from hypercluster.pb.v1.coordination_command_pb2 import LockTarget
from hypercluster.rpc import lock_messages as messages
from hypercluster.rpc.calls import Call
from hypercluster.rpc.reading import bounded, state_of, wish_of
from hypercluster.rpc.scoped import workspace_of
from hypercluster.state_machine.coordination import queries
from hypercluster.state_machine.coordination.claiming import read_settings
from hypercluster.state_machine.coordination.events import LockRow
from hypercluster.state_machine.coordination.reservations import live_reservations
from hypercluster.state_machine.meta import read_applied
from hypercluster.state_machine.store import Reader
from hypercluster.state_machine.workspace.hazard_list import hazard_steps
from hypercluster.state_machine.workspace.paths import best_path
from hypercluster.values import ReadLevel

ID_BYTES = 16
LOCKS_MAX = 1_000
HAZARDS_MAX, HAZARDS_DEFAULT = 1_000, 100
PATHS_A_TURN = 16  # looked up between two turns of the loop
HAZARD_STEPS_A_TURN = 4  # records of the log read between two turns: each may be as large as an entry
_LOCK_NAME = re.compile(r"[a-zA-Z0-9._/:-]+")


class CoordinationService:
    def __init__(
        self,
        reader: Reader,
        reads: Reads,
        leases: Leases,
        opens: OpenLeases,
        events: EventFanout,
    ) -> None:
        self._reader = reader
        self._reads = reads
        self._leases = leases
        self._opens = opens
        self._events = events

    # -- leases -------------------------------------------------------------------------------------

    async def renew(self, request: pb.RenewRequest, call: Call) -> pb.RenewResponse:
        """The leader's answer, after a majority has confirmed it since the request arrived (D-6)."""
        if len(request.locks) > limits.RENEW_LOCKS_MAX:
            raise TooLargeError(f"locks: {len(request.locks)}, limit RENEW_LOCKS_MAX is {limits.RENEW_LOCKS_MAX}")
        opens = request.open_inodes
        if len(opens) > limits.OPEN_LEASES_OF_WORKER_MAX:
            most = limits.OPEN_LEASES_OF_WORKER_MAX
            raise TooLargeError(f"open_inodes: {len(opens)}, limit OPEN_LEASES_OF_WORKER_MAX is {most}")
        if len(request.opens_instance) > limits.OPENS_INSTANCE_BYTES_MAX:
            size, most = len(request.opens_instance), limits.OPENS_INSTANCE_BYTES_MAX
            raise TooLargeError(f"opens_instance: {size} bytes, limit OPENS_INSTANCE_BYTES_MAX is {most}")
        if any(len(inode_id) != ID_BYTES for inode_id in opens):
            raise MalformedError(f"open_inodes: each has {ID_BYTES} bytes")
        if opens and not request.with_opens:
            raise MalformedError("open_inodes: only where with_opens says that they are all that is held open")
        workspace_of(self._reader, request.workspace_id, call)
        asked = [Asked(lock.lock_id, lock.token) for lock in request.locks]
        point, found = await self._leases.renew(request.workspace_id, asked, call.caller, call.timeout_s)
        if request.with_opens:
            worker = call.caller.worker or call.caller.principal
            self._opens.report(request.workspace_id, worker, request.opens_instance, opens)
        return pb.RenewResponse(
            state=state_of(point),
            locks=[pb.RenewedLock(lock_id=one.lock_id, state=one.state, token=one.token) for one in found],  # type: ignore[arg-type]
        )

    # -- lists --------------------------------------------------------------------------------------

    async def locks(self, request: pb.LocksRequest, call: Call) -> pb.LocksResponse:
        count_max = bounded("limit", request.limit, LOCKS_MAX, LOCKS_MAX)
        target = _target(request.target) if request.HasField("target") else None
        point = await self._reads.point(wish_of(request.read), call.timeout_s)
        workspace_of(self._reader, request.workspace_id, call)
        if target is None:
            page = queries.list_locks(self._reader, request.workspace_id, request.after, count_max)
        else:
            page = queries.locks_of_target(self._reader, request.workspace_id, target, request.after, count_max)
        answer = pb.LocksResponse(state=state_of(point), more=page.more)
        paths: dict[bytes, bytes] = {b"": b""}
        room_bytes = limits.READ_BYTES_MAX // 2
        for row in page.rows:
            if row.inode_id not in paths:
                paths[row.inode_id] = best_path(self._reader, request.workspace_id, row.inode_id)
                if len(paths) % PATHS_A_TURN == 0:
                    await asyncio.sleep(0)
            record = messages.lock_record(row)
            if len(paths[row.inode_id]) <= room_bytes:
                record.path = paths[row.inode_id]
                room_bytes -= len(record.path)
            answer.locks.append(record)
        return answer

    async def hazards(self, request: pb.HazardsRequest, call: Call) -> pb.HazardsResponse:
        count_max = bounded("limit", request.limit, HAZARDS_MAX, HAZARDS_DEFAULT)
        point = await self._reads.point(wish_of(request.read), call.timeout_s)
        workspace_of(self._reader, request.workspace_id, call)
        answer = pb.HazardsResponse(state=state_of(point))
        for number, found in enumerate(hazard_steps(self._reader, request.workspace_id), 1):
            if found is not None:
                answer.hazards.append(messages.hazard_record(found))
                if len(answer.hazards) == count_max:
                    break
            if number % HAZARD_STEPS_A_TURN == 0:
                await asyncio.sleep(0)
        return answer

    async def reservations(self, request: pb.ReservationsRequest, call: Call) -> pb.ReservationsResponse:
        point = await self._reads.point(wish_of(request.read), call.timeout_s)
        workspace_of(self._reader, request.workspace_id, call)
        # As of the last stamp that was applied: each says when it ends.
        found = live_reservations(self._reader, request.workspace_id, read_applied(self._reader).last_stamp_ns)
        return pb.ReservationsResponse(
            state=state_of(point), reservations=[messages.reservation_record(one) for one in found]
        )

    async def settings(self, request: pb.WorkspaceSettingsRequest, call: Call) -> pb.WorkspaceSettingsResponse:
        point = await self._reads.point(wish_of(request.read), call.timeout_s)
        workspace_of(self._reader, request.workspace_id, call)
        found = read_settings(self._reader, request.workspace_id)
        settings = None if found is None else messages.settings_record(found)
        return pb.WorkspaceSettingsResponse(state=state_of(point), settings=settings)

    # -- events -------------------------------------------------------------------------------------

    async def watch_events(self, request: pb.WatchEventsRequest, call: Call) -> None:
        """Any node serves it, from the entries it applies. Ends when the caller cancels."""
        if len(request.client_ids) > limits.EVENT_CLIENTS_MAX:
            count = len(request.client_ids)
            raise TooLargeError(f"client_ids: {count}, limit EVENT_CLIENTS_MAX is {limits.EVENT_CLIENTS_MAX}")
        if any(len(client_id) != ID_BYTES for client_id in request.client_ids):
            raise MalformedError(f"client_ids: each has {ID_BYTES} bytes")
        await self._reads.point(ReadWish(ReadLevel.BOUNDED_STALE, request.min_index), call.timeout_s)
        workspace_of(self._reader, request.workspace_id, call)
        caller = call.caller
        interest = Interest(
            frozenset(request.client_ids), caller.principal, caller.worker, everything=request.everything
        )
        watch = self._events.watch(request.workspace_id, interest)
        try:
            while True:
                if watch.take_resync():
                    await self._send_list(watch, call)
                while (event := watch.take()) is not None:
                    await call.write(event)
                await watch.changed()
        finally:
            watch.close()

    async def _send_list(self, watch: EventWatch, call: Call) -> None:
        """The first part is read in the turn of `take_resync`."""
        for rows, more in self._parts(watch):
            part = pb.LockList(locks=[messages.lock_record(row) for row in rows], more=more)
            index = self._reads.applied_index()
            await call.write(pb.CoordinationEvent(raft_index=index, held=part).SerializeToString())
            await asyncio.sleep(0)

    def _parts(self, watch: EventWatch) -> Iterator[tuple[Sequence[LockRow], bool]]:
        """At most EVENT_LIST_PAGE rows a part, and whether another part follows."""
        workspace_id, interest = watch.workspace_id, watch.interest
        if interest.client_ids and not interest.everything:
            rows: list[LockRow] = []
            for client_id in sorted(interest.client_ids):
                rows += queries.locks_of_client(self._reader, workspace_id, client_id)
                while len(rows) > limits.EVENT_LIST_PAGE:
                    yield rows[: limits.EVENT_LIST_PAGE], True
                    rows = rows[limits.EVENT_LIST_PAGE :]
            yield rows, False
            return
        after, more = 0, True
        while more:
            page = queries.list_locks(self._reader, workspace_id, after, limits.EVENT_LIST_PAGE)
            after, more = page.rows[-1].lock_id if page.rows else 0, page.more
            yield [row for row in page.rows if interest.in_lock(row)], more


def _target(target: LockTarget) -> queries.Target:
    """Raises MalformedError."""
    if target.WhichOneof("what") == "inode_id":
        if len(target.inode_id) != ID_BYTES:
            raise MalformedError(f"target.inode_id: {len(target.inode_id)} bytes, expected {ID_BYTES}")
        return queries.Target(target.inode_id, "")
    name = target.name
    if not _LOCK_NAME.fullmatch(name) or len(name) > limits.LOCK_NAME_BYTES_MAX:
        raise MalformedError(f"target.name: 1 to {limits.LOCK_NAME_BYTES_MAX} bytes of {_LOCK_NAME.pattern[:-1]}")
    return queries.Target(b"", name)

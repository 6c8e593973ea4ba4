"""The one lease loop of a client: acquires, renews and watches for all its locks (WS-40, WS-41, D-6).

Owns: the commands of locks on a lane of their own, the renewals, the event streams, and who is told what became of a
lease.
Never: decides when a lease ends; lease_table.py does, by the times this file measured before it sent.
Invariants: the clock goes on while the host sleeps; one renewal a workspace is on its way at a time; whoever gave up
waiting for an acquire leaves no lock behind: its grant or its place in the queue is released as soon as it is known,
and what can not be released is not renewed and so ends by itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hypercluster.client.answers import raise_unless_ok
from hypercluster.client.event_watch import EventWatch
from hypercluster.client.lane_types import Settled
from hypercluster.client.lease_table import Change, Due, Granted, LeaseTable, Lost, WaitOver
from hypercluster.client.stubs import coordination_service
from hypercluster.errors import (
    DeadlockError,
    HyperClusterError,
    LockWaitOverError,
    NoQuorumError,
    OutcomeUnknownError,
    QueueFullError,
    RateLimitedError,
)
from hypercluster.limits import LOCK_TTL_MS
from hypercluster.pb.v1 import command_pb2 as command_pb
from hypercluster.pb.v1 import coordination_command_pb2 as lock_pb
from hypercluster.pb.v1 import coordination_pb2

if TYPE_CHECKING:
    import grpc

    from hypercluster.client.client import Client

LOCK_LANE = 6
OWNER_HANDLE = 1  # of all locks of a client that says it waits for one at a time: one owner in the wait-for graph
RENEW_DEADLINE_S = LOCK_TTL_MS / 3_000
WAIT_SLACK_S = 2.0  # how much later than the cluster a client ends its own wait
CYCLE_WAIT_S = 1.0  # for the event that tells a deadlock's cycle
IDLE_S = 5.0
LEAVE_S = 1.0  # for a client that closes to give back what it no longer waits for


def boot_ns() -> int:
    """A clock that goes on while the host sleeps: a lease does, too."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


@dataclass(slots=True)
class Held:
    """A lock that was granted, to one or more `async with` of one owner. Each of `on_lost` is called once, with why, if
    it is lost before it is released."""

    workspace_id: bytes
    lock_id: int
    token: int
    lost: str = ""
    uses: int = 0
    on_lost: list[Callable[[str], None]] = field(default_factory=list)


class Leases:
    """Of one client. Its tasks begin with the first lock."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._table = LeaseTable()
        self._held: dict[int, Held] = {}
        self._waits: dict[int, asyncio.Future[int]] = {}
        self._watches: dict[bytes, EventWatch] = {}
        self._cycles: dict[tuple[bytes, int], asyncio.Future[tuple[int, ...]]] = {}
        self._renewing: set[bytes] = set()
        self._wake = asyncio.Event()
        self._loop_task: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._leaving: set[asyncio.Task[None]] = set()  # of those that give something back
        self._handles = OWNER_HANDLE
        self.history_id = b""

    # --- what locks ask ---------------------------------------------------------------------------

    def new_handle(self) -> int:
        """A handle that no other lock of this client has: each is an owner of its own."""
        self._handles += 1
        return self._handles

    async def acquire(self, workspace_id: bytes, op: lock_pb.LockAcquire, what: str, wait_s: float | None) -> Held:
        """Raises LockBusyError, LockWaitOverError, DeadlockError, or what the command ended with."""
        if op.wait and op.one_at_a_time:
            self._cycles[(workspace_id, op.handle_id)] = asyncio.get_running_loop().create_future()
        try:
            if op.wait and op.one_at_a_time:
                await self._watch(workspace_id).ready()
            ack = await self._enter(workspace_id, lock_pb.CoordinationCommand(lock_acquire=op), what)
        except DeadlockError as error:
            await self._tell_cycle(workspace_id, op.handle_id, error)
            raise
        finally:
            self._cycles.pop((workspace_id, op.handle_id), None)
        return await self._granted(workspace_id, ack, what, wait_s)

    async def reclaim(self, workspace_id: bytes, op: lock_pb.LockReclaim, what: str) -> Held:
        """Takes over a lock of an older client of this worker (WS-43). Raises FencedError if it is gone."""
        ack = await self._enter(workspace_id, lock_pb.CoordinationCommand(lock_reclaim=op), what)
        return await self._granted(workspace_id, ack, what, None)

    async def release(self, held: Held, what: str) -> None:
        """Raises FencedError if it was gone already. Where the cluster can not be reached the lease ends by itself."""
        held.uses -= 1
        if held.uses > 0:
            return
        self._forget(held.lock_id)
        try:
            await self._submit_release(held.workspace_id, held.lock_id, what)
        except (OutcomeUnknownError, NoQuorumError, QueueFullError, RateLimitedError):
            return

    def look(self) -> None:
        """Ends what the clock says has ended, for who can not wait for the loop to come round to it."""
        self._tell(self._table.expire(boot_ns()))

    def ends_ns(self, lock_id: int) -> int:
        """Until when, by `boot_ns`, a lock that is held can be known to hold; 0 if it is not."""
        lease = self._table.find(lock_id)
        return lease.ends_ns if lease is not None and lease.is_held else 0

    # --- acquiring --------------------------------------------------------------------------------

    async def _enter(self, workspace_id: bytes, op: lock_pb.CoordinationCommand, what: str) -> lock_pb.LockAck:
        """Sends the command. If the caller goes away meanwhile, what it is answered is given back."""
        sent_ns = boot_ns()
        command = command_pb.Command(coordination=op).SerializeToString()
        lane = self._client.lane(LOCK_LANE)
        work = asyncio.ensure_future(lane.submit(command, workspace_id))
        try:
            settled = await asyncio.shield(work)
        except asyncio.CancelledError:
            self._spawn(self._give_back(work, workspace_id, what), self._leaving)
            raise
        raise_unless_ok(settled, what)
        if settled.file is None:
            raise OutcomeUnknownError(f"{what}: the acknowledgement has no details")
        ack = settled.file.lock
        self._begin()
        self._tell(self._table.enter(workspace_id, ack, sent_ns, boot_ns()))
        return ack

    async def _give_back(self, work: asyncio.Future[Settled], workspace_id: bytes, what: str) -> None:
        file = (await work).file
        if file is not None and file.lock.lock_id:
            await self._quietly_release(workspace_id, file.lock.lock_id, what)

    async def _granted(self, workspace_id: bytes, ack: lock_pb.LockAck, what: str, wait_s: float | None) -> Held:
        """Waits for the grant of a ticket that has been entered."""
        lock_id = ack.lock_id
        lease = self._table.find(lock_id)
        if lease is not None and lease.is_held and lease.confirmed:
            return self._hold(workspace_id, lock_id, lease.token)
        future = self._waits.setdefault(lock_id, asyncio.get_running_loop().create_future())
        if lease is None and not future.done():
            future.set_exception(LockWaitOverError("WAIT_OVER", "the wait is over"))
        self._watch(workspace_id)
        self._wake.set()
        try:
            async with asyncio.timeout(None if wait_s is None else wait_s + WAIT_SLACK_S):
                token = await asyncio.shield(future)
        except TimeoutError:
            await self._leave(workspace_id, lock_id, what)
            raise LockWaitOverError("WAIT_OVER", f"{what}: not granted within {wait_s} s") from None
        except LockWaitOverError as error:
            raise LockWaitOverError("WAIT_OVER", f"{what}: {error}") from None
        except asyncio.CancelledError:
            self._spawn(self._leave(workspace_id, lock_id, what), self._leaving)
            raise
        finally:
            self._waits.pop(lock_id, None)
        return self._hold(workspace_id, lock_id, token)

    def _hold(self, workspace_id: bytes, lock_id: int, token: int) -> Held:
        if self._table.find(lock_id) is None:  # it went between the grant and this turn, and nobody could be told
            return Held(workspace_id, lock_id, token, lost="the cluster has ended the lease", uses=1)
        held = self._held.get(lock_id)
        if held is None:  # the same owner asking again gets the same lock
            held = self._held[lock_id] = Held(workspace_id, lock_id, token)
        held.uses += 1
        return held

    async def _leave(self, workspace_id: bytes, lock_id: int, what: str) -> None:
        """Gives up a place in the queue, or a grant that came too late."""
        self._forget(lock_id)
        await self._quietly_release(workspace_id, lock_id, what)

    async def _quietly_release(self, workspace_id: bytes, lock_id: int, what: str) -> None:
        try:
            await self._submit_release(workspace_id, lock_id, what)
        except HyperClusterError:
            return  # nobody renews it: it ends by itself

    async def _submit_release(self, workspace_id: bytes, lock_id: int, what: str) -> None:
        op = lock_pb.CoordinationCommand(lock_release=lock_pb.LockRelease(lock_id=lock_id))
        command = command_pb.Command(coordination=op).SerializeToString()
        settled = await self._client.lane(LOCK_LANE).submit(command, workspace_id)
        raise_unless_ok(settled, f"release {what}")

    async def _tell_cycle(self, workspace_id: bytes, handle_id: int, error: DeadlockError) -> None:
        """The refusal is an errno only (D-7); an event tells the cycle to who asked."""
        try:
            async with asyncio.timeout(CYCLE_WAIT_S):
                cycle = await self._cycles[(workspace_id, handle_id)]
        except TimeoutError:
            return
        error.cycle = cycle
        error.add_note("cycle: " + " → ".join(str(lock_id) for lock_id in cycle))

    def _forget(self, lock_id: int) -> None:
        self._table.drop(lock_id)
        self._held.pop(lock_id, None)

    # --- what is heard ----------------------------------------------------------------------------

    def _tell(self, changes: list[Change]) -> None:
        for change in changes:
            match change:
                case Granted(lock_id, token):
                    wait = self._waits.get(lock_id)
                    if wait is not None and not wait.done():
                        wait.set_result(token)
                case WaitOver(lock_id, words):
                    wait = self._waits.get(lock_id)
                    if wait is not None and not wait.done():
                        wait.set_exception(LockWaitOverError("WAIT_OVER", words))
                case Lost(lock_id, words):
                    held = self._held.pop(lock_id, None)
                    if held is not None:
                        held.lost = words
                        for tell in held.on_lost:
                            tell(words)
        self._wake.set()

    def _watch(self, workspace_id: bytes) -> EventWatch:
        watch = self._watches.get(workspace_id)
        if watch is None:
            watch = self._watches[workspace_id] = EventWatch(self._client, workspace_id, self._heard)
            self._begin()
        watch.follow(self._client.lane(LOCK_LANE).lane.client_id)
        return watch

    def _heard(self, workspace_id: bytes, event: coordination_pb2.CoordinationEvent) -> None:
        now_ns = boot_ns()
        match event.WhichOneof("event"):
            case "held":
                for lock in event.held.locks:
                    if lock.token:
                        self._tell(self._table.granted(lock.lock_id, lock.token, now_ns))
            case "lock":
                self._heard_lock(workspace_id, event.lock, now_ns)
            case _:
                return

    def _heard_lock(self, workspace_id: bytes, event: coordination_pb2.LockEvent, now_ns: int) -> None:
        lock = event.lock
        match event.kind:
            case coordination_pb2.LOCK_EVENT_KIND_GRANTED:
                self._tell(self._table.granted(lock.lock_id, lock.token, now_ns))
            case coordination_pb2.LOCK_EVENT_KIND_EXPIRING:
                self._table.expiring(lock.lock_id, now_ns)
                self._wake.set()
            case coordination_pb2.LOCK_EVENT_KIND_LOST:
                self._tell(self._table.ended(lock.lock_id, "it expired, or another client took it over"))
            case coordination_pb2.LOCK_EVENT_KIND_WAIT_ENDED:
                self._tell(self._table.ended(lock.lock_id, "its time is over, or it was cancelled"))
            case coordination_pb2.LOCK_EVENT_KIND_DEADLOCK:
                future = self._cycles.get((workspace_id, lock.handle_id))
                if future is not None and not future.done():
                    future.set_result(tuple(event.cycle))
            case _:
                return

    # --- the loop ---------------------------------------------------------------------------------

    def _begin(self) -> None:
        if self._loop_task is None:
            self._loop_task = asyncio.create_task(self._run())
        self._wake.set()

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            now_ns = boot_ns()
            self._tell(self._table.expire(now_ns))
            self._wake.clear()
            for due in self._table.due(now_ns):
                if due.workspace_id not in self._renewing:
                    self._renewing.add(due.workspace_id)
                    self._table.sending(due, now_ns)
                    self._spawn(self._renew(due))
            self._end_idle_watches()
            next_ns = self._table.next_ns()
            wait_s = IDLE_S if next_ns is None else max(0.001, min(IDLE_S, (next_ns - boot_ns()) / 1e9))
            try:
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _renew(self, due: Due) -> None:
        request = coordination_pb2.RenewRequest(
            workspace_id=due.workspace_id,
            locks=[coordination_pb2.LockRenewal(lock_id=lock_id, token=token) for lock_id, token in due.leases],
        )
        sent_ns = 0

        async def call(channel: grpc.aio.Channel, timeout_s: float) -> coordination_pb2.RenewResponse:
            nonlocal sent_ns
            sent_ns = boot_ns()
            answer: coordination_pb2.RenewResponse = await coordination_service(channel).Renew(
                request, timeout=timeout_s
            )
            return answer

        try:
            answer = await self._client.nodes.read(call, "renew locks", deadline_s=RENEW_DEADLINE_S)
        except HyperClusterError:
            self._table.failed(due, boot_ns())
        else:
            self.history_id = answer.state.history_id or self.history_id
            renewed = [(lock.lock_id, lock.state, lock.token) for lock in answer.locks]
            self._tell(self._table.answered(sent_ns, boot_ns(), due, renewed))
        finally:
            self._renewing.discard(due.workspace_id)
            self._wake.set()

    def _end_idle_watches(self) -> None:
        wanted = self._table.workspaces() | {workspace_id for workspace_id, _ in self._cycles}
        for workspace_id in [found for found in self._watches if found not in wanted]:
            self._watches.pop(workspace_id).cancel()

    def _spawn(self, work: Coroutine[None, None, None], among: set[asyncio.Task[None]] | None = None) -> None:
        tasks = self._tasks if among is None else among
        task = asyncio.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def close(self) -> None:
        """Locks that are still held end by themselves; who holds one is told that it is lost."""
        if self._leaving:
            await asyncio.wait(self._leaving, timeout=LEAVE_S)
        tasks = [*self._tasks, *self._leaving, *([self._loop_task] if self._loop_task is not None else [])]
        watches, self._watches = list(self._watches.values()), {}
        for task in tasks:
            task.cancel()
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*tasks, *(watch.done() for watch in watches), return_exceptions=True)
        for lock_id in list(self._held):
            self._tell(self._table.ended(lock_id, "the client was closed"))

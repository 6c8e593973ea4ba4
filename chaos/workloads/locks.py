"""Locks: a few hot files and a semaphore that many clients lock, write under their token, let go, forget and come back
to.

Owns: what a client does next with the lock it has, and the pauses: now and then a holder stops renewing, for less or
more than TTL and grace, and then writes or renews with the token it remembers. Some holders stay with the node that
renewed their lock, and believe no other.
Never: the library's own lease loop; every renewal is an operation of the history, sent when the workload says so.
Invariants: a client holds or waits for one lock at a time; what it knows of it is what answers said; a lock whose
client ended is left to expire, or taken over by another client (WS-43) under a new token. One that only goes is to the
cluster the end of a client too: it never uses that lane again before all others. Clients are of two workers where the
plan has two certificates, and each tries what the other left behind as well. Once a request is in the queue, whatever
fails leaves its outcome unknown.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import grpc

from chaos.workloads.logical import LogicalClient, NotDoneError
from chaos.workloads.operations import Answer, Bench, Operation
from chaos.workloads.plan import setting, tag_of
from chaos.workloads.tree import record_of
from hypercluster.client.answers import from_rpc, raise_unless_ok
from hypercluster.client.file_ops import FileOps
from hypercluster.client.stubs import coordination_service
from hypercluster.client.workspace import Workspace
from hypercluster.errors import HyperClusterError, OutcomeUnknownError
from hypercluster.limits import LOCK_GRACE_MS, LOCK_MARGIN_MS, LOCK_TTL_MS
from hypercluster.pb.v1 import command_pb2 as command_pb
from hypercluster.pb.v1 import coordination_command_pb2 as lock_pb
from hypercluster.pb.v1 import coordination_pb2 as event_pb

LOCK_LANES = range(6, 14)  # to the cluster each is a client of its own
SEMAPHORE, PERMITS = "permits", 2
EVERYTHING = "*"  # the key of a look at all locks
WAIT_MS = 1_500
LOOK_S = 0.05  # between two looks at a request that waits
LOST_S = 2.0  # how much later than the cluster a wait is given up
LIFE_S = (LOCK_TTL_MS + LOCK_GRACE_MS) / 1_000
RENEW_S = LOCK_TTL_MS / 3_000
PAUSES_S = (LIFE_S - 3.0, LIFE_S - 1.0, LIFE_S + 1.0, LIFE_S + 3.0)
PAUSED = 0.05  # share of the turns of a holder in which it falls asleep
RENEWS = 0.15  # share of the turns of a holder in which it renews before it has to
LEAVES = 0.03  # share of the turns of a holder in which it goes and leaves its lock behind
LOOKS = 0.06  # share of all turns in which somebody looks at all locks
STAYS = 0.25  # share of the renewals after which a holder stays with the node that answered
STAYS_S = 12.0  # for so long it gives nothing back
STAYS_CALL_S = 3.0  # how long it waits for that node
BELIEVES_S = LIFE_S - LOCK_MARGIN_MS / 1_000  # for so long after a renewal it asks nobody else
LEFT_KEPT = 20
FOLLOWED_S = (2.0, LIFE_S - 0.4)  # how soon somebody tries to take over what was left; the cluster says when it may
FOREIGN = 0.4  # share of the tries at what another worker left

KINDS = {
    "exclusive": lock_pb.LOCK_KIND_EXCLUSIVE,
    "shared": lock_pb.LOCK_KIND_SHARED,
    "permit": lock_pb.LOCK_KIND_PERMIT,
}
KIND_NAMES = {number: name for name, number in KINDS.items()}
STATE_NAMES = {
    lock_pb.LOCK_STATE_QUEUED: "queued",
    lock_pb.LOCK_STATE_HELD: "held",
    lock_pb.LOCK_STATE_GRACE: "grace",
}


@dataclass(slots=True, eq=False)
class Held:
    """What a client believes to hold. `node`: the only one it asks, until it believes no more."""

    key: str
    kind: str
    lock_id: int
    token: int
    worker: str
    renewed_s: float
    asleep_until_s: float = 0.0
    node: str = ""
    stays_until_s: float = 0.0
    followed_s: float = 0.0  # once it was left: when somebody tries to take it over


class Locks:
    def __init__(self) -> None:
        self._held: dict[str, Held] = {}  # by the client's name
        self._left: deque[Held] = deque(maxlen=LEFT_KEPT)  # by clients that ended or went, oldest first
        self._lanes: dict[str, int] = {}  # how often a client went
        self._handles = itertools.count(1)
        self._records = itertools.count(1)

    async def prepare(self, bench: Bench) -> None:
        plan = bench.plan
        self._rng = random.Random(bench.rng.getrandbits(64))
        count = setting(plan, "targets", 6, 1, 100)
        self._paused = setting(plan, "paused_percent", int(PAUSED * 100), 0, 100) / 100
        label = f"locks-{tag_of(plan.seed)}"

        async def begin(who: LogicalClient) -> None:
            taken = {summary.name for summary in await who.client.workspaces()}
            name = next(n for n in (f"{label}.{i}" for i in itertools.count()) if n not in taken)
            workspace = await who.client.create_workspace(name)
            made = [await workspace.ops.create(bytes(16), b"target-%d" % number) for number in range(count)]
            self._workspace_id, self._name = workspace.workspace_id, name
            self._inodes = {f"target-{number}": done.inode_id for number, done in enumerate(made)}

        await bench.until_done(begin)

    # --- what comes next ----------------------------------------------------------------------------

    async def draw(self, who: LogicalClient, turn: int) -> Operation | None:
        self._bury(who)
        held = self._held.get(who.name)
        now_s = time.monotonic()
        if held is not None and held.asleep_until_s > now_s:
            return None
        if self._rng.random() < LOOKS:
            return self._look()
        if held is None:
            return self._draw_free(who)
        if held.asleep_until_s:  # it wakes, and knows nothing of the time that has passed
            held.asleep_until_s = 0.0
            return self._write(held) if self._rng.random() < 0.7 else self._renew(held)
        return self._draw_held(who, held, now_s)

    def _draw_held(self, who: LogicalClient, held: Held, now_s: float) -> Operation | None:
        if self._rng.random() < self._paused:
            held.asleep_until_s = now_s + self._rng.choice(PAUSES_S)
            return None
        stays = held.node != "" and now_s < held.stays_until_s
        if stays:
            return self._renew(held) if self._rng.random() < 0.6 else self._write(held)
        if now_s - held.renewed_s > RENEW_S or self._rng.random() < RENEWS:
            return self._renew(held)
        if self._rng.random() < LEAVES:
            self._leave(who.name)
            self._lanes[who.name] = self._lanes.get(who.name, 0) + 1
            return None
        return self._write(held) if self._rng.random() < 0.7 else self._release(held)

    def _draw_free(self, who: LogicalClient) -> Operation:
        left = self._to_follow(who)
        if left is not None:
            return self._reclaim(left, who.worker)
        if self._rng.random() < 0.2:
            return self._acquire(SEMAPHORE, "permit", wait=self._rng.random() < 0.7)
        key = self._rng.choice(sorted(self._inodes))
        kind = "exclusive" if self._rng.random() < 0.75 else "shared"
        return self._acquire(key, kind, wait=self._rng.random() < 0.7)

    def _to_follow(self, who: LogicalClient) -> Held | None:
        """What was left behind, the oldest first; some of it by the other worker, of whom nothing can be had."""
        foreign, now_s = self._rng.random() < FOREIGN, time.monotonic()
        for left in self._left:
            if now_s >= left.followed_s and (left.worker != who.worker) == foreign:
                self._left.remove(left)
                return left
        return None

    def _bury(self, who: LogicalClient) -> None:
        """Of the clients that had this one's place before: "locks-7-w3.1" of "locks-7-w3.2"."""
        place = who.name.rpartition(".")[0]
        for name in [name for name in self._held if name.rpartition(".")[0] == place and name != who.name]:
            self._leave(name)

    def _leave(self, name: str) -> None:
        held = self._held.pop(name)
        held.followed_s = time.monotonic() + self._rng.uniform(*FOLLOWED_S)
        self._left.append(held)

    # --- operations ---------------------------------------------------------------------------------

    def _acquire(self, key: str, kind: str, *, wait: bool) -> Operation:
        handle_id = next(self._handles)
        op = lock_pb.LockAcquire(
            target=self._target(key),
            kind=KINDS[kind],
            handle_id=handle_id,
            wait=wait,
            wait_ms=WAIT_MS if wait else 0,
            permits=PERMITS if key == SEMAPHORE else 0,
        )

        async def run(who: LogicalClient) -> Answer:
            called_s = time.monotonic()
            ack = await self._command(who, lock_pb.CoordinationCommand(lock_acquire=op), "acquire")
            extra: dict[str, object] = {"immediate": True}
            token, renewed_s = ack.token, called_s
            if ack.state == lock_pb.LOCK_STATE_QUEUED:
                extra = {"queued_ns": time.monotonic_ns()}
                token, renewed_s = await self._granted(who, ack.lock_id), 0.0
            self._held[who.name] = Held(key, kind, ack.lock_id, token, who.worker, renewed_s)
            return Answer({"token": token, "lock_id": ack.lock_id}, {"worker": who.worker, **extra, **_permits(key)})

        return Operation("acquire", key, run, {"kind": kind, "wait": wait})

    def _target(self, key: str) -> lock_pb.LockTarget:
        if key == SEMAPHORE:
            return lock_pb.LockTarget(name=SEMAPHORE)
        return lock_pb.LockTarget(inode_id=self._inodes[key])

    async def _granted(self, who: LogicalClient, lock_id: int) -> int:
        """The token, once the wait is over. Raises NotDoneError when it ended without a grant, which a linearizable
        read says; OutcomeUnknownError when nobody says how it ended, as the request may still be in the queue."""
        workspace = Workspace(who.client, self._workspace_id, self._name)
        until_s = time.monotonic() + WAIT_MS / 1_000 + LOST_S
        while time.monotonic() < until_s:
            try:
                found = [lock for lock in await workspace.locks() if lock.lock_id == lock_id]
            except HyperClusterError as error:
                raise OutcomeUnknownError(f"the wait of {lock_id} can not be followed: {error}") from error
            if not found:
                raise NotDoneError("WAIT_ENDED")
            if found[0].token:
                return found[0].token
            await asyncio.sleep(LOOK_S)
        raise OutcomeUnknownError("the wait did not end in its time")

    def _reclaim(self, left: Held, worker: str) -> Operation:
        op = lock_pb.LockReclaim(lock_id=left.lock_id, token=left.token, handle_id=next(self._handles))

        async def run(who: LogicalClient) -> Answer:
            try:
                ack = await self._command(who, lock_pb.CoordinationCommand(lock_reclaim=op), "reclaim")
            except HyperClusterError as error:
                if worker != left.worker or error.reason == "HOLDER_ALIVE":
                    self._left.appendleft(left)  # as far as anybody knows it is there as it was
                raise
            self._held[who.name] = Held(left.key, left.kind, ack.lock_id, ack.token, worker, 0.0)
            return Answer({"token": ack.token, "lock_id": ack.lock_id}, _permits(left.key))

        asked = {"token": left.token, "lock_id": left.lock_id, "kind": left.kind}
        return Operation("reclaim", left.key, run, asked, extra={"worker": worker})

    def _renew(self, held: Held) -> Operation:
        request = event_pb.RenewRequest(
            workspace_id=self._workspace_id,
            locks=[event_pb.LockRenewal(lock_id=held.lock_id, token=held.token)],
        )

        async def run(who: LogicalClient) -> Answer:
            called_s = time.monotonic()
            answer = await self._ask(who, held, request)
            state = answer.locks[0].state
            if state == lock_pb.LOCK_STATE_FREE:
                self._held.pop(who.name, None)
                raise NotDoneError("LOCK_LOST")
            if state != lock_pb.LOCK_STATE_HELD:
                raise NotDoneError("NO_VERDICT")  # asked again in the next turn; the lease is as long as it was
            held.renewed_s = called_s
            if not held.node and self._rng.random() < STAYS:
                held.node, held.stays_until_s = who.client.nodes.leader, called_s + STAYS_S
            return Answer()

        return self._using("renew", held, run)

    async def _ask(self, who: LogicalClient, held: Held, request: event_pb.RenewRequest) -> event_pb.RenewResponse:
        """Raises NotDoneError when nobody answers: then the lease is as long as it was, for all its holder knows."""
        now_s = time.monotonic()
        if held.node and now_s > max(held.stays_until_s, held.renewed_s + BELIEVES_S):
            held.node = ""
        try:
            if held.node:
                service = coordination_service(who.client.nodes.channel(held.node))
                answer: event_pb.RenewResponse = await service.Renew(request, timeout=STAYS_CALL_S)
                return answer
            return await who.client.nodes.read(
                lambda channel, timeout: coordination_service(channel).Renew(request, timeout=timeout), "renew"
            )
        except grpc.aio.AioRpcError as error:
            raise NotDoneError(from_rpc(error, "renew").reason) from error

    def _write(self, held: Held) -> Operation:
        number = next(self._records)

        async def run(who: LogicalClient) -> Answer:
            guard = lock_pb.Guard(token=held.token)
            if held.key == SEMAPHORE:
                guard.target.CopyFrom(self._target(SEMAPHORE))
            inode_id = self._inodes.get(held.key) or next(iter(self._inodes.values()))
            ops = FileOps(who.client, self._workspace_id).guarded(lambda: [guard])
            try:
                done = await ops.append(inode_id, record_of(f"{held.token}-{number}"))
            except Exception as error:
                if getattr(error, "reason", "") == "FENCED":
                    self._held.pop(who.name, None)
                raise
            extra = {"log_index": done.log_index, "raft_index": done.raft_index, "workspace": self._name}
            return Answer(None, extra)

        return self._using("write", held, run)

    def _release(self, held: Held) -> Operation:
        op = lock_pb.LockRelease(lock_id=held.lock_id)

        async def run(who: LogicalClient) -> Answer:
            self._held.pop(who.name, None)
            await self._command(who, lock_pb.CoordinationCommand(lock_release=op), "release")
            return Answer()

        return self._using("release", held, run)

    def _look(self) -> Operation:
        """All locks at one moment."""

        async def run(who: LogicalClient) -> Answer:
            workspace = Workspace(who.client, self._workspace_id, self._name)
            names = {inode_id: key for key, inode_id in self._inodes.items()}
            locks = [
                {
                    "key": names.get(lock.target.inode_id, lock.target.name),
                    "kind": KIND_NAMES[lock.kind],
                    "state": STATE_NAMES[lock.state],
                    "token": lock.token,
                    "permits": lock.permits,
                }
                for lock in await workspace.locks()
            ]
            return Answer(locks)

        return Operation("look", EVERYTHING, run)

    def _using(self, name: str, held: Held, run: Callable[[LogicalClient], Awaitable[Answer]]) -> Operation:
        return Operation(name, held.key, run, {"token": held.token, "lock_id": held.lock_id})

    async def _command(self, who: LogicalClient, op: lock_pb.CoordinationCommand, what: str) -> lock_pb.LockAck:
        command = command_pb.Command(coordination=op).SerializeToString()
        lane = LOCK_LANES[self._lanes.get(who.name, 0) % len(LOCK_LANES)]
        settled = await who.client.lane(lane).submit(command, self._workspace_id)
        raise_unless_ok(settled, what)
        if settled.file is None:
            raise OutcomeUnknownError(f"{what}: the acknowledgement has no details")
        return settled.file.lock


def _permits(key: str) -> dict[str, object]:
    return {"permits": PERMITS} if key == SEMAPHORE else {}

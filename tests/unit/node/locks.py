"""A leader with locks for tests of the shell: a workspace over a real machine, and messages about its locks."""

from __future__ import annotations

import asyncio

from hypercluster.limits import LOCK_GRACE_MS, LOCK_MARGIN_MS, LOCK_TTL_MS
from hypercluster.node.events import EventFanout
from hypercluster.node.leases import Asked, Leases, Renewed
from hypercluster.node.open_leases import OpenLeases
from hypercluster.node.own_lane import OwnLane
from hypercluster.node.proposer import Admission, ProposerSettings
from hypercluster.node.reads import Reads
from hypercluster.node.reaping import Reaping
from hypercluster.node.words import Caller
from hypercluster.pb.v1 import coordination_command_pb2 as pb
from hypercluster.pb.v1.command_pb2 import Command
from hypercluster.pb.v1.workspace_command_pb2 import WorkspaceCreate
from hypercluster.rpc.lock_messages import encode_event
from hypercluster.state_machine.coordination import queries
from hypercluster.state_machine.coordination.events import LockRow
from hypercluster.state_machine.outcome import FileOutcome, LockGrant
from hypercluster.state_machine.workspace import queries as tree
from hypercluster.values import ClusterId, HistoryId, NodeId
from tests.unit.node.commands import CALLER, SCOPE, client, submit
from tests.unit.node.test_proposer import FAST, Node

TTL_S = LOCK_TTL_MS / 1000
GRACE_S = LOCK_GRACE_MS / 1000
COUNTED_S = (LOCK_TTL_MS + LOCK_GRACE_MS - LOCK_MARGIN_MS) / 1000  # what a holder counts on, from when it sent
LOOK_S = 0.25
BOB = Caller("client:bob", SCOPE, "bob")


def acquire(name: str, *, wait: bool = True, wait_ms: int = 0, shared: bool = False, handle: int = 1) -> Command:
    kind = pb.LOCK_KIND_SHARED if shared else pb.LOCK_KIND_EXCLUSIVE
    asked = pb.LockAcquire(target=pb.LockTarget(name=name), kind=kind, handle_id=handle, wait=wait, wait_ms=wait_ms)
    return Command(coordination=pb.CoordinationCommand(lock_acquire=asked))


def release(lock_id: int) -> Command:
    return Command(coordination=pb.CoordinationCommand(lock_release=pb.LockRelease(lock_id=lock_id)))


def reclaim(lock_id: int, token: int) -> Command:
    taken = pb.LockReclaim(lock_id=lock_id, token=token, handle_id=9)
    return Command(coordination=pb.CoordinationCommand(lock_reclaim=taken))


class LockNode(Node):
    """The write path of test_proposer, with leases and events. The virtual clock is the node's; reads and waits run on
    the test's own loop."""

    def __init__(self) -> None:
        super().__init__(ProposerSettings(rate=FAST))
        self.engine.stamp_ns = self.turns.wall_ns()
        self.reads = Reads(
            self.engine,
            self.standing,
            lambda: self.host.applied_index,
            lambda: 0,
            asyncio.get_running_loop(),
            self.metrics,
            node_id=NodeId("n1"),
            cluster_id=ClusterId(b"c" * 16),
            history_id=HistoryId(b"h" * 16),
        )
        self.leases = Leases(
            self.state, self.reads, self.standing, OwnLane(self.proposer, self.standing), self.turns, self.turns,
            self.metrics,
        )  # fmt: skip
        self.opens = OpenLeases(
            self.state, self.standing, OwnLane(self.proposer, self.standing), self.turns, self.metrics
        )
        self.reaping = Reaping(
            self.state, self.standing, OwnLane(self.proposer, self.standing), self.turns, self.metrics
        )
        admission = self.proposer._admission
        self.proposer._admission = Admission(
            admission.parse, admission.judged, admission.stored,
            sign=self.leases.sign, reclaim=self.leases.guard_reclaims,
        )  # fmt: skip
        self.events = EventFanout(self.state, self.metrics, encode_event)
        self.host._on_events = self._on_events
        self.seqs: dict[int, int] = {}
        self.do(99, Command(workspace_create=WorkspaceCreate(name="tree", uid=1, gid=1, mode=0o755)))
        (header,) = tree.list_workspaces(self.state, SCOPE)
        self.workspace_id = bytes(header.workspace_id)
        self.leases.look()

    def _on_events(self, index: int, events: object) -> None:
        self.leases.on_events(events)  # type: ignore[arg-type]
        self.events.publish(index, events)  # type: ignore[arg-type]

    def do(self, lane: int, command: Command, caller: Caller = CALLER) -> tuple[int, FileOutcome | None]:
        """One command of a lane, judged and applied: its reason and outcome."""
        seq = self.seqs[lane] = self.seqs.get(lane, 0) + 1
        self.answers.clear()
        workspace_id = b"" if command.HasField("workspace_create") else self.workspace_id
        self.send(submit(client(lane), seq, command, workspace_id=workspace_id), caller)
        self.work()
        verdict = self.answers[-1][0]
        if not verdict.raft_index:
            self.seqs[lane] -= 1
        return (verdict.reasons or [0])[0], (verdict.files or [None])[0]

    def lock(self, lane: int, command: Command, caller: Caller = CALLER) -> LockGrant:
        reason, outcome = self.do(lane, command, caller)
        assert reason == 0 and outcome is not None and outcome.lock is not None, (reason, outcome)
        return outcome.lock

    def work(self) -> None:
        """Commits whatever is proposed, until nothing is."""
        self.turns.settle()
        while self.engine.proposals:
            self.engine.stamp_ns = max(self.engine.stamp_ns, self.turns.wall_ns())
            self.commit()

    def pass_time(self, span_s: float, *, commits: bool = True) -> None:
        """As the lifecycle does: a look every quarter of a second."""
        end_s = self.turns.now_s + span_s
        while self.turns.now_s < end_s:
            self.turns.pass_time(min(LOOK_S, end_s - self.turns.now_s))
            self.engine.stamp_ns = max(self.engine.stamp_ns, self.turns.wall_ns())
            self.leases.look()
            self.opens.look()
            self.reaping.look()
            self.turns.settle()
            if commits:
                self.work()

    def row(self, lock_id: int) -> LockRow | None:
        return queries.read_lock(self.state, self.workspace_id, lock_id)

    def state_of(self, lock_id: int) -> int:
        row = self.row(lock_id)
        return pb.LOCK_STATE_FREE if row is None else row.state

    def renewing(self, *asked: tuple[int, int], caller: Caller = CALLER) -> asyncio.Task[list[Renewed]]:
        """A renewal on its way; its read round is the test's to confirm."""

        async def run() -> list[Renewed]:
            wanted = [Asked(lock_id, token) for lock_id, token in asked]
            return (await self.leases.renew(self.workspace_id, wanted, caller, 5.0))[1]

        return asyncio.create_task(run())

    async def renew(self, *asked: tuple[int, int], caller: Caller = CALLER) -> list[Renewed]:
        return await self.finish(self.renewing(*asked, caller=caller))

    async def turn(self) -> None:
        """What a renewal does before it waits for its round."""
        for _ in range(3):
            await asyncio.sleep(0)

    async def finish(self, task: asyncio.Task[list[Renewed]]) -> list[Renewed]:
        """Confirms its round, and commits what it waits for."""
        for _ in range(200):
            await asyncio.sleep(0)
            self.engine.confirm_reads(self.host.applied_index)
            self.work()
            if task.done():
                break
        return await task

"""A workspace and clients that lock in it, over the whole machine: the harness of the tests about locks.

A client's command goes through admission and a lane of its own, as in a cluster; `LockSite` keeps what came back.
"""

from __future__ import annotations

from typing import Any

from hypercluster.pb.v1.command_pb2 import Command, MaintenanceCommand
from hypercluster.pb.v1.coordination_command_pb2 import (
    LOCK_KIND_EXCLUSIVE,
    LOCK_KIND_PERMIT,
    LOCK_KIND_SHARED,
    CoordinationCommand,
    LockAcquire,
    LockReclaim,
    LockRelease,
    LockStep,
    LockSteps,
    LockTarget,
)
from hypercluster.pb.v1.origin_pb2 import Origin
from hypercluster.pb.v1.workspace_command_pb2 import WorkspaceCreate
from hypercluster.state_machine.coordination import queries
from hypercluster.state_machine.coordination.events import LockEvent, LockRow
from hypercluster.state_machine.coordination.queries import Target
from hypercluster.state_machine.coordination.records import FREE, GRACE, HELD, QUEUED
from hypercluster.state_machine.decoded import DecodedGroup
from hypercluster.state_machine.outcome import Applied, FileOutcome, LockGrant
from hypercluster.state_machine.store import Change, Family, MemoryStore
from hypercluster.state_machine.wire import read_run
from hypercluster.values import Scope
from tests.fakes.commands import SCOPE, Replica, client, group, submit

S, X, P = LOCK_KIND_SHARED, LOCK_KIND_EXCLUSIVE, LOCK_KIND_PERMIT
LEADER = client(99_990)
FOUNDER = client(99_991)


def on(target: str | bytes) -> LockTarget:
    return LockTarget(name=target) if isinstance(target, str) else LockTarget(inode_id=target)


def acquire(target: str | bytes, kind: int = X, handle: int = 1, *, wait: bool = True, **more: Any) -> Command:
    """`more`: wait_ms, one_at_a_time, permits."""
    op = LockAcquire(target=on(target), kind=kind, handle_id=handle, wait=wait, **more)  # type: ignore[arg-type]
    return Command(coordination=CoordinationCommand(lock_acquire=op))


def release(lock_id: int) -> Command:
    return Command(coordination=CoordinationCommand(lock_release=LockRelease(lock_id=lock_id)))


def reclaim(lock_id: int, token: int, handle: int = 1) -> Command:
    op = LockReclaim(lock_id=lock_id, token=token, handle_id=handle)
    return Command(coordination=CoordinationCommand(lock_reclaim=op))


class LockSite:
    """One node, one workspace. Clients are numbers; client n runs on worker "host-(n // 10)" as agent "agent-n"."""

    def __init__(self, store: MemoryStore | None = None) -> None:
        self.replica = Replica(store)
        self.seqs: dict[bytes, int] = {}
        self.applied: Applied
        self.events: list[LockEvent] = []  # of the last entry
        self.workspace_id = b""
        made = self.send(FOUNDER, Command(workspace_create=WorkspaceCreate(name="w", mode=0o755)))
        self.workspace_id = made.inode_id

    # -- commands ----------------------------------------------------------------------------------

    def send(
        self, client_id: bytes, command: Command, *, worker: str = "host-0", agent: str = "", scope: Scope = SCOPE
    ) -> FileOutcome:
        reason, _, file = self._run(client_id, command, worker, agent, scope)
        return file or FileOutcome(reason=reason)

    def _run(
        self,
        client_id: bytes,
        command: Command,
        worker: str,
        agent: str = "",
        scope: Scope = SCOPE,
        *,
        admitted: bool = True,
    ) -> tuple[int, int, FileOutcome | None]:
        seq = self.seqs[client_id] = self.seqs.get(client_id, 0) + 1
        message = submit(
            client_id, seq, [command.SerializeToString()], workspace=self.workspace_id, origin=Origin(agent=agent)
        )
        principal = f"client/{worker}" if worker else "leader"
        if admitted:
            made = group(message, worker=worker, principal=principal, scope=scope)
        else:
            made = DecodedGroup(message, principal, scope, worker, read_run(message))
        self.applied = self.replica.apply(made, id_seed=self.replica.index.to_bytes(16, "big"))
        self.events = [event for _, event in self.applied.events if isinstance(event, LockEvent)]
        run = self.applied.groups[0].runs[0]
        return (
            run.reasons[0] if run.reasons else 0,
            run.versions[0] if run.versions else 0,
            run.files[0] if run.files else None,
        )

    def by(self, number: int, command: Command) -> FileOutcome:
        return self.send(client(number), command, worker=f"host-{number // 10}", agent=f"agent-{number}")

    def lock(self, number: int, target: str | bytes, kind: int = X, handle: int = 1, **more: Any) -> LockGrant:
        """An acquire that must not be refused."""
        outcome = self.by(number, acquire(target, kind, handle, **more))
        assert outcome.lock is not None, outcome
        return outcome.lock

    def held(self, number: int, target: str | bytes, kind: int = X, handle: int = 1, **more: Any) -> LockGrant:
        grant = self.lock(number, target, kind, handle, **more)
        assert grant.state == HELD, grant
        return grant

    def queued(self, number: int, target: str | bytes, kind: int = X, handle: int = 1, **more: Any) -> LockGrant:
        grant = self.lock(number, target, kind, handle, **more)
        assert grant.state == QUEUED and grant.token == 0, grant
        return grant

    def steps(self, *steps: LockStep) -> int:
        """How many of the leader's steps were made."""
        reason, made, _ = self.upkeep(lock_steps=LockSteps(workspace_id=self.workspace_id, steps=steps))
        assert reason == 0
        return made

    def upkeep(self, **kind: Any) -> tuple[int, int, FileOutcome | None]:
        """Past admission, so that apply sees also what no leader proposes."""
        return self._run(LEADER, Command(maintenance=MaintenanceCommand(**kind)), "", admitted=False)

    def expire(self, grant: LockGrant) -> None:
        assert self.steps(step(grant, HELD, GRACE)) == 1
        assert self.steps(step(grant, GRACE, FREE)) == 1

    # -- what there is -----------------------------------------------------------------------------

    def row(self, lock_id: int) -> LockRow | None:
        return queries.read_lock(self.replica.store, self.workspace_id, lock_id)

    def state(self, grant: LockGrant) -> int:
        row = self.row(grant.lock_id)
        return FREE if row is None else row.state

    def on(self, target: str | bytes) -> tuple[LockRow, ...]:
        what = Target(b"", target) if isinstance(target, str) else Target(target, "")
        page = queries.locks_of_target(self.replica.store, self.workspace_id, what, 0, 10_000)
        assert not page.more
        return page.rows

    def told(self) -> list[tuple[int, int]]:
        """(kind, lock_id) of the last entry's events."""
        return [(event.kind, event.lock.lock_id) for event in self.events]


def step(grant: LockGrant, from_state: int, to_state: int, wait_until_ns: int = 0) -> LockStep:
    return LockStep(
        lock_id=grant.lock_id,
        token=grant.token,
        from_state=from_state,  # type: ignore[arg-type]
        to_state=to_state,  # type: ignore[arg-type]
        wait_until_ns=wait_until_ns,
    )


def lock_records(store: MemoryStore) -> list[Change]:
    """What is stored of locks: keys of coordination that go on with L behind the workspace."""
    return [pair for pair in store.items() if pair.family is Family.COORDINATION and pair.key[16:17] == b"L"]

"""Entries about locks, drawn from a seed: for the golden log, the net around purity and the contract of the stores.

`lock_entries` makes a workspace and a file, then locks, releases, reclaims, lets leases end, writes under guards and
gives up seqs. It runs a machine beside it, so that most of what it draws speaks of locks that are there.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from hypercluster.log.entry import DecodedGroup, batch_of, encode_batch
from hypercluster.pb.v1.command_pb2 import Command, MaintenanceCommand
from hypercluster.pb.v1.coordination_command_pb2 import Abandon, Guard, LockStep, LockSteps
from hypercluster.pb.v1.workspace_command_pb2 import WorkspaceCreate
from hypercluster.state_machine.coordination import queries
from hypercluster.state_machine.coordination.events import LockRow
from hypercluster.state_machine.machine import Machine
from hypercluster.state_machine.meta import genesis
from hypercluster.state_machine.store import MemoryStore
from hypercluster.values import ClusterId, HistoryId, Index, Nanos, Term
from tests.fakes.commands import STAMP_NS, client, group, submit
from tests.unit.coordination.table import P, S, X, acquire, on, reclaim, release
from tests.unit.workspace import ops

CLUSTER, HISTORY = ClusterId(b"golden cluster 1"), HistoryId(b"golden history 1")
LEADER = 899
GIVER = 900  # and the next two: one of each worker gives up the seqs of others


class _Drawn:
    """A machine in step with what was drawn so far."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.store = MemoryStore()
        self.store.write(genesis(CLUSTER, HISTORY))
        self.machine = Machine(self.store)
        self.seqs: dict[int, int] = {}
        self.workspace_id = b""
        self.file_id = b""

    @property
    def index(self) -> int:
        return int(self.machine.applied.index) + 1

    def group(self, number: int, *commands: Command) -> DecodedGroup:
        first = self.seqs.get(number, 0) + 1
        if self.file_id and first > 2 and number < LEADER and self.draw.random() < 0.1:
            first -= self.draw.choice([1, 2])  # another command under a seq that was used, or given up
        self.seqs[number] = max(self.seqs.get(number, 0), first + len(commands) - 1)
        raws = [command.SerializeToString() for command in commands]
        worker = "" if number == LEADER else f"host-{number % 3}"
        message = submit(client(number), first, raws, workspace=self.workspace_id, basis=self.index - 1)
        return group(message, principal=f"client/{worker}" if worker else "leader", worker=worker)

    def entry(self, *groups: DecodedGroup) -> bytes:
        made = batch_of(Nanos(STAMP_NS + self.index * 1_000_000), self.draw.randbytes(16), groups)
        applied = self.machine.apply(Index(self.index), Term(1), made)
        self.store.write(applied.changes)
        self.files = [file for result in applied.groups for run in result.runs for file in run.files]
        return encode_batch(made)

    def begin(self) -> Iterator[bytes]:
        yield self.entry(self.group(1, Command(workspace_create=WorkspaceCreate(name="w", uid=1, gid=1, mode=0o755))))
        self.workspace_id = self.files[0].inode_id  # type: ignore[union-attr]
        yield self.entry(self.group(1, ops.create(bytes(16), b"f")))
        self.file_id = self.files[0].inode_id  # type: ignore[union-attr]

    def some(self) -> LockRow | None:
        rows = queries.list_locks(self.store, self.workspace_id, 0, 1_000).rows
        return self.draw.choice(rows) if rows else None

    def command(self) -> tuple[int, Command]:
        draw, row, number = self.draw, self.some(), self.draw.randrange(1, 9)
        if row is not None and row.client_id in {client(n) for n in range(1, 9)} and draw.random() < 0.8:
            number = int.from_bytes(row.client_id, "big")
        match draw.choices(("acquire", "release", "reclaim", "steps", "write", "abandon"), (12, 3, 2, 3, 3, 3))[0]:
            case "release" if row is not None and (row.token or draw.random() < 0.2):
                return number, release(row.lock_id)
            case "reclaim" if row is not None and row.token:
                return draw.randrange(1, 9), reclaim(row.lock_id, row.token, draw.randrange(3))
            case "steps" if row is not None and (row.token or draw.random() < 0.2):
                to_state = draw.choice({1: [4], 2: [3], 3: [2, 2, 4]}[row.state])
                step = LockStep(
                    lock_id=row.lock_id,
                    token=row.token,
                    from_state=row.state,  # type: ignore[arg-type]
                    to_state=to_state,  # type: ignore[arg-type]
                    wait_until_ns=row.wait_until_ns,
                )
                steps = LockSteps(workspace_id=self.workspace_id, steps=[step])
                return LEADER, Command(maintenance=MaintenanceCommand(lock_steps=steps))
            case "write" if row is not None:
                target = on(row.inode_id or row.name)
                command = ops.write(self.file_id, 0, draw.randbytes(9))
                history = draw.choice([b"", HISTORY, bytes(16)])
                command.file.guards.append(Guard(target=target, token=max(1, row.token), history_id=history))
                return number, command
            case "abandon":
                through = max(1, self.seqs.get(number, 0) + draw.randrange(-1, 3))
                self.seqs[number] = max(through, self.seqs.get(number, 0))
                return GIVER + number % 3, Command(abandon=Abandon(client_id=client(number), through_seq=through))
        return self.acquire(draw.randrange(1, 9), draw.choice([0, 0, 0, 1]))

    def acquire(self, number: int, handle_id: int) -> tuple[int, Command]:
        draw = self.draw
        rows = queries.list_locks(self.store, self.workspace_id, 0, 1_000).rows
        holders = [row for row in rows if row.token]
        if holders and draw.random() < 0.6:  # who holds something asks for more, so that some block each other
            holder = draw.choice(holders)
            number, handle_id = int.from_bytes(holder.client_id, "big"), holder.handle_id
        kind = draw.choice([S, X, X, X, X, P])
        wait = draw.random() < 0.8
        return number, acquire(
            "sem" if kind == P else draw.choice(["a", "b", "a/long:name.-_", self.file_id]),
            kind,
            handle_id,
            wait=wait,
            wait_ms=draw.choice([0, 3]) if wait else 0,
            one_at_a_time=draw.random() < 0.8,
            permits=2 if kind == P else 0,
        )


def lock_entries(seed: int, count: int) -> Iterator[bytes]:
    """Payloads for a store that no other workload touched."""
    drawn = _Drawn(seed)
    yield from drawn.begin()
    for _ in range(count - 2):
        groups = [drawn.group(*drawn.command()) for _ in range(drawn.draw.choice([1, 1, 3]))]
        yield drawn.entry(*groups)

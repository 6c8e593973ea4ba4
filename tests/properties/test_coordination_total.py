"""Whatever stands in the log about locks, apply judges it (D-4): random fields, past admission, next to sound ones.

HYPERCLUSTER_SEED=n replays one seed; a failure names it.
"""

from __future__ import annotations

import os
import random

import pytest

from hypercluster.pb.v1 import coordination_command_pb2 as pb
from hypercluster.pb.v1.command_pb2 import Command, MaintenanceCommand
from hypercluster.state_machine.coordination import queries
from hypercluster.state_machine.decoded import DecodedGroup
from hypercluster.state_machine.outcome import OK
from hypercluster.state_machine.wire import read_run
from tests.fakes.commands import SCOPE, client, reasons, submit
from tests.unit.coordination.table import LockSite
from tests.unit.workspace import ops

SEEDS = [int(os.environ["HYPERCLUSTER_SEED"])] if "HYPERCLUSTER_SEED" in os.environ else range(6)
ENTRIES = 150


class Noise:
    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.site = LockSite()
        self.file_id = self.site.by(9, ops.create(ops.ROOT, b"f")).inode_id
        self.seqs: dict[bytes, int] = {}

    def number(self, bits: int = 64) -> int:
        draw = self.draw
        return draw.choice([0, 1, 2, draw.randrange(8), (1 << bits) - 1, 1 << (bits - 1), draw.getrandbits(bits)])

    def lock(self) -> tuple[int, int]:
        """A lock_id and a token: of one that is there, often."""
        rows = queries.list_locks(self.site.replica.store, self.site.workspace_id, 0, 100).rows
        if rows and self.draw.random() < 0.7:
            row = self.draw.choice(rows)
            return row.lock_id, row.token if self.draw.random() < 0.8 else self.number()
        return self.number(), self.number()

    def target(self) -> pb.LockTarget:
        draw = self.draw
        return draw.choice([
            pb.LockTarget(),
            pb.LockTarget(name="a"),
            pb.LockTarget(name="b"),
            pb.LockTarget(name=draw.choice(["", "x" * 129, "ü", "a b", "\0"])),
            pb.LockTarget(inode_id=self.file_id),
            pb.LockTarget(inode_id=draw.randbytes(draw.choice([0, 1, 16, 17]))),
        ])  # fmt: skip

    def command(self) -> Command:
        draw = self.draw
        lock_id, token = self.lock()
        match draw.randrange(6):
            case 0 | 1:
                op = pb.LockAcquire(
                    target=self.target(),
                    kind=draw.choice([0, 1, 1, 2, 2, 2, 3, 77]),  # type: ignore[arg-type]
                    handle_id=self.number(),
                    wait=draw.random() < 0.7,
                    wait_ms=self.number(32),
                    one_at_a_time=draw.random() < 0.6,
                    permits=draw.choice([0, 0, 0, 1, 2, self.number(32)]),
                )
                return Command(coordination=pb.CoordinationCommand(lock_acquire=op))
            case 2:
                return Command(coordination=draw.choice([
                    pb.CoordinationCommand(),
                    pb.CoordinationCommand(lock_release=pb.LockRelease(lock_id=lock_id)),
                    pb.CoordinationCommand(
                        lock_reclaim=pb.LockReclaim(lock_id=lock_id, token=token, handle_id=self.number())
                    ),
                ]))  # fmt: skip
            case 3:
                steps = [self.step() for _ in range(draw.choice([0, 1, 5, 101]))]
                workspace_id = (
                    self.site.workspace_id if draw.random() < 0.8 else draw.randbytes(draw.choice([0, 3, 16]))
                )
                return Command(
                    maintenance=MaintenanceCommand(lock_steps=pb.LockSteps(workspace_id=workspace_id, steps=steps))
                )
            case 4:
                client_id = draw.choice([client(draw.randrange(100, 106)), b"", b"x" * 17])
                abandon = pb.Abandon(client_id=client_id, through_seq=self.number(), basis=self.number())
                return Command(abandon=abandon)
            case _:
                command = draw.choice([ops.write(self.file_id, 0, b"x"), ops.create(ops.ROOT, b"n"), Command()])
                for _ in range(draw.choice([1, 1, 2, 9])):
                    target = self.target() if draw.random() < 0.6 else None
                    history_id = draw.choice([b"", b"", b"h", bytes(16)])
                    command.file.guards.append(pb.Guard(target=target, token=token, history_id=history_id))
                return command

    def step(self) -> pb.LockStep:
        lock_id, token = self.lock()
        row = self.site.row(lock_id) if lock_id < 1 << 63 else None
        from_state = row.state if row is not None and self.draw.random() < 0.8 else self.draw.randrange(9)
        return pb.LockStep(
            lock_id=lock_id,
            token=token,
            from_state=from_state,  # type: ignore[arg-type]
            to_state=self.draw.randrange(6),  # type: ignore[arg-type]
            wait_until_ns=self.number(),
        )

    def group(self) -> DecodedGroup:
        draw = self.draw
        number = draw.randrange(1, 6)
        client_id = client(number)
        commands = [self.command() for _ in range(draw.choice([1, 1, 3]))]
        first = self.seqs.get(client_id, 0) + 1
        self.seqs[client_id] = first + len(commands) - 1
        workspace_id = self.site.workspace_id if draw.random() < 0.9 else draw.randbytes(draw.choice([0, 16]))
        raws = [command.SerializeToString() for command in commands]
        message = submit(client_id, first, raws, workspace=workspace_id)
        principal, worker = "p" * (1 + 254 * (number % 2)), "w" * (100 * (number % 3))
        return DecodedGroup(message, principal, SCOPE, worker, read_run(message))


@pytest.mark.req("D-4")
@pytest.mark.parametrize("seed", SEEDS)
def test_no_command_about_locks_makes_apply_raise(seed: int) -> None:
    noise = Noise(seed)
    accepted = 0
    for _ in range(ENTRIES):
        applied = noise.site.replica.apply(*[noise.group() for _ in range(noise.draw.choice([1, 3]))])
        accepted += sum(reason == OK for result in applied.groups for reason in reasons(result))
        if noise.draw.random() < 0.1:
            noise.site.replica.restart()
    assert accepted > 50, f"seed {seed}: hardly anything was sound enough to change something"

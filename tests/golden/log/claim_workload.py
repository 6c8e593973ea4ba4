"""Entries about hazards, reservations, settings, open leases and orphans, drawn from a seed: for the net around purity
and the contract of the stores.

`claim_entries` lets four clients change the same few files, reserve paths and set the workspace, and a leader log
leases and reap. It runs a machine beside it, so that most of what it draws speaks of what is there.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from hypercluster.log.entry import DecodedGroup, batch_of, encode_batch
from hypercluster.pb.v1.command_pb2 import Command, MaintenanceCommand, TrimOplog
from hypercluster.pb.v1.coordination_command_pb2 import OpenLease, OpenLeaseChanges, Reap
from hypercluster.pb.v1.origin_pb2 import Origin
from hypercluster.pb.v1.workspace_command_pb2 import WorkspaceCreate
from hypercluster.state_machine.coordination.reservations import list_reservations
from hypercluster.state_machine.machine import Machine
from hypercluster.state_machine.store import Family, MemoryStore
from hypercluster.state_machine.workspace.records import INODE, prefix_end
from hypercluster.values import Index, Nanos, Term
from tests.fakes.commands import STAMP_NS, client, group, submit
from tests.unit.workspace import ops

LEADER = 899
NAMES = (b"a", b"b.py", b"c")
PATTERNS = (b"a", b"**/*.py", b"d/**", b"?")


class _Drawn:
    """A machine in step with what was drawn so far."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.store = MemoryStore()
        self.machine = Machine(self.store)
        self.seqs: dict[int, int] = {}
        self.workspace_id = b""
        self.stamp_ns = STAMP_NS
        self.hazards = 0

    @property
    def index(self) -> int:
        return int(self.machine.applied.index) + 1

    def group(self, number: int, *commands: Command) -> DecodedGroup:
        first = self.seqs.get(number, 0) + 1
        self.seqs[number] = first + len(commands) - 1
        raws = [command.SerializeToString() for command in commands]
        worker = "" if number == LEADER else f"host-{number % 2}"
        origin = Origin(agent=f"agent-{number % 3}") if number % 4 else Origin()
        message = submit(client(number), first, raws, workspace=self.workspace_id, basis=self.index - 1, origin=origin)
        return group(message, principal=f"client/{worker}" if worker else "leader", worker=worker)

    def entry(self, *groups: DecodedGroup) -> bytes:
        made = batch_of(Nanos(self.stamp_ns), self.draw.randbytes(16), groups)
        applied = self.machine.apply(Index(self.index), Term(1), made)
        self.store.write(applied.changes)
        self.files = [file for result in applied.groups for run in result.runs for file in run.files]
        self.hazards += len(applied.events)
        self.stamp_ns += self.draw.choice([1_000_000, 1_000_000, 400_000_000, 20_000_000_000])
        return encode_batch(made)

    def begin(self) -> Iterator[bytes]:
        yield self.entry(self.group(1, Command(workspace_create=WorkspaceCreate(name="w", uid=1, gid=1, mode=0o755))))
        self.workspace_id = self.files[0].inode_id  # type: ignore[union-attr]
        yield self.entry(self.group(1, ops.mkdir(ops.ROOT, b"d"), *(ops.create(ops.ROOT, name) for name in NAMES)))

    def inodes(self) -> list[bytes]:
        prefix = self.workspace_id + INODE
        return [key[len(prefix) :] for key, _ in self.store.scan(Family.TREE, prefix, prefix_end(prefix))]

    def upkeep(self) -> Command:
        draw, inodes = self.draw, self.inodes()
        leases = [OpenLease(inode_id=draw.choice(inodes), worker=f"host-{draw.randrange(2)}") for _ in range(3)]
        choice = draw.randrange(3)
        if choice == 0:
            changes = OpenLeaseChanges(workspace_id=self.workspace_id, opened=leases[:1], ended=leases[1:])
            return Command(maintenance=MaintenanceCommand(open_lease_changes=changes))
        if choice == 1:
            trim = TrimOplog(workspace_id=self.workspace_id, below_log_index=self.index)
            return Command(maintenance=MaintenanceCommand(trim_oplog=trim))
        return Command(maintenance=MaintenanceCommand(reap=Reap(workspace_id=self.workspace_id, inode_ids=inodes)))

    def command(self) -> Command:
        draw, inodes = self.draw, self.inodes()
        directory, other = draw.choice([ops.ROOT, *inodes]), draw.choice([ops.ROOT, ops.ROOT, *inodes])
        name, new, inode = draw.choice(NAMES), draw.choice(NAMES), draw.choice(inodes)
        known = list_reservations(self.store, self.workspace_id)
        reserved = draw.choice(known).reservation_id if known else 1
        match draw.randrange(14):
            case 0:
                return ops.create(directory, name)
            case 1:
                return ops.unlink(ops.ROOT, name)
            case 2:
                return ops.link(inode, directory, new)
            case 3 | 4:
                return ops.under(ops.rename(ops.ROOT, name, other, new), reserved)
            case 5 | 6:
                return ops.write(inode, draw.randrange(50), draw.randbytes(draw.choice([1, 30])))
            case 7:
                return ops.under(ops.write(inode, draw.randrange(50), draw.randbytes(30)), reserved)
            case 8:
                return ops.truncate(inode, draw.randrange(60))
            case 9:
                return ops.reserve(draw.choice(PATTERNS), draw.random() < 0.5, draw.choice([1_000, 60_000]))
            case 10:
                return ops.renew(reserved, 5_000)
            case 11:
                return ops.unreserve(reserved)
            case 12:
                return ops.workspace_set(
                    enforce_reservations=draw.random() < 0.3, local_patterns=b"*.%d\n" % draw.randrange(9)
                )
            case _:
                return ops.append(inode, draw.randbytes(20))


def claim_entries(seed: int, count: int) -> Iterator[bytes]:
    """Payloads for a store that no other workload touched."""
    drawn = _Drawn(seed)
    yield from drawn.begin()
    for _ in range(count - 2):
        groups = [
            drawn.group(number, *(drawn.command() for _ in range(drawn.draw.choice([1, 1, 4]))))
            for number in drawn.draw.sample(range(1, 5), drawn.draw.choice([1, 1, 3]))
        ]
        if drawn.draw.random() < 0.3:
            groups.append(drawn.group(LEADER, drawn.upkeep()))
        yield drawn.entry(*groups)
    assert drawn.hazards or count < 60, "a workload about hazards has some"

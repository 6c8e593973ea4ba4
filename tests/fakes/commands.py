"""Short ways to write commands, runs and entries in tests. Everything made here is the real thing, as bytes."""

from __future__ import annotations

from collections.abc import Sequence

from hypercluster.log.admission import admit
from hypercluster.log.entry import DecodedEntry, DecodedGroup, batch_of
from hypercluster.pb.v1.command_pb2 import Command, MaintenanceCommand, Submit
from hypercluster.pb.v1.hub_command_pb2 import HUB_OP_TYPE_DEL, HUB_OP_TYPE_SET, HubCommand
from hypercluster.pb.v1.origin_pb2 import Origin
from hypercluster.state_machine.machine import Machine
from hypercluster.state_machine.outcome import Applied, GroupResult
from hypercluster.state_machine.store import MemoryStore
from hypercluster.values import Index, Nanos, Scope, Term

SCOPE = Scope("acme", "web")
PRINCIPAL = "worker-7"
STAMP_NS = 1_800_000_000_000_000_000
ENTRY_NS = 1_000_000


def client(number: int) -> bytes:
    return number.to_bytes(16, "big")


def hub_set(
    key: bytes,
    payload: bytes = b"1",
    *,
    namespace: str = "metadata",
    expected: int | None = None,
    op_type: int = HUB_OP_TYPE_SET,
) -> bytes:
    hub = HubCommand(namespace=namespace, key=key, op_type=op_type, payload=payload)  # type: ignore[arg-type]
    if expected is not None:
        hub.expected_version = expected
    return Command(hub=hub).SerializeToString()


def hub_del(key: bytes, *, namespace: str = "metadata", expected: int | None = None) -> bytes:
    return hub_set(key, b"", namespace=namespace, expected=expected, op_type=HUB_OP_TYPE_DEL)


def maintenance(**kind: object) -> bytes:
    return Command(maintenance=MaintenanceCommand(**kind)).SerializeToString()  # type: ignore[arg-type]


def submit(
    client_id: bytes,
    first_seq: int,
    commands: Sequence[bytes],
    *,
    floor: int = 0,
    basis: int = 0,
    workspace: bytes = b"",
    origin: Origin | None = None,
) -> bytes:
    return Submit(
        client_id=client_id,
        first_seq=first_seq,
        floor=floor,
        basis=basis,
        workspace_id=workspace,
        origin=origin,
        commands=commands,
    ).SerializeToString()


def group(message: bytes, *, principal: str = PRINCIPAL, scope: Scope = SCOPE, worker: str = "host-1") -> DecodedGroup:
    return DecodedGroup(message, principal, scope, worker, admit(message, maintenance=True))


ID_SEED = b"0123456789abcdef"  # a leader draws one for every entry: who makes inodes in several gives each its own


def entry(groups: Sequence[DecodedGroup], *, stamp_ns: int = STAMP_NS, id_seed: bytes = ID_SEED) -> DecodedEntry:
    return batch_of(Nanos(stamp_ns), id_seed, groups)


class Replica:
    """A machine over its own store, fed one entry at a time as a node's shell does it."""

    def __init__(self, store: MemoryStore | None = None) -> None:
        self.store = store or MemoryStore()
        self.machine = Machine(self.store)

    @property
    def index(self) -> Index:
        return self.machine.applied.index

    def apply(self, *groups: DecodedGroup, stamp_ns: int | None = None, id_seed: bytes = ID_SEED) -> Applied:
        index = Index(self.index + 1)
        stamp_ns = STAMP_NS + index * ENTRY_NS if stamp_ns is None else stamp_ns
        made = entry(groups, stamp_ns=stamp_ns, id_seed=id_seed)
        applied = self.machine.apply(index, Term(1), made)
        self.store.write(applied.changes)
        return applied

    def run(self, client_id: bytes, first_seq: int, *commands: bytes, floor: int = 0, basis: int = 0) -> GroupResult:
        return self.apply(group(submit(client_id, first_seq, commands, floor=floor, basis=basis))).groups[0]

    def restart(self) -> None:
        """Only what the store holds is left."""
        self.machine = Machine(self.store)


def reasons(result: GroupResult) -> list[int]:
    """One reason a command, in seq order."""
    return [reason for run in result.runs for reason in (run.reasons or (0,) * run.count)]


def answers(result: GroupResult) -> list[tuple[int, int, int, int]]:
    """(seq, index, reason, version) a command."""
    return [
        (run.first_seq + n, run.index, run.reasons[n] if run.reasons else 0, run.versions[n] if run.versions else 0)
        for run in result.runs
        for n in range(run.count)
    ]

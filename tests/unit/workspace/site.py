"""A workspace on one node, entry by entry, and a worker's replica of it: the harness of the workspace's tests.

`Site` plays the part of the machine around `judge` and `flush_log` over a real store; `Mirror` imports an export and
replays the op log, as a worker does, and fails on the first difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from hypercluster.pb.v1.command_pb2 import Command, MaintenanceCommand
from hypercluster.pb.v1.origin_pb2 import Origin
from hypercluster.pb.v1.retention_command_pb2 import ChunkCollect, SnapshotDrop, SnapshotMark
from hypercluster.pb.v1.workspace_command_pb2 import LogBatch
from hypercluster.state_machine import versions
from hypercluster.state_machine.context import Effects, OpContext
from hypercluster.state_machine.coordination.events import CoordinationEvent
from hypercluster.state_machine.coordination.judging import judge_coordination
from hypercluster.state_machine.lanes import Lanes
from hypercluster.state_machine.maintenance import judge_maintenance
from hypercluster.state_machine.outcome import FileOutcome, HubOutcome, MarkedSnapshot, TrimmedLog
from hypercluster.state_machine.overlay import Overlay
from hypercluster.state_machine.store import Change, MemoryStore, Store
from hypercluster.state_machine.wire import origin_bytes
from hypercluster.state_machine.workspace import ReplayEffects, flush_log, judge, replay, take_replayed
from hypercluster.state_machine.workspace.queries import list_extents, read_entry, read_header, read_inode
from hypercluster.state_machine.workspace.records import Header, Inode
from hypercluster.state_machine.workspace.transfer import export_records, import_records
from hypercluster.values import ClientId, Index, Nanos, Scope, Seq, Term
from tests.unit.workspace import ops

SCOPE = Scope("acme", "atlas")
STAMP_NS = 1_800_000_000_000_000_000
CLIENT = ClientId(b"client--------01")


class Sent(NamedTuple):
    """A command, and who sends it."""

    command: Command
    client: ClientId = CLIENT
    worker: str = "worker-1"
    agent: str = ""


class Site:
    """One node. `seed` keeps the ids of different runs apart."""

    def __init__(self, store: Store | None = None, seed: int = 0) -> None:
        self.store: Store = MemoryStore() if store is None else store
        self.overlay = Overlay(self.store)
        self.index = 0
        self.seq = 0
        self.stamp_ns = STAMP_NS
        self.seed = seed
        self.chunks: dict[bytes, bytes] = {}
        self.batches: list[bytes] = []
        self.workspace_id = b""
        self.last_changes: list[Change] = []
        self.upkeep: list[HubOutcome] = []  # verdicts on maintenance commands, all of them
        self.marked: list[MarkedSnapshot] = []
        self.trimmed: list[TrimmedLog] = []
        self.events: list[CoordinationEvent] = []  # of the last entry

    def found(self, name: str = "w") -> FileOutcome:
        """Makes the workspace the following commands are for."""
        outcome = self.one(ops.workspace(name))
        if not outcome.reason:
            self.workspace_id = outcome.inode_id
        return outcome

    def one(self, command: Command, worker: str = "worker-1", scope: Scope = SCOPE) -> FileOutcome:
        return self.entry(command, worker=worker, scope=scope)[0]

    def done(self, command: Command, worker: str = "worker-1") -> FileOutcome:
        """A command that must be accepted."""
        outcome = self.one(command, worker)
        assert outcome.reason == 0, outcome
        return outcome

    def entry(
        self,
        *commands: Command,
        worker: str = "worker-1",
        scope: Scope = SCOPE,
        client: ClientId = CLIENT,
        agent: str = "",
    ) -> list[FileOutcome]:
        """One Raft entry of one client: judged, flushed, written."""
        return self.mixed(*(Sent(command, client, worker, agent) for command in commands), scope=scope)

    def mixed(self, *sent: Sent, scope: Scope = SCOPE) -> list[FileOutcome]:
        """One Raft entry with commands of several clients."""
        self.index += 1
        effects = Effects()
        outcomes: list[FileOutcome] = []
        for ordinal, (command, client, worker, agent) in enumerate(sent):
            self.stamp_ns += 1
            self.seq += 1
            context = OpContext(
                overlay=self.overlay,
                effects=effects,
                index=Index(self.index),
                term=Term(1),
                ordinal=ordinal,
                stamp_ns=Nanos(self.stamp_ns),
                id_seed=b"seed" + self.seed.to_bytes(4, "big") + self.index.to_bytes(8, "big"),
                principal="someone",
                scope=scope,
                worker=worker,
                client_id=client,
                seq=Seq(self.seq),
                workspace_id=self.workspace_id,
                origin=origin_bytes(Origin(agent=agent)),
                command=command.SerializeToString(),
            )
            if command.HasField("maintenance"):
                self.upkeep.append(judge_maintenance(context, Lanes(self.store), command.maintenance))
            elif command.HasField("coordination"):
                outcomes.append(judge_coordination(context, command.coordination))
            else:
                outcomes.append(judge(context, command))
        batches = flush_log(self.overlay, effects)
        versions.flush(self.overlay, Index(self.index), effects.superseded)
        self.last_changes = self.overlay.take_changes()
        self.store.write(self.last_changes)
        self.events = [event for _, event in effects.events]
        self.chunks.update(effects.chunks)
        self.marked += effects.marked
        self.trimmed += effects.trimmed
        if self.workspace_id in batches:
            self.batches.append(batches[self.workspace_id])
        return outcomes

    def maintain(self, **kind: Any) -> HubOutcome:
        """The verdict on one maintenance command, in an entry of its own."""
        self.entry(Command(maintenance=MaintenanceCommand(**kind)))
        return self.upkeep[-1]

    def mark(self, after: int) -> HubOutcome:
        return self.maintain(snapshot_mark=SnapshotMark(workspace_id=self.workspace_id, after_log_index=after))

    def drop(self, log_index: int) -> HubOutcome:
        return self.maintain(snapshot_drop=SnapshotDrop(workspace_id=self.workspace_id, log_index=log_index))

    def collect(self, hashes: Iterable[bytes]) -> HubOutcome:
        return self.maintain(chunk_collect=ChunkCollect(workspace_id=self.workspace_id, hashes=list(hashes)))

    def restart(self) -> None:
        """Every cache is gone; the store stays."""
        self.overlay = Overlay(self.store)

    @property
    def header(self) -> Header:
        found = read_header(self.store, self.workspace_id)
        assert found is not None
        return found

    def inode(self, inode_id: bytes) -> Inode:
        found = read_inode(self.store, self.workspace_id, inode_id)
        assert found is not None
        return found

    def content(self, inode_id: bytes) -> bytes:
        return content_of(self.store, self.workspace_id, inode_id, self.chunks)

    def file(self, name: bytes, directory: bytes = ops.ROOT) -> bytes:
        """A new empty file's id."""
        return self.done(ops.create(directory, name)).inode_id

    def file_id(self, name: bytes, directory: bytes = ops.ROOT) -> bytes:
        """What a name stands for."""
        found = read_entry(self.store, self.workspace_id, directory, name)
        assert found is not None
        return found

    def directory(self, name: bytes, above: bytes = ops.ROOT) -> bytes:
        return self.done(ops.mkdir(above, name)).inode_id


def first_difference(found: Sequence[object], expected: Sequence[object]) -> int | None:
    """Where two long things differ, for an assertion that names the place: pytest's whole diff of two contents that
    hardly resemble each other takes it minutes."""
    if found == expected:
        return None
    pairs = zip(found, expected, strict=False)
    return next((place for place, (left, right) in enumerate(pairs) if left != right), min(len(found), len(expected)))


def content_of(store: Store, workspace_id: bytes, inode_id: bytes, chunks: dict[bytes, bytes]) -> bytes:
    """A file's bytes, put together from its extents."""
    listing = list_extents(store, workspace_id, inode_id, 0, 1_000_000)
    assert not listing.errno
    content = bytearray(listing.size)
    end = 0
    for extent in listing.extents:
        assert extent.offset >= end
        end = extent.end
        assert end <= listing.size
        piece = chunks[extent.chunk_hash][extent.chunk_offset : extent.chunk_offset + extent.length]
        assert len(piece) == extent.length
        content[extent.offset : end] = piece
    return bytes(content)


class Mirror:
    """A worker: starts from an export and follows the op log."""

    def __init__(self, site: Site) -> None:
        self.workspace_id = site.workspace_id
        self.store: Store = MemoryStore()
        exported = [
            (int(family), key, value or b"") for family, key, value in export_records(site.store, self.workspace_id)
        ]
        self.store.write(import_records(self.workspace_id, exported))
        self.overlay = Overlay(self.store)
        self.chunks = dict(site.chunks)
        self.batches_seen = len(site.batches)

    def follow(self, site: Site, restart: bool = False) -> list[ReplayEffects]:
        """Replays what the site has logged since; asserts that every root is the same."""
        if restart:
            self.overlay = Overlay(self.store)
        done: list[ReplayEffects] = []
        for batch in site.batches[self.batches_seen :]:
            for record in LogBatch.FromString(batch).records:
                effects = replay(self.overlay, self.workspace_id, record)
                assert not effects.problem, effects.problem
                assert effects.root == record.root
                self.chunks.update(effects.chunks)
                done.append(effects)
        self.batches_seen = len(site.batches)
        self.store.write(take_replayed(self.overlay))
        self.chunks.update({key: value for key, value in site.chunks.items() if key not in self.chunks})
        return done

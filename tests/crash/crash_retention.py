"""The driver of what a node keeps beside its log and state, for crash points: snapshots, archive, deletion (CH-7).

Owns: a node without Raft: entries from a file through the real apply loop into real storage, with everything of
retention around it, in small.
Never: knows which point is armed; checks (crash_retention_check.py).
Invariants: an entry is in the file before it is applied, as the log has it in a node; so a state that was lost is made
again from it.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from blake3 import blake3

from hypercluster.log.entry import DecodedGroup, batch_of, decode_entry, encode_batch
from hypercluster.node.apply_loop import ApplyLoop
from hypercluster.node.archiving import Archiving
from hypercluster.node.chunk_bytes import KEEP_S, ChunkBytes
from hypercluster.node.fanout import Fanout
from hypercluster.node.op_log import stored_op_log
from hypercluster.node.opening import referenced_hashes
from hypercluster.node.retention import mark_command
from hypercluster.node.tree_snapshots import TreeSnapshots
from hypercluster.pb.v1.command_pb2 import Command, MaintenanceCommand, TrimOplog
from hypercluster.pb.v1.retention_command_pb2 import ChunkCollect, SnapshotDrop
from hypercluster.rpc.workspace_service import encode_slice
from hypercluster.state_machine.machine import Machine
from hypercluster.state_machine.workspace import hazards, oplog, queries
from hypercluster.state_machine.workspace.chunks import present_chunks
from hypercluster.state_machine.workspace.oplog import log_floor
from hypercluster.state_machine.workspace.queries import list_directory, read_header
from hypercluster.state_machine.workspace.records import ROOT_ID, Header
from hypercluster.state_machine.workspace.snapshots import list_snapshots, newest_snapshot
from hypercluster.storage.archive import archive as archive_module
from hypercluster.storage.archive.archive import ArchiveSettings, OplogArchive
from hypercluster.storage.disk import PosixDisk
from hypercluster.storage.node_storage import NodeStorage
from hypercluster.storage.rocks import FlushState
from hypercluster.storage.rocks_options import RocksSettings
from hypercluster.storage.runner import InlineRunner
from hypercluster.storage.snapshots.store import SnapshotStore
from hypercluster.telemetry.metrics import Metrics
from hypercluster.values import Index, Nanos, Scope, Term
from tests.contracts.storages import HISTORY, MEMBERSHIP, refuse_fatal
from tests.fakes import certs
from tests.fakes.commands import client, group, submit
from tests.fakes.virtual_turns import VirtualTurns
from tests.unit.workspace import ops

Tell = Callable[[str], None]

TURNS_A_LIFE: Final = 6
DAY_S: Final = 86_400
SEGMENT_BYTES: Final = 48 << 10
SNAPSHOTS_KEPT: Final = 2
OPS_KEPT: Final = 12
ARCHIVE: Final = ArchiveSettings(keep_days=2, bytes_max=24 << 10)
# Policies in small; the state machine's own bound is among them, so that a check runs under the same.
SMALL: Final = (
    (oplog, "HAZARD_WINDOW_OPS", 4),
    (hazards, "HAZARD_WINDOW_OPS", 4),
    (archive_module, "JOIN_AT", 3),
    (archive_module, "SMALL_BYTES", 4 << 10),
)


@contextlib.contextmanager
def in_small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in SMALL:
            patch.setattr(module, name, value)
        yield


class EntryFile:
    """What the log is to a node, as far as a kill can tell: what was appended is there."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.entries = self._read(path.read_bytes())

    def _read(self, content: bytes) -> list[bytes]:
        found: list[bytes] = []
        position = 0
        while position + 4 <= len(content):
            end = position + 4 + int.from_bytes(content[position : position + 4], "big")
            if end > len(content):
                break
            found.append(content[position + 4 : end])
            position = end
        os.truncate(self._descriptor, position)
        return found

    def append(self, entry: bytes) -> None:
        os.write(self._descriptor, len(entry).to_bytes(4, "big") + entry)
        self.entries.append(entry)

    def close(self) -> None:
        os.close(self._descriptor)


class Keeping:
    """Opens, replays, and goes on, as a node does; the clock is virtual and everything runs at once."""

    def __init__(self, directory: Path) -> None:
        data = directory / "data"
        self.log = EntryFile(directory / "entries")
        self.turns = VirtualTurns()
        if self.log.entries:  # no entry has a stamp of the future
            last_ns = decode_entry(self.log.entries[-1]).committed_at_ns
            self.turns.now_s += (last_ns - self.turns.wall_ns()) / 1e9 + 1
        self.archive = OplogArchive(str(data / "archive"), PosixDisk(), InlineRunner(), HISTORY, ARCHIVE)
        self.storage = NodeStorage(
            str(data),
            HISTORY,
            chunk_runner=InlineRunner(),
            checkpoint_runner=InlineRunner(),
            referenced_hashes=referenced_hashes,
            on_fatal=refuse_fatal,
            settings=RocksSettings(flush_bytes=1 << 20, flush_entries=25, block_cache_bytes=1 << 20),
            archive=self.archive,
            chunk_segment_bytes=SEGMENT_BYTES,
        )
        self.pages = SnapshotStore(str(data / "snapshots"), PosixDisk(), segment_bytes=SEGMENT_BYTES)
        self._wire(Metrics())
        self.opened_at = self.storage.store.applied.index

    def _wire(self, metrics: Metrics) -> None:
        store, turns = self.storage.store, self.turns
        self.snapshots = TreeSnapshots(
            self.pages, store, store.hold, InlineRunner(), turns, metrics, HISTORY, lambda: certs.node("n1"),
            refuse_fatal, bytes_per_s=1 << 30,
        )  # fmt: skip
        self.chunk_bytes = ChunkBytes(
            self.storage.chunks, store, InlineRunner(), turns, metrics,
            applied_index=lambda: store.applied.index,
            durable_index=self.storage.durable_index,
            receiving=self.storage.receiving,
            on_fatal=refuse_fatal,
        )  # fmt: skip
        self.archiving = Archiving(self.archive, store.hold, InlineRunner(), turns, metrics, refuse_fatal)
        self.host = ApplyLoop(
            Machine(store), store, self.chunk_bytes,
            Fanout(stored_op_log(store, turns.wall_ns), turns, metrics, encode_slice), turns, turns, metrics,
            on_applied=lambda _: None,
            wake=lambda: None,
            on_snapshots=self.snapshots.marked,
            on_trimmed=self.archiving.trimmed,
        )  # fmt: skip

    def replay(self) -> None:
        for index, entry in list(enumerate(self.log.entries, 1))[self.opened_at :]:
            self._apply(index, entry)
        self.settle()

    def _apply(self, index: int, entry: bytes) -> None:
        self.host.apply(Index(index), Term(1), entry, None)
        self.storage.store.poll()
        self.turns.settle()

    def settle(self, span_s: float = 20.0) -> None:
        """As the lifecycle does, for so long."""
        for _ in range(4):
            self.turns.pass_time(span_s / 4)
            self.snapshots.look()
            self.archiving.look()
            self.chunk_bytes.look()
            self.storage.store.poll()

    def entry(self, *groups: DecodedGroup) -> int:
        index = len(self.log.entries) + 1
        batch = encode_batch(batch_of(Nanos(self.turns.wall_ns()), index.to_bytes(16, "big"), groups))
        self.log.append(batch)
        self._apply(index, batch)
        return index

    def flush(self) -> None:
        self.storage.store.request_flush()
        while self.storage.store.flush_state is not FlushState.IDLE:
            self.storage.store.poll()

    @property
    def workspace_id(self) -> bytes:
        return next((found for _, found in queries.scan_workspaces(self.storage.store)), b"")

    def header(self) -> Header:
        found = read_header(self.storage.store, self.workspace_id)
        assert found is not None
        return found

    def close(self) -> None:
        self.chunk_bytes.close()
        self.snapshots.close()
        self.pages.close()
        self.storage.close()
        self.log.close()


# --- work -----------------------------------------------------------------------------------------


def keep_for_ever(directory: Path, seed: int, tell: Tell) -> None:
    """Writes, marks, trims, collects, opens again. Tells the CA, "applied INDEX DIGEST" and "held LOG_INDEX"."""
    tell(f"ca {certs.ca().certificate_pem.hex()}")
    rng = random.Random(seed)
    with in_small():
        while True:
            keeping = Keeping(directory)
            keeping.replay()
            if not keeping.workspace_id:
                keeping.entry(_files(1, ops.workspace()))
            for _ in range(TURNS_A_LIFE):
                one_turn(keeping, rng, tell)
            keeping.close()


def one_turn(keeping: Keeping, rng: random.Random, tell: Tell) -> None:
    for _ in range(rng.randint(3, 5)):
        keeping.turns.now_s += rng.choice((60, DAY_S // 3))
        index = keeping.entry(*_some_files(keeping, rng))
        tell(f"applied {index} {keeping.storage.store.applied.digest.hex()}")
        _trim(keeping)
    _mark_and_drop(keeping)
    keeping.settle()
    for _, log_index in keeping.pages.held():
        tell(f"held {log_index}")
    _collect(keeping)
    keeping.flush()
    for _ in range(2):  # found, and then deleted
        keeping.turns.now_s += KEEP_S
        keeping.settle()
    if rng.random() < 0.3:
        _checkpoint(keeping)


def _files(first_seq: int, *commands: Command, workspace: bytes = b"", index: int = 1) -> DecodedGroup:
    raws = [command.SerializeToString() for command in commands]
    return group(submit(client(index), first_seq, raws, basis=index - 1, workspace=workspace))


def _some_files(keeping: Keeping, rng: random.Random) -> list[DecodedGroup]:
    """Some are made, some with a chunk, and some that are there go."""
    store, workspace_id, index = keeping.storage.store, keeping.workspace_id, len(keeping.log.entries) + 1
    there = list_directory(store, workspace_id, ROOT_ID, b"", 1_000).entries
    commands = [ops.create(ops.ROOT, b"file %d %d" % (index, number)) for number in range(rng.randint(2, 5))]
    for _, inode in rng.sample(list(there), min(len(there), 3)):
        content = rng.randbytes(rng.randrange(9_000, 20_000))
        pieces = [(blake3(content).digest(), 0, len(content))]
        commands += [ops.chunk_put(content), ops.write_pieces(inode.inode_id, 0, pieces)]
    for name, _ in rng.sample(list(there), min(len(there), 2 if len(there) > 6 else 0)):
        commands.append(ops.unlink(ops.ROOT, name))
    return [_files(1, *commands, workspace=workspace_id, index=index)]


def _maintain(keeping: Keeping, *commands: MaintenanceCommand) -> None:
    index = len(keeping.log.entries) + 1
    raws = [Command(maintenance=command).SerializeToString() for command in commands]
    message = submit(client((1 << 40) + index), 1, raws, basis=index - 1)
    keeping.entry(group(message, principal="leader", scope=Scope("", "")))


def _trim(keeping: Keeping) -> None:
    floor = log_floor(keeping.storage.store, keeping.workspace_id)
    below = keeping.header().log_index - OPS_KEPT
    if floor is not None and below > floor:
        trim = TrimOplog(workspace_id=keeping.workspace_id, below_log_index=below)
        _maintain(keeping, MaintenanceCommand(trim_oplog=trim))


def _mark_and_drop(keeping: Keeping) -> None:
    workspace_id, store = keeping.workspace_id, keeping.storage.store
    newest = newest_snapshot(store, workspace_id)
    kept = [found.log_index for found in list_snapshots(store, workspace_id)]
    drops = [
        MaintenanceCommand(snapshot_drop=SnapshotDrop(workspace_id=workspace_id, log_index=log_index))
        for log_index in kept[: max(0, len(kept) + 1 - SNAPSHOTS_KEPT)]
    ]
    _maintain(keeping, mark_command(workspace_id, newest.log_index if newest is not None else 0), *drops)


def _collect(keeping: Keeping) -> None:
    found = present_chunks(keeping.storage.store, keeping.workspace_id)
    hashes = [chunk_hash for chunk_hash, presence in found if not presence.references]
    if hashes:
        collect = ChunkCollect(workspace_id=keeping.workspace_id, hashes=hashes)
        _maintain(keeping, MaintenanceCommand(chunk_collect=collect))


def _checkpoint(keeping: Keeping) -> None:
    applied = keeping.storage.store.applied
    keeping.storage.checkpoints.create(applied.index, applied.term, MEMBERSHIP, lambda _: None)
    keeping.storage.store.poll()

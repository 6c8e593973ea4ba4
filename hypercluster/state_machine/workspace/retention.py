"""The removal of chunks that nothing reaches (WS-33, WS-54).

Owns: the rule by which a chunk is kept, and the verdict on ChunkCollect.
Never: the bytes of a chunk: those are each node's, and go later.
Invariants: a chunk is removed only if no extent of the head, of an orphan, of a kept snapshot or of a tree that a
worker may still replay from refers to it, whoever proposed it; the rule reads records alone, so every node finds the
same; one command removes at most COLLECT_KEYS_MAX records.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from hypercluster.limits import CHUNK_PIN_MS, COLLECT_CHUNKS_MAX, COMMAND_KEYS_MAX, LAG_MAX_MS, LAG_MAX_OPS
from hypercluster.pb.v1.retention_command_pb2 import ChunkCollect
from hypercluster.state_machine.context import OpContext
from hypercluster.state_machine.outcome import NO_WORKSPACE, OK, HubOutcome
from hypercluster.state_machine.overlay import Overlay
from hypercluster.state_machine.store import Family, Reader
from hypercluster.state_machine.workspace.chunks import HASH_BYTES, Presence, sender_prefix
from hypercluster.state_machine.workspace.oplog import log_floor
from hypercluster.state_machine.workspace.records import RECENT, Header, prefix_end
from hypercluster.state_machine.workspace.snapshots import list_snapshots
from hypercluster.state_machine.workspace.state import open_workspace

KEYS_OF_CHUNK: Final = 2  # presence and the organisation's, besides its senders
COLLECT_KEYS_MAX: Final = COMMAND_KEYS_MAX - 2  # header and account are written too

_MS: Final = 1_000_000


class Keep:
    """What keeps chunks of one workspace as of one moment."""

    __slots__ = ("_floor", "_head", "_overlay", "_snapshots", "_stamp_ns")

    def __init__(self, reader: Reader, header: Header, stamp_ns: int) -> None:
        self._overlay = reader
        self._head = header
        self._stamp_ns = stamp_ns
        self._floor = log_floor(reader, header.workspace_id) or 0
        self._snapshots: Sequence[int] = [found.log_index for found in list_snapshots(reader, header.workspace_id)]

    def reaches(self, chunk_hash: bytes, presence: Presence) -> bool:
        """Whether the chunk is still needed, by anything but its sender's patience."""
        if presence.references or self._stamp_ns < presence.touched_ns + CHUNK_PIN_MS * _MS:
            return True
        if self._overlay.get(Family.TREE, self._head.workspace_id + RECENT + chunk_hash) is not None:
            return True
        return presence.born > 0 and (self._in_snapshot(presence) or self._in_window(presence))

    def _in_snapshot(self, presence: Presence) -> bool:
        place = bisect_left(self._snapshots, presence.born)
        return place < len(self._snapshots) and self._snapshots[place] < presence.died

    def _in_window(self, presence: Presence) -> bool:
        """A worker may stand at a tree that has the chunk, and go on from there by the log: as far back as the log is
        kept, and a connected worker may lag (WS-52). `touched_ns` is not before the end of the last reference."""
        if presence.died < self._floor or presence.died + LAG_MAX_OPS <= self._head.log_index:
            return False
        return self._stamp_ns < presence.touched_ns + LAG_MAX_MS * _MS


def collect_chunks(ctx: OpContext, collect: ChunkCollect) -> HubOutcome:
    """Makes absent those of the named chunks that nothing reaches; `version` counts them. A chunk whose senders do not
    fit in one command loses some of them, and goes with a later one."""
    workspace = open_workspace(ctx.overlay, collect.workspace_id)
    if workspace is None:
        return HubOutcome(NO_WORKSPACE, 0)
    keep = Keep(ctx.overlay, workspace.header, ctx.stamp_ns)
    senders = _Senders(ctx.overlay, collect.workspace_id)
    ledger = workspace.ledger
    budget, removed = COLLECT_KEYS_MAX, 0
    for chunk_hash in dict.fromkeys(collect.hashes[:COLLECT_CHUNKS_MAX]):
        presence = ledger.presence(chunk_hash) if len(chunk_hash) == HASH_BYTES else None
        if presence is None or keep.reaches(chunk_hash, presence):
            continue
        keys = senders.keys(chunk_hash, budget)
        if len(keys) + KEYS_OF_CHUNK > budget:
            for key in keys[:budget]:
                ctx.overlay.delete(Family.CHUNKS, key)
            break
        ledger.remove(chunk_hash, presence.length, keys)
        ctx.effects.absent[chunk_hash] = presence.length
        budget -= len(keys) + KEYS_OF_CHUNK
        removed += 1
    workspace.changed = workspace.changed or removed > 0
    return HubOutcome(OK, removed)


class _Senders:
    """Keys of the sender records of chunks, this entry's writes included, which are looked through once."""

    def __init__(self, overlay: Overlay, workspace_id: bytes) -> None:
        self._reader = overlay.reader
        self._workspace_id = workspace_id
        self._written: dict[bytes, dict[bytes, bytes | None]] = {}
        prefix = sender_prefix(workspace_id, b"")
        for key, value in overlay.written(Family.CHUNKS).items():
            if key.startswith(prefix):
                self._written.setdefault(key[len(prefix) : len(prefix) + HASH_BYTES], {})[key] = value

    def keys(self, chunk_hash: bytes, count_max: int) -> list[bytes]:
        """Some of them, at least `count_max` if there are so many."""
        prefix = sender_prefix(self._workspace_id, chunk_hash)
        written = self._written.get(chunk_hash, {})
        found = [key for key, value in written.items() if value is not None]
        for key, _ in self._reader.scan(Family.CHUNKS, prefix, prefix_end(prefix)):
            if len(found) >= count_max:
                break
            if key not in written:
                found.append(key)
        return found

"""What must hold of a node's snapshots, archive and chunks after a kill, for crash points (CH-7).

Owns: the check of a directory of crash_retention.py: nothing that was told is gone, nothing half is taken for whole.
Never: kills; trusts what is stored: all of it is held against a second machine that had every entry and no disk.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from pathlib import Path

from hypercluster.errors import DamagedError
from hypercluster.log.entry import decode_entry
from hypercluster.node.chunk_bytes import KEEP_S
from hypercluster.node.opening import referenced_hashes
from hypercluster.pb.v1.snapshot_pb2 import SignedManifest
from hypercluster.snapshot_manifest import verified
from hypercluster.state_machine.machine import Machine
from hypercluster.state_machine.store import MemoryStore
from hypercluster.state_machine.workspace import oplog
from hypercluster.state_machine.workspace.oplog import scan_log
from hypercluster.state_machine.workspace.queries import read_header
from hypercluster.state_machine.workspace.snapshots import list_snapshots
from hypercluster.state_machine.workspace.transfer import import_records, verify_tree
from hypercluster.storage.archive.segment import read_segment, verify_segment
from hypercluster.storage.disk import PosixDisk
from hypercluster.storage.snapshots.pages import read_records
from hypercluster.values import ChunkHash, Index, Term
from tests.crash.crash_retention import ARCHIVE, DAY_S, Keeping, in_small, one_turn
from tests.fakes import certs


class Remembered:
    """What every entry made of a machine whose store is memory: digests by index, the whole op log."""

    def __init__(self, entries: Sequence[bytes]) -> None:
        self.store = MemoryStore()
        self.digests: list[str] = []
        self.parts: list[bytes] = []
        machine = Machine(self.store)
        for index, entry in enumerate(entries, 1):
            applied = machine.apply(Index(index), Term(1), decode_entry(entry))
            self.store.write(applied.changes)
            self.digests.append(applied.digest.hex())
            self.parts += applied.log_batches.values()


def check_kept(directory: Path, told: Sequence[str]) -> None:
    with in_small():
        keeping = Keeping(directory)
        try:
            _check_chunks(keeping)  # of the state as it was found: it is what a checkpoint would hand out
            keeping.replay()
            _check_all(keeping, told)
            if keeping.workspace_id:
                one_turn(keeping, random.Random(1), lambda _: None)
                _check_all(keeping, told)
                _check_space(keeping)
        finally:
            keeping.close()


def _check_all(keeping: Keeping, told: Sequence[str]) -> None:
    remembered = Remembered(keeping.log.entries)
    words = [line.split() for line in told]
    applied = [(int(index), digest) for kind, index, *rest in words if kind == "applied" for digest in rest]
    assert keeping.storage.store.applied.index == len(keeping.log.entries)
    assert all(remembered.digests[index - 1] == digest for index, digest in applied)
    if not remembered.digests:
        return
    assert keeping.storage.store.applied.digest.hex() == remembered.digests[-1]
    _check_chunks(keeping)
    _check_archive(keeping, remembered)
    held = {int(line[1]) for line in words if line[0] == "held"}
    _check_snapshots(keeping, held, bytes.fromhex(words[0][1]))


def _check_chunks(keeping: Keeping) -> None:
    named = list(referenced_hashes(keeping.storage.store))
    lost = [key.hex() for key in named if keeping.storage.chunks.get(ChunkHash(key)) is None]
    assert not lost, f"{len(lost)} chunks are named and not here"


def _check_archive(keeping: Keeping, remembered: Remembered) -> None:
    """Archive and log together are the whole log, from where the archive may begin."""
    workspace_id, store = keeping.workspace_id, keeping.storage.store
    assert keeping.archive.damaged == []
    segments = keeping.archive.segments(workspace_id)
    for before, after in itertools.pairwise(segments):
        assert after.chain_before == before.chain_after, "the chain breaks between two segments"
    for segment in segments:
        verify_segment(PosixDisk(), segment)
    archived = [batch for segment in segments for _, batch in read_segment(PosixDisk(), segment)]
    found = archived + [part.batch for part in scan_log(store, workspace_id, 1)]
    assert len(found) <= len(remembered.parts)
    assert found == remembered.parts[len(remembered.parts) - len(found) :], "archive and log are not the log"
    dropped = len(remembered.parts) - len(found)
    if dropped:
        old_ns = keeping.turns.wall_ns() - ARCHIVE.keep_days * DAY_S * 10**9
        full = keeping.archive.size_bytes > ARCHIVE.bytes_max // 4  # what goes early goes by whole segments
        assert full or oplog.first_stamp_ns(remembered.parts[dropped - 1]) < old_ns, f"{dropped} records are gone"
    header, expected = keeping.header(), read_header(remembered.store, workspace_id)
    assert expected is not None
    assert (header.log_index, header.root) == (expected.log_index, expected.root)
    checked = verify_tree(store, workspace_id)
    assert checked is not None
    assert checked.sound


def _check_snapshots(keeping: Keeping, told: set[int], trust_pem: bytes) -> None:
    """What was there and is still to be kept is there; what is there is whole, and signed."""
    workspace_id, pages = keeping.workspace_id, keeping.pages
    assert pages.damaged == []
    kept = {found.log_index: found.root for found in list_snapshots(keeping.storage.store, workspace_id)}
    held = {log_index for _, log_index in pages.held()}
    assert told & kept.keys() <= held, "a snapshot that was there is gone"
    for log_index in held:
        manifest, signed = pages.find(workspace_id, log_index), pages.signed(workspace_id, log_index)
        assert manifest is not None
        assert signed is not None
        trusts = (trust_pem, certs.ca().certificate_pem)  # the one that was killed had a CA of its own
        assert any(_is_verified(signed, trust) for trust in trusts)
        assert kept.get(log_index, manifest.root) == manifest.root
        content = [pages.page(page_hash) for page_hash in pages.page_hashes(manifest)]
        assert len(content) == manifest.page_count
        tree = MemoryStore()
        tree.write(import_records(workspace_id, read_records(content)))
        checked = verify_tree(tree, workspace_id)
        assert checked is not None
        assert checked.sound
        assert (checked.log_index, checked.stored_root) == (log_index, manifest.root)


def _is_verified(signed: SignedManifest, trust_pem: bytes) -> bool:
    try:
        verified(signed, trust_pem)
    except DamagedError:
        return False
    return True


def _check_space(keeping: Keeping) -> None:
    """Pages and chunks that nobody names go at last, whatever was interrupted."""
    for _ in range(6):
        keeping.flush()
        keeping.turns.now_s += KEEP_S
        keeping.settle()
    named: set[bytes] = set()
    for found in keeping.pages.held():
        manifest = keeping.pages.find(*found)
        assert manifest is not None
        named |= {*manifest.index_pages, *keeping.pages.page_hashes(manifest)}
    assert set(keeping.pages._pages.hashes()) == named, "pages that nobody names stay"
    oldest = min((manifest.meta.index for manifest in keeping.storage.checkpoints.kept()), default=1 << 60)
    if oldest >= keeping.storage.store.applied.index:
        here = set(map(bytes, keeping.storage.chunks.hashes()))
        assert here == set(referenced_hashes(keeping.storage.store)), "chunks that nobody names stay"

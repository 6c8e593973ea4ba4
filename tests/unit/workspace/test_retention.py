"""Workspace snapshots as records, and which chunks a collection removes (WS-33, WS-53, WS-54)."""

from __future__ import annotations

import pytest
from blake3 import blake3

from hypercluster.limits import CHUNK_PIN_MS, COLLECT_CHUNKS_MAX, COMMAND_KEYS_MAX, HAZARD_WINDOW_OPS, LAG_MAX_MS
from hypercluster.pb.v1.command_pb2 import Command, MaintenanceCommand, TrimOplog
from hypercluster.pb.v1.retention_command_pb2 import SnapshotMark
from hypercluster.state_machine.outcome import CHUNKS_MISSING, LIMIT, NO_WORKSPACE, OK, PRECONDITION_FAILED
from hypercluster.state_machine.store import Change, Family
from hypercluster.state_machine.workspace import retention, snapshots
from hypercluster.state_machine.workspace.chunks import (
    presence_key,
    present_chunks,
    read_account,
    read_presence,
    read_workspaces_with,
)
from hypercluster.state_machine.workspace.queries import was_referenced
from hypercluster.state_machine.workspace.snapshots import list_snapshots, newest_snapshot, read_snapshot
from tests.unit.workspace import ops
from tests.unit.workspace.site import Site

BIG = b"big content " * 1_000
BIG_HASH = blake3(BIG).digest()
MS = 1_000_000
LONG_MS = LAG_MAX_MS + 1


@pytest.fixture
def site() -> Site:
    found = Site()
    found.found()
    return found


def use(site: Site, name: bytes = b"f", content: bytes = BIG) -> bytes:
    """A file that holds the content as one chunk."""
    inode_id = site.file(name)
    site.done(ops.chunk_put(content))
    site.done(ops.write_pieces(inode_id, 0, [(blake3(content).digest(), 0, len(content))]))
    return inode_id


def present(site: Site, chunk_hash: bytes = BIG_HASH) -> bool:
    return read_presence(site.store, site.workspace_id, chunk_hash) is not None


def wait(site: Site, span_ms: int) -> None:
    site.stamp_ns += span_ms * MS


# --- snapshots ------------------------------------------------------------------------------------


@pytest.mark.req("WS-53")
def test_a_snapshot_is_marked_at_the_index_and_root_its_entry_leaves(site: Site) -> None:
    use(site)
    mark = MaintenanceCommand(snapshot_mark=SnapshotMark(workspace_id=site.workspace_id))
    site.entry(Command(maintenance=mark), ops.mkdir(ops.ROOT, b"later in the same entry"))
    found = newest_snapshot(site.store, site.workspace_id)
    assert found is not None
    assert (found.log_index, found.root, found.raft_index) == (site.header.log_index, site.header.root, site.index)
    assert site.marked == [(site.workspace_id, found.log_index, found.root)]
    assert found.stamp_ns == site.stamp_ns - 1
    assert read_snapshot(site.store, site.workspace_id, found.log_index) == found


@pytest.mark.req("WS-53")
def test_a_snapshot_is_refused_when_nothing_changed_or_another_came_first(site: Site) -> None:
    assert site.mark(0) == (PRECONDITION_FAILED, 0), "an empty workspace has nothing to keep"
    site.file(b"a")
    assert site.mark(7).reason == PRECONDITION_FAILED
    assert site.mark(0) == (OK, 1)
    assert site.mark(1) == (PRECONDITION_FAILED, 1), "nothing changed since"
    site.file(b"b")
    assert site.mark(0) == (PRECONDITION_FAILED, 1), "the proposer did not know of the last one"
    both = MaintenanceCommand(snapshot_mark=SnapshotMark(workspace_id=site.workspace_id, after_log_index=1))
    site.entry(Command(maintenance=both), Command(maintenance=both))
    assert [verdict.reason for verdict in site.upkeep[-2:]] == [OK, PRECONDITION_FAILED]
    assert [found.log_index for found in list_snapshots(site.store, site.workspace_id)] == [1, 2]
    assert [found.log_index for found in list_snapshots(site.store, site.workspace_id, 1)] == [2]
    assert site.drop(1) == (OK, 1)
    assert site.drop(1) == (PRECONDITION_FAILED, 0)
    assert [found.log_index for found in list_snapshots(site.store, site.workspace_id)] == [2]
    site.workspace_id = bytes(16)
    assert site.mark(0).reason == NO_WORKSPACE
    site.workspace_id = b"short"
    assert [site.mark(0).reason, site.collect([BIG_HASH]).reason] == [NO_WORKSPACE, NO_WORKSPACE]
    assert site.drop(1).reason == PRECONDITION_FAILED


@pytest.mark.req("WS-53")
def test_a_workspace_keeps_a_bounded_number_of_snapshots(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "SNAPSHOTS_MAX", 2)
    for name in (b"a", b"b", b"c"):
        site.file(name)
        last = newest_snapshot(site.store, site.workspace_id)
        outcome = site.mark(0 if last is None else last.log_index)
    assert outcome == (LIMIT, 2)
    site.drop(1)
    assert site.mark(2).reason == OK


# --- collection -----------------------------------------------------------------------------------


@pytest.mark.req("WS-33")
def test_a_chunk_that_was_only_sent_stays_for_a_minute(site: Site) -> None:
    inode_id = site.file(b"f")
    site.done(ops.chunk_put(BIG))
    wait(site, CHUNK_PIN_MS - 1)
    assert site.collect([BIG_HASH]) == (OK, 0)
    assert site.done(ops.write_pieces(inode_id, 0, [(BIG_HASH, 0, 5)])).reason == OK, "the retry finds it"
    other = blake3(b"other" * 9).digest()
    site.done(ops.chunk_put(b"other" * 9))
    wait(site, CHUNK_PIN_MS)
    assert site.collect([other]) == (OK, 1)
    assert not present(site, other)
    assert site.one(ops.write_pieces(inode_id, 0, [(other, 0, 5)])).reason == CHUNKS_MISSING
    site.done(ops.chunk_put(b"other" * 9))
    assert site.chunks[other] == b"other" * 9
    site.done(ops.write_pieces(inode_id, 0, [(other, 0, 45)]))


@pytest.mark.req("WS-54")
def test_what_a_file_an_orphan_or_a_waiting_page_holds_is_not_collected(site: Site) -> None:
    use(site)
    wait(site, LONG_MS)
    assert site.collect([BIG_HASH]) == (OK, 0)
    site.done(ops.unlink(ops.ROOT, b"f"))  # an orphan now, whoever has it open
    wait(site, LONG_MS)
    assert site.collect([BIG_HASH]) == (OK, 0)
    assert present(site)


@pytest.mark.req("WS-54")
def test_a_chunk_goes_with_its_counts_its_senders_and_its_place_in_the_account(site: Site) -> None:
    inode_id = use(site)
    site.done(ops.chunk_put(BIG), worker="worker-2")
    before = read_account(site.store, "acme")
    site.done(ops.truncate(inode_id, 0))
    wait(site, LONG_MS)
    assert site.collect([BIG_HASH, BIG_HASH, b"no hash", bytes(32)]) == (OK, 1)
    assert not present(site)
    assert not was_referenced(site.store, site.workspace_id, BIG_HASH)
    assert read_workspaces_with(site.store, "acme", BIG_HASH) == 0
    assert (site.header.chunk_count, site.header.chunk_bytes) == (0, 0)
    after = read_account(site.store, "acme")
    assert (before.chunk_count - after.chunk_count, before.chunk_bytes - after.chunk_bytes) == (1, len(BIG))
    left = [key for key, _ in site.store.scan(Family.CHUNKS, b"s", b"t") if BIG_HASH in key]
    assert left == []


@pytest.mark.req("WS-54")
def test_bytes_that_another_workspace_has_stay_in_the_account(site: Site) -> None:
    inode_id = use(site)
    first = site.workspace_id
    site.found("second")
    use(site)
    site.workspace_id = first
    site.done(ops.truncate(inode_id, 0))
    wait(site, LONG_MS)
    assert site.collect([BIG_HASH]) == (OK, 1)
    assert read_workspaces_with(site.store, "acme", BIG_HASH) == 1
    assert read_account(site.store, "acme").chunk_count == 1


@pytest.mark.req("WS-54")
def test_a_snapshot_keeps_what_its_tree_holds_until_it_is_dropped(site: Site) -> None:
    inode_id = use(site)
    site.file(b"another")
    site.mark(0)
    last = site.header.log_index
    site.done(ops.truncate(inode_id, 0))
    wait(site, LONG_MS)
    assert site.collect([BIG_HASH]) == (OK, 0)
    assert was_referenced(site.store, site.workspace_id, BIG_HASH), "who begins with the snapshot fetches it"
    site.drop(last)
    assert site.collect([BIG_HASH]) == (OK, 1)


@pytest.mark.req("WS-54")
def test_snapshots_before_and_after_the_life_of_a_chunk_do_not_keep_it(site: Site) -> None:
    site.file(b"earlier")
    site.mark(0)
    inode_id = use(site)
    site.done(ops.truncate(inode_id, 0))
    site.mark(1)
    wait(site, LONG_MS)
    assert site.collect([BIG_HASH]) == (OK, 1)


@pytest.mark.req("WS-54", "WS-52")
def test_the_window_a_worker_may_replay_from_keeps_what_its_trees_hold(site: Site) -> None:
    inode_id = use(site)
    site.done(ops.truncate(inode_id, 0))
    wait(site, LAG_MAX_MS - 1)
    assert site.collect([BIG_HASH]) == (OK, 0)
    wait(site, 1)
    assert site.collect([BIG_HASH]) == (OK, 1)
    inode_id = use(site, b"g")
    died = site.done(ops.truncate(inode_id, 0)).log_index
    wait(site, CHUNK_PIN_MS)
    site.entry(*(ops.sync(ops.ROOT) for _ in range(HAZARD_WINDOW_OPS)))  # which trimming leaves alone
    trim = TrimOplog(workspace_id=site.workspace_id, below_log_index=died)
    site.maintain(trim_oplog=trim)
    assert site.collect([BIG_HASH]) == (OK, 0), "the log still begins with the operation that ended it"
    site.maintain(trim_oplog=TrimOplog(workspace_id=site.workspace_id, below_log_index=died + 1))
    assert site.collect([BIG_HASH]) == (OK, 1), "nobody can replay from a tree that held it"


@pytest.mark.req("WS-54")
def test_a_log_that_went_on_far_enough_ends_the_window_too(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "LAG_MAX_OPS", 5)
    inode_id = use(site)
    site.done(ops.truncate(inode_id, 0))
    wait(site, CHUNK_PIN_MS)
    for number in range(5):
        assert site.collect([BIG_HASH]) == (OK, 0)
        site.file(b"%d" % number)
    assert site.collect([BIG_HASH]) == (OK, 1)


@pytest.mark.req("WS-54")
def test_a_chunk_that_came_back_is_kept_for_the_whole_of_its_span(site: Site) -> None:
    inode_id = use(site)
    site.mark(0)
    first = site.header.log_index
    site.done(ops.truncate(inode_id, 0))
    site.done(ops.write_pieces(inode_id, 0, [(BIG_HASH, 0, 7)]))
    site.done(ops.truncate(inode_id, 0))
    found = read_presence(site.store, site.workspace_id, BIG_HASH)
    assert found is not None
    assert (found.born, found.died) == (2, site.header.log_index)
    wait(site, LONG_MS)
    assert site.collect([BIG_HASH]) == (OK, 0)
    site.drop(first)
    assert site.collect([BIG_HASH]) == (OK, 1)


@pytest.mark.req("WS-54")
def test_bytes_kept_for_coalescing_keep_their_chunk(site: Site) -> None:
    inode_id = site.file(b"f")
    site.done(ops.append(inode_id, b"small"))
    site.done(ops.truncate(inode_id, 0))
    wait(site, LONG_MS)
    assert site.collect([blake3(b"small").digest()]) == (OK, 0)


@pytest.mark.req("WS-54", "D-4")
def test_one_command_touches_a_bounded_number_of_keys(site: Site) -> None:
    contents = [b"%05d" % number * 20 for number in range(COLLECT_CHUNKS_MAX + 20)]
    for start in range(0, len(contents), 100):
        site.entry(*[ops.chunk_put(content) for content in contents[start : start + 100]])
    crowd = contents[7]
    for number in range(COMMAND_KEYS_MAX + 50):
        site.done(ops.chunk_put(crowd), worker=f"worker-{number}")
    wait(site, CHUNK_PIN_MS)
    hashes = [blake3(content).digest() for content in contents]
    removed = 0
    for _ in range(20):
        removed += site.collect(hashes[removed:] if removed < 7 else hashes).version
        assert len(site.last_changes) <= COMMAND_KEYS_MAX
        if not list(present_chunks(site.store, site.workspace_id)):
            break
        hashes = [found for found, _ in present_chunks(site.store, site.workspace_id)]
    assert (removed, site.header.chunk_count, read_account(site.store, "acme").chunk_bytes) == (len(contents), 0, 0)
    assert not list(site.store.scan(Family.CHUNKS, b"s", b"t"))


def test_a_record_from_before_snapshots_is_read(site: Site) -> None:
    inode_id = use(site)
    key = presence_key(site.workspace_id, BIG_HASH)
    record = site.store.get(Family.CHUNKS, key)
    assert record is not None
    site.store.write([Change(Family.CHUNKS, key, record[:20])])
    site.restart()
    found = read_presence(site.store, site.workspace_id, BIG_HASH)
    assert found is not None
    assert (found.references, found.born, found.died) == (1, 1, 0)
    site.done(ops.truncate(inode_id, 0))
    wait(site, LONG_MS)
    assert site.collect([BIG_HASH]) == (OK, 1)

"""Orphans, open leases and reaps (WS-27, WS-44), by examples and by random walks of two sites.

HYPERCLUSTER_SEED=n replays one seed; a failure names it.
"""

from __future__ import annotations

import os
import random

import pytest
from blake3 import blake3

from hypercluster.limits import COMMAND_KEYS_MAX, LAG_MAX_MS, OPEN_LEASES_OF_WORKER_MAX, ORPHAN_KEEP_MS, XATTRS_MAX
from hypercluster.pb.v1.coordination_command_pb2 import OpenLease, OpenLeaseChanges, Reap
from hypercluster.state_machine.coordination import leases
from hypercluster.state_machine.coordination.leases import is_leased, lease_count, leases_on, list_leases
from hypercluster.state_machine.outcome import NO_WORKSPACE, OK, HubOutcome
from hypercluster.state_machine.store import Family
from hypercluster.state_machine.workspace.chunks import read_presence
from hypercluster.state_machine.workspace.errnos import ENOENT
from hypercluster.state_machine.workspace.orphans import list_orphans
from hypercluster.state_machine.workspace.queries import read_inode
from hypercluster.state_machine.workspace.reaping import due_orphans
from hypercluster.state_machine.workspace.records import prefix_end
from hypercluster.state_machine.workspace.transfer import verify_tree
from tests.unit.workspace import ops
from tests.unit.workspace.ops import ROOT
from tests.unit.workspace.site import Mirror, Site
from tests.unit.workspace.test_oplog_floor import Looks

SEEDS = [int(os.environ["HYPERCLUSTER_SEED"])] if "HYPERCLUSTER_SEED" in os.environ else range(6)
MS = 1_000_000
KEEP_NS = ORPHAN_KEEP_MS * MS


@pytest.fixture
def site() -> Site:
    made = Site()
    made.found()
    return made


def reap(site: Site, *inode_ids: bytes) -> HubOutcome:
    return site.maintain(reap=Reap(workspace_id=site.workspace_id, inode_ids=inode_ids))


def opened(site: Site, worker: str, *inode_ids: bytes) -> int:
    made = [OpenLease(inode_id=inode_id, worker=worker) for inode_id in inode_ids]
    return site.maintain(open_lease_changes=OpenLeaseChanges(workspace_id=site.workspace_id, opened=made)).version


def ended(site: Site, worker: str, *inode_ids: bytes) -> int:
    made = [OpenLease(inode_id=inode_id, worker=worker) for inode_id in inode_ids]
    return site.maintain(open_lease_changes=OpenLeaseChanges(workspace_id=site.workspace_id, ended=made)).version


def orphan(site: Site, name: bytes = b"a", content: bytes = b"some bytes") -> bytes:
    inode_id = site.file(name)
    site.done(ops.write(inode_id, 0, content))
    site.done(ops.unlink(ROOT, name))
    return inode_id


def records_of(site: Site, inode_id: bytes) -> list[tuple[Family, bytes]]:
    """Whatever names the inode, other than versions and the op log."""
    found = []
    for family in (Family.TREE, Family.COORDINATION):
        prefix = site.workspace_id
        for key, value in site.store.scan(family, prefix, prefix_end(prefix)):
            if inode_id in key or inode_id in value:
                found.append((family, key))
    return found


@pytest.mark.req("WS-27")
def test_an_orphan_goes_when_its_time_is_over_and_not_before(site: Site) -> None:
    content = b"only here"
    inode_id = orphan(site, content=content)
    orphaned_ns = site.inode(inode_id).orphaned_ns
    before = site.header
    site.stamp_ns = orphaned_ns + KEEP_NS - 2
    assert reap(site, inode_id) == (OK, 0)
    assert site.inode(inode_id).size == len(content)
    assert reap(site, inode_id) == (OK, 1)
    assert read_inode(site.store, site.workspace_id, inode_id) is None
    presence = read_presence(site.store, site.workspace_id, blake3(content).digest())
    assert presence is not None and presence.references == 0
    assert presence.died == before.log_index + 1, "a snapshot of the tree as it was still holds it"
    assert (site.header.log_index, site.header.root) == (before.log_index, before.root)
    assert (before.orphan_count, site.header.orphan_count) == (1, 0)
    assert records_of(site, inode_id) == []
    assert site.one(ops.append(inode_id, b"x")).errno == ENOENT
    assert reap(site, inode_id) == (OK, 0)


@pytest.mark.req("WS-27", "WS-54")
def test_a_snapshot_of_the_tree_before_a_reap_keeps_its_chunks(site: Site) -> None:
    content = b"only here, and too large to be kept for coalescing" * 200
    chunk_hash = blake3(content).digest()
    site.done(ops.chunk_put(content))
    inode_id = site.file(b"a")
    site.done(ops.write_pieces(inode_id, 0, [(chunk_hash, 0, len(content))]))
    site.done(ops.unlink(ROOT, b"a"))
    assert site.mark(0).reason == OK
    site.stamp_ns += KEEP_NS
    assert reap(site, inode_id) == (OK, 1)
    site.stamp_ns += LAG_MAX_MS * MS
    assert site.collect([chunk_hash]) == (OK, 0)
    site.drop(site.header.log_index)
    assert site.collect([chunk_hash]) == (OK, 1)


@pytest.mark.req("WS-27")
def test_what_has_a_name_is_never_reaped(site: Site) -> None:
    inode_id = site.file(b"a")
    site.done(ops.link(inode_id, ROOT, b"b"))
    site.done(ops.unlink(ROOT, b"a"))
    site.stamp_ns += 2 * KEEP_NS
    assert reap(site, inode_id, ROOT, bytes(15), b"x" * 16) == (OK, 0)
    assert site.inode(inode_id).nlink == 1
    assert site.last_changes == []
    unknown = Reap(workspace_id=b"w" * 16, inode_ids=[inode_id])
    assert site.maintain(reap=unknown) == (NO_WORKSPACE, 0)


@pytest.mark.req("WS-44", "WS-27")
def test_content_is_kept_while_a_lease_of_any_worker_lives(site: Site) -> None:
    inode_id = orphan(site)
    assert opened(site, "host-1", inode_id) == 1
    assert opened(site, "host-2", inode_id) == 1
    site.stamp_ns += 2 * KEEP_NS
    assert due_orphans(site.store, site.workspace_id, site.stamp_ns).inode_ids == ()
    for worker in ("host-1", "host-2"):
        site.restart()
        assert reap(site, inode_id) == (OK, 0)
        assert next(lease.worker for lease in leases_on(site.store, site.workspace_id, inode_id)) == worker
        assert ended(site, worker, inode_id) == 1
    assert not is_leased(site.store, site.workspace_id, inode_id)
    assert due_orphans(site.store, site.workspace_id, site.stamp_ns).inode_ids == (inode_id,)
    assert reap(site, inode_id) == (OK, 1)
    assert records_of(site, inode_id) == []


@pytest.mark.req("WS-44")
def test_leases_are_said_once_and_only_of_what_there_is(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = (site.file(name) for name in (b"a", b"b", b"c"))
    assert opened(site, "host-1", first, second, first, b"x" * 16, b"short") == 2
    assert opened(site, "host-1", first) == 0
    assert lease_count(site.store, site.workspace_id, "host-1") == 2
    assert ended(site, "host-1", third) == 0
    assert ended(site, "host-2", first) == 0
    assert opened(site, "", first) == 0
    monkeypatch.setattr(leases, "OPEN_LEASES_OF_WORKER_MAX", 3)
    assert opened(site, "host-1", third, ROOT) == 1
    assert OPEN_LEASES_OF_WORKER_MAX > 3
    listed = list_leases(site.store, site.workspace_id, None, 10)
    assert [lease.inode_id for lease in listed] == sorted([first, second, third])
    assert list_leases(site.store, site.workspace_id, listed[0], 1) == listed[1:2]
    assert ended(site, "host-1", first, second, third) == 3
    prefix = site.workspace_id + b"O"
    assert list(site.store.scan(Family.COORDINATION, prefix, prefix_end(prefix))) == []


@pytest.mark.req("WS-27", "D-4")
def test_a_reap_is_bounded_and_goes_on_where_it_stopped(site: Site) -> None:
    inode_ids = []
    for number in range(6):
        inode_id = site.file(b"%d" % number)
        for attribute in range(XATTRS_MAX):
            site.done(ops.set_xattr(inode_id, b"user.%d" % attribute, b"v"))
        site.done(ops.unlink(ROOT, b"%d" % number))
        inode_ids.append(inode_id)
    site.stamp_ns += 2 * KEEP_NS
    rounds = 0
    while due := due_orphans(site.store, site.workspace_id, site.stamp_ns).inode_ids:
        removed = reap(site, *due).version
        assert removed > 0
        assert len(site.last_changes) <= COMMAND_KEYS_MAX
        rounds += 1
    assert rounds == 3
    assert all(records_of(site, inode_id) == [] for inode_id in inode_ids)


@pytest.mark.req("WS-27")
def test_pages_of_a_large_orphan_are_emptied_though_nobody_writes(site: Site) -> None:
    blocks = [bytes([number]) * 100 for number in range(200)]
    site.entry(*(ops.chunk_put(block) for block in blocks))
    pieces = [(blake3(block).digest(), 0, 90) for block in blocks]
    inode_id = site.file(b"large")
    for start in range(0, 800, 50):
        chosen = [pieces[(start + number) % 200] for number in range(50)]
        site.done(ops.write_pieces(inode_id, 0, chosen, at_end=True))
    assert site.inode(inode_id).root_page
    site.done(ops.unlink(ROOT, b"large"))
    site.stamp_ns += 2 * KEEP_NS
    assert reap(site, inode_id) == (OK, 1)
    for _ in range(100):
        if not due_orphans(site.store, site.workspace_id, site.stamp_ns).pages:
            break
        assert reap(site) == (OK, 0)
        assert len(site.last_changes) <= COMMAND_KEYS_MAX
    assert records_of(site, inode_id) == []
    for block in blocks:
        presence = read_presence(site.store, site.workspace_id, blake3(block).digest())
        assert presence is not None and presence.references == 0


@pytest.mark.req("WS-27")
def test_the_leader_is_told_when_the_next_orphan_is_due(site: Site) -> None:
    assert due_orphans(site.store, site.workspace_id, site.stamp_ns).next_due_ns == 0
    inode_ids = [orphan(site, name) for name in (b"a", b"b", b"c")]
    stamps = [site.inode(inode_id).orphaned_ns for inode_id in inode_ids]
    due = due_orphans(site.store, site.workspace_id, stamps[0] + KEEP_NS)
    assert (due.inode_ids, due.next_due_ns) == ((inode_ids[0],), stamps[1] + KEEP_NS)
    due = due_orphans(site.store, site.workspace_id, stamps[2] + KEEP_NS, limit=2)
    assert (due.inode_ids, due.next_due_ns) == ((inode_ids[0], inode_ids[1]), stamps[2] + KEEP_NS)
    assert due_orphans(site.store, site.workspace_id, stamps[2] + KEEP_NS).next_due_ns == 0


@pytest.mark.req("WS-27", "WS-44")
def test_orphans_that_are_held_do_not_hide_those_behind_them(site: Site) -> None:
    inode_ids = [orphan(site, b"%d" % number) for number in range(5)]
    opened(site, "host-1", *inode_ids[:3])
    site.stamp_ns += 2 * KEEP_NS
    found, after, looks = [], b"", 0
    while looks == 0 or after:
        due = due_orphans(site.store, site.workspace_id, site.stamp_ns, after, looked_at_max=2)
        found += due.inode_ids
        after = due.after
        looks += 1
    assert (found, looks) == (inode_ids[3:], 3)


@pytest.mark.req("WS-27", "WS-44", "D-4")
@pytest.mark.parametrize("seed", SEEDS)
def test_reaps_take_what_nobody_needs_and_nothing_else(seed: int) -> None:
    walk_through(seed)


def walk_through(seed: int) -> None:
    """A model of who holds what; a site that loses its caches; a worker that keeps its orphans and follows the log."""
    draw = random.Random(seed)
    warm, cold = Site(seed=seed), Site(seed=seed)
    for site in (warm, cold):
        site.found()
    mirror = Mirror(warm)
    files: dict[bytes, bytes] = {}
    orphaned: dict[bytes, int] = {}
    held: set[tuple[bytes, str]] = set()
    gone: set[bytes] = set()
    for number in range(150):
        where = f"seed {seed}, step {number}"
        if draw.random() < 0.3:
            cold.restart()
        skipped = draw.choice([0, 0, 0, 9_000, 30_000]) * MS
        name = b"%d" % draw.randrange(8)
        known = [*files.values(), *orphaned, *gone] or [ROOT]
        chosen = draw.choice(known)
        worker = draw.choice(["h1", "h2"])
        match draw.randrange(6):
            case 0:
                command = ops.create(ROOT, name)
            case 1:
                command = ops.unlink(ROOT, name)
            case 2 | 3:
                command = ops.append(chosen, draw.randbytes(draw.choice([10, 8_000])))
            case 4:
                command = ops.set_xattr(chosen, b"user.x", b"v")
            case _:
                command = ops.rename(ROOT, name, ROOT, b"%d" % draw.randrange(8))
        changes = OpenLeaseChanges(workspace_id=warm.workspace_id)
        if draw.random() < 0.4:
            (changes.opened if draw.random() < 0.6 else changes.ended).add(inode_id=chosen, worker=worker)
        candidates = draw.sample(known, min(len(known), draw.randrange(5)))
        results = []
        for site in (warm, cold):
            site.stamp_ns += skipped
            outcome = site.one(command)
            if changes.opened or changes.ended:
                site.maintain(open_lease_changes=changes)
            results.append((outcome, reap(site, *candidates), site.last_changes))
        assert results[0] == results[1], where
        outcome, reaped, _ = results[0]
        if not outcome.reason:
            if command.file.HasField("create"):
                files[name] = outcome.inode_id
            elif command.file.HasField("unlink"):
                orphaned[files.pop(name)] = outcome.stamp_ns
            elif command.file.HasField("rename") and command.file.rename.target.name != name:
                target = command.file.rename.target.name
                if target in files:
                    orphaned[files[target]] = outcome.stamp_ns
                files[target] = files.pop(name)
        for lease in changes.opened:
            if lease.inode_id not in gone:
                held.add((lease.inode_id, lease.worker))
        for lease in changes.ended:
            held.discard((lease.inode_id, lease.worker))
        free = [
            inode_id
            for inode_id in candidates
            if inode_id in orphaned
            and orphaned[inode_id] + KEEP_NS <= warm.stamp_ns
            and not any(inode_id == inode for inode, _ in held)
        ]
        assert reaped == (OK, len(free)), where
        for inode_id in free:
            del orphaned[inode_id]
            gone.add(inode_id)
        assert set(list_orphans(warm.store, warm.workspace_id)) == set(orphaned), where
    mirror.follow(warm)
    checked = verify_tree(warm.store, warm.workspace_id)
    assert checked is not None and checked.sound
    waiting = warm.header.reclaim_next - warm.header.reclaim_first
    while waiting:
        reap(warm)
        waiting = warm.header.reclaim_next - warm.header.reclaim_first
    for inode_id in gone:
        assert records_of(warm, inode_id) == [], f"seed {seed}"
    assert gone, f"seed {seed}"


@pytest.mark.req("WS-27", "PERF-5")
def test_a_look_for_orphans_begins_where_the_oldest_stood(site: Site) -> None:
    """Not before all that were reaped and that the store has not compacted yet."""
    orphans = [orphan(site, b"%d" % number) for number in range(4)]
    assert opened(site, "host-1", orphans[1]) == 1
    site.stamp_ns += 2 * KEEP_NS
    found = due_orphans(site.store, site.workspace_id, site.stamp_ns)
    assert (found.inode_ids, found.first[-16:]) == ((orphans[0], orphans[2], orphans[3]), orphans[0])
    assert reap(site, *found.inode_ids) == (OK, 3)
    again = due_orphans(site.store, site.workspace_id, site.stamp_ns, begin=found.first)
    assert (again.inode_ids, again.first[-16:]) == ((), orphans[1]), "a lease keeps it, and the place with it"
    assert ended(site, "host-1", orphans[1]) == 1
    reader = Looks(site.store)
    assert due_orphans(reader, site.workspace_id, site.stamp_ns, begin=again.first).inode_ids == (orphans[1],)
    assert reader.bounds[0][0].endswith(again.first), "not before what was reaped"
    assert reap(site, orphans[1]) == (OK, 1)
    none = due_orphans(site.store, site.workspace_id, site.stamp_ns, begin=again.first)
    assert (none.inode_ids, none.first) == ((), again.first), "the next one comes behind it"
    late = orphan(site, b"late")
    site.stamp_ns += 2 * KEEP_NS
    assert due_orphans(site.store, site.workspace_id, site.stamp_ns, begin=none.first).inode_ids == (late,)

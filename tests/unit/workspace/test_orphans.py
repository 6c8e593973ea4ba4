"""Orphans of a replica: let go there before the cluster reaps them; nothing of the tree may depend on it (WS-27)."""

from __future__ import annotations

import random

import pytest

from hypercluster.errors import InvariantError
from hypercluster.pb.v1.workspace_command_pb2 import LogBatch
from hypercluster.state_machine.store import Family, MemoryStore
from hypercluster.state_machine.workspace import recent, replay, take_replayed
from hypercluster.state_machine.workspace.orphans import let_go, list_orphans
from hypercluster.state_machine.workspace.queries import read_inode
from hypercluster.state_machine.workspace.transfer import verify_tree
from tests.unit.workspace import ops
from tests.unit.workspace.ops import ROOT
from tests.unit.workspace.site import Mirror, Site


@pytest.fixture
def site() -> Site:
    found = Site()
    found.found()
    return found


def large_orphan(site: Site) -> bytes:
    """With content pages, attributes, and a truncation that is not wholly reclaimed yet."""
    inode_id = site.file(b"large")
    for number in range(700):
        site.done(ops.write(inode_id, number * 70_000, b"%d" % number))
    site.done(ops.set_xattr(inode_id, b"user.a", b"value"))
    site.done(ops.truncate(inode_id, 300 * 70_000))
    site.done(ops.unlink(ROOT, b"large"))
    return inode_id


def test_what_is_let_go_leaves_nothing_behind(site: Site) -> None:
    mirror = Mirror(site)
    before = sum(1 for _ in site.store.scan(Family.TREE, site.workspace_id + b"X", site.workspace_id + b"Y"))
    inode_id = large_orphan(site)
    mirror.follow(site)
    assert list_orphans(mirror.store, site.workspace_id) == [inode_id]
    assert let_go(mirror.overlay, site.workspace_id, inode_id)
    assert not let_go(mirror.overlay, site.workspace_id, inode_id)
    mirror.store.write(take_replayed(mirror.overlay))
    assert list_orphans(mirror.store, site.workspace_id) == []
    for number in range(60):  # each empties two pages of the queue
        site.file(b"%d" % number)
    mirror.follow(site, restart=True)
    assert isinstance(mirror.store, MemoryStore)
    left = [key for _, key, _ in mirror.store.items() if inode_id in key]
    assert left == []
    pages = sum(1 for _ in mirror.store.scan(Family.TREE, site.workspace_id + b"X", site.workspace_id + b"Y"))
    assert pages == before
    checked = verify_tree(mirror.store, site.workspace_id)
    assert checked is not None
    assert checked.sound


def test_what_has_a_name_is_not_let_go(site: Site) -> None:
    mirror = Mirror(site)
    inode_id = site.file(b"f")
    mirror.follow(site)
    with pytest.raises(InvariantError):
        let_go(mirror.overlay, site.workspace_id, inode_id)


def test_operations_on_what_was_let_go_are_passed_over(site: Site) -> None:
    mirror = Mirror(site)
    inode_id = site.file(b"f")
    site.done(ops.append(inode_id, b"x"))
    site.done(ops.unlink(ROOT, b"f"))
    mirror.follow(site)
    let_go(mirror.overlay, site.workspace_id, inode_id)
    mirror.store.write(take_replayed(mirror.overlay))
    for command in (
        ops.append(inode_id, b"y"),
        ops.truncate(inode_id, 0),
        ops.chmod(inode_id, 0o600),
        ops.set_xattr(inode_id, b"user.a", b"1"),
        ops.remove_xattr(inode_id, b"user.a"),
        ops.sync(inode_id),
    ):
        site.done(command)
        (done,) = mirror.follow(site)
        assert (done.effect, done.touched) == (None, ())
    assert read_inode(mirror.store, site.workspace_id, inode_id) is None


def test_an_operation_on_a_named_inode_that_is_missing_is_damage(site: Site) -> None:
    mirror = Mirror(site)
    inode_id = site.file(b"f")
    site.done(ops.append(inode_id, b"x"))
    record = LogBatch.FromString(site.batches[-1]).records[0]
    mirror.batches_seen = len(site.batches)
    record.log_index -= 1
    assert replay(mirror.overlay, site.workspace_id, record).problem


@pytest.mark.parametrize("seed", range(6))
def test_the_tree_does_not_depend_on_when_orphans_are_let_go(
    site: Site, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """With little room for recent bytes, so that whatever an orphan left in that queue would show in the root."""
    print(f"seed {seed}")
    monkeypatch.setattr(recent, "RECENT_CHUNKS_MAX", 40)
    draw = random.Random(seed)
    keeps, lets_go = Mirror(site), Mirror(site)
    named: list[bytes] = []
    orphans: list[bytes] = []
    for number in range(1_500):
        match draw.randrange(12):
            case 0 | 1 if len(named) < 2:
                named.append(site.file(b"%d" % number))
                site.done(ops.rename(ROOT, b"%d" % number, ROOT, named[-1].hex().encode()))
            case 2 if named and draw.random() < 0.2:
                orphans.append(named.pop(draw.randrange(len(named))))
                site.done(ops.unlink(ROOT, orphans[-1].hex().encode()))
            case 3 if orphans:
                lets_go.follow(site)
                let_go(lets_go.overlay, site.workspace_id, draw.choice(orphans))
                lets_go.store.write(take_replayed(lets_go.overlay))
            case 4 | 5 | 6 if orphans:
                site.done(ops.append(draw.choice(orphans), draw.randbytes(20)))
            case _ if named:
                site.done(ops.append(draw.choice(named), draw.randbytes(20)))
    keeps.follow(site)
    lets_go.follow(site)

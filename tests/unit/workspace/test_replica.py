"""A worker's replica: export and import, what replay says happened, and what it notices (WS-1, WS-5, WS-36)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from blake3 import blake3

from hypercluster.errors import MalformedError
from hypercluster.pb.v1.workspace_command_pb2 import LogBatch, LogRecord
from hypercluster.state_machine.overlay import Overlay
from hypercluster.state_machine.store import Change, Family, MemoryStore
from hypercluster.state_machine.workspace import replay, state, take_replayed
from hypercluster.state_machine.workspace.extents import Extent
from hypercluster.state_machine.workspace.queries import list_directory, read_header, resolve
from hypercluster.state_machine.workspace.records import inode_key
from hypercluster.state_machine.workspace.replaying import (
    Attributed,
    Linked,
    Made,
    Removed,
    Renamed,
    Resized,
    Written,
    XattrSet,
)
from hypercluster.state_machine.workspace.transfer import export_records, import_records, verify_tree
from tests.unit.workspace import ops
from tests.unit.workspace.ops import ROOT
from tests.unit.workspace.site import Mirror, Site


@pytest.fixture
def site() -> Site:
    found = Site()
    found.found()
    return found


def records_of(site: Site) -> list[LogRecord]:
    return [record for batch in site.batches for record in LogBatch.FromString(batch).records]


@pytest.mark.req("WS-36", "WS-51")
def test_replay_says_what_changed(site: Site) -> None:
    mirror = Mirror(site)
    directory = site.directory(b"d")
    inode_id = site.file(b"f")
    site.done(ops.append(inode_id, b"hello"))
    site.done(ops.chunk_put(b"chunk content"))
    chunk = blake3(b"chunk content").digest()
    site.done(ops.write_pieces(inode_id, 2, [(chunk, 6, 7)]))
    site.done(ops.truncate(inode_id, 4))
    site.done(ops.link(inode_id, directory, b"g"))
    site.done(ops.chmod(inode_id, 0o600))
    site.done(ops.set_xattr(inode_id, b"user.a", b"1"))
    site.done(ops.remove_xattr(inode_id, b"user.a"))
    other = site.file(b"other")
    site.done(ops.rename(ROOT, b"f", ROOT, b"other"))
    site.done(ops.sync(inode_id))
    site.done(ops.unlink(directory, b"g"))
    site.done(ops.rmdir(ROOT, b"d"))
    done = mirror.follow(site)
    assert [type(found.effect) for found in done] == [
        Made, Made, Written, Written, Resized, Linked, Attributed, XattrSet, XattrSet, Made, Renamed, type(None),
        Removed, Removed,
    ]  # fmt: skip
    written = done[2].effect
    assert isinstance(written, Written)
    assert (written.offset, written.length) == (0, 5)
    assert done[2].chunks == {blake3(b"hello").digest(): b"hello"}
    pieces = done[3].effect
    assert isinstance(pieces, Written)
    assert pieces.extents == (Extent(2, 7, 6, chunk),)
    renamed = done[10].effect
    assert isinstance(renamed, Renamed)
    assert renamed.replaced is not None
    assert (renamed.replaced.inode_id, renamed.replaced.nlink) == (other, 0)
    assert {inode.inode_id for inode in done[10].touched} == {ROOT, inode_id, other}
    removed = done[12].effect
    assert isinstance(removed, Removed)
    assert (removed.inode.nlink, removed.name) == (1, b"g")
    gone = done[13].effect
    assert isinstance(gone, Removed)
    assert gone.inode.nlink == 0


@pytest.mark.req("WS-5", "WS-35")
@pytest.mark.parametrize("field", ["root", "inode_no", "applied_offset", "log_index", "command", "store"])
def test_replay_notices_any_difference_and_its_changes_can_be_thrown_away(site: Site, field: str) -> None:
    mirror = Mirror(site)
    inode_id = site.file(b"f")
    mirror.follow(site)
    site.done(ops.append(inode_id, b"x"))
    site.done(ops.append(inode_id, b"y"))
    first, second = records_of(site)[-2:]
    bad = LogRecord()
    bad.CopyFrom(first)
    match field:
        case "root":
            bad.root = bytes(32)
        case "inode_no" | "applied_offset":
            setattr(bad, field, 77)
        case "log_index":
            bad = second
        case "command":
            bad.command = ops.unlink(ROOT, b"nothing").SerializeToString()
        case "store":
            inode = site.inode(inode_id)
            inode.mode = 0o600
            changed = Change(Family.TREE, inode_key(site.workspace_id, inode_id), bytes(12) + inode.encode())
            mirror.store.write([changed])
            mirror.overlay = Overlay(mirror.store)
    assert replay(mirror.overlay, site.workspace_id, bad).problem
    mirror.overlay.discard()
    assert take_replayed(mirror.overlay) == []
    if field != "store":
        assert not replay(mirror.overlay, site.workspace_id, first).problem
        assert not replay(mirror.overlay, site.workspace_id, second).problem
    assert replay(mirror.overlay, b"?" * 16, first).problem


@pytest.mark.req("WS-1", "WS-52")
def test_an_export_taken_anywhere_goes_on_to_the_same_tree(site: Site) -> None:
    directory = site.directory(b"d")
    ids = [site.file(b"%03d" % number, directory) for number in range(60)]
    for number, inode_id in enumerate(ids):
        site.done(ops.append(inode_id, b"%d" % number))
    site.done(ops.unlink(directory, b"007"))
    mirror = Mirror(site)
    site.done(ops.append(ids[7], b"an orphan's last words"))
    for number in range(30):
        site.done(ops.append(ids[0], b"%d" % number))
    mirror.follow(site)
    header = read_header(mirror.store, site.workspace_id)
    assert header is not None
    assert (header.root, header.log_index) == (site.header.root, site.header.log_index)
    checked = verify_tree(mirror.store, site.workspace_id)
    assert checked is not None
    assert checked.sound
    here = list_directory(site.store, site.workspace_id, directory, b"", 100)
    there = list_directory(mirror.store, site.workspace_id, directory, b"", 100)
    assert [name for name, _ in here.entries] == [name for name, _ in there.entries]
    assert verify_tree(site.store, b"?" * 16) is None


def test_foreign_records_are_not_imported(site: Site) -> None:
    workspace_id = site.workspace_id
    good = [(int(family), key, value or b"") for family, key, value in export_records(site.store, workspace_id)]
    assert len(list(import_records(workspace_id, good))) == len(good)
    for bad in ((int(Family.META), workspace_id + b"x", b""), (99, workspace_id + b"x", b""), (3, b"?" * 17, b"")):
        with pytest.raises(MalformedError, match=r"TreeRecord\.(family|key)"):
            list(import_records(workspace_id, [*good, bad]))


@pytest.mark.req("WS-35", "WS-55")
@pytest.mark.parametrize("what", ["inode", "entry", "missing"])
def test_a_tree_that_was_tampered_with_does_not_verify(site: Site, what: str) -> None:
    inode_id = site.file(b"f")
    site.done(ops.append(inode_id, b"content"))
    prefix = site.workspace_id + (b"E" if what == "entry" else b"I")
    key, value = next(iter(site.store.scan(Family.TREE, prefix, prefix + b"\xff")))
    assert value is not None
    damaged = None if what == "missing" else value[:20] + bytes([value[20] ^ 1]) + value[21:]
    site.store.write([Change(Family.TREE, key, damaged)])
    checked = verify_tree(site.store, site.workspace_id)
    assert checked is not None
    assert not checked.sound


def test_paths_resolve_without_following_symlinks(site: Site) -> None:
    directory = site.directory(b"d")
    inode_id = site.file(b"f", directory)
    site.done(ops.symlink(ROOT, b"l", b"d"))

    def found(path: bytes) -> bytes | int:
        inode = resolve(site.store, site.workspace_id, path)
        return inode if isinstance(inode, int) else inode.inode_id

    assert found(b"") == found(b"/") == found(b"//.") == ROOT
    assert found(b"/d/f") == found(b"d//f") == inode_id
    assert found(b"/d/none") == 2
    assert found(b"/d/f/x") == found(b"/l/f") == 20
    assert found(b"/" + b"x" * 4_096) == 36


@pytest.mark.req("D-4")
def test_more_workspaces_than_are_kept_open_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    warm, cold = Site(), Site()
    ids: list[bytes] = []
    for number in range(6):
        ids.append(warm.found(f"w{number}").inode_id)
        cold.found(f"w{number}")
    for number in range(60):
        command = ops.create(ROOT, b"%d" % number)
        warm.workspace_id = cold.workspace_id = ids[number * 5 % 6]
        expected = warm.done(command)
        with monkeypatch.context() as patch:
            patch.setattr(state, "OPEN_WORKSPACES_MAX", number % 3)
            assert cold.done(command) == expected
    assert list(dump(warm)) == list(dump(cold))


def dump(site: Site) -> Iterator[Change]:
    assert isinstance(site.store, MemoryStore)
    return site.store.items()

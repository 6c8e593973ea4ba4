"""Verdicts one by one: errno, limits, base_index, uid, scopes, numbering, the op log."""

from __future__ import annotations

import pytest

from hypercluster.limits import HAZARD_WINDOW_OPS, NLINK_MAX
from hypercluster.pb.v1.command_pb2 import Command
from hypercluster.pb.v1.workspace_command_pb2 import (
    FileCommand,
    LogBatch,
)
from hypercluster.state_machine.outcome import (
    BAD_OP_TYPE,
    ERRNO,
    EXISTS,
    NO_WORKSPACE,
    OK,
    PRECONDITION_FAILED,
    FileOutcome,
)
from hypercluster.state_machine.store import Family
from hypercluster.state_machine.workspace.errnos import (
    EACCES,
    EEXIST,
    EINVAL,
    EISDIR,
    ELOOP,
    EMLINK,
    ENAMETOOLONG,
    ENOENT,
    ENOTDIR,
    ENOTEMPTY,
    EOPNOTSUPP,
    EPERM,
)
from hypercluster.state_machine.workspace.oplog import log_floor, scan_log, trim_log
from hypercluster.state_machine.workspace.queries import (
    find_workspace,
    list_directory,
    list_workspaces,
    resolve,
)
from hypercluster.state_machine.workspace.records import KIND_DIRECTORY, KIND_SYMLINK, inode_key
from hypercluster.values import Scope
from tests.unit.workspace import ops
from tests.unit.workspace.ops import ROOT
from tests.unit.workspace.site import CLIENT, SCOPE, Site


@pytest.fixture
def site() -> Site:
    found = Site()
    found.found()
    return found


def errno(outcome: FileOutcome) -> int:
    assert outcome.reason == ERRNO, outcome
    assert (outcome.log_index, outcome.root, outcome.inode_id) == (0, b"", b"")
    return outcome.errno


# --- workspaces ---------------------------------------------------------------------------------


@pytest.mark.req("WS-10", "D-20")
def test_a_workspace_has_its_id_from_the_entry_and_its_name_once_a_scope() -> None:
    site = Site()
    made = site.found("alpha")
    assert made.reason == OK
    assert len(made.inode_id) == 16
    assert made.log_index == 0
    assert site.one(ops.workspace("alpha")).reason == EXISTS
    elsewhere = site.one(ops.workspace("alpha"), scope=Scope("acme", "other"))
    assert elsewhere.reason == OK
    assert elsewhere.inode_id != made.inode_id
    site.one(ops.workspace("beta"))
    assert [header.name for header in list_workspaces(site.store, SCOPE)] == ["alpha", "beta"]
    assert [header.name for header in list_workspaces(site.store, SCOPE, after="alpha")] == ["beta"]
    assert find_workspace(site.store, SCOPE, "alpha") == made.inode_id
    assert find_workspace(site.store, SCOPE, "gamma") is None
    root = site.inode(ROOT)
    assert (root.kind, root.nlink, root.uid, root.gid, root.mode) == (KIND_DIRECTORY, 2, 1000, 1000, 0o755)
    assert site.header.root == made.root


@pytest.mark.parametrize("name", ["", "A", "a/b", "é", "x" * 129, "a b"])
def test_a_workspace_name_is_held_to_its_alphabet(name: str) -> None:
    assert errno(Site().one(ops.workspace(name))) == EINVAL


@pytest.mark.req("WS-50")
def test_a_wrong_workspace_and_a_foreign_scope_are_refused(site: Site) -> None:
    assert site.one(ops.create(ROOT, b"f"), scope=Scope("other", "atlas")).reason == NO_WORKSPACE
    assert site.one(ops.create(ROOT, b"f"), scope=Scope("acme", "other")).reason == NO_WORKSPACE
    assert site.one(ops.chunk_put(b"x"), scope=Scope("other", "atlas")).reason == NO_WORKSPACE
    for workspace_id in (b"", b"short", b"\1" * 16, bytes(16)):
        site.workspace_id, kept = workspace_id, site.workspace_id
        assert site.one(ops.create(ROOT, b"f")).reason == NO_WORKSPACE
        site.workspace_id = kept


def test_an_empty_command_is_no_operation(site: Site) -> None:
    assert site.one(Command(file=FileCommand())).reason == BAD_OP_TYPE
    assert site.one(Command()).reason == BAD_OP_TYPE


# --- numbering and the op log ---------------------------------------------------------------------


@pytest.mark.req("D-2", "WS-36")
def test_log_index_counts_accepted_operations_only_and_every_one_is_in_the_log(site: Site) -> None:
    commands = [
        ops.create(ROOT, b"a"),
        ops.create(ROOT, b"a"),  # EEXIST: takes no number
        ops.mkdir(ROOT, b"d"),
        ops.chunk_put(b"content"),
        ops.sync(ROOT),
        ops.create(ROOT, b"a", exclusive=False),
    ]
    outcomes = site.entry(*commands)
    assert [outcome.log_index for outcome in outcomes] == [1, 0, 2, 0, 3, 4]
    assert outcomes[5].existed and outcomes[5].inode_id == outcomes[0].inode_id
    assert outcomes[4].root == outcomes[2].root == site.header.root
    site.done(ops.unlink(ROOT, b"a"))
    parts = list(scan_log(site.store, site.workspace_id, 1))
    assert [part.first_index for part in parts] == [1, 5]
    assert [part.batch for part in parts] == site.batches
    records = [record for part in parts for record in LogBatch.FromString(part.batch).records]
    assert [record.log_index for record in records] == [1, 2, 3, 4, 5]
    accepted = [0, 2, 4, 5]
    for record, position in zip(records, accepted, strict=False):
        outcome = outcomes[position]
        assert record.command == commands[position].SerializeToString()
        assert (record.root, record.inode_id, record.inode_no) == (outcome.root, outcome.inode_id, outcome.inode_no)
        assert (record.committed_at_ns, record.client_id, record.worker) == (outcome.stamp_ns, CLIENT, "worker-1")
        assert len(record.op_id) == 16
        # What is written by hand is what protobuf would write.
        assert record.SerializeToString(deterministic=True) in parts[0].batch
    assert len({record.op_id for record in records}) == 5


@pytest.mark.req("WS-54")
def test_the_op_log_is_scanned_from_any_index_and_trimmed_by_whole_records(site: Site) -> None:
    for number in range(5):
        site.entry(ops.create(ROOT, b"a%d" % number), ops.create(ROOT, b"b%d" % number))
    assert [part.first_index for part in scan_log(site.store, site.workspace_id, 4)] == [3, 5, 7, 9]
    assert [part.first_index for part in scan_log(site.store, site.workspace_id, 11)] == [9]
    site.entry(*(ops.sync(ROOT) for _ in range(HAZARD_WINDOW_OPS)))
    assert trim_log(site.overlay, site.workspace_id, 6) == 2  # 5 and 6 share a record, which stays
    site.store.write(site.overlay.take_changes())
    assert log_floor(site.store, site.workspace_id) == 5
    assert [part.first_index for part in scan_log(site.store, site.workspace_id, 1)] == [5, 7, 9, 11]
    assert trim_log(site.overlay, site.workspace_id, 1_000) == 3
    site.store.write(site.overlay.take_changes())
    assert log_floor(site.store, site.workspace_id) == 11


@pytest.mark.req("WS-46")
def test_trimming_leaves_what_the_next_hazard_is_judged_by(site: Site) -> None:
    for _ in range(HAZARD_WINDOW_OPS + 3):
        site.entry(ops.sync(ROOT))
    assert trim_log(site.overlay, site.workspace_id, 1_000) == 3
    site.store.write(site.overlay.take_changes())
    assert log_floor(site.store, site.workspace_id) == site.header.log_index + 1 - HAZARD_WINDOW_OPS
    assert trim_log(site.overlay, bytes(15) + b"x", 1_000) == 0


# --- names ----------------------------------------------------------------------------------------

BAD_NAMES = {b"": ENOENT, b".": EINVAL, b"..": EINVAL, b"a/b": EINVAL, b"a\0": EINVAL, b"x" * 256: ENAMETOOLONG}


@pytest.mark.req("WS-16", "WS-21")
@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_are_held_to_their_rules_by_every_operation(site: Site, name: bytes) -> None:
    inode_id = site.file(b"there")
    commands = [
        ops.create(ROOT, name),
        ops.mkdir(ROOT, name),
        ops.symlink(ROOT, name, b"t"),
        ops.link(inode_id, ROOT, name),
        ops.unlink(ROOT, name),
        ops.rmdir(ROOT, name),
        ops.rename(ROOT, name, ROOT, b"x"),
        ops.rename(ROOT, b"there", ROOT, name),
    ]
    assert {errno(outcome) for outcome in site.entry(*commands)} == {BAD_NAMES[name]}


@pytest.mark.req("WS-16")
def test_a_directory_lists_in_byte_order_page_by_page(site: Site) -> None:
    names = [b"b", b"a", b"\xff", b"B", b"ab", b"\x01", b"a.b", "é".encode(), b"x" * 255]
    for name in names:
        site.file(name)
    found: list[bytes] = []
    after = b""
    while True:
        listing = list_directory(site.store, site.workspace_id, ROOT, after, 4)
        found += [name for name, _ in listing.entries]
        if not listing.more:
            break
        after = found[-1]
    assert found == sorted(names)


@pytest.mark.req("WS-21")
def test_places_in_what_is_no_directory(site: Site) -> None:
    inode_id = site.file(b"f")
    gone = site.directory(b"gone")
    site.done(ops.rmdir(ROOT, b"gone"))
    for directory, expected in ((inode_id, ENOTDIR), (b"?" * 16, ENOENT), (b"short", EINVAL), (gone, ENOENT)):
        assert errno(site.one(ops.create(directory, b"n"))) == expected
        assert errno(site.one(ops.mkdir(directory, b"n"))) == expected
        assert errno(site.one(ops.unlink(directory, b"n"))) == expected
        assert errno(site.one(ops.rename(ROOT, b"f", directory, b"n"))) == expected


@pytest.mark.req("WS-22")
def test_exclusive_creation_has_one_winner_within_an_entry(site: Site) -> None:
    outcomes = site.entry(*[ops.create(ROOT, b"index.lock") for _ in range(5)])
    assert [outcome.reason for outcome in outcomes] == [OK] + [ERRNO] * 4
    assert {outcome.errno for outcome in outcomes[1:]} == {EEXIST}


@pytest.mark.req("WS-20", "WS-21")
def test_creating_what_exists(site: Site) -> None:
    site.directory(b"d")
    site.done(ops.symlink(ROOT, b"l", b"target"))
    site.file(b"f")
    assert errno(site.one(ops.create(ROOT, b"d", exclusive=False))) == EISDIR
    assert errno(site.one(ops.create(ROOT, b"l", exclusive=False))) == ELOOP
    for name in (b"d", b"l", b"f"):
        assert errno(site.one(ops.create(ROOT, name))) == EEXIST
        assert errno(site.one(ops.mkdir(ROOT, name))) == EEXIST
        assert errno(site.one(ops.symlink(ROOT, name, b"t"))) == EEXIST
    assert errno(site.one(ops.create(ROOT, b"n", mode=0o10000))) == EINVAL


@pytest.mark.req("WS-25")
def test_symlink_targets_are_opaque(site: Site) -> None:
    for number, target in enumerate((b"../../x", b"/abs/olute", b"\xff\xfe", b"dangling", b"t" * 4_095)):
        made = site.done(ops.symlink(ROOT, b"l%d" % number, target))
        inode = site.inode(made.inode_id)
        assert (inode.kind, inode.target, inode.size, inode.mode) == (KIND_SYMLINK, target, len(target), 0o777)
    assert errno(site.one(ops.symlink(ROOT, b"n", b""))) == ENOENT
    assert errno(site.one(ops.symlink(ROOT, b"n", b"t" * 4_096))) == ENAMETOOLONG
    assert errno(site.one(ops.symlink(ROOT, b"n", b"a\0b"))) == EINVAL
    assert errno(site.one(ops.chmod(site.done(ops.symlink(ROOT, b"n", b"t")).inode_id, 0o600))) == EOPNOTSUPP


@pytest.mark.req("WS-20", "WS-15")
def test_hard_links_share_one_inode_until_the_last_name_goes(site: Site) -> None:
    inode_id = site.file(b"a")
    assert site.done(ops.link(inode_id, ROOT, b"b")).inode_id == inode_id
    assert site.inode(inode_id).nlink == 2
    site.done(ops.unlink(ROOT, b"a"))
    assert site.inode(inode_id).nlink == 1
    assert site.header.orphan_count == 0
    site.done(ops.unlink(ROOT, b"b"))
    assert site.inode(inode_id).nlink == 0
    assert site.header.orphan_count == 1
    assert errno(site.one(ops.link(inode_id, ROOT, b"c"))) == ENOENT
    assert errno(site.one(ops.link(site.directory(b"d"), ROOT, b"e"))) == EPERM


def set_nlink(site: Site, inode_id: bytes, nlink: int) -> None:
    """65 000 links take 65 000 operations: the record is put there instead."""
    inode = site.inode(inode_id)
    inode.nlink = nlink
    site.overlay.put(Family.TREE, inode_key(site.workspace_id, inode_id), inode.place + inode.encode())
    site.store.write(site.overlay.take_changes())


def test_links_are_counted_up_to_their_limit(site: Site) -> None:
    inode_id, directory = site.file(b"f"), site.directory(b"d")
    set_nlink(site, inode_id, NLINK_MAX)
    set_nlink(site, directory, NLINK_MAX)
    assert errno(site.one(ops.link(inode_id, ROOT, b"g"))) == EMLINK
    assert errno(site.one(ops.mkdir(directory, b"sub"))) == EMLINK
    site.directory(b"e")
    assert errno(site.one(ops.rename(ROOT, b"e", directory, b"e"))) == EMLINK


# --- rename ---------------------------------------------------------------------------------------


@pytest.mark.req("WS-20", "WS-21", "WS-11")
def test_rename_replaces_files_and_empty_directories_and_keeps_the_id(site: Site) -> None:
    moved, replaced = site.file(b"a"), site.file(b"b")
    assert site.done(ops.rename(ROOT, b"a", ROOT, b"b")).inode_id == moved
    assert site.inode(replaced).nlink == 0
    named = resolve(site.store, site.workspace_id, b"/b")
    assert not isinstance(named, int) and named.inode_id == moved
    assert resolve(site.store, site.workspace_id, b"/a") == ENOENT
    source, empty, full = site.directory(b"s"), site.directory(b"empty"), site.directory(b"full")
    site.file(b"x", full)
    assert errno(site.one(ops.rename(ROOT, b"s", ROOT, b"full"))) == ENOTEMPTY
    assert site.done(ops.rename(ROOT, b"s", ROOT, b"empty")).inode_id == source
    assert site.inode(empty).nlink == 0
    assert site.inode(ROOT).nlink == 4
    assert errno(site.one(ops.rename(ROOT, b"empty", ROOT, b"b"))) == ENOTDIR
    assert errno(site.one(ops.rename(ROOT, b"b", ROOT, b"empty"))) == EISDIR
    assert errno(site.one(ops.rename(ROOT, b"none", ROOT, b"b"))) == ENOENT


@pytest.mark.req("WS-21")
def test_a_directory_can_not_move_below_itself_nor_replace_what_it_stands_in(site: Site) -> None:
    outer = site.directory(b"outer")
    middle = site.directory(b"middle", outer)
    inner = site.directory(b"inner", middle)
    for directory in (outer, middle, inner):
        assert errno(site.one(ops.rename(ROOT, b"outer", directory, b"n"))) == EINVAL
    assert errno(site.one(ops.rename(middle, b"inner", ROOT, b"outer"))) == ENOTEMPTY
    site.file(b"f", inner)
    assert errno(site.one(ops.rename(inner, b"f", ROOT, b"outer"))) == ENOTEMPTY
    # The other way round is fine, and the parent is kept.
    site.done(ops.rename(middle, b"inner", ROOT, b"inner"))
    site.done(ops.rename(ROOT, b"outer", inner, b"outer"))
    assert site.inode(outer).parent == inner
    assert errno(site.one(ops.rename(ROOT, b"inner", middle, b"n"))) == EINVAL


@pytest.mark.req("D-4")
def test_a_rename_looks_up_a_bounded_way(site: Site) -> None:
    above = ROOT
    for number in range(520):
        above = site.directory(b"d", above)
        if number == 400:
            shallow = above
    site.directory(b"side")
    assert errno(site.one(ops.rename(ROOT, b"side", above, b"n"))) == ENAMETOOLONG
    site.done(ops.rename(ROOT, b"side", shallow, b"n"))
    # Files need no walk.
    site.file(b"f")
    site.done(ops.rename(ROOT, b"f", above, b"f"))


@pytest.mark.req("WS-23")
def test_rename_noreplace_and_rename_onto_the_same_inode(site: Site) -> None:
    inode_id = site.file(b"a")
    site.done(ops.link(inode_id, ROOT, b"b"))
    assert errno(site.one(ops.rename(ROOT, b"a", ROOT, b"b", no_replace=True))) == EEXIST
    before = site.header.root
    assert site.done(ops.rename(ROOT, b"a", ROOT, b"b")).root == before
    assert site.inode(inode_id).nlink == 2
    site.done(ops.rename(ROOT, b"a", ROOT, b"c", no_replace=True))
    site.file(b"other")
    assert errno(site.one(ops.rename(ROOT, b"other", ROOT, b"c", no_replace=True))) == EEXIST
    names = [name for name, _ in list_directory(site.store, site.workspace_id, ROOT, b"", 9).entries]
    assert names == [b"b", b"c", b"other"]


# --- preconditions, uid ---------------------------------------------------------------------------


@pytest.mark.req("WS-28")
def test_content_and_metadata_have_an_index_each(site: Site) -> None:
    inode_id = site.file(b"f")  # 1
    site.done(ops.append(inode_id, b"x"))  # 2
    site.done(ops.chmod(inode_id, 0o600))  # 3
    inode = site.inode(inode_id)
    assert (inode.content_index, inode.metadata_index) == (2, 3)
    stale = site.one(ops.append(inode_id, b"y", base_index=1))
    assert (stale.reason, stale.present_index, stale.log_index) == (PRECONDITION_FAILED, 2, 0)
    assert site.one(ops.chmod(inode_id, 0o640, base_index=2)).present_index == 3
    site.done(ops.append(inode_id, b"y", base_index=2))
    site.done(ops.chmod(inode_id, 0o640, base_index=3))
    assert site.content(inode_id) == b"xy"


@pytest.mark.req("WS-28")
def test_names_are_guarded_by_what_they_name_and_free_ones_by_their_directory(site: Site) -> None:
    inode_id = site.file(b"f")  # 1
    site.done(ops.chmod(inode_id, 0o600))  # 2
    for command in (
        ops.unlink(ROOT, b"f", base_index=1),
        ops.rename(ROOT, b"f", ROOT, b"g", base_index=1),
        ops.link(inode_id, ROOT, b"g", base_index=1),
        ops.create(ROOT, b"f", exclusive=False, base_index=1),
    ):
        outcome = site.one(command)
        assert (outcome.reason, outcome.present_index) == (PRECONDITION_FAILED, 2)
    assert site.one(ops.create(ROOT, b"new", base_index=0)).present_index == 1  # the root changed last at 1
    site.done(ops.create(ROOT, b"new", base_index=1))
    site.done(ops.unlink(ROOT, b"f", base_index=2))
    assert errno(site.one(ops.unlink(ROOT, b"f", base_index=99))) == ENOENT


@pytest.mark.req("WS-6")
def test_a_foreign_uid_and_another_owner_are_refused(site: Site) -> None:
    inode_id = site.file(b"f")
    assert errno(site.one(ops.append(inode_id, b"x", uid=0))) == EACCES
    site.done(ops.append(inode_id, b"x", uid=1000))
    assert errno(site.one(ops.chown(inode_id, 0, 1000))) == EPERM
    assert errno(site.one(ops.chown(inode_id, 1000, 0))) == EPERM
    site.done(ops.chown(inode_id, 1000, 1000))
    made = site.inode(inode_id)
    assert (made.uid, made.gid) == (1000, 1000)

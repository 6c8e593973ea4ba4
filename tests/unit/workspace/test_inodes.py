"""What operations do to one inode: stamps, xattrs, content, versions."""

from __future__ import annotations

import pytest
from blake3 import blake3

from hypercluster.limits import XATTRS_MAX
from hypercluster.pb.v1.command_pb2 import Command
from hypercluster.pb.v1.workspace_command_pb2 import (
    XATTR_FLAG_CREATE,
    XATTR_FLAG_REPLACE,
    ChunkPiece,
    ChunkPut,
    FileCommand,
    Write,
)
from hypercluster.state_machine.outcome import (
    ERRNO,
    LIMIT,
    FileOutcome,
)
from hypercluster.state_machine.workspace.errnos import (
    E2BIG,
    EEXIST,
    EFBIG,
    EINVAL,
    EISDIR,
    ENODATA,
    ENOENT,
    ENOSPC,
    EPERM,
    ERANGE,
)
from hypercluster.state_machine.workspace.queries import (
    read_inode_at,
)
from hypercluster.state_machine.workspace.records import KIND_FILE
from hypercluster.values import Index
from tests.unit.workspace import ops
from tests.unit.workspace.ops import ROOT
from tests.unit.workspace.site import Site


@pytest.fixture
def site() -> Site:
    found = Site()
    found.found()
    return found


def errno(outcome: FileOutcome) -> int:
    assert outcome.reason == ERRNO, outcome
    return outcome.errno


# --- stamps ---------------------------------------------------------------------------------------


@pytest.mark.req("WS-17", "WS-15")
def test_stamps_follow_posix(site: Site) -> None:
    directory = site.directory(b"d")
    inode_id = site.file(b"f", directory)

    def times(found: bytes) -> tuple[int, int]:
        inode = site.inode(found)
        return inode.mtime_ns, inode.ctime_ns

    made = times(inode_id)
    assert made == times(directory) == (site.stamp_ns, site.stamp_ns)
    changed = site.done(ops.chmod(inode_id, 0o600)).stamp_ns
    assert times(inode_id) == (made[0], changed)
    written = site.done(ops.append(inode_id, b"x")).stamp_ns
    assert times(inode_id) == (written, written)
    assert times(directory) == made
    stamped = site.done(ops.utimens(inode_id, -1)).stamp_ns
    assert times(inode_id) == (-1, stamped)
    now = site.done(ops.utimens(inode_id, None)).stamp_ns
    assert times(inode_id) == (now, now)
    moved = site.done(ops.rename(directory, b"f", ROOT, b"g")).stamp_ns
    assert times(inode_id) == (now, moved)
    assert times(directory) == times(ROOT) == (moved, moved)
    site.done(ops.sync(inode_id))
    site.done(ops.append(inode_id, b""))
    assert times(inode_id) == (now, moved)


# --- xattrs ---------------------------------------------------------------------------------------


@pytest.mark.req("WS-24", "WS-20")
def test_xattr_limits_and_flags(site: Site) -> None:
    inode_id = site.file(b"f")
    assert errno(site.one(ops.set_xattr(inode_id, b"n", bytes(65_537)))) == E2BIG
    assert errno(site.one(ops.set_xattr(inode_id, b"n" * 256, b""))) == ERANGE
    assert errno(site.one(ops.set_xattr(inode_id, b"", b""))) == ERANGE
    assert errno(site.one(ops.set_xattr(inode_id, b"n", b"", XATTR_FLAG_REPLACE))) == ENODATA
    site.done(ops.set_xattr(inode_id, b"n", b"1", XATTR_FLAG_CREATE))
    assert errno(site.one(ops.set_xattr(inode_id, b"n", b"2", XATTR_FLAG_CREATE))) == EEXIST
    site.done(ops.set_xattr(inode_id, b"n", b"2", XATTR_FLAG_REPLACE))
    assert errno(site.one(ops.remove_xattr(inode_id, b"m"))) == ENODATA
    for number in range(15):
        site.done(ops.set_xattr(inode_id, b"v%02d" % number, bytes(65_536)))
    room = (1 << 20) - site.inode(inode_id).xattr_bytes
    assert errno(site.one(ops.set_xattr(inode_id, b"last", bytes(room - 3)))) == ENOSPC
    site.done(ops.set_xattr(inode_id, b"last", bytes(room - 4)))
    site.done(ops.set_xattr(inode_id, b"last", b""))
    symlink = site.done(ops.symlink(ROOT, b"l", b"t")).inode_id
    assert errno(site.one(ops.set_xattr(symlink, b"n", b""))) == EPERM


@pytest.mark.req("WS-24", "D-4")
def test_the_number_of_xattrs_is_bounded_and_their_removal_leaves_nothing(site: Site) -> None:
    inode_id = site.file(b"f")
    empty = site.inode(inode_id).xattr_digest
    for number in range(XATTRS_MAX):
        site.done(ops.set_xattr(inode_id, b"%03d" % number, b""))
    assert errno(site.one(ops.set_xattr(inode_id, b"more", b""))) == ENOSPC
    for number in range(XATTRS_MAX):
        site.done(ops.remove_xattr(inode_id, b"%03d" % number))
    inode = site.inode(inode_id)
    assert (inode.xattr_bytes, inode.xattr_digest) == (0, empty)


# --- content --------------------------------------------------------------------------------------


@pytest.mark.req("WS-22")
def test_appends_of_one_entry_never_overlap_and_say_where_they_went(site: Site) -> None:
    inode_id = site.file(b"log")
    outcomes = site.entry(*[ops.append(inode_id, b"%02d" % number) for number in range(20)])
    assert [outcome.applied_offset for outcome in outcomes] == list(range(0, 40, 2))
    assert site.content(inode_id) == b"".join(b"%02d" % number for number in range(20))


@pytest.mark.req("WS-21", "WS-27")
def test_an_unlinked_file_keeps_taking_writes_and_leaves_the_root_alone(site: Site) -> None:
    inode_id = site.file(b"f")
    site.done(ops.append(inode_id, b"before"))
    site.done(ops.unlink(ROOT, b"f"))
    root, nodes = site.header.root, site.header.inode_count
    last = site.header.log_index
    assert site.done(ops.append(inode_id, b" after")).root == root
    site.done(ops.chmod(inode_id, 0o600))
    site.done(ops.truncate(inode_id, 9))
    assert site.content(inode_id) == b"before af"
    assert (site.header.root, site.header.inode_count, site.header.log_index) == (root, nodes, last + 3)
    assert site.header.mapped_bytes == 0


@pytest.mark.req("WS-21", "WS-22")
def test_writes_to_what_is_no_file_and_beyond_the_limits(site: Site) -> None:
    inode_id, directory = site.file(b"f"), site.directory(b"d")
    symlink = site.done(ops.symlink(ROOT, b"l", b"t")).inode_id
    for command in (ops.append, lambda found, _: ops.truncate(found, 1)):
        assert errno(site.one(command(directory, b"x"))) == EISDIR
        assert errno(site.one(command(symlink, b"x"))) == EINVAL
        assert errno(site.one(command(b"?" * 16, b"x"))) == ENOENT
    assert errno(site.one(ops.write(inode_id, (1 << 63) - 1, b"x"))) == EFBIG
    assert errno(site.one(ops.truncate(inode_id, 1 << 63))) == EFBIG
    site.done(ops.write(inode_id, (1 << 63) - 2, b"x"))
    assert errno(site.one(ops.append(inode_id, b"x"))) == EFBIG
    assert site.one(ops.append(inode_id, bytes(8_193))).reason == LIMIT
    piece = ChunkPiece(hash=bytes(32), length=1)
    both = Command(file=FileCommand(write=Write(inode_id=inode_id, inline=b"x", pieces=[piece])))
    assert errno(site.one(both)) == EINVAL
    assert site.one(ops.write_pieces(inode_id, 0, [(bytes(32), 0, 1)] * 65)).reason == LIMIT
    assert site.one(ops.write_pieces(inode_id, 0, [(bytes(32), 0, 65_536)] * 17)).reason == LIMIT
    for bad in ((bytes(31), 0, 1), (bytes(32), 0, 0), (bytes(32), 1, 65_536)):
        assert errno(site.one(ops.write_pieces(inode_id, 0, [bad]))) == EINVAL


@pytest.mark.req("WS-20", "WS-26")
def test_syncs_are_logged_and_change_nothing(site: Site) -> None:
    inode_id = site.file(b"f")
    for found in (inode_id, ROOT):
        root = site.header.root
        outcome = site.done(ops.sync(found))
        assert (outcome.root, outcome.inode_id) == (root, found)
    assert errno(site.one(ops.sync(b"?" * 16))) == ENOENT


@pytest.mark.req("D-18")
def test_earlier_versions_of_an_inode_are_found(site: Site) -> None:
    inode_id = site.file(b"f")
    for mode in (0o600, 0o640, 0o644):
        site.done(ops.chmod(inode_id, mode))
    last = site.index
    seen = [read_inode_at(site.store, site.workspace_id, inode_id, Index(index)) for index in range(1, last + 1)]
    assert [found.mode if found else None for found in seen] == [None, 0o644, 0o600, 0o640, 0o644]
    assert all(found is None or found.kind == KIND_FILE for found in seen)


@pytest.mark.req("WS-32")
def test_a_chunk_put_must_have_its_hash(site: Site) -> None:
    bad = [ChunkPut(hash=bytes(32), content=b"x"), ChunkPut(hash=blake3(b"").digest(), content=b"")]
    bad.append(ChunkPut(hash=blake3(bytes(65_537)).digest(), content=bytes(65_537)))
    for put in bad:
        assert errno(site.one(Command(chunk_put=put))) == EINVAL
    assert not site.chunks

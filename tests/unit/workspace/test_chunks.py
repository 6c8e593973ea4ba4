"""Chunks: presence as a sender may see it, missing ones, accounting, quotas, and how extents are kept."""

from __future__ import annotations

import pytest
from blake3 import blake3

from hypercluster.limits import COALESCE_ROUNDS_MAX, COMMAND_KEYS_MAX
from hypercluster.state_machine.outcome import CHUNKS_MISSING, ERRNO, OK
from hypercluster.state_machine.store import Change, Family
from hypercluster.state_machine.workspace import recent
from hypercluster.state_machine.workspace.chunks import (
    Account,
    account_change,
    read_account,
    read_presence,
    read_workspaces_with,
    sender_id,
)
from hypercluster.state_machine.workspace.errnos import EDQUOT, EINVAL
from hypercluster.state_machine.workspace.extents import Extent
from hypercluster.state_machine.workspace.queries import extents_at, list_extents, missing_chunks, was_referenced
from hypercluster.state_machine.workspace.records import header_key
from hypercluster.values import Index
from tests.unit.workspace import ops
from tests.unit.workspace.ops import ROOT
from tests.unit.workspace.site import Mirror, Site

BIG = b"big content " * 1_000
BIG_HASH = blake3(BIG).digest()
OTHER_HASH = blake3(b"other").digest()


@pytest.fixture
def site() -> Site:
    found = Site()
    found.found()
    return found


def extents(site: Site, inode_id: bytes) -> list[Extent]:
    return list(list_extents(site.store, site.workspace_id, inode_id, 0, 10_000).extents)


def references(site: Site, chunk_hash: bytes) -> int:
    found = read_presence(site.store, site.workspace_id, chunk_hash)
    assert found is not None
    return found.references


# --- presence -------------------------------------------------------------------------------------


@pytest.mark.req("WS-32")
def test_a_write_names_exactly_the_chunks_that_are_missing_and_takes_no_number(site: Site) -> None:
    inode_id = site.file(b"f")
    site.done(ops.chunk_put(BIG))
    pieces = [(OTHER_HASH, 0, 1), (BIG_HASH, 0, 9), (blake3(b"third").digest(), 0, 1), (OTHER_HASH, 1, 1)]
    outcome = site.one(ops.write_pieces(inode_id, 0, pieces))
    assert outcome.reason == CHUNKS_MISSING
    assert outcome.missing == (OTHER_HASH, blake3(b"third").digest())
    assert (outcome.log_index, site.inode(inode_id).size) == (0, 0)
    site.done(ops.chunk_put(b"other"))
    site.done(ops.chunk_put(b"third"))
    site.done(ops.write_pieces(inode_id, 0, pieces))
    assert site.content(inode_id) == b"o" + BIG[:9] + b"t" + b"t"


@pytest.mark.req("WS-14")
def test_knowing_a_hash_gives_neither_content_nor_existence(site: Site) -> None:
    inode_id = site.file(b"f")
    site.done(ops.chunk_put(BIG), worker="worker-1")
    write = ops.write_pieces(inode_id, 0, [(BIG_HASH, 0, len(BIG))])
    mine, other = sender_id("worker-1", "p"), sender_id("worker-2", "p")
    assert missing_chunks(site.store, site.workspace_id, [BIG_HASH, OTHER_HASH, BIG_HASH], mine) == [OTHER_HASH]
    assert missing_chunks(site.store, site.workspace_id, [BIG_HASH], other) == [BIG_HASH]
    assert site.one(write, worker="worker-2").missing == (BIG_HASH,)
    assert not was_referenced(site.store, site.workspace_id, BIG_HASH)
    site.done(write, worker="worker-1")
    assert was_referenced(site.store, site.workspace_id, BIG_HASH)
    assert missing_chunks(site.store, site.workspace_id, [BIG_HASH], other) == []
    site.done(write, worker="worker-2")
    # Another workspace of the same organisation is none the wiser.
    first, shared = site.workspace_id, len(site.chunks)
    site.found("second")
    again = site.file(b"f")
    assert site.one(ops.write_pieces(again, 0, [(BIG_HASH, 0, 1)])).missing == (BIG_HASH,)
    site.done(ops.chunk_put(BIG))
    assert read_workspaces_with(site.store, "acme", BIG_HASH) == 2
    assert site.workspace_id != first
    assert len(site.chunks) == shared


@pytest.mark.req("WS-14")
def test_principals_without_a_worker_are_told_apart_from_workers() -> None:
    assert sender_id("", "name") != sender_id("name", "")
    assert sender_id("w", "name") == sender_id("w", "other")


@pytest.mark.req("WS-32")
def test_a_piece_must_lie_within_its_chunk(site: Site) -> None:
    inode_id = site.file(b"f")
    site.done(ops.chunk_put(BIG))
    outcome = site.one(ops.write_pieces(inode_id, 0, [(BIG_HASH, 1, len(BIG))]))
    assert (outcome.reason, outcome.errno) == (ERRNO, EINVAL)


@pytest.mark.req("WS-14", "WS-33")
def test_inline_content_becomes_a_chunk_and_is_counted(site: Site) -> None:
    inode_id = site.file(b"f")
    stamp_ns = site.done(ops.append(inode_id, b"inline")).stamp_ns
    presence = read_presence(site.store, site.workspace_id, blake3(b"inline").digest())
    assert presence is not None
    assert (presence.references, presence.length, presence.touched_ns) == (1, 6, stamp_ns)
    assert site.chunks[blake3(b"inline").digest()] == b"inline"
    assert (site.header.chunk_count, site.header.chunk_bytes) == (1, 6)
    gone = site.done(ops.truncate(inode_id, 0)).stamp_ns
    presence = read_presence(site.store, site.workspace_id, blake3(b"inline").digest())
    assert presence is not None
    assert (presence.references, presence.touched_ns) == (0, gone)
    assert (site.header.chunk_count, site.header.chunk_bytes) == (1, 6)  # unreferenced, and still there (WS-29)


# --- extents --------------------------------------------------------------------------------------


@pytest.mark.req("WS-13")
def test_overwriting_the_middle_keeps_both_ends_of_the_chunk(site: Site) -> None:
    inode_id = site.file(b"f")
    site.done(ops.chunk_put(BIG))
    site.done(ops.write_pieces(inode_id, 0, [(BIG_HASH, 0, 12_000)]))
    site.done(ops.write(inode_id, 5_000, b"MIDDLE"))
    middle = blake3(b"MIDDLE").digest()
    assert extents(site, inode_id) == [
        Extent(0, 5_000, 0, BIG_HASH),
        Extent(5_000, 6, 0, middle),
        Extent(5_006, 6_994, 5_006, BIG_HASH),
    ]
    assert (references(site, BIG_HASH), references(site, middle)) == (2, 1)
    # Putting the same bytes back makes one extent again.
    site.done(ops.write_pieces(inode_id, 5_000, [(BIG_HASH, 5_000, 6)]))
    assert extents(site, inode_id) == [Extent(0, 12_000, 0, BIG_HASH)]
    assert (references(site, BIG_HASH), references(site, middle)) == (1, 0)


@pytest.mark.req("WS-13")
def test_contiguous_pieces_of_one_chunk_merge_and_holes_read_as_zeros(site: Site) -> None:
    inode_id = site.file(b"f")
    site.done(ops.chunk_put(BIG))
    site.done(ops.write_pieces(inode_id, 100, [(BIG_HASH, 0, 500), (BIG_HASH, 500, 500)]))
    site.done(ops.write_pieces(inode_id, 1_100, [(BIG_HASH, 1_000, 1)]))
    assert extents(site, inode_id) == [Extent(100, 1_001, 0, BIG_HASH)]
    site.done(ops.truncate(inode_id, 2_000))
    assert site.content(inode_id) == bytes(100) + BIG[:1_001] + bytes(899)
    listing = list_extents(site.store, site.workspace_id, inode_id, 1_100, 10)
    assert listing.extents == (Extent(100, 1_001, 0, BIG_HASH),)
    assert list_extents(site.store, site.workspace_id, inode_id, 1_101, 10).extents == ()


@pytest.mark.req("D-18")
def test_an_earlier_version_of_a_file_with_many_pages_is_read_back(site: Site) -> None:
    inode_id = site.file(b"f")
    site.done(ops.chunk_put(BIG))
    for _ in range(5):
        site.done(ops.write_pieces(inode_id, 0, [(BIG_HASH, 1, 999)] * 64, at_end=True))
    before, index = extents(site, inode_id), site.index
    site.done(ops.truncate(inode_id, 100))
    for _ in range(20):
        site.done(ops.append(inode_id, b"x"))
    assert list(extents_at(site.store, site.workspace_id, inode_id, Index(index))) == before
    assert len(before) == 320


# --- coalescing -----------------------------------------------------------------------------------


@pytest.mark.req("WS-13")
def test_sixteen_small_appends_become_one_chunk(site: Site) -> None:
    inode_id = site.file(b"log")
    mirror = Mirror(site)
    lines = [b"line %d\n" % number for number in range(300)]
    for number, line in enumerate(lines[:16]):
        assert len(extents(site, inode_id)) == number
        site.done(ops.append(inode_id, line))
    whole = b"".join(lines[:16])
    assert extents(site, inode_id) == [Extent(0, len(whole), 0, blake3(whole).digest())]
    assert references(site, blake3(lines[0]).digest()) == 0
    assert references(site, blake3(whole).digest()) == 1
    for line in lines[16:]:
        site.done(ops.append(inode_id, line))
    assert site.content(inode_id) == b"".join(lines)
    assert len(extents(site, inode_id)) <= 30  # two digits in base 16
    mirror.follow(site)


@pytest.mark.req("WS-13")
@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([4_096] * 16, 1),
        ([4_097] * 16, 16),  # together above 64 KiB
        ([100] * 15 + [8_192], 16),  # one that is not small
        ([8_191] * 7 + [500] * 9, 1),
        ([8_191] * 8 + [500] * 8, 16),
    ],
)
def test_the_bounds_of_coalescing(site: Site, sizes: list[int], expected: int) -> None:
    inode_id = site.file(b"log")
    for number, size in enumerate(sizes):
        site.done(ops.append(inode_id, bytes([number]) * size))
    assert len(extents(site, inode_id)) == expected
    assert site.content(inode_id) == b"".join(bytes([number]) * size for number, size in enumerate(sizes))


@pytest.mark.req("WS-13", "D-4")
def test_one_command_coalesces_a_bounded_number_of_extents(site: Site) -> None:
    """Extents that were written in the middle wait until the bytes they share are kept for another file's sake."""
    found, other = site.file(b"f"), site.file(b"g")
    count = 1_500
    site.done(ops.truncate(found, count + 1))
    site.entry(*[ops.write(found, offset, b"a") for offset in range(count)])
    site.done(ops.append(other, b"a"))
    site.done(ops.write(found, count, b"a"))
    assert len({(change.family, change.key) for change in site.last_changes}) < COMMAND_KEYS_MAX // 2
    assert site.inode(found).extent_count == count + 1 - 15 * COALESCE_ROUNDS_MAX


@pytest.mark.req("WS-13")
def test_a_gap_ends_the_run_and_an_overwrite_in_the_middle_is_not_coalesced(site: Site) -> None:
    inode_id = site.file(b"log")
    for number in range(8):
        site.done(ops.append(inode_id, b"%02d" % number))
    site.done(ops.truncate(inode_id, 20))
    for number in range(15):
        site.done(ops.append(inode_id, b"%02d" % number))
    assert len(extents(site, inode_id)) == 23
    site.done(ops.write(inode_id, 3, b"?"))
    assert len(extents(site, inode_id)) == 24
    site.done(ops.append(inode_id, b"16th"))
    assert len(extents(site, inode_id)) == 10  # the last sixteen were one run again


@pytest.mark.req("WS-13", "D-4")
def test_the_bytes_kept_for_coalescing_are_bounded_and_what_left_is_not_coalesced(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recent, "RECENT_BYTES_MAX", 5_000)
    slow, fast = site.file(b"slow"), site.file(b"fast")
    mirror = Mirror(site)
    for number in range(40):
        site.done(ops.append(slow, b"slow %d" % number))
        site.done(ops.append(fast, bytes([number]) * 1_000))
        assert site.header.recent_bytes <= 5_000
    start = site.workspace_id + b"B"
    kept = list(site.store.scan(Family.TREE, start, site.workspace_id + b"C"))
    assert sum(len(value) - 8 for _, value in kept) <= 5_000
    assert len(extents(site, slow)) == 40
    assert site.content(slow) == b"".join(b"slow %d" % number for number in range(40))
    mirror.follow(site)


# --- quotas ---------------------------------------------------------------------------------------


def set_quota(site: Site, quota_bytes: int, quota_nodes: int) -> None:
    header = site.header
    header.quota_bytes, header.quota_nodes = quota_bytes, quota_nodes
    site.store.write([Change(Family.TREE, header_key(site.workspace_id), header.encode())])
    site.restart()


@pytest.mark.req("WS-29")
def test_a_workspace_quota_counts_nodes_and_chunk_bytes_unreferenced_ones_too(site: Site) -> None:
    inode_id = site.file(b"f")
    set_quota(site, 100, 3)
    site.directory(b"d")
    for command in (ops.create(ROOT, b"g"), ops.mkdir(ROOT, b"e"), ops.symlink(ROOT, b"l", b"t")):
        assert site.one(command).errno == EDQUOT
    site.done(ops.create(ROOT, b"f", exclusive=False))
    site.done(ops.append(inode_id, b"a" * 60))
    site.done(ops.truncate(inode_id, 0))
    assert site.one(ops.append(inode_id, b"b" * 41)).errno == EDQUOT
    assert site.one(ops.chunk_put(b"b" * 41)).errno == EDQUOT
    site.done(ops.append(inode_id, b"a" * 60))  # nothing new to keep
    site.done(ops.chunk_put(b"b" * 40))
    assert site.header.chunk_bytes == 100
    site.done(ops.unlink(ROOT, b"f"))
    site.done(ops.create(ROOT, b"g"))


@pytest.mark.req("WS-29")
def test_an_organisation_quota_is_counted_over_its_workspaces(site: Site) -> None:
    inode_id = site.file(b"f")
    site.done(ops.append(inode_id, b"shared"))
    site.found("second")
    second = site.file(b"f")
    site.done(ops.append(second, b"shared"))
    account = read_account(site.store, "acme")
    assert account == Account(chunk_count=1, chunk_bytes=6, inode_count=4)
    key, record = account_change("acme", account._replace(quota_bytes=10, quota_nodes=5))
    site.store.write([Change(Family.CHUNKS, key, record)])
    site.restart()
    assert site.one(ops.append(second, b"12345")).errno == EDQUOT
    site.done(ops.append(second, b"1234"))
    site.file(b"g")
    assert site.one(ops.create(ROOT, b"h")).errno == EDQUOT
    site.done(ops.unlink(ROOT, b"g"))
    assert site.one(ops.create(ROOT, b"h")).reason == OK

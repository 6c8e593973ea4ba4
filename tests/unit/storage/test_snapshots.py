"""Stored workspace snapshots: pages, manifests, signatures, sweeping, and writers that die anywhere (WS-53)."""

from __future__ import annotations

import random
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from blake3 import blake3

from hypercluster.credentials import signatures
from hypercluster.errors import DamagedError, InvariantError, TurnedAwayError
from hypercluster.pb.v1 import snapshot_pb2 as pb
from hypercluster.snapshot_manifest import open_manifest, verified
from hypercluster.state_machine.outcome import MarkedSnapshot
from hypercluster.state_machine.store import Change, Family
from hypercluster.state_machine.workspace.records import prefix_end
from hypercluster.state_machine.workspace.transfer import EXPORTED_FAMILIES, export_records
from hypercluster.storage.disk import PosixDisk
from hypercluster.storage.rocks import RocksStore
from hypercluster.storage.snapshots.page_codec import PageCodec
from hypercluster.storage.snapshots.pages import PAGE_BYTES_MAX, PageCutter, continues, read_records
from hypercluster.storage.snapshots.store import SnapshotStore
from hypercluster.storage.snapshots.writer import SnapshotWriter
from tests.fakes import certs
from tests.fakes.dying_disk import Died, DyingDisk
from tests.fakes.held_records import HeldScan
from tests.unit.workspace import ops
from tests.unit.workspace.site import Site

HISTORY = b"h" * 16


def cut(records: list[tuple[int, bytes, bytes]]) -> list[bytes]:
    cutter = PageCutter()
    pages = [page for record in records for page in cutter.add(*record)]
    return pages + cutter.finish()


def some_records(draw: random.Random, count: int) -> list[tuple[int, bytes, bytes]]:
    return sorted((3, draw.randbytes(20), draw.randbytes(draw.randrange(200))) for _ in range(count))


def grown_site(files: int = 300) -> Site:
    site = Site()
    site.found()
    for number in range(files):
        site.done(ops.create(ops.ROOT, b"file %04d" % number))
    return site


def writer_of(store: SnapshotStore, site: Site, node: str = "n1") -> SnapshotWriter:
    header = site.header
    end = prefix_end(site.workspace_id)
    sources = [(family, HeldScan(site.store, family, site.workspace_id, end)) for family in EXPORTED_FAMILIES]
    mark = MarkedSnapshot(site.workspace_id, header.log_index, header.root)
    return SnapshotWriter(store, mark, HISTORY, sources, certs.node(node))


def write(store: SnapshotStore, site: Site, node: str = "n1") -> int:
    finish(writer_of(store, site, node))
    return site.header.log_index


def finish(writer: SnapshotWriter) -> None:
    while not writer.step(100):
        continue


def read_back(store: SnapshotStore, workspace_id: bytes, log_index: int) -> list[Change]:
    manifest = store.find(workspace_id, log_index)
    assert manifest is not None
    pages = [store.page(page_hash) for page_hash in store.page_hashes(manifest)]
    assert len(pages) == manifest.page_count
    return [Change(Family(family), key, value) for family, key, value in read_records(pages)]


# --- pages ----------------------------------------------------------------------------------------


@pytest.mark.req("WS-53")
@pytest.mark.parametrize("seed", range(4))
def test_pages_stay_the_same_where_the_records_do(seed: int) -> None:
    draw = random.Random(seed)
    records = some_records(draw, 6_000)
    before = cut(records)
    assert list(read_records(before)) == records
    assert 25 < len(before) < 90
    changed = list(records)
    changed[3_000] = (changed[3_000][0], changed[3_000][1], b"another value")
    changed.insert(1_000, (3, changed[1_000][1] + b"!", b"inserted"))
    del changed[5_000]
    after = cut(sorted(changed))
    assert list(read_records(after)) == sorted(changed)
    assert len(set(after) - set(before)) <= 4, f"seed {seed}"


@pytest.mark.req("WS-53")
def test_a_record_that_fits_in_no_page_goes_on_in_the_next() -> None:
    records = [(3, b"a", b"1"), (3, b"b", bytes(65_536 + 300)), (3, b"c", bytes(PAGE_BYTES_MAX)), (3, b"d", b"2")]
    pages = cut(records)
    assert all(len(page) <= PAGE_BYTES_MAX for page in pages)
    assert list(read_records(pages)) == records
    assert [continues(page) for page in pages].count(True) == 2
    assert not continues(pages[0])
    for torn in (pages[:1] + pages[2:], [*pages[:-1], pages[-1][:-1]], [pages[0][:4]]):
        with pytest.raises(DamagedError):
            list(read_records(torn))


def test_a_page_stands_as_zstd_or_as_it_is() -> None:
    codec = PageCodec()
    noise, text = random.Random(1).randbytes(9_000), b"page " * 9_000
    assert len(codec.encode(noise)) == len(noise) + 1
    assert len(codec.encode(text)) < 500
    for content in (noise, text, b"x"):
        assert codec.decode(codec.encode(content)) == content
    for wrong in (b"", b"\x07abc", b"\x01no zstd", codec.encode(text)[:-3]):
        assert codec.decode(wrong) is None


# --- store ----------------------------------------------------------------------------------------


@pytest.mark.req("WS-53")
def test_a_snapshot_holds_the_tree_and_is_there_after_a_restart(tmp_path: Path) -> None:
    site = grown_site()
    store = SnapshotStore(str(tmp_path / "s"), PosixDisk())
    log_index = write(store, site)
    assert read_back(store, site.workspace_id, log_index) == list(export_records(site.store, site.workspace_id))
    store.close()
    store = SnapshotStore(str(tmp_path / "s"), PosixDisk())
    assert store.held() == [(site.workspace_id, log_index)]
    assert read_back(store, site.workspace_id, log_index) == list(export_records(site.store, site.workspace_id))
    manifest = store.newest(site.workspace_id)
    assert manifest is not None
    assert (manifest.log_index, manifest.root, manifest.history_id) == (log_index, site.header.root, HISTORY)
    from_third = list(store.page_hashes(manifest, 3))
    assert from_third == list(store.page_hashes(manifest))[3:]
    store.close()


@pytest.mark.req("WS-53")
def test_nodes_write_the_same_pages_and_each_signs_its_own_manifest(tmp_path: Path) -> None:
    site = grown_site()
    manifests = []
    for node in ("n1", "n2"):
        store = SnapshotStore(str(tmp_path / node), PosixDisk())
        signed = store.signed(site.workspace_id, write(store, site, node))
        assert signed is not None
        manifests.append(signed)
        manifest, name = verified(signed, certs.ca().certificate_pem)
        assert name == node
        assert manifest == store.newest(site.workspace_id)
        store.close()
    assert manifests[0].manifest == manifests[1].manifest
    assert manifests[0].signature != manifests[1].signature


@pytest.mark.req("WS-53")
def test_a_manifest_nobody_of_the_cluster_signed_is_refused(tmp_path: Path) -> None:
    site = grown_site(3)
    store = SnapshotStore(str(tmp_path / "s"), PosixDisk())
    signed = store.signed(site.workspace_id, write(store, site))
    assert signed is not None
    trust = certs.ca().certificate_pem
    verified(signed, trust)

    def changed(**fields: bytes) -> pb.SignedManifest:
        made = pb.SignedManifest.FromString(signed.SerializeToString())
        for name, value in fields.items():
            setattr(made, name, value)
        return made

    forged = replace(open_manifest(signed), log_index=9).encode()
    by_client = certs.client("someone")
    wrong = {
        "checksum": changed(manifest=forged),
        "not one of": changed(manifest=forged, checksum=blake3(forged).digest()),
        "no node": changed(
            certificate=by_client.certificate_pem, signature=signatures.sign(by_client, "snapshot", signed.manifest)
        ),
        "trusted CAs": changed(certificate=certs.node("n1", authority="other").certificate_pem),
        "not signed as": changed(signature=signatures.sign(certs.node("n1"), "other purpose", signed.manifest)),
    }
    for words, manifest in wrong.items():
        with pytest.raises(DamagedError, match=words):
            verified(manifest, trust)
    store.close()


@pytest.mark.req("WS-53")
def test_an_unchanged_page_is_stored_once_and_goes_with_the_last_that_names_it(tmp_path: Path) -> None:
    site = grown_site(2_000)
    store = SnapshotStore(str(tmp_path / "s"), PosixDisk(), segment_bytes=64 * 1024)
    first = write(store, site)
    pages, first_bytes = store.page_count, store.stored_bytes
    site.done(ops.create(ops.ROOT, b"one more"))
    second = write(store, site)
    assert store.page_count - pages <= 12 < pages, "records, index and nothing else"
    assert store.stored_bytes < 1.3 * first_bytes
    store.drop(site.workspace_id, first)
    store.sweep()
    assert store.held() == [(site.workspace_id, second)]
    assert read_back(store, site.workspace_id, second) == list(export_records(site.store, site.workspace_id))
    store.drop(site.workspace_id, second)
    store.drop(site.workspace_id, second)
    assert store.sweep() > first_bytes // 2
    assert store.page_count == 0
    store.close()


@pytest.mark.req("WS-53")
def test_a_damaged_page_is_found_and_mended_by_the_next_snapshot(tmp_path: Path) -> None:
    site = grown_site(400)
    path = tmp_path / "s"
    store = SnapshotStore(str(path), PosixDisk())
    log_index = write(store, site)
    store.close()
    segment = next((path / "pages").glob("*.chunks"))
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 1
    segment.write_bytes(content)
    store = SnapshotStore(str(path), PosixDisk())
    with pytest.raises(DamagedError, match="page"):
        read_back(store, site.workspace_id, log_index)
    write(store, site)
    assert read_back(store, site.workspace_id, log_index)
    store.close()
    manifest = next(path.glob("*/*.snapshot"))
    manifest.write_bytes(manifest.read_bytes()[:-9] + b"\0" * 9)
    store = SnapshotStore(str(path), PosixDisk())
    held = store.held()
    assert held == [] or verified_fails(store, site.workspace_id, log_index)
    manifest.write_bytes(b"nothing")
    store.close()
    store = SnapshotStore(str(path), PosixDisk())
    assert (store.held(), len(store.damaged)) == ([], 1)
    store.close()


def verified_fails(store: SnapshotStore, workspace_id: bytes, log_index: int) -> bool:
    signed = store.signed(workspace_id, log_index)
    assert signed is not None
    try:
        verified(signed, certs.ca().certificate_pem)
    except DamagedError:
        return True
    return False


@pytest.mark.req("WS-53")
def test_a_tree_of_another_moment_is_not_published(tmp_path: Path) -> None:
    site = grown_site(3)
    store = SnapshotStore(str(tmp_path / "s"), PosixDisk())
    writer = writer_of(store, site)
    writer.marked = writer.marked._replace(log_index=2)
    with pytest.raises(InvariantError, match="tree it was marked at"):
        finish(writer)
    assert store.held() == []
    store.close()


# --- dying ----------------------------------------------------------------------------------------


@pytest.mark.req("WS-53", "CH-7")
def test_a_writer_that_dies_anywhere_leaves_whole_snapshots_and_sweepable_pages(tmp_path: Path) -> None:
    site = grown_site(40)
    later = grown_site(60)
    whole = 0
    for last in range(200):
        path = tmp_path / f"d{last}"
        disk = DyingDisk()
        store = SnapshotStore(str(path), disk)
        first = write(store, site)
        disk.left = last
        try:
            second = write(store, later)
            store.drop(site.workspace_id, first)
            store.sweep()
            died = False
        except Died:
            died = True
        disk.cut(path, tmp_path / f"cut{last}")
        after = SnapshotStore(str(tmp_path / f"cut{last}"), PosixDisk())
        for workspace_id, log_index in after.held():
            assert read_back(after, workspace_id, log_index), f"operation {last}"
            whole += 1
        assert after.held(), f"operation {last}: one of the two is always there"
        second = write(after, later)
        for workspace_id, log_index in after.held():
            if log_index != second:
                after.drop(workspace_id, log_index)
        after.sweep()
        kept = after.find(later.workspace_id, second)
        assert kept is not None
        named = {*kept.index_pages, *after.page_hashes(kept)}
        assert set(after._pages.hashes()) == named, f"operation {last}"
        after.close()
        if not died:
            break
    assert not died
    assert 8 <= last < 199
    assert whole > last, "both are there for a while"


# --- the state that is held -----------------------------------------------------------------------


@pytest.mark.req("WS-53")
def test_records_are_held_as_they_were_and_read_beside_the_loop(tmp_path: Path) -> None:
    store = RocksStore(str(tmp_path / "state"))
    pairs = [(b"k%04d" % number, b"before") for number in range(500)]
    store.write([Change(Family.TREE, key, value) for key, value in pairs])
    held = store.hold(Family.TREE, b"k", b"l")
    store.write([Change(Family.TREE, key, None) for key, _ in pairs[::2]])
    store.write([Change(Family.TREE, b"k0001", b"after"), Change(Family.TREE, b"kk", b"new")])
    found: list[tuple[bytes, bytes]] = []

    def read() -> None:
        while taken := held.take(64):
            found.extend(taken)

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    assert found == pairs
    held.end()
    held.end()
    with pytest.raises(TurnedAwayError):
        held.take(1)
    other = store.hold(Family.TREE, b"k", b"l")
    store.close()
    with pytest.raises(TurnedAwayError):
        other.take(1)

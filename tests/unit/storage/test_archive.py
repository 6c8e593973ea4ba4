"""Archived op logs: segments, the chain over their records, joining, dropping, and nodes that die anywhere (WS-54)."""

from __future__ import annotations

import itertools
import json
import logging
import random
from pathlib import Path

import pytest
from click.testing import CliRunner

from hypercluster.cli.node_archive import archive as archive_commands
from hypercluster.errors import DamagedError, DiskFailedError, TurnedAwayError
from hypercluster.pb.v1.command_pb2 import TrimOplog
from hypercluster.pb.v1.workspace_command_pb2 import LogBatch
from hypercluster.state_machine.store import Change, Family
from hypercluster.state_machine.workspace import oplog
from hypercluster.state_machine.workspace.oplog import log_key, scan_log
from hypercluster.storage.archive import archive as archive_module
from hypercluster.storage.archive.archive import ArchiveSettings, OplogArchive
from hypercluster.storage.archive.segment import read_segment, verify_segment
from hypercluster.storage.barriers import Barriers
from hypercluster.storage.disk import Disk, PosixDisk
from hypercluster.storage.rocks import FlushState, NoChunks, RocksStore
from hypercluster.storage.runner import Done, InlineRunner, Job
from tests.fakes.dying_disk import Died, DyingDisk
from tests.fakes.held_records import HeldScan
from tests.unit.workspace import ops
from tests.unit.workspace.site import Site

HISTORY = b"h" * 16
SETTINGS = ArchiveSettings(90, 1 << 40)
DAY_NS = 86_400 * 10**9


def logged(count: int) -> Site:
    """A workspace with so many operations, up to three an entry."""
    site = Site()
    site.found()
    draw = random.Random(count)
    number = 0
    while number < count:
        size = min(draw.randint(1, 3), count - number)
        site.entry(*[ops.create(ops.ROOT, b"file %05d" % (number + place)) for place in range(size)])
        number += size
    return site


def opened(path: Path, disk: Disk | None = None, settings: ArchiveSettings = SETTINGS) -> OplogArchive:
    return OplogArchive(str(path / "archive" / "oplog"), disk or PosixDisk(), InlineRunner(), HISTORY, settings)


def held(site: Site, first: int) -> HeldScan:
    start = log_key(site.workspace_id, first)
    return HeldScan(site.store, Family.OPLOG, start, log_key(site.workspace_id, 1 << 60))


def records_of(archive: OplogArchive, workspace_id: bytes) -> list[tuple[int, bytes]]:
    return [record for part in archive.segments(workspace_id) for record in read_segment(PosixDisk(), part)]


def archive_all(archive: OplogArchive, site: Site, at_once: int, until: int = 1 << 60) -> list[tuple[int, bytes]]:
    """As trims of so many records each would; answers what was to be archived."""
    parts = [tuple(part) for part in scan_log(site.store, site.workspace_id, 1) if part.first_index < until]
    for start in range(0, len(parts), at_once):
        count = len(parts[start : start + at_once])
        archive.trimmed(site.workspace_id, count, held(site, parts[start][0]))
        archive.sync()
    return parts


# --- segments -------------------------------------------------------------------------------------


@pytest.mark.req("WS-54")
def test_what_is_trimmed_is_in_the_archive_in_order_and_the_chain_holds(tmp_path: Path) -> None:
    site = logged(300)
    archive = opened(tmp_path)
    parts = archive_all(archive, site, 40)
    assert archive.synced()
    archive = opened(tmp_path)
    assert records_of(archive, site.workspace_id) == parts
    segments = archive.segments(site.workspace_id)
    assert len(segments) == -(-len(parts) // 40)
    assert (segments[0].first_index, segments[-1].last_index) == (1, 300)
    for before, after in itertools.pairwise(segments):
        assert after.chain_before == before.chain_after
        assert after.first_index == before.last_index + 1
    for segment in segments:
        verify_segment(PosixDisk(), segment)
    middle = list(read_segment(PosixDisk(), segments[2], segments[2].last_index))
    assert LogBatch.FromString(middle[-1][1]).records[-1].log_index == segments[2].last_index


@pytest.mark.req("WS-54")
def test_any_damage_to_a_segment_is_found(tmp_path: Path) -> None:
    site = logged(40)
    archive = opened(tmp_path)
    archive_all(archive, site, 1_000)
    (segment,) = archive.segments(site.workspace_id)
    path = Path(segment.path)
    whole = path.read_bytes()
    draw = random.Random(5)
    places = {*range(0, 90, 7), *range(len(whole) - 90, len(whole), 7), *draw.sample(range(len(whole)), 40)}
    for place in sorted(places):
        broken = bytearray(whole)
        broken[place] ^= 0x10
        path.write_bytes(broken)
        result = CliRunner().invoke(archive_commands, ["verify", str(tmp_path)], standalone_mode=False)
        assert result.return_value == 1 or result.exception is not None, f"byte {place} of {len(whole)}"
    path.write_bytes(whole[:-1])
    assert CliRunner().invoke(archive_commands, ["verify", str(tmp_path)], standalone_mode=False).return_value == 1
    assert opened(tmp_path).damaged


@pytest.mark.req("WS-54")
def test_small_segments_are_joined_and_the_chain_does_not_break(tmp_path: Path) -> None:
    site = logged(200)
    archive = opened(tmp_path)
    parts = archive_all(archive, site, 4, until=150)
    before = archive.segments(site.workspace_id)
    assert len(before) >= archive_module.JOIN_AT
    archive.upkeep(site.stamp_ns)
    after = archive.segments(site.workspace_id)
    assert len(after) < archive_module.JOIN_AT
    assert records_of(archive, site.workspace_id) == parts
    assert (after[0].chain_before, after[-1].chain_after) == (before[0].chain_before, before[-1].chain_after)
    archive_all(archive, site, 4)
    result = CliRunner().invoke(archive_commands, ["verify", str(tmp_path), "--json"], standalone_mode=False)
    (answer,) = json.loads(result.output)["workspaces"]
    assert (answer["verdict"], answer["first"], answer["last"], answer["gaps"]) == ("sound", 1, 200, [])


@pytest.mark.req("WS-54")
def test_a_missing_or_foreign_segment_breaks_the_chain_and_a_gap_does_not(tmp_path: Path) -> None:
    site = logged(100)
    archive = opened(tmp_path)
    archive_all(archive, site, 10, until=40)
    parts = [part for part in scan_log(site.store, site.workspace_id, 1) if part.first_index > 60]
    archive.trimmed(site.workspace_id, 5, held(site, parts[0].first_index))  # between them another node's state came
    archive.sync()
    result = CliRunner().invoke(archive_commands, ["verify", str(tmp_path)], standalone_mode=False)
    assert result.return_value == 0, result.output
    assert "without 4" in result.output or "without 3" in result.output
    Path(archive.segments(site.workspace_id)[1].path).unlink()
    result = CliRunner().invoke(archive_commands, ["verify", str(tmp_path)], standalone_mode=False)
    assert result.return_value == 1


def test_the_archive_can_be_listed_and_printed(tmp_path: Path) -> None:
    site = logged(50)
    archive_all(opened(tmp_path), site, 10)
    runner, name = CliRunner(), site.workspace_id.hex()
    listing = runner.invoke(archive_commands, ["list", str(tmp_path)], standalone_mode=False)
    assert listing.output.count(name) == len(opened(tmp_path).segments(site.workspace_id))
    as_json = runner.invoke(archive_commands, ["list", str(tmp_path), "--json"], standalone_mode=False)
    assert json.loads(as_json.output)["segments"][0]["first"] == 1
    printed = runner.invoke(
        archive_commands, ["cat", str(tmp_path), name[:8], "--from", "12", "--to", "31"], standalone_mode=False
    )
    rows = [json.loads(line) for line in printed.output.splitlines()]
    assert [row["log_index"] for row in rows] == list(range(12, 32))
    assert {row["operation"] for row in rows} == {"create"}
    wrong = runner.invoke(archive_commands, ["cat", str(tmp_path), "ffffffff00"], standalone_mode=False)
    assert "ffffffff00" in str(wrong.exception)


# --- how long -------------------------------------------------------------------------------------


@pytest.mark.req("WS-54")
def test_segments_go_after_their_days_and_early_when_they_are_too_much(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site = logged(60)
    archive = opened(tmp_path)
    archive_all(archive, site, 10, until=30)
    young = site.stamp_ns + 89 * DAY_NS
    archive.upkeep(young)
    assert archive.segments(site.workspace_id)[0].first_index == 1
    archive.upkeep(site.stamp_ns + 91 * DAY_NS)
    assert archive.segments(site.workspace_id) == ()
    archive = opened(tmp_path)
    archive_all(archive, site, 10)
    size_bytes = archive.size_bytes
    archive = opened(tmp_path, settings=ArchiveSettings(90, size_bytes // 2))
    with caplog.at_level(logging.ERROR):
        archive.upkeep(young)
    left = archive.segments(site.workspace_id)
    assert archive.size_bytes <= size_bytes // 2
    assert left[-1].last_index == 60
    assert archive.early_drops == len(caplog.records) > 0


# --- dying ----------------------------------------------------------------------------------------


@pytest.mark.req("WS-54", "CH-7")
def test_a_node_that_dies_anywhere_has_each_record_in_its_log_or_in_its_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trims are replayed after a start, as long as the flush that followed them did not happen."""
    monkeypatch.setattr(archive_module, "JOIN_AT", 4)
    site = logged(60)
    all_parts = [tuple(part) for part in scan_log(site.store, site.workspace_id, 1)]
    for last in range(400):
        home = tmp_path / f"d{last}"
        home.mkdir()
        disk = DyingDisk()
        archive = opened(home, disk)
        disk.left = last
        try:
            archive_all(archive, site, 4)
            archive.upkeep(site.stamp_ns)
            died = False
        except Died:
            died = True
        disk.cut(home, tmp_path / f"cut{last}")
        again = opened(tmp_path / f"cut{last}")
        assert not again.damaged, f"operation {last}"
        found = records_of(again, site.workspace_id)
        assert found == all_parts[: len(found)], f"operation {last}: no gap, nothing twice"
        archive_all(again, site, 4)
        again.upkeep(site.stamp_ns)
        assert records_of(again, site.workspace_id) == all_parts, f"operation {last}"
        result = CliRunner().invoke(archive_commands, ["verify", str(tmp_path / f"cut{last}")], standalone_mode=False)
        assert result.return_value == 0, f"operation {last}: {result.output}"
        if not died:
            break
    assert not died
    assert last > 40


class WaitingRunner:
    def __init__(self) -> None:
        self.jobs: list[tuple[Job, Done]] = []

    def submit(self, job: Job, done: Done) -> None:
        self.jobs.append((job, done))

    def run(self) -> None:
        while self.jobs:
            job, done = self.jobs.pop(0)
            try:
                job()
            except BaseException as error:
                done(error)
            else:
                done(None)


@pytest.mark.req("WS-54", "CL-7")
def test_a_flush_waits_until_what_it_drops_is_archived(tmp_path: Path) -> None:
    site = logged(30)
    runner = WaitingRunner()
    archive = OplogArchive(str(tmp_path / "a"), PosixDisk(), runner, HISTORY, SETTINGS)
    store = RocksStore(str(tmp_path / "state"), None, Barriers((NoChunks(), archive)))
    records = list(site.store.scan(Family.OPLOG, b"W", b"X"))
    store.write([Change(Family.OPLOG, key, value) for key, value in records])
    scan = store.hold(Family.OPLOG, records[0][0], b"X")
    archive.trimmed(site.workspace_id, len(records), scan)
    store.write([Change(Family.OPLOG, key, None) for key, _ in records])
    store.request_flush()
    assert store.flush_state is FlushState.SYNCING, "the flush waits"
    assert not archive.synced()
    runner.run()
    assert store.flush_state is not FlushState.SYNCING
    assert [record for _, record in records_of(archive, site.workspace_id)] == [value for _, value in records]
    store.close()


def test_records_that_went_with_a_replaced_state_hold_up_nothing(tmp_path: Path) -> None:
    site = logged(10)
    archive = opened(tmp_path)
    gone = held(site, 1)
    gone.end()
    with pytest.raises(TurnedAwayError):
        gone.take(1)
    archive.trimmed(site.workspace_id, 3, gone)
    assert archive.synced()
    assert archive.segments(site.workspace_id) == ()


def test_a_failed_write_is_final(tmp_path: Path) -> None:
    site = logged(10)
    disk = PosixDisk()
    archive = opened(tmp_path, disk)

    def broken(_: str) -> None:
        raise OSError(5, "input/output error")

    disk.fsync_dir = broken  # type: ignore[method-assign]
    archive.trimmed(site.workspace_id, 3, held(site, 1))
    assert not archive.synced()
    with pytest.raises(DiskFailedError, match="archive"):
        archive.sync()


@pytest.mark.req("WS-54")
def test_a_trim_says_which_records_it_removes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oplog, "HAZARD_WINDOW_OPS", 1)
    site = logged(30)
    parts = list(scan_log(site.store, site.workspace_id, 1))
    below = parts[7].first_index
    site.maintain(trim_oplog=TrimOplog(workspace_id=site.workspace_id, below_log_index=below))
    assert site.trimmed == [(site.workspace_id, 1, 7)]
    site.maintain(trim_oplog=TrimOplog(workspace_id=site.workspace_id, below_log_index=below))
    assert len(site.trimmed) == 1
    assert next(scan_log(site.store, site.workspace_id, 1)).first_index == below


def test_a_segment_of_something_else_is_refused(tmp_path: Path) -> None:
    site = logged(10)
    archive = opened(tmp_path)
    archive_all(archive, site, 100)
    (segment,) = archive.segments(site.workspace_id)
    Path(segment.path).write_bytes(b"HCOPARCH" + bytes(200))
    with pytest.raises(DamagedError):
        list(read_segment(PosixDisk(), segment))

"""What apply trims from an op log is in the archive, in the same order, whatever is replayed (WS-54)."""

from __future__ import annotations

from pathlib import Path

import pytest

from hypercluster.node.archiving import Archiving
from hypercluster.node.retention import RetentionSettings
from hypercluster.state_machine.store import Family
from hypercluster.state_machine.workspace import oplog
from hypercluster.state_machine.workspace.oplog import log_floor, scan_log
from hypercluster.storage.archive.archive import ArchiveSettings, OplogArchive
from hypercluster.storage.archive.segment import read_segment
from hypercluster.storage.disk import PosixDisk
from hypercluster.storage.runner import InlineRunner
from tests.fakes.held_records import HeldScan
from tests.unit.node.test_retention import World


@pytest.mark.req("WS-54")
def test_the_log_goes_on_in_the_archive_where_it_was_trimmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oplog, "HAZARD_WINDOW_OPS", 1)
    world = World(RetentionSettings(snapshot_every_s=1, oplog_keep_s=0, oplog_keep_ops=20))
    fatal: list[BaseException] = []
    archive = OplogArchive(str(tmp_path), PosixDisk(), InlineRunner(), b"h" * 16, ArchiveSettings(90, 1 << 40))

    def hold(family: Family, start: bytes, end: bytes) -> HeldScan:
        return HeldScan(world.state, family, start, end)

    archiving = Archiving(archive, hold, InlineRunner(), world.turns, world.metrics, fatal.append)
    world.host._on_trimmed = archiving.trimmed
    everything: list[tuple[int, bytes]] = []
    for _ in range(4):
        world.files(25)
        everything += [tuple(part) for part in scan_log(world.state, world.workspace_id, len(everything) + 1)]
        world.look()
    floor = log_floor(world.state, world.workspace_id)
    assert floor is not None
    assert floor > 50
    archived = [r for part in archive.segments(world.workspace_id) for r in read_segment(PosixDisk(), part)]
    kept = [tuple(part) for part in scan_log(world.state, world.workspace_id, 1)]
    assert archived + kept == everything
    archiving.look()
    assert world.metrics.archive_bytes._value.get() == archive.size_bytes > 0
    world.pass_time(91 * 86_400)
    archiving.look()
    assert archive.segments(world.workspace_id) == ()
    world.files(25)
    world.look()
    assert archive.segments(world.workspace_id)[0].first_index == floor, "the chain goes on"
    assert not fatal

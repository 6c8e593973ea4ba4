"""`hypercluster wal inspect` sees what opening would see, and changes nothing."""

from __future__ import annotations

import random

import pytest

from hypercluster.errors import DamagedError
from hypercluster.storage.wal.format import RecordKind
from hypercluster.storage.wal.inspect import Verdict, inspect, inspect_segment, inspect_segments
from tests.crash.wal_model import DIRECTORY, Driver, open_log, payload
from tests.properties.test_wal_damage import Built, disk_of, flipped, image_of
from tests.simulation.sim_disk import PowerCut, SimDisk


def test_a_sound_log_is_listed_in_full() -> None:
    built = Built(1)
    disk = disk_of(built.image)
    found = inspect(disk, DIRECTORY)
    assert (found.verdict, found.explanation, found.segments) == (Verdict.SOUND, "", (1, 2, 3))
    assert found.hard_state == built.after.hard_state
    assert (found.base_index, found.last_index) == (built.after.base_index, built.after.last_index)
    reports = list(inspect_segments(disk, DIRECTORY))
    assert [report.number for report in reports] == [1, 2, 3]
    assert all(report.damage is None and report.header is not None for report in reports)
    indexes = [
        one.index
        for report in reports
        for group in report.groups
        for one in group.records
        if one.kind is RecordKind.ENTRY
    ]
    assert indexes == [1, 2, 3, 4, 4, 5, 6, 7, 8, 9, 10, 11]
    votes = [one.voted_for for report in reports for group in report.groups for one in group.records if one.voted_for]
    assert votes[0] == "n1" and "n2" in votes
    for report in reports:
        for before, after in zip(report.groups, report.groups[1:], strict=False):
            assert before.end == after.offset and after.durable_offset <= after.offset
            assert after.number == before.number + 1
    assert disk.operation_count == disk_of(built.image).operation_count
    assert image_of(disk) == built.image


@pytest.mark.req("CL-3")
def test_damage_is_named_and_nothing_is_changed() -> None:
    built = Built(2)
    image = flipped(built.image, built.segments[1], 2000, 4)
    disk = disk_of(image)
    found = inspect(disk, DIRECTORY)
    assert found.verdict is Verdict.DAMAGED
    with pytest.raises(DamagedError) as caught:
        open_log(disk)
    assert found.explanation == str(caught.value)
    assert built.segments[1] in found.explanation and "offset" in found.explanation
    report = inspect_segment(disk, DIRECTORY, 2)
    assert report.damage is not None and not report.damage.torn
    assert report.end == report.damage.offset <= 2000
    assert image_of(disk) == image


def test_a_segment_without_a_header_is_reported_not_raised() -> None:
    built = Built(3)
    disk = disk_of({**built.image, built.segments[0]: b"short"})
    report = inspect_segment(disk, DIRECTORY, 1)
    assert report.header is None and report.damage is not None and "shorter" in report.damage.what
    assert inspect(disk, DIRECTORY).verdict is Verdict.DAMAGED


def test_a_torn_tail_is_told_from_damage() -> None:
    for seed in range(50):
        disk = SimDisk(random.Random(seed))
        driver = Driver(open_log(disk)[0])
        driver.append(payload(random.Random(1), 2500))
        disk.cut_power_at(2)
        with pytest.raises(PowerCut):
            driver.sync()
        disk.crash()
        found = inspect(disk, DIRECTORY)
        assert found.verdict in (Verdict.SOUND, Verdict.TORN)
        if found.verdict is Verdict.TORN:
            assert "behind entry 0" in found.explanation
            report = inspect_segment(disk, DIRECTORY, 1)
            assert report.damage is not None and report.damage.torn
            assert open_log(disk)[1].torn_bytes == report.damage.bytes_total
            return
    pytest.fail("no seed tore the write")


def test_an_empty_directory() -> None:
    disk = SimDisk(random.Random(1))
    disk.mkdir(DIRECTORY)
    assert inspect(disk, DIRECTORY).verdict is Verdict.EMPTY

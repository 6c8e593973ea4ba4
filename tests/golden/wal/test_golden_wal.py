"""Logs that releases wrote must open for ever, and read as what was written into them."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from hypercluster.storage.disk import PosixDisk
from hypercluster.storage.wal.format import FORMAT_VERSION, RecordKind
from hypercluster.storage.wal.inspect import Verdict, inspect, inspect_segments
from tests.crash.wal_model import Driver, open_log, payload, read_back
from tests.golden.wal import make_v1

V1 = Path(__file__).with_name("v1")
SCRIPTS = {"log": make_v1.write, "reset": make_v1.write_reset}


@pytest.mark.req("CL-3")
@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_version_1_opens_and_goes_on(name: str, tmp_path: Path) -> None:
    fresh, _ = open_log(PosixDisk(), f"{tmp_path}/fresh")
    wanted = Driver(fresh)
    SCRIPTS[name](wanted)
    fresh.close()
    directory = str(tmp_path / "old")
    shutil.copytree(V1 / name, directory)
    assert inspect(PosixDisk(), directory).verdict is Verdict.SOUND
    wal, report = open_log(PosixDisk(), directory)
    assert report.torn_bytes == 0
    assert read_back(wal) == wanted.now
    driver = Driver(wal)
    driver.append(payload(random.Random(3), 2000), b"more")
    driver.sync()
    wal.close()
    again, _ = open_log(PosixDisk(), directory)
    assert read_back(again).same_log(driver.now)
    again.close()


def test_the_golden_directory_holds_every_kind_of_record() -> None:
    kinds = {
        one.kind
        for name in SCRIPTS
        for segment in inspect_segments(PosixDisk(), str(V1 / name))
        for group in segment.groups
        for one in group.records
    }
    assert kinds == set(RecordKind)
    assert FORMAT_VERSION == 1, "a new version gets its own golden directory"


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_version_1_is_still_written_byte_for_byte(name: str, tmp_path: Path) -> None:
    """Formats change on purpose only."""
    make_v1.make(str(tmp_path))
    for file in sorted((V1 / name).glob("*.wal")):
        assert (tmp_path / name / file.name).read_bytes() == file.read_bytes()

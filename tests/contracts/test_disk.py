"""What every `Disk` promises: PosixDisk and the simulated one pass the same tests."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from hypercluster.storage.disk import Disk, PosixDisk
from tests.simulation.sim_disk import SimDisk

DISKS: dict[str, Callable[[], Disk]] = {"posix": PosixDisk, "simulated": lambda: SimDisk(random.Random(1))}


@pytest.fixture(params=sorted(DISKS))
def disk(request: pytest.FixtureRequest) -> Disk:
    return DISKS[request.param]()


@pytest.fixture
def top(disk: Disk, tmp_path: Path) -> str:
    path = f"{tmp_path}/top"
    disk.mkdir(path)
    return path


def test_a_new_file_is_empty_and_made_once(disk: Disk, top: str) -> None:
    file = disk.open(f"{top}/a", create=True)
    assert file.size() == 0
    assert file.pread(10, 0) == b""
    file.close()
    with pytest.raises(FileExistsError):
        disk.open(f"{top}/a", create=True)
    with pytest.raises(FileNotFoundError):
        disk.open(f"{top}/b")


def test_writes_are_read_back_also_through_another_handle(disk: Disk, top: str) -> None:
    file = disk.open(f"{top}/a", create=True)
    other = disk.open(f"{top}/a")
    file.pwrite(b"hello", 3)
    assert other.pread(100, 0) == b"\0\0\0hello"
    assert other.pread(3, 4) == b"ell"
    assert other.pread(3, 7) == b"o"
    assert other.pread(3, 8) == b""
    other.pwrite(b"J", 3)
    assert file.pread(5, 3) == b"Jello"
    assert file.size() == other.size() == 8
    file.fdatasync()
    file.fsync()
    assert other.pread(5, 3) == b"Jello"
    file.close()
    other.close()


def test_truncate_cuts_and_extends_with_zeros(disk: Disk, top: str) -> None:
    file = disk.open(f"{top}/a", create=True)
    file.pwrite(b"x" * 1000, 0)
    file.truncate(10)
    file.truncate(600)
    assert file.pread(1000, 0) == b"x" * 10 + bytes(590)
    assert file.size() == 600
    file.close()


def test_a_file_that_is_closed_twice_closes_nobody_elses(disk: Disk, top: str) -> None:
    """The next one that is opened has its number."""
    file = disk.open(f"{top}/a", create=True)
    file.close()
    other = disk.open(f"{top}/b", create=True)
    file.close()
    other.pwrite(b"still here", 0)
    assert other.pread(100, 0) == b"still here"
    other.close()


def test_a_closed_file_is_dead(disk: Disk, top: str) -> None:
    file = disk.open(f"{top}/a", create=True)
    file.close()
    with pytest.raises(OSError):
        file.pread(1, 0)


def test_names(disk: Disk, top: str) -> None:
    for name in ("b", "a", "c"):
        disk.open(f"{top}/{name}", create=True).close()
    disk.mkdir(f"{top}/deep/er")
    disk.mkdir(f"{top}/deep/er")
    assert disk.listdir(top) == ["a", "b", "c", "deep"]
    assert disk.exists(f"{top}/deep/er") and disk.exists(f"{top}/a")
    assert not disk.exists(f"{top}/d") and not disk.exists(f"{top}/a/x")
    disk.unlink(f"{top}/a")
    assert disk.listdir(top) == ["b", "c", "deep"]
    with pytest.raises(FileNotFoundError):
        disk.unlink(f"{top}/a")
    with pytest.raises(FileNotFoundError):
        disk.listdir(f"{top}/nowhere")
    with pytest.raises(FileNotFoundError):
        disk.fsync_dir(f"{top}/nowhere")
    disk.fsync_dir(top)


def test_rename_replaces_a_file_and_moves_a_directory(disk: Disk, top: str) -> None:
    for name in ("a", "b"):
        file = disk.open(f"{top}/{name}", create=True)
        file.pwrite(name.encode(), 0)
        file.close()
    disk.rename(f"{top}/a", f"{top}/b")
    assert disk.listdir(top) == ["b"]
    moved = disk.open(f"{top}/b")
    assert moved.pread(1, 0) == b"a"
    moved.close()
    disk.mkdir(f"{top}/staging")
    disk.open(f"{top}/staging/x", create=True).close()
    disk.rename(f"{top}/staging", f"{top}/final")
    assert disk.listdir(f"{top}/final") == ["x"]
    disk.mkdir(f"{top}/other")
    disk.rename(f"{top}/other", f"{top}/other2")
    with pytest.raises(OSError):
        disk.rename(f"{top}/other2", f"{top}/final")
    with pytest.raises(FileNotFoundError):
        disk.rename(f"{top}/gone", f"{top}/x")


def test_an_unlinked_file_stays_readable_while_it_is_open(disk: Disk, top: str) -> None:
    file = disk.open(f"{top}/a", create=True)
    file.pwrite(b"kept", 0)
    disk.unlink(f"{top}/a")
    assert file.pread(4, 0) == b"kept"
    file.close()


def test_free_bytes_is_positive(disk: Disk, top: str) -> None:
    assert disk.free_bytes(top) > 0

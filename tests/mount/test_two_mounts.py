"""Two mounts of one workspace: what one host does, the other sees, in order and whole."""

from __future__ import annotations

import mmap
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from tests.mount.calls import refusal
from tests.mount.mounts import NEEDS, Mount, within

pytestmark = NEEDS

RACES = 25
LINES = 40


@pytest.mark.req("WS-1")
def test_what_one_wrote_the_other_reads(places: tuple[Path, Path]) -> None:
    a, b = places
    content = os.urandom(200_000)
    (a / "f").write_bytes(content)
    within(lambda: (b / "f").stat().st_size == len(content), "the file is there")
    assert (b / "f").read_bytes() == content
    assert os.stat(a / "f").st_ino == os.stat(b / "f").st_ino  # WS-10
    (b / "f").unlink()
    within(lambda: not (a / "f").exists(), "it is gone on the first one, too")


@pytest.mark.req("WS-2")
def test_behind_a_barrier_everything_acknowledged_is_there(
    places: tuple[Path, Path], mounts: tuple[Mount, Mount]
) -> None:
    a, b = places
    for number in range(20):
        (a / "f").write_bytes(b"%d" % number)
        index = int(os.getxattr(a / "f", "user.hypercluster.log_index"))
        assert int(os.getxattr(mounts[1].path, "user.hypercluster.barrier")) >= index
        assert (b / "f").read_bytes() == b"%d" % number


@pytest.mark.req("WS-22")
def test_one_of_eight_creates_the_file(places: tuple[Path, Path]) -> None:
    """The lock files of git stand on it."""
    gate = Barrier(8)

    def contend(number: int, race: int) -> bool:
        gate.wait()
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
        try:
            fd = os.open(places[number % 2] / f"lock-{race}", flags)
        except FileExistsError:
            assert (places[number % 2] / f"lock-{race}").exists()  # who loses sees what won
            return False
        os.write(fd, b"%d" % number)
        os.close(fd)
        return True

    with ThreadPoolExecutor(8) as pool:
        for race in range(RACES):
            won = list(pool.map(lambda number, race=race: contend(number, race), range(8)))  # type: ignore[misc]
            assert won.count(True) == 1
            wanted = b"%d" % won.index(True)
            for place in places:
                within(lambda path=place / f"lock-{race}", wanted=wanted: path.read_bytes() == wanted, "the winner's")  # type: ignore[misc]


@pytest.mark.req("WS-22")
def test_appends_of_two_hosts_never_overlap(places: tuple[Path, Path]) -> None:
    (places[0] / "log").write_bytes(b"")
    within((places[1] / "log").exists, "both have the file")

    def append(number: int) -> None:
        fd = os.open(places[number % 2] / "log", os.O_WRONLY | os.O_APPEND)
        for line in range(LINES):
            os.write(fd, f"{number}:{line}:{'x' * (number * 10 + line)}\n".encode())
        os.close(fd)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(append, range(4)))
    wanted = sorted(f"{n}:{i}:{'x' * (n * 10 + i)}" for n in range(4) for i in range(LINES))
    for place in places:
        within(lambda place=place: sorted((place / "log").read_text().splitlines()) == wanted, "every line, whole")  # type: ignore[misc]


@pytest.mark.req("WS-21", "WS-62")
def test_a_mapping_keeps_its_file_when_another_host_replaces_it(places: tuple[Path, Path]) -> None:
    """The kernel's pages belong to the file, not to its name: git maps an index that others rename over."""
    a, b = places
    size = 64 * mmap.PAGESIZE
    (a / "index").write_bytes(b"o" * size)
    with open(a / "index", "rb") as file:
        old = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ)
    assert old[0] == ord("o")
    within(lambda: (b / "index").stat().st_size == size, "the other host has it")
    (b / "index.lock").write_bytes(b"n" * size)
    os.rename(b / "index.lock", b / "index")
    within(lambda: (a / "index").read_bytes()[:1] == b"n", "the new one is here")
    with open(a / "index", "rb") as file:
        new = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ)
    assert old[:] == b"o" * size and new[:] == b"n" * size  # pages are read now, first of the old one


@pytest.mark.req("WS-62")
def test_what_is_cached_goes_when_another_host_writes(places: tuple[Path, Path]) -> None:
    a, b = places
    (a / "f").write_bytes(b"1" * 100_000)
    within(lambda: (b / "f").stat().st_size == 100_000, "the other host has it")
    with open(b / "f", "rb", buffering=0) as reader:
        shared = mmap.mmap(reader.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ)
        assert shared[50_000] == ord("1") and len(reader.read()) == 100_000
        before = os.stat(a / "f")
        with open(a / "f", "r+b", buffering=0) as writer:
            os.pwrite(writer.fileno(), b"2", 50_000)
        os.utime(a / "f", ns=(before.st_atime_ns, before.st_mtime_ns))  # times do not give it away
        index = int(os.getxattr(a / "f", "user.hypercluster.log_index"))
        within(lambda: int(os.getxattr(b / "f", "user.hypercluster.log_index")) >= index, "both changes are here")
        assert shared[50_000] == ord("2") and os.pread(reader.fileno(), 1, 50_000) == b"2"


@pytest.mark.req("WS-62")
def test_attributes_that_another_host_changes_are_not_kept(places: tuple[Path, Path]) -> None:
    """fstat names no path, so nothing but the invalidation tells the kernel."""
    a, b = places
    (a / "f").write_bytes(b"1")
    within(lambda: os.stat(b / "f").st_size == 1, "the other host has it")
    file, directory = os.open(b / "f", os.O_RDONLY), os.open(b, os.O_RDONLY | os.O_DIRECTORY)
    assert os.fstat(file).st_size == 1 and os.fstat(directory).st_nlink == 2
    os.chmod(a / "f", 0o711)
    (a / "f").write_bytes(b"22")
    (a / "d").mkdir()
    within(lambda: os.fstat(directory).st_nlink == 3, "the directory has another one", 5.0)
    assert os.fstat(file).st_size == 2 and os.fstat(file).st_mode & 0o777 == 0o711
    os.unlink(a / "f")
    within(lambda: os.fstat(file).st_nlink == 0, "and no name", 5.0)
    os.close(file)
    os.close(directory)


@pytest.mark.req("WS-21")
def test_a_directory_that_another_host_renames_stays_the_one_that_was_meant(places: tuple[Path, Path]) -> None:
    a, b = places
    (a / "d").mkdir()
    directory = os.open(a / "d", os.O_RDONLY | os.O_DIRECTORY)
    within((b / "d").is_dir, "the other host has it")
    os.rename(b / "d", b / "e")
    (b / "d").mkdir()
    within((a / "e").is_dir, "renamed here, too")
    os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=directory))
    assert os.listdir(a / "e") == ["f"] and os.listdir(a / "d") == []
    os.close(directory)


@pytest.mark.req("WS-21")
def test_a_file_removed_elsewhere_is_written_to_its_end(places: tuple[Path, Path]) -> None:
    a, b = places
    (a / "f").write_bytes(b"one")
    with open(a / "f", "r+b", buffering=0) as file:
        within((b / "f").exists, "the other host has it")
        (b / "f").unlink()
        within(lambda: not (a / "f").exists(), "gone by name")
        os.pwrite(file.fileno(), b"two", 3)
        assert os.pread(file.fileno(), 10, 0) == b"onetwo"
    assert refusal(os.stat, a / "f") == "ENOENT"

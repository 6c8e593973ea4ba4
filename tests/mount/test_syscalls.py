"""Each logged operation and each refusal by a real system call on a mount, against a cluster of three nodes."""

from __future__ import annotations

import errno
import json
import mmap
import os
import stat
from pathlib import Path

import pytest

from hypercluster.limits import SYMLINK_TARGET_BYTES_MAX
from tests.mount.calls import RENAME_EXCHANGE, RENAME_NOREPLACE, fallocate, refusal, renameat2
from tests.mount.mounts import NEEDS, Mount

pytestmark = NEEDS


@pytest.mark.req("WS-20", "WS-62")
def test_names(place: Path, mounts: tuple[Mount, Mount]) -> None:
    os.mkdir(place / "d", 0o750)
    (place / "d" / "f").write_bytes(b"one")
    os.symlink("d/f", place / "s")
    os.link(place / "d" / "f", place / "h")
    assert (place / "s").read_bytes() == b"one" and os.readlink(place / "s") == "d/f"
    found = os.stat(place / "h")
    assert found.st_nlink == 2 and found.st_ino == os.stat(place / "d" / "f").st_ino
    assert stat.S_IMODE(os.stat(place / "d").st_mode) == 0o750
    os.rename(place / "d", place / "e")
    os.unlink(place / "e" / "f")
    os.rmdir(place / "e")
    assert sorted(os.listdir(place)) == ["h", "s"]
    number = int(os.getxattr(place / "h", "user.hypercluster.log_index"))
    assert 0 < number <= json.loads(os.getxattr(mounts[0].path, "user.hypercluster.status"))["applied_index"]


@pytest.mark.req("WS-21")
def test_refusals_of_names(place: Path) -> None:
    (place / "f").write_bytes(b"")
    (place / "full" / "in").mkdir(parents=True)
    (place / "empty").mkdir()
    assert refusal(os.open, place / "none", os.O_RDONLY) == "ENOENT"
    assert refusal(os.open, place / "none" / "f", os.O_CREAT | os.O_WRONLY) == "ENOENT"
    assert refusal(os.open, place / "f" / "x", os.O_RDONLY) == "ENOTDIR"
    assert refusal(os.open, place / "full", os.O_WRONLY) == "EISDIR"
    assert refusal(os.open, place / "f", os.O_CREAT | os.O_EXCL | os.O_WRONLY) == "EEXIST"
    assert refusal(os.open, place / ("n" * 256), os.O_CREAT | os.O_WRONLY) == "ENAMETOOLONG"
    assert refusal(os.mkdir, place / "f") == "EEXIST"
    assert refusal(os.rmdir, place / "full") == "ENOTEMPTY"
    assert refusal(os.rmdir, place / "f") == "ENOTDIR"
    assert refusal(os.unlink, place / "full") == "EISDIR"
    assert refusal(os.rename, place / "full", place / "full" / "in" / "x") == "EINVAL"
    assert refusal(os.rename, place / "f", place / "empty") == "EISDIR"
    assert refusal(os.rename, place / "empty", place / "f") == "ENOTDIR"
    assert refusal(os.rename, place / "empty", place / "full") == "ENOTEMPTY"
    assert refusal(os.rename, place / "full", place / "empty") == "ok"  # over an empty directory
    assert refusal(os.link, place / "f", place / "f") == "EEXIST"
    assert refusal(os.symlink, "x" * (SYMLINK_TARGET_BYTES_MAX + 1), place / "s") == "ENAMETOOLONG"
    assert refusal(os.rename, place / "f", "/dev/shm/elsewhere") == "EXDEV"


@pytest.mark.req("WS-23")
def test_what_is_not_supported(place: Path) -> None:
    for name in ("one", "two"):
        (place / name).write_bytes(name.encode())
    assert refusal(os.mkfifo, place / "fifo") == "ENOTSUP"
    assert refusal(os.mknod, place / "node", 0o600 | stat.S_IFREG) == "ENOTSUP"
    assert refusal(renameat2, place / "one", place / "two", RENAME_EXCHANGE) == "ENOTSUP"
    assert refusal(renameat2, place / "one", place / "two", RENAME_NOREPLACE) == "EEXIST"
    assert refusal(renameat2, place / "one", place / "three", RENAME_NOREPLACE) == "ok"
    with open(place / "two", "r+b") as file:
        assert refusal(fallocate, file.fileno(), 0, 0, 4096) == "ENOTSUP"
    assert os.listdir(place) == ["three", "two"]


@pytest.mark.req("WS-13", "WS-20")
def test_content(place: Path) -> None:
    path = place / "f"
    big = os.urandom(3_000_000)  # several commands, each of up to 16 chunks
    with open(path, "wb", buffering=0) as file:
        assert file.write(big[:2_000_000]) > 0
        os.pwrite(file.fileno(), big, 0)
    assert path.read_bytes() == big
    with open(path, "r+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"middle", 1_000_001)
        os.ftruncate(file.fileno(), 2_500_000)
        os.pwrite(file.fileno(), b"far", 4_000_000)
        os.fsync(file.fileno())
        os.fdatasync(file.fileno())
    wanted = bytearray(big[:2_500_000])
    wanted[1_000_001:1_000_007] = b"middle"
    assert path.read_bytes() == bytes(wanted) + bytes(1_500_000) + b"far"  # holes read as zero
    assert os.stat(path).st_blocks == -(-4_000_003 // 512)
    os.truncate(path, 0)
    assert path.read_bytes() == b""
    with open(path, "wb") as file:  # O_TRUNC on something
        file.write(b"x")
    with open(path, "wb"):
        pass
    assert os.stat(path).st_size == 0


@pytest.mark.req("WS-26")
def test_a_directory_is_synced(place: Path) -> None:
    before = int(os.getxattr(place, "user.hypercluster.log_index"))
    directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(directory)
    os.close(directory)
    assert int(os.getxattr(place, "user.hypercluster.log_index")) == before  # it changes nothing


@pytest.mark.req("WS-15", "WS-20")
def test_metadata(place: Path) -> None:
    path = place / "f"
    path.write_bytes(b"")
    os.chmod(path, 0o4711)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o4711
    os.utime(path, ns=(1, 1_234_567_890_123_456_789))
    assert os.stat(path).st_mtime_ns == 1_234_567_890_123_456_789
    os.utime(path)
    assert os.stat(path).st_mtime_ns > 1_234_567_890_123_456_789
    os.chown(path, os.stat(path).st_uid, -1)
    assert refusal(os.chown, path, 12_345, -1) == "EPERM"  # the workspace has one uid


@pytest.mark.req("WS-24")
def test_attributes(place: Path) -> None:
    path = place / "f"
    path.write_bytes(b"")
    os.setxattr(path, "user.b", b"2")
    os.setxattr(path, "user.a", b"\0" * 65_536)
    own = [name for name in os.listxattr(path) if not name.startswith("user.hypercluster.")]
    assert own == ["user.a", "user.b"] and os.getxattr(path, "user.b") == b"2"
    assert len(os.getxattr(path, "user.a")) == 65_536
    assert refusal(os.setxattr, path, "user.a", b"", os.XATTR_CREATE) == "EEXIST"
    assert refusal(os.setxattr, path, "user.c", b"", os.XATTR_REPLACE) == "ENODATA"
    assert refusal(os.setxattr, path, "user.d", b"\0" * 65_537) == "E2BIG"
    assert refusal(os.setxattr, path, "user." + "n" * 251, b"") == "ERANGE"
    assert refusal(os.setxattr, path, "trusted.a", b"") == "ENOTSUP"
    os.removexattr(path, "user.b")
    assert refusal(os.getxattr, path, "user.b") == "ENODATA"
    for number in range(14):
        os.setxattr(path, f"user.big{number}", b"\0" * 65_536)
    assert refusal(os.setxattr, path, "user.big14", b"\0" * 65_536) == "ENOSPC"  # 1 MiB in all, with names


@pytest.mark.req("WS-62")
def test_what_a_mount_says_of_itself(place: Path, mounts: tuple[Mount, Mount]) -> None:
    root, file = mounts[0].path, place / "f"
    file.write_bytes(b"")
    named = {name.removeprefix("user.hypercluster.") for name in os.listxattr(root)}
    assert named == {"inode_id", "log_index", "root", "status", "why"}
    assert os.getxattr(root, "user.hypercluster.why") == b""
    status = json.loads(os.getxattr(root, "user.hypercluster.status"))
    assert status["workspace"] == "demo" and status["pid"] == mounts[0].worker()
    assert len(os.getxattr(file, "user.hypercluster.inode_id")) == 32
    assert refusal(os.setxattr, file, "user.hypercluster.root", b"x") == "EPERM"
    assert refusal(os.removexattr, file, "user.hypercluster.root") == "EPERM"
    assert refusal(os.getxattr, file, "user.hypercluster.why") == "ENODATA"


@pytest.mark.req("WS-16")
def test_entries_come_sorted_by_their_bytes(place: Path) -> None:
    names = [b"b", b"B", b"a", b"\xff\xfe", b"\xc3\xa4", b".hidden", b"!", b"a.b", b"a b"]
    names += [b"n%03d" % number for number in range(300)]  # more than one answer of readdir holds
    for name in names:
        os.close(os.open(os.fsencode(place) + b"/" + name, os.O_CREAT | os.O_WRONLY))
    assert os.listdir(os.fsencode(place)) == sorted(names)


@pytest.mark.req("WS-21", "WS-62")
def test_an_open_file_outlives_its_names(place: Path) -> None:
    with open(place / "f", "w+b", buffering=0) as file:
        file.write(b"hello")
        os.rename(place / "f", place / "g")
        file.write(b" there")
        os.unlink(place / "g")
        assert os.listdir(place) == []  # no .fuse_hidden either
        file.write(b" again")
        assert os.pread(file.fileno(), 100, 0) == b"hello there again"
        assert os.fstat(file.fileno()).st_nlink == 0


@pytest.mark.req("WS-21")
def test_a_rename_over_an_open_file_leaves_it_to_its_reader(place: Path) -> None:
    (place / "f").write_bytes(b"old")
    with open(place / "f", "rb", buffering=0) as reader:
        (place / "new").write_bytes(b"new")
        os.rename(place / "new", place / "f")
        assert reader.read() == b"old" and (place / "f").read_bytes() == b"new"


@pytest.mark.req("WS-62")
def test_mappings_are_for_reading(place: Path) -> None:
    path = place / "f"
    path.write_bytes(b"x" * 100_000)
    reader, writer = os.open(path, os.O_RDONLY), os.open(path, os.O_RDWR)
    private = mmap.mmap(reader, 0, mmap.MAP_PRIVATE, mmap.PROT_READ)
    shared = mmap.mmap(reader, 0, mmap.MAP_SHARED, mmap.PROT_READ)
    assert private[:2] == shared[:2] == b"xx"
    os.pwrite(writer, b"yy", 0)
    assert shared[:3] == b"yyx" and os.pread(reader, 3, 0) == b"yyx"  # nothing stale is left in the kernel
    with pytest.raises(OSError) as refused:
        mmap.mmap(writer, 0, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    assert refused.value.errno == errno.ENODEV
    os.close(reader)
    os.close(writer)


@pytest.mark.req("WS-25")
def test_a_symlink_that_leads_out_is_kept_and_named(place: Path, mounts: tuple[Mount, Mount]) -> None:
    os.symlink(place / "f", place / "inside")
    os.symlink("../../elsewhere", place / "relative")
    os.symlink("/srv/elsewhere", place / "outside")
    assert os.readlink(place / "outside") == "/srv/elsewhere"
    said = [line for line in mounts[0].log.read_text().splitlines() if "other hosts may not have" in line]
    assert len(said) == 1 and "outside" in said[0] and f"pid {os.getpid()}" in said[0]


@pytest.mark.req("WS-6")
def test_a_foreign_uid_is_refused_and_named(place: Path, mounts: tuple[Mount, Mount]) -> None:
    (place / "f").write_bytes(b"secret")
    os.chmod(place / "f", 0o666)
    os.chmod(place, 0o777)
    child = os.fork()
    if child == 0:
        os.chdir(place)  # the way to it is closed to others already
        os.setgid(4_242)
        os.setuid(4_242)
        answers = (refusal(os.stat, "f"), refusal(os.open, "f", os.O_RDONLY), refusal(os.mkdir, "d"))
        os._exit(0 if answers == ("EACCES",) * 3 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert "uid 4242" in mounts[0].log.read_text()


def test_space_is_answered(place: Path) -> None:
    before = os.statvfs(place)
    (place / "f").write_bytes(b"x" * 1_000_000)
    after = os.statvfs(place)
    assert after.f_namemax == 255 and after.f_blocks - after.f_bfree > before.f_blocks - before.f_bfree

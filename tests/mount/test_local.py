"""Paths that stay on their host, through real mounts (WS-56): what is local, what is not, and what may not cross."""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import resource
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hypercluster.client.client import Client
from hypercluster.pb.v1.coordination_command_pb2 import WorkspaceSet
from tests.mount.calls import refusal
from tests.mount.mounts import NEEDS, LocalCluster, Mount, within

pytestmark = [*NEEDS, pytest.mark.req("WS-56")]

PATTERNS = b"build/\n*.o\n!keep.o\n/later/\n"
BARRIER = "user.hypercluster.barrier"
LOCAL = "user.hypercluster.local"
LOCAL_BIT = 1 << 63


def set_patterns(cluster: LocalCluster, text: bytes) -> None:
    async def change(client: Client) -> None:
        await (await client.open_workspace("locals")).change_settings(WorkspaceSet(local_patterns=text))

    cluster.with_client(change)


@pytest.fixture(scope="module")
def pair(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Mount, Mount]]:
    cluster.make_workspace("locals")
    set_patterns(cluster, PATTERNS)
    base = tmp_path_factory.mktemp("locals")
    with Mount(cluster, base, "locals", "la") as a, Mount(cluster, base, "locals", "lb") as b:
        yield a, b


@pytest.fixture
def both(pair: tuple[Mount, Mount], request: pytest.FixtureRequest) -> tuple[Path, Path]:
    name = request.node.name.replace("test_", "")[:60]
    a, b = (mount.path / name for mount in pair)
    a.mkdir()
    within(b.is_dir, "the second mount has the directory")
    return a, b


def seen(path: Path) -> list[str]:
    """After whatever was acknowledged anywhere is here."""
    top = next(above for above in [path, *path.parents] if above.is_mount())
    os.getxattr(top, BARRIER)
    return sorted(os.listdir(path))


def index(path: Path) -> int:
    top = next(above for above in [path, *path.parents] if above.is_mount())
    return int(os.getxattr(top, BARRIER))


def test_what_matches_is_on_its_host_alone(both: tuple[Path, Path]) -> None:
    a, b = both
    before = index(a)
    (a / "build" / "deep").mkdir(parents=True)
    (a / "build" / "deep" / "f").write_bytes(b"local")
    (a / "x.o").write_bytes(b"object")
    os.symlink("x.o", a / "build" / "s")
    assert index(a) == before  # nothing of it was logged
    (a / "keep.o").write_bytes(b"replicated")
    (a / "f").write_bytes(b"replicated")
    assert seen(a) == ["build", "f", "keep.o", "x.o"] and seen(b) == ["f", "keep.o"]
    (b / "build").mkdir()
    (b / "build" / "other").write_bytes(b"")
    assert seen(a / "build") == ["deep", "s"] and seen(b / "build") == ["other"]
    assert (a / "build" / "deep" / "f").read_bytes() == b"local" and os.readlink(a / "build" / "s") == "x.o"
    where = Path(os.fsdecode(os.getxattr(a / "build" / "deep" / "f", LOCAL)))
    assert where.read_bytes() == b"local"


def test_their_numbers_can_not_be_those_of_the_tree(both: tuple[Path, Path]) -> None:
    a, _ = both
    (a / "build").mkdir()
    (a / "x.o").write_bytes(b"")
    (a / "f").write_bytes(b"")
    for path in (a / "build", a / "x.o"):
        assert os.stat(path).st_ino & LOCAL_BIT
    assert not os.stat(a / "f").st_ino & LOCAL_BIT and not os.stat(a).st_ino & LOCAL_BIT
    listed = {entry.name: entry.inode() for entry in os.scandir(a)}
    assert listed == {name: os.stat(a / name).st_ino for name in ("build", "x.o", "f")}
    os.link(a / "x.o", a / "y.o")
    assert os.path.samefile(a / "x.o", a / "y.o") and os.stat(a / "y.o").st_nlink == 2


def test_nothing_crosses_by_rename_or_link(both: tuple[Path, Path]) -> None:
    a, b = both
    (a / "build").mkdir()
    (a / "build" / "l").write_bytes(b"local")
    (a / "x.o").write_bytes(b"object")
    (a / "f").write_bytes(b"replicated")
    (a / "d").mkdir()
    for source, target in (
        ("f", "f.o"), ("f", "build/f"), ("f", "x.o"), ("x.o", "x"), ("build/l", "l"), ("build/l", "f"),
        ("d", "build/d"), ("d", "d/build"), ("build", "d2"),
    ):  # fmt: skip
        wanted = "EINVAL" if target == "d/build" else "EXDEV"
        assert refusal(os.rename, a / source, a / target) == wanted, (source, target)
    for source, target in (("f", "f.o"), ("f", "build/f"), ("x.o", "x"), ("build/l", "l")):
        assert refusal(os.link, a / source, a / target) == "EXDEV", (source, target)
    assert refusal(os.link, a / "f", a / "x.o") == "EEXIST" == refusal(os.link, a / "x.o", a / "f")
    os.symlink("../f", a / "build" / "to-replicated")
    os.symlink("build/l", a / "to-local")
    assert (a / "build" / "to-replicated").read_bytes() == b"replicated" and (a / "to-local").read_bytes() == b"local"
    assert seen(b) == ["d", "f", "to-local"] and os.readlink(b / "to-local") == "build/l"
    subprocess.run(["mv", a / "f", a / "build" / "f"], check=True)  # a program that copies
    assert seen(b) == ["d", "to-local"] and (a / "build" / "f").read_bytes() == b"replicated"


def test_within_the_host_everything_works(both: tuple[Path, Path]) -> None:
    a, _ = both
    (a / "build" / "one").mkdir(parents=True)
    (a / "build" / "two").mkdir()
    (a / "d").mkdir()
    one, two = a / "build" / "one", a / "build" / "two"
    (one / "f").write_bytes(b"1")
    held = os.open(one / "f", os.O_RDWR)
    os.rename(one / "f", two / "g")
    os.rename(two, one / "two")  # with what is in it
    assert os.pread(held, 1, 0) == b"1" and (one / "two" / "g").read_bytes() == b"1"
    (one / "h").write_bytes(b"22")
    os.rename(one / "h", one / "two" / "g")  # over an open one
    assert os.pread(held, 1, 0) == b"1" and os.fstat(held).st_nlink == 0
    os.ftruncate(held, 5)
    assert os.fstat(held).st_size == 5
    os.close(held)
    os.rename(a / "build", a / "d" / "build")  # to another replicated directory
    g = a / "d" / "build" / "one" / "two" / "g"
    assert g.read_bytes() == b"22" and not (a / "build").exists()
    os.chmod(g, 0o400)
    os.utime(g, ns=(1, 123_456_789))
    os.truncate(g, 1)
    os.setxattr(g, "user.x", b"y")
    status = os.stat(g)
    assert (status.st_mode & 0o777, status.st_size) == (0o400, 1) and os.getxattr(g, "user.x") == b"y"
    assert sorted(os.listxattr(g)) == [LOCAL, "user.x"] and os.stat(g.parent).st_ino & LOCAL_BIT
    assert refusal(os.rename, a / "d" / "build", a / "d" / "build" / "one" / "sub") == "EINVAL"
    assert refusal(os.rmdir, g.parent) == "ENOTEMPTY" and refusal(os.mkdir, g.parent) == "EEXIST"
    assert refusal(os.unlink, g.parent) in {"EISDIR", "EPERM"} and refusal(os.rmdir, g) == "ENOTDIR"
    assert refusal(os.open, g, os.O_CREAT | os.O_EXCL | os.O_WRONLY) == "EEXIST"
    assert refusal(os.chown, g, 4_711, -1) in {"EPERM", "EACCES"}
    with open(g.parent / "log", "ab", buffering=0) as log:
        log.write(b"one")
        log.write(b"two")
    assert (g.parent / "log").read_bytes() == b"onetwo"


def test_a_directory_takes_what_is_local_along(both: tuple[Path, Path]) -> None:
    """Also when another host renames it; and it is not empty here."""
    a, b = both
    (a / "d" / "build").mkdir(parents=True)
    (a / "d" / "build" / "f").write_bytes(b"local")
    os.rename(a / "d", a / "e")
    assert (a / "e" / "build" / "f").read_bytes() == b"local"
    within((b / "e").is_dir, "the other host has it")
    os.rename(b / "e", b / "g")
    assert seen(a) == ["g"] and (a / "g" / "build" / "f").read_bytes() == b"local"
    assert refusal(os.rmdir, a / "g") == "ENOTEMPTY"
    (a / "h").mkdir()
    assert refusal(os.rename, a / "h", a / "g") == "ENOTEMPTY"
    assert seen(b) == ["g", "h"] and seen(b / "g") == []
    subprocess.run(["rm", "-r", a / "g"], check=True)
    assert seen(a) == seen(b) == ["h"]


def test_what_is_left_by_another_host_is_named(both: tuple[Path, Path], pair: tuple[Mount, Mount]) -> None:
    a, b = both
    (a / "d" / "build").mkdir(parents=True)
    (a / "d" / "build" / "f").write_bytes(b"not lost")
    within((b / "d").is_dir, "the other host has it")
    os.rmdir(b / "d")
    assert seen(a) == []
    status = json.loads(os.getxattr(pair[0].path, "user.hypercluster.status"))
    assert [(Path(left) / "build" / "f").read_bytes() for left in status["local_left"]] == [b"not lost"]
    assert status["local_patterns"] == PATTERNS.decode().splitlines() and status["local_directory"]


def test_a_new_pattern_touches_nothing_that_is_there(both: tuple[Path, Path], cluster: LocalCluster) -> None:
    a, b = both
    (a / "target").mkdir()
    (a / "target" / "old").write_bytes(b"1")
    (a / "old.bin").write_bytes(b"1")
    set_patterns(cluster, PATTERNS + b"target/\n*.bin\n")
    try:
        assert seen(a / "target") == ["old"]
        (a / "target" / "new").write_bytes(b"2")
        (a / "target" / "old").write_bytes(b"3")
        (a / "tmp").write_bytes(b"4")
        os.rename(a / "tmp", a / "old.bin")  # as editors save
        (a / "new.bin").write_bytes(b"5")
        assert seen(b) == ["old.bin", "target"] and seen(b / "target") == ["old"]
        assert (b / "target" / "old").read_bytes() == b"3" and (b / "old.bin").read_bytes() == b"4"
        (b / "target" / "new").write_bytes(b"b")
        assert seen(a / "target") == ["new", "old"] and (a / "target" / "new").read_bytes() == b"2"
    finally:
        set_patterns(cluster, PATTERNS)
    assert seen(a / "target") == ["new", "old"]  # nor does one that goes
    assert "target" in seen(b)
    (b / "new.bin").write_bytes(b"replicated now")
    assert seen(a) == ["new.bin", "old.bin", "target"] and (a / "new.bin").read_bytes() == b"5"
    os.unlink(a / "new.bin")  # what hid it
    assert (a / "new.bin").read_bytes() == b"replicated now" and "new.bin" in seen(b)


def test_locks_and_mappings_of_local_files(both: tuple[Path, Path]) -> None:
    """What builds and caches need: a database locks ranges of bytes, linkers map what they write."""
    a, _ = both
    (a / "build").mkdir()
    with sqlite3.connect(a / "build" / "cache.db", timeout=5) as database:
        database.execute("create table t(x)")
        database.execute("insert into t values (1)")
    database.close()
    first, second = (os.open(a / "build" / "lock", os.O_RDWR | os.O_CREAT) for _ in range(2))
    fcntl.flock(first, fcntl.LOCK_EX)
    assert refusal(fcntl.flock, second, fcntl.LOCK_EX | fcntl.LOCK_NB) == "EAGAIN"
    fcntl.lockf(first, fcntl.LOCK_EX, 10, 0)
    child = os.fork()
    if child == 0:
        refused = refusal(fcntl.lockf, second, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 5)
        taken = refusal(fcntl.lockf, second, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 10)
        os._exit(0 if (refused, taken) == ("EAGAIN", "ok") else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(first)
    fcntl.flock(second, fcntl.LOCK_EX)
    os.ftruncate(second, mmap.PAGESIZE)
    with mmap.mmap(second, mmap.PAGESIZE) as mapped:
        mapped[:5] = b"12345"
        mapped.flush()
        assert os.pread(second, 5, 0) == b"12345"
        os.pwrite(second, b"x", 1)
        assert mapped[:5] == b"1x345"
    os.close(second)
    assert (a / "build" / "lock").read_bytes()[:5] == b"1x345"


def test_local_files_outlive_their_worker(both: tuple[Path, Path], pair: tuple[Mount, Mount]) -> None:
    a, _ = both
    (a / "build").mkdir()
    (a / "build" / "f").write_bytes(b"kept")
    before = pair[0].worker()
    os.kill(before, signal.SIGKILL)
    within(lambda: pair[0].worker() != before, "another worker serves it")
    assert (a / "build" / "f").read_bytes() == b"kept" and seen(a) == ["build"]
    (a / "y.o").write_bytes(b"still local")
    assert os.stat(a / "y.o").st_ino & LOCAL_BIT


def test_many_local_files_are_open_at_once(both: tuple[Path, Path]) -> None:
    """More than a process may open before it asks for more."""
    a, _ = both
    (a / "build").mkdir()
    held = [os.open(a / "build" / "f", os.O_RDWR | os.O_CREAT)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1_500
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 2 * wanted)), hard))
    try:
        held += [os.open(a / "build" / "f", os.O_RDONLY) for _ in range(wanted)]
        os.write(held[0], b"x")
        assert {os.pread(descriptor, 1, 0) for descriptor in held} == {b"x"}
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_git_sees_one_tree(both: tuple[Path, Path]) -> None:
    a, b = both
    git = ["git", "-c", "safe.directory=*", "-c", "user.name=t", "-c", "user.email=t@t", "-C", str(a)]
    (a / ".gitignore").write_text("build/\n*.o\n")
    subprocess.run([*git, "init", "-q"], check=True)
    (a / "build").mkdir()
    (a / "build" / "out").write_bytes(b"x")
    (a / "m.o").write_bytes(b"x")
    (a / "m.c").write_bytes(b"int m;")
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "-qm", "one"], check=True)
    done = subprocess.run([*git, "status", "--porcelain", "--ignored"], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["!!", "build/", "!!", "m.o"]
    assert seen(b) == [".git", ".gitignore", "m.c"]

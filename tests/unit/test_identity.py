"""The identity of a data directory: made once, whole or not at all, never mistaken (CL-15)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from google_crc32c import value as crc32c

from hypercluster.errors import DamagedError, DiskFailedError, MalformedError, WrongDirectoryError
from hypercluster.storage import identity as identities
from hypercluster.storage.disk import PosixDisk, PosixFile
from hypercluster.storage.identity import DirectoryLock, Identity, create_identity, load_identity, open_identity
from hypercluster.values import ClusterId, HistoryId, Incarnation, NodeId

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "identity"
IDENTITY = Identity(
    ClusterId(bytes(range(16))), NodeId("n1"), Incarnation(bytes(range(16, 32))), HistoryId(bytes(range(32, 48)))
)


@pytest.fixture
def directory(tmp_path: Path) -> str:
    return str(tmp_path / "node")


@pytest.mark.req("CL-15")
def test_what_was_made_is_read(directory: str) -> None:
    disk = PosixDisk()
    create_identity(disk, directory, IDENTITY)
    assert load_identity(disk, directory) == IDENTITY
    assert open_identity(disk, directory, IDENTITY.cluster_id, IDENTITY.node_id) == IDENTITY
    assert open_identity(disk, directory, None, None) == IDENTITY
    assert os.listdir(directory) == ["identity"]
    assert (os.stat(os.path.join(directory, "identity")).st_mode & 0o777) == 0o600


@pytest.mark.req("CL-15")
def test_it_is_never_made_twice(directory: str) -> None:
    disk = PosixDisk()
    create_identity(disk, directory, IDENTITY)
    other = Identity(IDENTITY.cluster_id, NodeId("n2"), identities.new_incarnation(), IDENTITY.history_id)
    with pytest.raises(WrongDirectoryError, match="is a data directory already"):
        create_identity(disk, directory, other)
    assert load_identity(disk, directory) == IDENTITY


@pytest.mark.req("CL-15")
@pytest.mark.parametrize("left", ["wal", "notes.txt", ".hidden"])
def test_a_directory_that_holds_anything_is_not_taken(directory: str, left: str) -> None:
    os.makedirs(os.path.join(directory, left))
    with pytest.raises(WrongDirectoryError, match="is not empty"):
        create_identity(PosixDisk(), directory, IDENTITY)
    assert os.listdir(directory) == [left]


@pytest.mark.req("CL-15")
def test_another_cluster_or_node_is_told_apart_and_what_to_do(directory: str) -> None:
    disk = PosixDisk()
    create_identity(disk, directory, IDENTITY)
    with pytest.raises(WrongDirectoryError, match=r"belongs to cluster 000102.*correct the configuration"):
        open_identity(disk, directory, ClusterId(bytes(range(1, 17))), IDENTITY.node_id)
    with pytest.raises(WrongDirectoryError, match=r"belongs to node 'n1'.*'n2'.*correct the configuration"):
        open_identity(disk, directory, IDENTITY.cluster_id, NodeId("n2"))


@pytest.mark.req("CL-15")
def test_an_absent_identity_says_what_to_do(directory: str) -> None:
    disk = PosixDisk()
    with pytest.raises(WrongDirectoryError, match="hypercluster cluster init"):
        load_identity(disk, directory)
    os.makedirs(os.path.join(directory, "wal"))
    with pytest.raises(WrongDirectoryError, match="lost its identity"):
        load_identity(disk, directory)


@pytest.mark.req("CL-15")
def test_damage_anywhere_is_noticed(directory: str) -> None:
    """Every byte flipped in every bit, every length cut, anything appended, and the empty file."""
    disk = PosixDisk()
    create_identity(disk, directory, IDENTITY)
    whole = Path(directory, "identity").read_bytes()
    wrong = [
        whole[:i] + bytes((whole[i] ^ (1 << bit),)) + whole[i + 1 :] for i in range(len(whole)) for bit in range(8)
    ]
    wrong += [whole[:i] for i in range(len(whole))]
    wrong += [whole + b"\n", whole + whole, bytes(len(whole)), b"\n" + whole, whole + bytes(5_000)]
    for content in wrong:
        with pytest.raises(DamagedError, match="hypercluster node rejoin"):
            identities.parse(content, "identity")
    for content in (b"", whole[:-1], whole + bytes(5_000)):
        Path(directory, "identity").write_bytes(content)
        with pytest.raises(DamagedError, match="hypercluster node rejoin"):
            load_identity(disk, directory)
    Path(directory, "identity").write_bytes(whole)
    assert load_identity(disk, directory) == IDENTITY


@pytest.mark.req("CL-15")
def test_lines_that_verify_but_mean_nothing_are_damage() -> None:
    good = identities.render(IDENTITY)
    body = good[: good.rindex(b"crc32c")]
    for changed in (
        body.replace(b"node id: n1", b"node id: N1"),
        body.replace(b"node id: n1\n", b""),
        body + b"more: lines\n",
        body.replace(b"cluster id: 00", b"cluster id: "),
        body.replace(b"cluster id: 00", b"cluster id: zz"),
        body.replace(b"cluster id:", b"claster id:"),
        body.replace(bytes(range(16)).hex().encode(), b"0" * 32),
        body.replace(b"0a0b", b"0A0B"),
        body.replace(b"format: 1", b"format: 01"),
    ):
        assert changed != body
        with pytest.raises(DamagedError):
            identities.parse(changed + f"crc32c: {crc32c(changed):08x}\n".encode(), "identity")
    assert identities.parse(good, "identity") == IDENTITY


@pytest.mark.req("CL-15")
def test_a_newer_format_is_left_alone() -> None:
    body = b"hypercluster data directory, format: 2\nsomething: new\n"
    with pytest.raises(WrongDirectoryError, match="install the release that wrote it"):
        identities.parse(body + f"crc32c: {crc32c(body):08x}\n".encode(), "identity")


@pytest.mark.req("CL-15")
def test_the_first_release_s_directory_opens() -> None:
    """Frozen: tests/golden/identity/v1 is never written again."""
    assert identities.load_identity(PosixDisk(), str(GOLDEN / "v1")) == IDENTITY
    assert (GOLDEN / "v1" / "identity").read_bytes() == identities.render(IDENTITY)


class DyingDisk(PosixDisk):
    """Fails at the n-th call that changes something, as a crash there would."""

    def __init__(self, calls: int) -> None:
        self._left = calls
        self.done = 0

    def _step(self) -> None:
        if self.done == self._left:
            raise DiskFailedError("crash")
        self.done += 1

    def mkdir(self, path: str) -> None:
        self._step()
        super().mkdir(path)

    def open(self, path: str, *, create: bool = False) -> PosixFile:
        if create:
            self._step()
        return super().open(path, create=create)

    def rename(self, source: str, target: str) -> None:
        self._step()
        super().rename(source, target)

    def unlink(self, path: str) -> None:
        self._step()
        super().unlink(path)

    def fsync_dir(self, path: str) -> None:
        self._step()
        super().fsync_dir(path)


@pytest.mark.req("CL-15")
def test_a_crash_anywhere_leaves_none_or_the_whole(tmp_path: Path) -> None:
    steps = 0
    while True:
        directory = str(tmp_path / str(steps))
        disk = DyingDisk(steps)
        try:
            create_identity(disk, directory, IDENTITY)
        except DiskFailedError:
            pass
        else:
            break
        try:
            assert load_identity(PosixDisk(), directory) == IDENTITY
        except WrongDirectoryError:
            create_identity(PosixDisk(), directory, IDENTITY)  # the next attempt takes over
            assert load_identity(PosixDisk(), directory) == IDENTITY
        steps += 1
    assert steps >= 4


def test_a_torn_temporary_file_is_no_identity(directory: str) -> None:
    os.makedirs(directory)
    Path(directory, "identity.tmp").write_bytes(identities.render(IDENTITY)[:40])
    with pytest.raises(WrongDirectoryError):
        load_identity(PosixDisk(), directory)
    create_identity(PosixDisk(), directory, IDENTITY)
    assert os.listdir(directory) == ["identity"]


@pytest.mark.req("CL-15")
def test_one_process_at_a_time(directory: str) -> None:
    os.makedirs(directory)
    with DirectoryLock(directory) as lock:
        create_identity(PosixDisk(), directory, IDENTITY)  # the lock's file does not count as content
        with pytest.raises(WrongDirectoryError, match=rf"pid {os.getpid()}\)"):
            DirectoryLock(directory)
        program = (
            "import sys\n"
            "from hypercluster.storage.identity import DirectoryLock\n"
            "from hypercluster.errors import WrongDirectoryError\n"
            "try:\n    DirectoryLock(sys.argv[1])\n"
            "except WrongDirectoryError as error:\n    print(error)\n"
        )
        other = subprocess.run(
            [sys.executable, "-c", program, directory], check=True, capture_output=True, text=True, timeout=60
        )
        assert f"pid {os.getpid()}" in other.stdout
    assert not lock.held
    lock.release()
    again = DirectoryLock(directory)
    assert again.held
    again.release()


@pytest.mark.req("CL-15")
def test_the_lock_of_a_killed_process_is_free(directory: str) -> None:
    os.makedirs(directory)
    program = (
        "import sys, time\n"
        "from hypercluster.storage.identity import DirectoryLock\n"
        "lock = DirectoryLock(sys.argv[1])\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, directory]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(WrongDirectoryError, match=f"pid {holder.pid}"):
            DirectoryLock(directory)
        holder.kill()
        holder.wait(20)
        DirectoryLock(directory).release()


def test_ids_are_random_and_judged() -> None:
    made = {identities.new_cluster_id(), identities.new_history_id(), identities.new_incarnation()}
    made |= {identities.new_incarnation() for _ in range(100)}
    assert len(made) == 103
    assert {len(one) for one in made} == {16}
    for bad in (
        {"cluster_id": b"short"},
        {"incarnation": bytes(16)},
        {"history_id": bytes(17)},
        {"node_id": "N1"},
        {"node_id": "../n1"},
        {"node_id": ""},
        {"format_version": 2},
    ):
        fields = {
            "cluster_id": IDENTITY.cluster_id,
            "node_id": IDENTITY.node_id,
            "incarnation": IDENTITY.incarnation,
            "history_id": IDENTITY.history_id,
        }
        with pytest.raises(MalformedError, match=next(iter(bad))):
            Identity(**{**fields, **bad})  # type: ignore[arg-type]


class TracedFile(PosixFile):
    """Tells of its writes and syncs."""

    __slots__ = ("calls",)
    calls: list[str]

    def pwrite(self, data: bytes, offset: int) -> None:
        self.calls.append("write")
        super().pwrite(data, offset)

    def fsync(self) -> None:
        self.calls.append("sync")
        super().fsync()


class TracedDisk(PosixDisk):
    def __init__(self) -> None:
        self.calls: list[str] = []

    def open(self, path: str, *, create: bool = False) -> PosixFile:
        if not create:
            return super().open(path)
        self.calls.append("create")
        file = TracedFile(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        file.calls = self.calls
        return file

    def rename(self, source: str, target: str) -> None:
        self.calls.append("rename")
        super().rename(source, target)

    def fsync_dir(self, path: str) -> None:
        self.calls.append(f"sync {os.path.basename(path)}")
        super().fsync_dir(path)


@pytest.mark.req("CL-15")
def test_the_file_is_synced_before_its_name_and_its_name_before_success(directory: str) -> None:
    disk = TracedDisk()
    create_identity(disk, directory, IDENTITY)
    parent = os.path.basename(os.path.dirname(directory))
    assert disk.calls == [f"sync {parent}", "create", "write", "sync", "rename", "sync node"]

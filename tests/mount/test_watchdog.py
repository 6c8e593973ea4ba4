"""WS-65 with real processes: a worker that was killed or does not answer is replaced, one that waits is not."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hypercluster.mount import mounting
from tests.mount.calls import refusal
from tests.mount.mounts import NEEDS, LocalCluster, Mount, within

pytestmark = NEEDS

REPLACED_S = 3.0
HOGS = 8
MARGIN_S = 2.0  # a test machine that is short of time


@pytest.fixture(scope="module")
def mount(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    with Mount(cluster, tmp_path_factory.mktemp("watched"), "demo", "w") as running:
        yield running


@pytest.mark.req("WS-65")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_is_lost_is_replaced(mount: Mount, number: signal.Signals) -> None:
    path = mount.path / f"before-{number.name}"
    path.write_bytes(b"acknowledged")
    before = mount.worker()
    stuck: list[float] = []

    def wait_for_an_answer() -> None:
        begun_s = time.monotonic()
        refusal(os.stat, path)
        stuck.append(time.monotonic() - begun_s)

    begun_s = time.monotonic()
    os.kill(before, number)
    waiter = threading.Thread(target=wait_for_an_answer)
    waiter.start()
    within(lambda: mount.worker() != before, "another worker serves it", REPLACED_S + MARGIN_S)
    took_s = time.monotonic() - begun_s
    waiter.join()
    assert path.read_bytes() == b"acknowledged"
    path.write_bytes(b"again")
    assert stuck[0] <= took_s + 0.5
    assert not os.path.exists(f"/proc/{before}")
    print(f"{number.name}: mounted again after {took_s:.2f} s")


@pytest.mark.req("WS-65")
def test_nothing_can_be_written_beneath_a_mount(mount: Mount) -> None:
    """In the moment between two workers a program would write into the directory under the mount, and lose it."""
    before = mount.worker()
    os.kill(before, signal.SIGKILL)
    seen: set[str] = set()

    def try_it() -> bool:
        try:
            (mount.path / "gap").write_bytes(b"x")
        except OSError as error:
            seen.add(errno.errorcode[error.errno or 0])
            return False
        return mount.worker() != before

    within(try_it, "written to the mount again")
    assert seen <= {"EROFS", "ENOTCONN", "ECONNABORTED", "EIO"}
    (mount.path / "gap").unlink()


def test_a_second_mount_there_is_refused(mount: Mount, cluster: LocalCluster) -> None:
    command = [sys.executable, "-m", "hypercluster.cli.main", "mount", "demo", str(mount.path)]
    command += ["--config", str(cluster.cluster.client_file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "is mounted already" in done.stderr


@pytest.mark.req("WS-65")
def test_mount_and_unmount_in_the_background(cluster: LocalCluster, tmp_path: Path) -> None:
    directory = tmp_path / "d"
    directory.mkdir()
    base = [sys.executable, "-m", "hypercluster.cli.main"]
    options = ["--config", str(cluster.cluster.client_file), "--name", "background"]
    try:
        done = subprocess.run(
            [*base, "mount", "demo", str(directory), *options], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "demo is mounted on" in done.stdout
        (directory / "from-the-background").write_bytes(b"x")
        busy = os.open(directory, os.O_RDONLY)
        done = subprocess.run([*base, "unmount", str(directory)], capture_output=True, text=True, check=False)
        assert done.returncode == 1 and "is in use" in done.stderr
        os.close(busy)
        done = subprocess.run([*base, "unmount", str(directory)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert mounting.find(str(directory)) is None and os.listdir(directory) == []
    finally:
        subprocess.run([*base, "unmount", "--force", str(directory)], capture_output=True, check=False)


def test_a_mount_that_can_not_be_says_why(cluster: LocalCluster, tmp_path: Path) -> None:
    directory = tmp_path / "d"
    directory.mkdir()
    command = [sys.executable, "-m", "hypercluster.cli.main", "mount", "no-such", str(directory)]
    command += ["--config", str(cluster.cluster.client_file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "workspace no-such: there is none of this name" in done.stderr
    assert mounting.find(str(directory)) is None
    os.rmdir(directory)  # nothing is left on it


REFUSED = """
import sys
from pathlib import Path
from hypercluster.mount import mounting
from hypercluster.mount.guarding import GuardSettings
from hypercluster.mount.watchdog import CANNOT, Watchdog
import os

def worker(pipe, said):
    os.write(pipe, b"error: no\\n")
    return CANNOT

def told(words):
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    print(words, any(mounting.FLOOR in line and sys.argv[1] in line for line in lines))

sys.exit(Watchdog(sys.argv[1], GuardSettings(), worker, told).run())
"""


def test_a_refusal_is_told_when_nothing_is_left_on_the_directory(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", REFUSED, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout == "error: no False\n", done.stdout + done.stderr
    assert done.returncode != 0


@pytest.mark.req("WS-6", "WS-65")
@pytest.mark.long
def test_a_mount_for_another_user(cluster: LocalCluster, tmp_path: Path) -> None:
    """Root mounts it, the workspace's user uses it, and the watchdog is heard although it is neither."""
    cluster.make_workspace("theirs", uid=4_243)
    with Mount(cluster, tmp_path, "theirs", "u", "--stuck", "1") as mount:
        worker = mount.worker()
        child = os.fork()
        if child == 0:
            os.chdir(mount.path)
            os.setgid(4_243)
            os.setuid(4_243)
            with open("f", "w") as file:
                file.write("mine")
            os._exit(0 if os.stat("f").st_uid == 4_243 and os.listdir() == ["f"] else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert refusal(os.listdir, mount.path) == refusal(os.stat, mount.path / "f") == "EACCES"
        began_s = time.monotonic()
        within(lambda: time.monotonic() - began_s > 1.5, "longer than a worker may be silent")
        assert mount.worker() == worker


def _said(mount: Mount, *words: bytes) -> list[bytes]:
    log = mount.log.read_bytes()
    return [part for part in words if part in log]


@contextlib.contextmanager
def kept_from_the_processor(process: int) -> Iterator[None]:
    """All its threads idle on one processor, on which others spin."""
    threads = [int(name) for name in os.listdir(f"/proc/{process}/task")]
    processor = {min(os.sched_getaffinity(0))}
    before = os.sched_getaffinity(process)
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(HOGS)]
    try:
        for thread in [*threads, *(hog.pid for hog in hogs)]:
            os.sched_setaffinity(thread, processor)
        for thread in threads:
            os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
        for thread in threads:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(thread, before)
                os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))


@pytest.mark.req("WS-65")
@pytest.mark.long
def test_a_worker_the_host_does_not_let_run_is_left_alone(cluster: LocalCluster, tmp_path: Path) -> None:
    """Killing it would cost every open file of the mount, and give it no time."""
    with Mount(cluster, tmp_path, "demo", "s", "--stuck", "1") as mount:
        worker = mount.worker()
        with open(mount.path / "open", "wb", buffering=0) as file:
            with kept_from_the_processor(worker):
                said = within(lambda: _said(mount, b"left alone", b"is killed"), "the watchdog has noticed", 60)
            assert said == [b"left alone"]
            file.write(b"through the handle from before")
        assert (mount.path / "open").read_bytes() == b"through the handle from before"
        assert mount.worker() == worker


@pytest.mark.req("WS-65")
@pytest.mark.long
def test_without_its_watchdog_a_mount_ends(cluster: LocalCluster, tmp_path: Path) -> None:
    """Nobody would see it hang."""
    with Mount(cluster, tmp_path, "demo", "o") as mount:
        worker = mount.worker()
        assert mount.process is not None
        mount.process.kill()
        mount.process.wait()
        within(lambda: not os.path.exists(f"/proc/{worker}"), "the worker has ended")
        assert mounting.find(str(mount.path)) is None
        mount.start()  # the floor that was left is taken away
        assert refusal(os.listdir, mount.path) == "ok"

"""flock and fcntl through the cluster, between two mounts (WS-40 to WS-42)."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread

import pytest

from tests.mount.calls import refusal
from tests.mount.mounts import NEEDS, LocalCluster, Mount, within

pytestmark = NEEDS

EXCLUSIVE, SHARED = fcntl.LOCK_EX | fcntl.LOCK_NB, fcntl.LOCK_SH | fcntl.LOCK_NB


def opened(place: Path, flags: int = os.O_RDWR) -> int:
    return os.open(place / "f", flags | os.O_CREAT)


@pytest.fixture
def pair(places: tuple[Path, Path]) -> tuple[int, int]:
    """The same file, opened on both mounts."""
    first = opened(places[0])
    within((places[1] / "f").exists, "both have the file")
    return first, opened(places[1])


def in_thread(call: Callable[[], object]) -> tuple[Thread, list[str]]:
    ended: list[str] = []

    def run() -> None:
        ended.append(refusal(call))

    thread = Thread(target=run)
    thread.start()
    return thread, ended


@pytest.mark.req("WS-40", "WS-62")
def test_one_holder_on_all_hosts(pair: tuple[int, int]) -> None:
    a, b = pair
    fcntl.flock(a, fcntl.LOCK_EX)
    assert refusal(fcntl.flock, b, EXCLUSIVE) == refusal(fcntl.flock, b, SHARED) == "EAGAIN"
    fcntl.flock(a, EXCLUSIVE)  # what one has, one gets again
    fcntl.flock(a, fcntl.LOCK_UN)
    fcntl.flock(b, SHARED)
    fcntl.flock(a, SHARED)
    assert refusal(fcntl.flock, a, EXCLUSIVE) == "EAGAIN"
    fcntl.flock(b, fcntl.LOCK_UN)
    fcntl.flock(a, EXCLUSIVE)  # a conversion
    assert refusal(fcntl.flock, b, SHARED) == "EAGAIN"
    os.close(a)
    within(lambda: refusal(fcntl.flock, b, EXCLUSIVE) == "ok", "the last close frees it")
    os.close(b)


@pytest.mark.req("WS-40")
def test_a_lock_belongs_to_the_open_file_description(places: tuple[Path, Path]) -> None:
    first = opened(places[0])
    second = opened(places[0])
    copy = os.dup(first)
    fcntl.flock(first, fcntl.LOCK_EX)
    assert refusal(fcntl.flock, second, EXCLUSIVE) == "EAGAIN"
    fcntl.flock(copy, EXCLUSIVE)
    os.close(first)
    assert refusal(fcntl.flock, second, EXCLUSIVE) == "EAGAIN"  # the copy is still open
    os.close(copy)
    within(lambda: refusal(fcntl.flock, second, EXCLUSIVE) == "ok", "free after the last close")
    os.close(second)


@pytest.mark.req("WS-40")
def test_a_waiter_gets_it_when_it_is_free(pair: tuple[int, int]) -> None:
    a, b = pair
    fcntl.flock(a, fcntl.LOCK_EX)
    thread, ended = in_thread(lambda: fcntl.flock(b, fcntl.LOCK_EX))
    assert refusal(fcntl.flock, a, fcntl.LOCK_EX) == "ok" and not ended
    fcntl.flock(a, fcntl.LOCK_UN)
    thread.join(10)
    assert ended == ["ok"] and refusal(fcntl.flock, a, EXCLUSIVE) == "EAGAIN"
    os.close(a)
    os.close(b)


class Interrupted(Exception):
    pass


@pytest.mark.req("WS-40")
def test_a_wait_can_be_interrupted_and_leaves_the_queue(pair: tuple[int, int]) -> None:
    a, b = pair

    def raised(_number: int, _frame: object) -> None:
        raise Interrupted

    fcntl.flock(a, fcntl.LOCK_EX)
    before = signal.signal(signal.SIGUSR1, raised)
    timer = threading.Timer(0.2, lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1))
    begun_s = time.monotonic()
    timer.start()
    try:
        with pytest.raises(Interrupted):
            fcntl.flock(b, fcntl.LOCK_EX)
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)
    assert time.monotonic() - begun_s < 3.0
    fcntl.flock(a, fcntl.LOCK_UN)
    within(lambda: refusal(fcntl.flock, a, EXCLUSIVE) == "ok", "nobody else is in the queue")
    os.close(a)
    os.close(b)


@pytest.mark.req("WS-40")
def test_many_take_turns(places: tuple[Path, Path]) -> None:
    """A counter that is read and written under the lock, by six on two hosts."""
    counter = places[0] / "f"
    counter.write_bytes(b"0")
    within((places[1] / "f").exists, "both have the file")

    def add(number: int) -> None:
        for _ in range(5):
            fd = opened(places[number % 2])
            fcntl.flock(fd, fcntl.LOCK_EX)
            value = int(os.pread(fd, 20, 0))
            os.pwrite(fd, b"%d" % (value + 1), 0)
            os.close(fd)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(add, range(6)))
    within(lambda: (places[1] / "f").read_bytes() == b"30", "nobody's turn was lost")


@pytest.mark.req("WS-40")
def test_fcntl_locks_the_whole_file_or_nothing(places: tuple[Path, Path], pair: tuple[int, int]) -> None:
    a, b = pair
    assert refusal(fcntl.lockf, a, EXCLUSIVE, 10, 0) == "ENOTSUP"
    fcntl.lockf(a, EXCLUSIVE)
    assert refusal(fcntl.flock, b, EXCLUSIVE) == "EAGAIN"  # one lock a file
    child = os.fork()
    if child == 0:
        other = opened(places[1])
        os._exit(0 if refusal(fcntl.lockf, other, EXCLUSIVE) == "EAGAIN" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(os.open(places[0] / "f", os.O_RDONLY))  # POSIX: any close of the file by the process ends its lock
    within(lambda: refusal(fcntl.flock, b, EXCLUSIVE) == "ok", "free")
    os.close(a)
    os.close(b)


@pytest.mark.req("WS-41", "WS-42")
@pytest.mark.long
def test_a_write_under_a_lock_that_was_lost_is_refused(cluster: LocalCluster, tmp_path: Path) -> None:
    """The worker that held it is stopped until its lease is over, and its watchdog is patient."""
    patient = ("--stuck", "600", "--ask-every", "60")
    with (
        Mount(cluster, tmp_path, "demo", "slow", *patient) as slow,
        Mount(cluster, tmp_path, "demo", "other") as other,
    ):
        (slow.path / "locked").write_bytes(b"old")
        within((other.path / "locked").exists, "both have the file")
        fd = os.open(slow.path / "locked", os.O_RDWR)
        fcntl.flock(fd, fcntl.LOCK_EX)
        os.pwrite(fd, b"mine", 0)
        worker = slow.worker()
        os.kill(worker, signal.SIGSTOP)
        try:
            theirs = os.open(other.path / "locked", os.O_RDWR)
            fcntl.flock(theirs, fcntl.LOCK_EX)  # granted when the lease is over
            os.pwrite(theirs, b"theirs", 0)
        finally:
            os.kill(worker, signal.SIGCONT)
        with pytest.raises(OSError) as refused:
            os.pwrite(fd, b"late", 0)
        assert refused.value.errno == errno.ESTALE
        within(lambda: "was lost" in slow.log.read_text(), "it is said loudly")
        within(lambda: (slow.path / "locked").read_bytes() == b"theirs", "nothing of it was written")
        os.close(fd)
        os.close(theirs)

"""A mount without a leader: reads go on, writes wait and then fail with EROFS, and it says why; then it goes on."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.calls import refusal
from tests.mount.mounts import NEEDS, LocalCluster, Mount, within

pytestmark = NEEDS

NO_LEADER_S = 1.0


class Interrupted(Exception):
    pass


def interrupted_after_s(call: Callable[[], object]) -> float:
    """How long a system call lasts that gets a signal after a tenth of a second."""

    def raised(_number: int, _frame: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGUSR1, raised)
    begun_s = time.monotonic()
    timer = threading.Timer(0.1, lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1))
    timer.start()
    try:
        with pytest.raises(Interrupted):
            call()
        return time.monotonic() - begun_s
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.req("WS-3", "WS-65")
@pytest.mark.parametrize("nodes", [1, pytest.param(3, marks=pytest.mark.long)])
def test_without_a_quorum(tmp_path: Path, nodes: int) -> None:
    """Of one node that one is killed, of three the two that do not lead."""
    with LocalCluster(tmp_path, nodes) as cluster:
        cluster.make_workspace("demo")
        with Mount(cluster, tmp_path, "demo", "q", "--no-leader", str(NO_LEADER_S), "--deadline", "4") as mount:
            file = mount.path / "f"
            file.write_bytes(b"before")
            worker = mount.worker()
            leader = cluster.leader()
            stopped = [name for name in cluster.cluster.plans if name != leader] or [leader]
            for name in stopped:
                cluster.cluster.kill(name)
            within(lambda: refusal(os.open, file, os.O_WRONLY) == "EROFS", "an open for writing needs a leader")
            begun_s = time.monotonic()
            assert refusal(os.mkdir, mount.path / "d") == "EROFS"
            assert refusal(os.open, mount.path / "g", os.O_CREAT | os.O_WRONLY) == "EROFS"
            assert time.monotonic() - begun_s < 3 * NO_LEADER_S + 3.0
            assert "no leader" in mount.why()
            assert file.read_bytes() == b"before" and os.listdir(mount.path) == ["f"]
            assert mount.worker() == worker  # who waits for the cluster is not stuck
            interrupted_s = interrupted_after_s(lambda: os.mkdir(mount.path / "d"))
            assert interrupted_s < NO_LEADER_S  # a signal ends what was not sent
            for name in stopped:
                cluster.cluster.start(name)
            within(lambda: refusal(os.mkdir, mount.path / "d") == "ok", "writable again", 30.0)
            assert mount.why() == "" and mount.worker() == worker
            file.write_bytes(b"after")


@pytest.mark.req("WS-3")
@pytest.mark.long
def test_an_election_is_ridden_out(tmp_path: Path) -> None:
    with LocalCluster(tmp_path) as cluster:
        cluster.make_workspace("demo")
        with Mount(cluster, tmp_path, "demo", "q") as mount:
            worker = mount.worker()
            for turn in range(3):
                leader = cluster.leader()
                cluster.cluster.kill(leader)
                (mount.path / f"f{turn}").write_bytes(b"written while there was no leader")
                cluster.cluster.start(leader)
            assert os.listdir(mount.path) == ["f0", "f1", "f2"] and mount.worker() == worker


@pytest.mark.req("WS-4")
@pytest.mark.long
def test_an_outcome_that_stays_open_is_eio_and_holds_up_its_process_alone(tmp_path: Path) -> None:
    with LocalCluster(tmp_path) as cluster:
        cluster.make_workspace("demo")
        with Mount(cluster, tmp_path, "demo", "q", "--no-leader", "2", "--deadline", "4") as mount:
            (mount.path / "before").mkdir()
            worker = mount.worker()
            for name in cluster.cluster.plans:
                cluster.cluster.pause(name)
            try:
                assert refusal(os.mkdir, mount.path / "open") == "EIO"  # it was sent, and nobody answers
                assert refusal(os.mkdir, mount.path / "next") == "EROFS"  # not before that one is given up
                assert os.listdir(mount.path) == ["before"]
            finally:
                for name in cluster.cluster.plans:
                    cluster.cluster.resume(name)
            cluster.leader()
            child = os.fork()
            if child == 0:
                done = False
                while not done:  # another process waits for a leader and for nothing else
                    done = refusal(os.mkdir, mount.path / "child") in {"ok", "EEXIST"}
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            within(lambda: refusal(os.mkdir, mount.path / "next") == "ok", "given up, and on it goes", 30.0)
            assert mount.worker() == worker
            found = set(os.listdir(mount.path))
            assert {"before", "child", "next"} <= found <= {"before", "child", "next", "open"}

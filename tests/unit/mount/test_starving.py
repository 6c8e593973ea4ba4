"""Who was kept from the processor, and who was not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

from hypercluster.mount.starving import ThreadTime, starved, times_of

BEFORE = {1: ThreadTime(5, 7, runnable=False), 2: ThreadTime(0, 0, runnable=False)}
S = 1_000_000_000


def test_waiting_in_vain_and_waiting_in_turns_is_starving() -> None:
    assert starved(BEFORE, {**BEFORE, 2: ThreadTime(0, 0, runnable=True)}, 2.0)
    assert starved(BEFORE, {**BEFORE, 2: ThreadTime(S // 10, S, runnable=False)}, 2.0)
    assert starved(BEFORE, {1: ThreadTime(6, 7 + S // 2, False), 2: ThreadTime(0, S // 2, False)}, 2.0)
    assert starved({}, {3: ThreadTime(0, S, runnable=False)}, 2.0)  # a thread that has come since


def test_sleeping_and_spinning_is_not() -> None:
    assert not starved(BEFORE, BEFORE, 2.0)
    assert not starved(BEFORE, {**BEFORE, 2: ThreadTime(0, S - 1, runnable=False)}, 2.0)
    assert not starved(BEFORE, {**BEFORE, 1: ThreadTime(5 + S, 7, runnable=True)}, 2.0)
    assert not starved({}, {}, 2.0)


def test_what_the_kernel_says_of_processes() -> None:
    here = times_of(os.getpid())
    assert here[threading.get_native_id()].ran_ns > 0 and here[threading.get_native_id()].runnable
    spinning = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        end_s = time.monotonic() + 30
        while times_of(spinning.pid)[spinning.pid].ran_ns < S // 10:
            assert time.monotonic() < end_s
        os.kill(spinning.pid, signal.SIGSTOP)
        while times_of(spinning.pid)[spinning.pid].runnable:
            assert time.monotonic() < end_s
        stopped = times_of(spinning.pid)
        assert not starved(stopped, times_of(spinning.pid), 0.001)
    finally:
        spinning.kill()
        spinning.wait()
    assert times_of(spinning.pid) == {}

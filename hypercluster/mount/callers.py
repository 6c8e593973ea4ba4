"""Who calls: the process behind a request, and whether its user may use the workspace at all (WS-6, WS-10).

Owns: from a thread's id to (pid, start ticks), and the one-uid rule with its loud error.
Never: permission bits; the kernel checks those (default_permissions).
Invariants: what is remembered of a process is read again after REMEMBER_S, so that a pid that was given away anew is
noticed; what is remembered is bounded.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from typing import Final

from hypercluster.client.live.ports import Process
from hypercluster.mount.seldom import Seldom

REMEMBER_S: Final = 1.0
REMEMBERED_MAX: Final = 4_096
COMPLAIN_EVERY_S: Final = 10.0

NOBODY: Final = Process(0, 0)  # the kernel itself, or a process of another pid namespace

log = logging.getLogger(__name__)


def read_process(thread_id: int) -> Process:
    """The process a thread belongs to. NOBODY when there is none that can be seen from here."""
    if thread_id <= 0:
        return NOBODY
    try:
        with open(f"/proc/{thread_id}/status", "rb") as status:
            group = next(line for line in status if line.startswith(b"Tgid:"))
        pid = int(group.split()[1])
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return Process(pid, int(stat.read().rpartition(b")")[2].split()[19]))
    except (OSError, StopIteration, IndexError, ValueError):
        return NOBODY


class Callers:
    """Thread-safe. `uid` is the workspace's."""

    def __init__(self, uid: int, directory: str) -> None:
        self._uid = uid
        self._directory = directory
        self._lock = threading.Lock()
        self._processes: dict[int, tuple[Process, float]] = {}
        self._complaints = Seldom(COMPLAIN_EVERY_S)

    def admit(self, uid: int, pid: int) -> None:
        """Raises OSError(EACCES) for a foreign uid (WS-6)."""
        if uid == self._uid:
            return
        if self._complaints.due(uid):
            log.error(
                "uid %d (pid %d) was refused on %s: the workspace belongs to uid %d alone, and every process that uses "
                "it must run as that user",
                uid,
                pid,
                self._directory,
                self._uid,
            )
        raise OSError(errno.EACCES, f"uid {uid} is not the workspace's ({self._uid})")

    def process(self, thread_id: int) -> Process:
        now = time.monotonic()
        found = self._processes.get(thread_id)
        if found is not None and now - found[1] < REMEMBER_S:
            return found[0]
        process = read_process(thread_id)
        with self._lock:
            if len(self._processes) >= REMEMBERED_MAX:
                self._processes.clear()
            self._processes[thread_id] = (process, now)
        return process

"""The process that watches over a mount: starts the worker, asks it, kills it when it is stuck, mounts again (WS-65).

Owns: two child processes, the worker and the asker; the mount point between two workers; the end of the mount.
Never: serves a request, or touches a path below the mount point: it has one thread and must always turn. The asker does
the asking, because a question to a stuck worker can not be taken back before the connection is aborted.
Invariants: children are forked from this process, which has loaded what a worker needs and started no thread, so a new
worker is there at once; both end when this process ends. A worker that ends with status 0 has been unmounted, and the
watchdog ends, too; with CANNOT it could not begin, which ends a first start and is tried again later.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import time
from collections.abc import Callable
from typing import Final, NoReturn

from hypercluster.mount import mounting, starving
from hypercluster.mount.guarding import Guard, GuardSettings, Order
from hypercluster.mount.orphaned import end_with_parent

STOP_S: Final = 10.0  # for a worker to unmount in order
KILLED_S: Final = 2.0  # for a killed worker to be gone
CANNOT: Final = 3  # exit status of a worker that could not mount
MESSAGE_BYTES_MAX: Final = 4_096
CONTROL_NAME: Final = "user.hypercluster.control"
MOUNTED: Final = b"mounted "
ASKED: Final = ord("?")
ANSWERED: Final = ord(".")
UNANSWERED_PAUSE_S: Final = 0.2

RunWorker = Callable[[int, str], int]  # (pipe to report on, what a worker before said) -> exit status

log = logging.getLogger(__name__)


class Watchdog:
    """`run` returns the exit status of the mount. `said` is what the worker reported last."""

    def __init__(
        self, directory: str, settings: GuardSettings, worker: RunWorker, told: Callable[[str], object]
    ) -> None:
        """`told` hears once that it is mounted, or, with what begins with 'error: ', that it can not be: the latter
        when everything is cleared away."""
        self._directory = directory
        self._settings = settings
        self._worker = worker
        self._told = told
        self._was_mounted = False
        self._said = self._refusal = ""
        self._report = b""
        self._times: starving.Times = {}  # as they were when the open question was asked
        self._worker_pid = self._asker_pid = 0
        self._worker_pipe = self._asker_pipe = -1
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._ending = False

    def run(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._told_to_end)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        mounting.show_connections()
        if not mounting.lay_floor(self._directory):
            log.warning("the directory under %s stays writable while a worker is replaced", self._directory)
        guard = Guard(self._settings, time.monotonic())
        try:
            return self._turn(guard)
        finally:
            self._end_asker()
            mounting.remove_floor(self._directory)
            if self._refusal and not self._was_mounted:
                self._told(self._refusal)

    def _told_to_end(self, _number: int, _frame: object) -> None:
        self._ending = True

    def _turn(self, guard: Guard) -> int:
        while not self._ending:
            match guard.order(time.monotonic()):
                case Order.START:
                    self._start_worker()
                    guard.started(time.monotonic())
                case Order.KILL if self._spares(guard):
                    pass
                case Order.KILL:
                    log.error(
                        "the worker of %s (pid %d) has not answered for %.1f s: it is killed and mounted again",
                        self._directory,
                        self._worker_pid,
                        self._settings.stuck_s,
                    )
                    self._kill_worker()
                    guard.ended(time.monotonic())
                    continue
                case Order.WAIT:
                    pass
            self._wait(guard)
            status = self._reap()
            if status is None:
                continue
            if status == 0 or (status == CANNOT and not self._was_mounted):
                return status
            log.error("the worker of %s ended with status %d: it is mounted again", self._directory, status)
            self._clear_away()
            guard.ended(time.monotonic())
        return self._stop()

    def _spares(self, guard: Guard) -> bool:
        """A host that is short of time is not helped by losing every open file of the mount."""
        now = starving.times_of(self._worker_pid, self._asker_pid)
        if not starving.starved(self._times, now, self._settings.stuck_s) or not guard.spare(time.monotonic()):
            return False
        self._times = now
        log.warning(
            "the worker of %s (pid %d) has not answered for %.1f s, but the host did not let it run: it is left alone",
            self._directory,
            self._worker_pid,
            self._settings.stuck_s,
        )
        return True

    def _wait(self, guard: Guard) -> None:
        pipes = [fd for fd in (self._worker_pipe, self._asker_pipe, self._wake_read) if fd >= 0]
        wanted_s = guard.wake_at_s(time.monotonic())
        ready, _, _ = select.select(pipes, [], [], max(0.0, wanted_s - time.monotonic()))
        now_s = time.monotonic()
        guard.woke(now_s, wanted_s)
        if self._wake_read in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, MESSAGE_BYTES_MAX)
        if self._worker_pipe in ready:
            self._hear_worker(guard, now_s)
        if self._asker_pipe in ready:
            self._hear_asker(guard, now_s)

    # --- the worker ---------------------------------------------------------------------------------

    def _start_worker(self) -> None:
        self._worker_pid, self._worker_pipe = self._fork(lambda pipe: self._worker(pipe, self._said))
        self._report = b""

    def _hear_worker(self, guard: Guard, now_s: float) -> None:
        piece = os.read(self._worker_pipe, MESSAGE_BYTES_MAX)
        if not piece:
            os.close(self._worker_pipe)
            self._worker_pipe = -1
            return
        self._report = (self._report + piece)[:MESSAGE_BYTES_MAX]
        if not self._report.endswith(b"\n"):
            return
        words = self._report.decode(errors="replace").strip()
        if self._report.startswith(MOUNTED):
            self._said = words
            guard.mounted(now_s)
            if self._asker_pid == 0:
                self._asker_pid, self._asker_pipe = self._fork(self._ask)
            if not self._was_mounted:
                self._was_mounted = True
                self._told(words)
        elif not self._was_mounted:
            self._refusal = words
        self._report = b""

    def _reap(self) -> int | None:
        """The worker's exit status, once it has one; 128 and the signal's number when it was killed."""
        if self._asker_pid and os.waitpid(self._asker_pid, os.WNOHANG)[0]:
            self._asker_pid, self._asker_pipe = self._fork(self._ask)
        if not self._worker_pid:
            return None
        pid, status = os.waitpid(self._worker_pid, os.WNOHANG)
        if pid == 0:
            return None
        self._close_worker()
        code = os.waitstatus_to_exitcode(status)
        return code if code >= 0 else 128 - code

    def _kill_worker(self) -> None:
        """First the kill, which also ends a stopped process; the abort frees whoever waits for it, and the worker
        itself if it hangs in the kernel."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._worker_pid, signal.SIGKILL)
        self._clear_away()
        end_s = time.monotonic() + KILLED_S
        while os.waitpid(self._worker_pid, os.WNOHANG)[0] == 0:
            if time.monotonic() >= end_s:
                log.error("pid %d hangs in the kernel; it is left to it", self._worker_pid)
                break
            time.sleep(0.005)
        self._close_worker()

    def _clear_away(self) -> None:
        mounted = mounting.find(self._directory)
        while mounted is not None:
            mounting.abort(mounted.connection)
            mounting.detach(self._directory)
            before, mounted = mounted, mounting.find(self._directory)
            if mounted == before:
                log.error("%s can not be unmounted", self._directory)
                return

    def _close_worker(self) -> None:
        self._worker_pid = 0
        if self._worker_pipe >= 0:
            os.close(self._worker_pipe)
            self._worker_pipe = -1

    def _stop(self) -> int:
        """The worker unmounts in order, or not."""
        if self._worker_pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._worker_pid, signal.SIGTERM)
            end_s = time.monotonic() + STOP_S
            while self._reap() is None:
                if time.monotonic() >= end_s:
                    log.error("the worker of %s does not stop: it is killed", self._directory)
                    self._kill_worker()
                    return 1
                select.select([self._wake_read], [], [], 0.05)
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_read, MESSAGE_BYTES_MAX)
        self._clear_away()
        return 0

    # --- the asker ----------------------------------------------------------------------------------

    def _ask(self, pipe: int) -> int:
        """A process of its own: asks, and says so on the pipe, until nobody reads it."""
        while True:
            os.write(pipe, bytes([ASKED]))
            try:
                os.getxattr(self._directory, CONTROL_NAME)
            except OSError:
                time.sleep(UNANSWERED_PAUSE_S)
                continue
            os.write(pipe, bytes([ANSWERED]))
            time.sleep(self._settings.ask_every_s)

    def _hear_asker(self, guard: Guard, now_s: float) -> None:
        said = os.read(self._asker_pipe, MESSAGE_BYTES_MAX)
        if not said:
            os.close(self._asker_pipe)
            self._asker_pipe = -1
        for mark in said:
            if mark == ANSWERED:
                guard.answered(now_s)
            elif guard.asked(now_s):
                self._times = starving.times_of(self._worker_pid, self._asker_pid)

    def _end_asker(self) -> None:
        if self._asker_pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._asker_pid, signal.SIGKILL)
            os.waitpid(self._asker_pid, 0)
            self._asker_pid = 0

    # --- children -----------------------------------------------------------------------------------

    def _fork(self, body: Callable[[int], int]) -> tuple[int, int]:
        """(pid, pipe to read from)."""
        read, write = os.pipe2(os.O_CLOEXEC)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            self._child(parent, lambda: body(write))
        os.close(write)
        return pid, read

    def _child(self, parent: int, body: Callable[[], int]) -> NoReturn:
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            for fd in (self._worker_pipe, self._asker_pipe, self._wake_read, self._wake_write):
                if fd >= 0:
                    os.close(fd)
            end_with_parent(parent)
            status = body()
        except BrokenPipeError:
            pass
        except BaseException:
            log.exception("a process of the mount failed")
        finally:
            logging.shutdown()
            os._exit(status)

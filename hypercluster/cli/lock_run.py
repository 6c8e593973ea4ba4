"""`hypercluster workspace lock run`: a command that lives no longer than the lock it runs under (WS-61, WS-65).

Owns: the supervisor: it holds the lock, tells the watchdog until when the lease is known to hold, passes signals on,
and ends with the command's own code.
Never: kills the command itself; the watchdog does, also when this process is paused or gone (lease_watchdog.py).
Invariants: the command starts only after the lock is held and its watchdog knows until when; the lock is released only
after the watchdog has said that the command's process group is gone.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from hypercluster.client.lock_guard import GUARD_VARIABLE, LOCK_ID_VARIABLE, TOKEN_VARIABLE, LockGuard
from hypercluster.client.locks import Lock
from hypercluster.client.workspace import Workspace
from hypercluster.errors import LockLostError

WATCHDOG = "hypercluster.cli.lease_watchdog"
TELL_S = 0.2
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
LINE_BYTES_MAX = 256


@dataclass(frozen=True, slots=True)
class Ended:
    """How the command ended: its exit code, and whether by itself ("exit"), by its lease, or as it was asked to."""

    code: int
    why: str


async def run_under(workspace: Workspace, lock: Lock, command: list[str]) -> int:
    """Runs `command` while `lock` is held; its exit code. Raises LockLostError if it had to be killed."""
    await lock.acquire()
    try:
        ended = await _Supervisor(workspace, lock, command).run()
    except BaseException:
        await _quietly_release(lock)
        raise
    if ended.why == "lease" or lock.lost:
        await _quietly_release(lock)
        raise LockLostError(f"{lock.what} was lost, and the command was killed before another could get it")
    await lock.release()
    return ended.code


async def _quietly_release(lock: Lock) -> None:
    try:
        await lock.release()
    except LockLostError:
        return  # what is raised meanwhile says more


class _Supervisor:
    def __init__(self, workspace: Workspace, lock: Lock, command: list[str]) -> None:
        self._lock = lock
        self._command = command
        guard = LockGuard.of(workspace.workspace_id, lock.guard())
        self._environment = {
            **os.environ,
            TOKEN_VARIABLE: str(lock.token),
            LOCK_ID_VARIABLE: str(lock.lock_id),
            GUARD_VARIABLE: guard.text(),
        }
        self._control = -1

    async def run(self) -> Ended:
        control_out, self._control = os.pipe()
        report, report_in = os.pipe()
        os.set_blocking(self._control, False)
        try:
            arguments = ["-m", WATCHDOG, str(control_out), str(report_in), *self._command]
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *arguments,
                pass_fds=(control_out, report_in),
                process_group=0,
                env=self._environment,
            )
        finally:
            os.close(control_out)
            os.close(report_in)
        telling = asyncio.create_task(self._tell())
        try:
            with self._signals():
                ended = await self._listen(report)
                await process.wait()
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
            os.close(self._control)
        return ended

    async def _tell(self) -> None:
        """Until when the lease is known to hold, as it moves on."""
        told_ns = 0
        while True:
            ends_ns = self._lock.ends_ns
            if self._lock.lost:
                self._say("kill")
                return
            if ends_ns > told_ns:
                self._say(f"until {ends_ns}")
                told_ns = ends_ns
            await asyncio.sleep(TELL_S)

    def _say(self, words: str) -> None:
        try:
            os.write(self._control, words.encode() + b"\n")
        except (BrokenPipeError, BlockingIOError):
            return  # it has ended, or does not listen: then its last word counts

    async def _listen(self, report: int) -> Ended:
        """What the watchdog says at last. One that says nothing any more was killed, and what it guarded may live on:
        its process group is ended here."""
        reader = asyncio.StreamReader(limit=LINE_BYTES_MAX)
        with os.fdopen(report, "rb", buffering=0) as pipe:
            transport, _ = await asyncio.get_running_loop().connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(reader), pipe
            )
            group = 0
            try:
                while line := await reader.readline():
                    word, *rest = line.decode("ascii", "replace").split()
                    if word == "started":
                        group = int(rest[0])
                    elif word == "ended":
                        return Ended(int(rest[0]), rest[1])
            finally:
                transport.close()
        if group:
            os.killpg(group, signal.SIGKILL)
        raise LockLostError(f"the watchdog of {self._lock.what} is gone; the command was killed")

    @contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in PASSED_ON:
            loop.add_signal_handler(number, self._say, f"signal {int(number)}")
        try:
            yield
        finally:
            for number in PASSED_ON:
                loop.remove_signal_handler(number)

"""A local cluster and mounts of its workspaces as processes, for tests that make real system calls.

Needs root and /dev/fuse: `NEEDS` marks the modules that use it, and says what is missing where they do not run.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import pytest

from hypercluster.client.client import Client
from hypercluster.mount import mounting
from tests.integration.cluster import FAST_RATE, Cluster

T = TypeVar("T")

CONTROL = "user.hypercluster.control"
WHY = "user.hypercluster.why"
START_S = 60.0  # on a machine that is short of time


def _lacking() -> str:
    if sys.platform != "linux" or os.geteuid() != 0:
        return "mounting for tests needs root on Linux"
    return "; ".join(mounting.missing())


NEEDS_WORDS = _lacking()
NEEDS = [pytest.mark.root, pytest.mark.skipif(bool(NEEDS_WORDS), reason=NEEDS_WORDS or "nothing is missing")]


def within(condition: Callable[[], T], what: str, deadline_s: float = 15.0) -> T:
    """What `condition` answers, once it is true. An OSError is a no."""
    end_s = time.monotonic() + deadline_s
    while True:
        with contextlib.suppress(OSError):
            found = condition()
            if found:
                return found
        assert time.monotonic() < end_s, f"not within {deadline_s} s: {what}"
        time.sleep(0.01)


class LocalCluster:
    """`Cluster` for synchronous tests: system calls on a mount must not be made in the loop of a test."""

    def __init__(
        self, directory: Path, nodes: int = 3, settings: Mapping[str, Mapping[str, object]] = FAST_RATE
    ) -> None:
        self.cluster = Cluster(directory, nodes, settings=settings)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="cluster", daemon=True)
        self._thread.start()

    def __enter__(self) -> LocalCluster:
        try:
            for name in self.cluster.plans:
                self.cluster.start(name)
            self.leader(START_S)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._thread.is_alive():
            self._in_loop(self.cluster.close_channels())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
        for process in self.cluster.processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()

    def leader(self, deadline_s: float = 15.0, *, other_than: str = "") -> str:
        return self._in_loop(self.cluster.leader(deadline_s, other_than=other_than))

    def _in_loop(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def with_client(self, work: Callable[[Client], Awaitable[T]]) -> T:
        async def body() -> T:
            async with Client(self.cluster.client_settings()) as client:
                return await work(client)

        return self._in_loop(body())

    def make_workspace(self, name: str, uid: int = 0) -> None:
        self.with_client(lambda client: client.create_workspace(name, uid=uid, gid=uid))


class Mount:
    """`hypercluster mount --foreground` on a directory of its own. Use it as a context manager."""

    def __init__(self, cluster: LocalCluster, base: Path, workspace: str, name: str, *options: str) -> None:
        self.path = base / name
        self.path.mkdir(parents=True)
        self.state = base / f"{name}.state"
        self.log = base / f"{name}.log"
        self._arguments = [
            "mount", workspace, str(self.path), "--foreground", "--name", name, "--state", str(self.state),
            "--config", str(cluster.cluster.client_file), *options,
        ]  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Mount:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            print(f"--- {self.path.name}\n{self.log.read_text(errors='replace')[-3000:]}")
        self.close()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hypercluster.cli.main", *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        process = self.process

        def up() -> bool:
            assert process.poll() is None, f"the mount ended: {self.log.read_text(errors='replace')[-2000:]}"
            return mounting.find(str(self.path)) is not None and bool(self.worker())

        within(up, f"{self.path} is mounted", START_S)

    def worker(self) -> int:
        """The pid of the worker. Raises OSError while there is none."""
        return int(os.getxattr(self.path, CONTROL))

    def why(self) -> str:
        return os.getxattr(self.path, WHY).decode()

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        mounting.detach(str(self.path))
        mounting.remove_floor(str(self.path))

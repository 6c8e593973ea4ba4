"""A mount beside a local disk: how many files it makes a second, and how long git takes over a tree (WS-62).

Owns: the two measurements, made by programs that know nothing of us: `open(O_CREAT | O_EXCL)`, git.
Never: mounts where this machine can not: `missing` says why.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hypercluster.mount import mounting

GIT_S = 600.0
MOUNT_S = 60.0
CONTENT = b"x" * 200
GIT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "bench",
    "GIT_AUTHOR_EMAIL": "bench@localhost",
    "GIT_COMMITTER_NAME": "bench",
    "GIT_COMMITTER_EMAIL": "bench@localhost",
}


def missing() -> str:
    """Why nothing can be mounted here; '' if it can."""
    problems = list(mounting.missing())
    if shutil.which("git") is None:
        problems.append("git is not installed")
    return "; ".join(problems)


@contextmanager
def mounted(client_file: Path, workspace: str, directory: Path) -> Iterator[Path]:
    directory.mkdir()
    command = [sys.executable, "-m", "hypercluster.cli.main"]
    arguments = ["mount", workspace, str(directory), "--config", str(client_file)]
    subprocess.run([*command, *arguments], check=True, timeout=MOUNT_S, stdout=subprocess.DEVNULL)
    try:
        yield directory
    finally:
        unmount = [*command, "unmount", str(directory)]
        subprocess.run(unmount, check=False, timeout=MOUNT_S, stdout=subprocess.DEVNULL)


def creates_s(directory: Path, threads: int, seconds: float) -> float:
    """Files made with some bytes each, a second, by so many threads."""
    directory.mkdir()
    made = [0] * threads
    end_s = time.monotonic() + seconds

    def make(number: int) -> None:
        while time.monotonic() < end_s:
            path = directory / f"{number}-{made[number]}"
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            try:
                os.write(descriptor, CONTENT)
            finally:
                os.close(descriptor)
            made[number] += 1

    workers = [threading.Thread(target=make, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(made) / seconds


def make_repository(directory: Path, files: int) -> None:
    """With one commit of so many small files, 50 a directory."""
    directory.mkdir()
    _git(directory, "init", "-q")
    for number in range(files):
        path = directory / f"d{number // 50:04d}" / f"f{number:06d}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"file %d\n" % number)
    _git(directory, "add", "-A")
    _git(directory, "commit", "-qm", "one")


def status_s(repository: Path) -> float:
    """Of the second `git status`: the first refreshes what it remembers of each file."""
    times = [_timed(lambda: _git(repository, "status", "--porcelain")) for _ in range(2)]
    return times[1]


def _git(directory: Path, *arguments: str) -> None:
    command = ["git", "-c", "safe.directory=*", "-C", str(directory), *arguments]
    subprocess.run(command, check=True, timeout=GIT_S, env={**os.environ, **GIT}, stdout=subprocess.DEVNULL)


def _timed(work: Callable[[], None]) -> float:
    began_s = time.monotonic()
    work()
    return time.monotonic() - began_s

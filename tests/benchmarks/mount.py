"""What a mount costs: `python -m tests.benchmarks.mount [FILES]`.

A cluster of three nodes and one mount on this machine, so commits are as quick as they get. Measured are creates of one
process and of eight, lone small writes, stat and open of files that are there, readdir, sequential reading, and a git
repository of FILES files: its checkout and `git status`, on the mount and on a local disk. Needs root and /dev/fuse.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tests.mount.mounts import NEEDS_WORDS, LocalCluster, Mount
from tests.mount.test_git import git

SPAN_S = 3.0
PROCESSES = 8


def rate(call: Callable[[int], object], span_s: float = SPAN_S) -> float:
    """Calls a second."""
    number, begun_s = 0, time.monotonic()
    while time.monotonic() - begun_s < span_s:
        call(number)
        number += 1
    return number / (time.monotonic() - begun_s)


def latencies_ms(call: Callable[[int], object], count: int) -> tuple[float, float]:
    """(median, p95)."""
    found: list[float] = []
    for number in range(count):
        begun_s = time.perf_counter()
        call(number)
        found.append((time.perf_counter() - begun_s) * 1e3)
    return statistics.median(found), statistics.quantiles(found, n=20)[-1]


def create_in(directory: str) -> float:
    def create(number: int) -> None:
        os.close(os.open(f"{directory}/f{number}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))

    return rate(create)


def small_calls(place: Path) -> None:
    (place / "one").mkdir()
    alone = create_in(str(place / "one"))
    directories = [place / f"d{number}" for number in range(PROCESSES)]
    for directory in directories:
        directory.mkdir()
    with ProcessPoolExecutor(PROCESSES) as pool:
        together = sum(pool.map(create_in, map(str, directories)))
    print(f"creates          {alone:8.0f} /s alone   {together:8.0f} /s by {PROCESSES} processes")
    file = os.open(place / "written", os.O_CREAT | os.O_WRONLY)
    middle, high = latencies_ms(lambda number: os.pwrite(file, b"x" * 100, 100 * number), 300)
    print(f"lone write       {middle:8.2f} ms         {high:8.2f} ms p95")
    os.close(file)
    there = str(place / "one" / "f0")
    print(f"stat             {rate(lambda _: os.stat(there), 1.0):8.0f} /s")
    print(f"open and close   {rate(lambda _: os.close(os.open(there, os.O_RDONLY)), 1.0):8.0f} /s")
    begun_s = time.monotonic()
    names = os.listdir(place / "one")
    print(f"readdir          {len(names) / (time.monotonic() - begun_s):8.0f} entries/s")


def big_files(place: Path) -> None:
    content = os.urandom(1 << 20)
    begun_s = time.monotonic()
    with open(place / "big", "wb", buffering=0) as file:
        for _ in range(32):
            file.write(content)
    written_s = time.monotonic() - begun_s
    begun_s = time.monotonic()
    assert len((place / "big").read_bytes()) == 32 << 20
    print(f"32 MiB           {32 / written_s:8.1f} MiB/s written   {32 / (time.monotonic() - begun_s):8.1f} MiB/s read")


def repository(place: Path, files: int) -> dict[str, float]:
    """Seconds of a checkout and of two calls of git status."""
    place.mkdir()
    git(place, "init", "-q", "-b", "main")
    git(place, "config", "core.preloadIndex", "true")
    stream = ["commit refs/heads/main\ncommitter t <t@example.org> 1700000000 +0000\ndata 1\nx\n"]
    for number in range(files):
        text = f"{number}\n" * 20
        stream.append(f"M 100644 inline d{number % 50}/f{number}\ndata {len(text)}\n{text}\n")
    subprocess.run(
        ["git", "fast-import", "--quiet"], cwd=place, input="".join(stream).encode(), check=True, capture_output=True
    )
    found: dict[str, float] = {}
    for what, command in (
        ("checkout", ["checkout", "-q", "-f", "main"]),
        ("status", ["status", "--porcelain"]),
        ("status again", ["status", "--porcelain"]),
    ):
        begun_s = time.monotonic()
        git(place, *command)
        found[what] = time.monotonic() - begun_s
    return found


def main() -> None:
    files = int(sys.argv[1]) if len(sys.argv) > 1 else 5_000
    if NEEDS_WORDS:
        sys.exit(f"not run: {NEEDS_WORDS}")
    base = Path(tempfile.mkdtemp(prefix="mount-bench-"))
    try:
        with LocalCluster(base) as cluster:
            cluster.make_workspace("bench")
            with Mount(cluster, base, "bench", "m") as mount:
                small_calls(mount.path)
                big_files(mount.path)
                local, mounted = repository(base / "local", files), repository(mount.path / "repository", files)
                for what in local:
                    print(
                        f"git {what:12} {mounted[what]:8.2f} s mounted   {local[what]:8.2f} s local   ({files} files)"
                    )
    finally:
        shutil.rmtree(base, ignore_errors=True)


if __name__ == "__main__":
    main()

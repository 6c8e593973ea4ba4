"""An acknowledgement never leaves before the fdatasync that covers its entry has returned: watched from the outside.

Two of three nodes run, so that every commit needs both of them. strace follows one: it tells when the bytes of an entry
were written to the log (the tokens of the commands are in them, in plain), and when the fdatasync after that returned,
which it holds up a little. A client notes when it was told "committed", by the same clock.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from hypercluster.client.client import Client
from tests.integration.cluster import Cluster, eventually

COMMANDS = 40
HOLD_UP_US = 60_000  # each fdatasync returns so much later
TOKEN = re.compile(rb"sync-order-[0-9]{4}")
WRITE = re.compile(rb"^(\d+) +([\d.]+) pwrite64\([^<]*<[^>]*/wal/[^>]*>")
SYNC = re.compile(rb"^(\d+) +([\d.]+) fdatasync\([^<]*<[^>]*/wal/[^>]*>(.*)")
RESUMED = re.compile(rb"^(\d+) +([\d.]+) <\.\.\. fdatasync resumed")
TOOK = re.compile(rb"<([\d.]+)>$")


@dataclass(frozen=True, slots=True)
class Watched:
    """Wall clock in seconds, by token."""

    acknowledged_s: dict[str, float]
    durable_s: dict[str, float]  # when the first fdatasync returned that began after the token was written

    def too_early(self) -> list[str]:
        return [t for t, at_s in self.acknowledged_s.items() if at_s < self.durable_s.get(t, float("inf"))]


def durable_times(trace: bytes) -> dict[str, float]:
    """Reads what strace wrote: -f -ttt -T -y, calls of several threads one after the other."""
    written: list[str] = []  # not yet covered by a sync that has begun
    syncing: dict[bytes, list[str]] = {}  # by thread
    found: dict[str, float] = {}
    for line in trace.splitlines():
        if WRITE.match(line):
            written += [token.decode() for token in TOKEN.findall(line)]
        elif sync := SYNC.match(line):
            covered, written = written, []
            took = TOOK.search(line)
            if b"unfinished" in sync[3] or took is None:
                syncing[sync[1]] = covered
            else:
                found |= {token: float(sync[2]) + float(took[1]) for token in covered if token not in found}
        elif (resumed := RESUMED.match(line)) and resumed[1] in syncing:
            # The line is stamped when the call began to be resumed, that is when it returned.
            for token in syncing.pop(resumed[1]):
                found.setdefault(token, float(resumed[2]))
    return found


@asynccontextmanager
async def traced(pid: int, output: Path) -> AsyncIterator[None]:
    """strace holds on to the process for as long as this lasts."""
    command = ["strace", "-f", "-ttt", "-T", "-y", "-s", "2000000", "-o", str(output), "-p", str(pid)]
    command += ["-e", "trace=pwrite64,fdatasync", "-e", f"inject=fdatasync:delay_exit={HOLD_UP_US}"]
    words = output.with_suffix(".err")
    process = _spawn(command, words)
    try:
        await eventually(lambda: b"attached" in words.read_bytes() or process.poll() is not None, "strace attaches")
        if process.poll() is not None:
            pytest.skip(f"not run: strace can not attach ({words.read_text()[-200:].strip()})")
        yield
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait()


def _spawn(command: list[str], words: Path) -> subprocess.Popen[bytes]:
    with words.open("wb") as errors:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)


async def watch(tmp_path: Path, who: str, *arguments: str) -> Watched:
    """`who`, "leader" or "follower", is watched; `arguments` choose a test build."""
    if shutil.which("strace") is None:
        pytest.skip("not run: needs strace")
    if os.geteuid() != 0:
        pytest.skip("not run: needs root, to trace a running process")
    module = "tests.known_bad.serve" if arguments else "hypercluster.cli.main"
    acknowledged: dict[str, float] = {}
    trace = tmp_path / "trace"
    async with Cluster(tmp_path, module=module, arguments=arguments) as cluster:
        leader = await cluster.leader()
        follower, absent = sorted(set(cluster.plans) - {leader})
        async with Client(cluster.client_settings()) as client:
            await client.hub.set("metadata", b"first", b"1")
            cluster.kill(absent)
            async with traced(cluster.processes[{"leader": leader, "follower": follower}[who]].pid, trace):
                for number in range(COMMANDS):
                    token = f"sync-order-{number:04d}"
                    await client.hub.set("metadata", b"order", b'"%s"' % token.encode())
                    acknowledged[token] = time.time()
                # A build that does not wait has most of them still to sync at this point.
                await eventually(lambda: acknowledged.keys() <= durable_times(trace.read_bytes()).keys(), "all syncs")
        assert await cluster.leader() == leader, "the roles must stay as they were"
    found = Watched(acknowledged, durable_times(trace.read_bytes()))
    margins_ms = sorted(1000 * (at_s - found.durable_s[t]) for t, at_s in acknowledged.items() if t in found.durable_s)
    print(f"{who}: acknowledged {margins_ms[0]:.1f} to {margins_ms[-1]:.1f} ms after the fdatasync (negative: before)")
    return found


@pytest.mark.long
@pytest.mark.root
@pytest.mark.req("CL-2")
@pytest.mark.parametrize("who", ["follower", "leader"])
async def test_nothing_is_acknowledged_before_it_is_synced(tmp_path: Path, who: str) -> None:
    found = await watch(tmp_path, who)
    assert found.too_early() == []


@pytest.mark.long
@pytest.mark.root
@pytest.mark.req("CL-2", "CH-10")
@pytest.mark.parametrize(("who", "bad"), [("follower", "ack_before_sync"), ("leader", "durable_at_once")])
async def test_a_build_that_acknowledges_first_is_caught(tmp_path: Path, who: str, bad: str) -> None:
    found = await watch(tmp_path, who, "--bad", bad)
    assert len(found.too_early()) > COMMANDS // 2


def test_the_trace_is_read_right() -> None:
    trace = b"""\
10 100.000 pwrite64(9</d/wal/1.wal>, "..sync-order-0001..sync-order-0002", 30, 0) = 30 <0.000100>
10 100.001 fdatasync(9</d/wal/1.wal> <unfinished ...>
11 100.002 pwrite64(9</d/wal/1.wal>, "sync-order-0003", 30, 0) = 30 <0.000100>
11 100.003 fdatasync(5</d/elsewhere>) = 0 <0.5>
10 100.070 <... fdatasync resumed>) = 0 (DELAYED) <0.069>
10 100.100 fdatasync(9</d/wal/1.wal>) = 0 (DELAYED) <0.25>
"""
    times_s = {"sync-order-0001": 100.07, "sync-order-0002": 100.07, "sync-order-0003": 100.35}
    assert durable_times(trace) == pytest.approx(times_s)
    early = Watched({"sync-order-0001": 100.06, "sync-order-0002": 100.08, "sync-order-0009": 200.0}, times_s)
    assert early.too_early() == ["sync-order-0001", "sync-order-0009"]

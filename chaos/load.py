"""The processes that clients live in, as the runner sees them.

Owns: starting `python -m chaos.workloads` and the observer where they reach every node, and their ends.
Never: reads a history further than to see that something succeeded.
Invariants: no process outlives `kill`; one that ends by itself, fails, or does not end in time makes the run say no.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from chaos.records import Verdict
from chaos.seams import ClusterUnderTest, LoadPlan
from chaos.waiting import until

STOP_S = 30.0
OBSERVE_S = 180.0
HISTORY_BYTES_MAX = 2 << 30
TAIL_BYTES = 64 << 10


class LoadEndedError(RuntimeError):
    """A workload process ended before it was asked to."""


class LoadProcesses:
    def __init__(self, cluster: ClusterUnderTest) -> None:
        self._cluster = cluster
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._histories: list[Path] = []

    def start(self, plan: LoadPlan) -> None:
        self._histories.append(Path(plan.history_file))
        self._running[plan.workload] = _spawn(self._cluster, "chaos.workloads", asdict(plan), self._log(plan.workload))

    def _log(self, workload: str) -> Path:
        return self._cluster.directory / f"workload-{workload}.log"

    def check_running(self) -> None:
        for name, process in self._running.items():
            if process.poll() is not None:
                raise LoadEndedError(f"workload {name} ended with {process.returncode}: {_last_words(self._log(name))}")
        if self.history_bytes() > HISTORY_BYTES_MAX:
            raise LoadEndedError(f"the history is larger than HISTORY_BYTES_MAX {HISTORY_BYTES_MAX}")

    def history_bytes(self) -> int:
        return sum(path.stat().st_size for path in self._histories if path.exists())

    async def stop(self) -> list[Verdict]:
        """Ends them all. [] when each went as it should."""
        for process in self._running.values():
            process.terminate()
        await until(lambda: all(p.poll() is not None for p in self._running.values()), STOP_S)
        wrong = tuple(
            f"{name}: {'did not end' if process.poll() is None else f'ended with {process.returncode}'}; "
            f"{_last_words(self._log(name))}"
            for name, process in self._running.items()
            if process.poll() != 0
        )
        self.kill()
        return [Verdict("load", "no", "a workload did not end as it should", wrong)] if wrong else []

    def kill(self) -> None:
        for process in self._running.values():
            if process.poll() is None:
                process.kill()
            process.wait()


async def observe(cluster: ClusterUnderTest) -> str:
    """Lets the observer write final.json. '' or what went wrong."""
    plan = {"client_file": str(cluster.client_file), "directory": str(cluster.directory), "nodes": list(cluster.nodes)}
    log = cluster.directory / "observer.log"
    process = _spawn(cluster, "chaos.workloads.observer", plan, log)
    try:
        await until(lambda: process.poll() is not None, OBSERVE_S)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
    return "" if process.returncode == 0 else f"the observer ended with {process.returncode}: {_last_words(log)}"


def has_success_since(history: Path, since_ns: int) -> bool:
    """Looks at the end of the file only."""
    if not history.exists():
        return False
    with history.open("rb") as lines:
        lines.seek(max(0, history.stat().st_size - TAIL_BYTES))
        tail = lines.read().split(b"\n")[1:-1]
    for line in reversed(tail):
        event = json.loads(line)
        if event["at_ns"] < since_ns:
            return False
        if event["kind"] == "ok":
            return True
    return False


def _spawn(cluster: ClusterUnderTest, module: str, plan: Mapping[str, object], log: Path) -> subprocess.Popen[bytes]:
    command = [*cluster.client_prefix, sys.executable, "-m", module, json.dumps(plan)]
    with log.open("ab") as output:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)


def _last_words(log: Path) -> str:
    return log.read_bytes()[-400:].decode(errors="replace").strip() if log.exists() else ""

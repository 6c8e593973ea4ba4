"""Workers that follow one workspace, in a process of their own: when did each apply what (PERF-4).

Owns: `python -m hypercluster.cli.bench.followers PLAN`: opens live trees, says `ready`, and once it is told a
log_index waits for it and prints, for each of them, pairs of log_index and the moment it was applied.
Never: writes. Moments are the wall clock of this machine, to be held against the leader's stamps on the same machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from subprocess import PIPE

import uvloop

from hypercluster.client.client import Client
from hypercluster.client.live.live_tree import LiveWorkspace
from hypercluster.client.live.ports import Applied
from hypercluster.client.settings import read_settings

READY_S = 120.0
APPLIED_S = 30.0
LINE_BYTES_MAX = 64 << 20


@dataclass(frozen=True, slots=True)
class Plan:
    """`first`: the number of its first worker, so that no two processes name theirs alike."""

    client_file: str
    workspace_id: str
    state: str
    first: int
    count: int


Moments = list[tuple[int, int]]


class Followers:
    """Processes of followers. An async context manager; the moments come from `stop`."""

    def __init__(self, plans: list[Plan]) -> None:
        self._plans = plans
        self._processes: list[asyncio.subprocess.Process] = []

    async def __aenter__(self) -> Followers:
        module = "hypercluster.cli.bench.followers"
        try:
            for plan in self._plans:
                command = (sys.executable, "-m", module, json.dumps(asdict(plan)))
                process = await asyncio.create_subprocess_exec(
                    *command, stdin=PIPE, stdout=PIPE, stderr=None, limit=LINE_BYTES_MAX
                )
                self._processes.append(process)
            async with asyncio.timeout(READY_S):
                for process in self._processes:
                    if (await _line(process)).strip() != b"ready":
                        raise RuntimeError("a process of followers ended before it was ready")
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def stop(self, log_index: int) -> list[Moments]:
        """Of each worker: what it applied, and when. They are given APPLIED_S to come as far as `log_index`."""
        found: list[Moments] = []
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(b"%d\n" % log_index)
            process.stdin.close()
        for process in self._processes:
            found += json.loads(await _line(process))
            await process.wait()
        return found

    async def __aexit__(self, *_: object) -> None:
        for process in self._processes:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()


async def _line(process: asyncio.subprocess.Process) -> bytes:
    assert process.stdout is not None
    return await process.stdout.readline()


async def _serve(plan: Plan) -> None:
    found: list[Moments] = [[] for _ in range(plan.count)]

    def note(moments: Moments, applied: Applied) -> None:
        moments.append((applied.log_index, time.time_ns()))

    async with contextlib.AsyncExitStack() as stack:
        settings = read_settings(Path(plan.client_file))
        trees: list[LiveWorkspace] = []
        for number, moments in enumerate(found, plan.first):
            client = await stack.enter_async_context(Client(settings, name=f"follower-{number}"))
            state = Path(plan.state) / f"worker-{number}"
            workspace_id = bytes.fromhex(plan.workspace_id)
            tree = LiveWorkspace(client, workspace_id, "bench", f"follower-{number}", state)
            trees.append(await stack.enter_async_context(tree))
            tree.on_applied(lambda applied, moments=moments: note(moments, applied))  # type: ignore[misc]
        print("ready", flush=True)
        last_index = int(await asyncio.to_thread(sys.stdin.readline) or 0)
        with contextlib.suppress(TimeoutError):  # who is late has fewer pairs, and is counted
            async with asyncio.timeout(APPLIED_S):
                await asyncio.gather(*(tree.wait_applied(last_index) for tree in trees))
        print(json.dumps(found), flush=True)


def main() -> None:
    uvloop.run(_serve(Plan(**json.loads(sys.argv[1]))))


if __name__ == "__main__":
    main()

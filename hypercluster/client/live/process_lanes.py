"""One lane for each process that changes something (WS-4, WS-10).

Owns: the derivation of their client ids; which processes have a lane; when one ends; and what becomes of a lane after a
command whose outcome stayed open: it takes nothing until the cluster has logged that this client's commands are given
up to that one (`abandon`), while the lanes of other processes go on.
Never: knows what the commands are.
Invariants: a client_id belongs to one life of one lane of one process; order holds within a process; at most LANES_MAX
lanes are open, those of dead processes go first, then the longest idle ones.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from blake3 import blake3

from hypercluster.client.lane_types import Intent
from hypercluster.client.live.ports import Process
from hypercluster.client.stream import LanePort
from hypercluster.errors import HyperClusterError, QueueFullError
from hypercluster.values import ClientId

LANES_MAX = 1_024
SWEEP_S = 10.0
ABANDON_PAUSE_S = (0.1, 5.0)
ENDED_KEPT = 65_536
IDS_KEPT = 8  # of a process whose lane has begun anew that often

# Burns every seq of a client up to one. Returns once that is committed; raises an error of our tree.
Abandon = Callable[[Intent], Awaitable[None]]


def process_client_id(workspace_id: bytes, worker: str, mount_instance: bytes, process: Process, life: int) -> ClientId:
    """WS-10, fields length-prefixed. The first life is of those fields alone; a lane that had to leave its client_id
    behind, or was closed and opened again, adds how many lives the worker's lanes have had."""
    fields = [
        b"hypersync/client",
        workspace_id,
        worker.encode(),
        mount_instance,
        process.pid.to_bytes(8, "big"),
        process.start_ticks.to_bytes(8, "big"),
    ]
    if life:
        fields.append(life.to_bytes(8, "big"))
    framed = b"".join(len(field).to_bytes(4, "big") + field for field in fields)
    return ClientId(blake3(framed).digest(16))


def is_alive(process: Process) -> bool:
    """Whether the pid is still that process; 0 stands for the worker itself."""
    if not process.pid:
        return True
    try:
        with open(f"/proc/{process.pid}/stat", "rb") as stat:
            return int(stat.read().rpartition(b")")[2].split()[19]) == process.start_ticks
    except (OSError, IndexError, ValueError):
        return False


@dataclass(slots=True)
class ProcessLane:
    """`blocked`: why it takes nothing at present; '' when it does."""

    port: LanePort
    users: int = 0
    used_s: float = 0.0
    blocked: str = ""


class ProcessLanes:
    """In the loop."""

    def __init__(
        self,
        open_lane: Callable[[Callable[[], ClientId]], LanePort],
        close_lane: Callable[[LanePort], None],
        abandon: Abandon,
        identity: tuple[bytes, str, bytes],
    ) -> None:
        """`identity`: workspace, worker, mount instance."""
        self._open_lane = open_lane
        self._close_lane = close_lane
        self._abandon = abandon
        self._identity = identity
        self._lanes: dict[Process, ProcessLane] = {}  # the longest unused first
        self._lives = 0
        self._owners: dict[Process, list[ClientId]] = {}  # every id a process has had here, the last one last
        self._processes: dict[bytes, Process] = {}
        self._ended: dict[Process, None] = {}  # whose first id was used, the longest ended first
        self._abandoning: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._lanes)

    def of(self, process: Process) -> ProcessLane:
        """Its lane, made if it has none. Raises QueueFullError if every lane is in use."""
        lane = self._lanes.pop(process, None)
        if lane is None:
            if len(self._lanes) >= LANES_MAX:
                self._end_idle()
            lane = ProcessLane(self._open_lane(lambda: self._new_client_id(process)))
        self._lanes[process] = lane
        lane.used_s = time.monotonic()
        return lane

    def process_of(self, client_id: bytes) -> Process | None:
        """Who here sends, or has lately sent, under this id."""
        return self._processes.get(client_id)

    def _new_client_id(self, process: Process) -> ClientId:
        life, known = 0, self._owners.setdefault(process, [])
        if known or process in self._ended:  # one that only looked dead, to a worker that may not see it
            self._lives += 1
            life = self._lives
        client_id = process_client_id(*self._identity, process, life)
        known.append(client_id)
        self._processes[client_id] = process
        if len(known) > IDS_KEPT:
            del self._processes[known.pop(0)]
        return client_id

    # --- ends ---------------------------------------------------------------------------------------

    def _end_idle(self) -> None:
        for process, lane in self._lanes.items():
            if self._is_idle(lane):
                self._end(process)
                return
        raise QueueFullError(f"{len(self._lanes)} processes are changing the workspace, the limit is {LANES_MAX}")

    def _is_idle(self, lane: ProcessLane) -> bool:
        return not (lane.users or lane.blocked or lane.port.lane.pending)

    def _end(self, process: Process) -> None:
        lane = self._lanes.pop(process)
        self._close_lane(lane.port)

    async def sweep(self) -> None:
        """Ends the lanes of processes that have ended. Runs until it is cancelled."""
        while True:
            await asyncio.sleep(SWEEP_S)
            for process in [found for found in self._owners if not is_alive(found)]:
                lane = self._lanes.get(process)
                if lane is not None and not self._is_idle(lane):
                    continue
                if lane is not None:
                    self._end(process)
                for client_id in self._owners.pop(process):
                    del self._processes[client_id]
                self._ended[process] = None
                if len(self._ended) > ENDED_KEPT:
                    del self._ended[next(iter(self._ended))]

    async def close(self) -> None:
        for task in self._abandoning:
            task.cancel()
        await asyncio.gather(*self._abandoning, return_exceptions=True)

    # --- outcomes that stay open --------------------------------------------------------------------

    def block(self, process: Process, intent: Intent) -> None:
        """WS-4: the command of this key, and those before it, are to be given up before the process goes on."""
        lane = self._lanes.get(process)
        if lane is None:
            return
        lane.blocked = f"an earlier change of process {process.pid} has no known outcome (intent {intent.token()})"
        task = asyncio.create_task(self._give_up(lane, intent))
        self._abandoning.add(task)
        task.add_done_callback(self._abandoning.discard)

    async def _give_up(self, lane: ProcessLane, intent: Intent) -> None:
        pause_s = ABANDON_PAUSE_S[0]
        words = lane.blocked
        while True:
            try:
                await self._abandon(intent)
                break
            except HyperClusterError:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, ABANDON_PAUSE_S[1])
        if lane.blocked == words:  # otherwise a later one has taken its place
            lane.blocked = ""


def own_process() -> Process:
    """For callers that are no other process: the library, the worker's own housekeeping."""
    with open("/proc/self/stat", "rb") as stat:
        return Process(os.getpid(), int(stat.read().rpartition(b")")[2].split()[19]))

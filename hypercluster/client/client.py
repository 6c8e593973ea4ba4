"""The library's front: one `Client` is one principal's connection to a cluster (WS-60).

Owns: the life of the nodes' channels and of the command stream, the lanes, hub operations, and the way to
workspaces.
Never: server modules; state of its own that outlives the process.
Invariants: every write ends ok, refused, not done or unknown (D-8), and the exception says which; a client_id is
never used by two processes, nor by one process before and after fork (WS-10).

    async with Client(settings) as client:
        written = await client.hub.set("metadata", b"greeting", b'"hello"')
        workspace = await client.open_workspace("demo")
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from types import TracebackType

from blake3 import blake3

from hypercluster import errors
from hypercluster.client.answers import raise_unless_ok
from hypercluster.client.hub import Hub
from hypercluster.client.intents import IntentOutcome, intent_outcome
from hypercluster.client.lane_types import Intent, Journal
from hypercluster.client.leases import Leases
from hypercluster.client.nodes import Nodes
from hypercluster.client.settings import ClientSettings
from hypercluster.client.stream import CommandStream, LanePort
from hypercluster.client.stubs import workspace_service
from hypercluster.client.workspace import Workspace
from hypercluster.pb.v1 import cluster_pb2, read_pb2, workspace_pb2
from hypercluster.pb.v1 import command_pb2 as command_pb
from hypercluster.pb.v1 import origin_pb2 as origin_pb
from hypercluster.pb.v1 import workspace_command_pb2 as file_pb
from hypercluster.values import ClientId, ReadLevel

LANES_MAX = 16


def process_start_ticks() -> int:
    """When this process started, in clock ticks since boot: with the pid it names the process (WS-10)."""
    with open("/proc/self/stat", "rb") as stat:
        return int(stat.read().rpartition(b")")[2].split()[19])


def derive_client_id(worker: str, mount_instance: bytes, lane: int) -> ClientId:
    """WS-10. Computed anew for each lane, so that a forked child never continues its parent's."""
    fields = (
        b"hypersync/client",
        worker.encode(),
        mount_instance,
        os.getpid().to_bytes(8, "big"),
        process_start_ticks().to_bytes(8, "big"),
        lane.to_bytes(8, "big"),
    )
    framed = b"".join(len(field).to_bytes(4, "big") + field for field in fields)
    return ClientId(blake3(framed).digest(16))


class Client:
    """Use it as an async context manager. Not shared between event loops."""

    def __init__(
        self,
        settings: ClientSettings,
        *,
        name: str = "",
        journal: Journal | None = None,
        rng: random.Random | None = None,
        resume: Intent | None = None,
    ) -> None:
        """`name` is the worker's, for ids that differ between workers; `rng` only spreads retries. With `resume` the
        first command on lane 0 is sent under that key."""
        self.settings = settings
        self._name = name
        self._instance = os.urandom(16)
        self._lanes_made = 0
        self._seen_index = 0
        self._resume = resume
        self._rng = rng or random.Random(int.from_bytes(os.urandom(8), "big"))
        origin = origin_pb.Origin(agent=settings.agent) if settings.agent else None
        self.nodes = Nodes(settings, self._rng)
        self._stream = CommandStream(self.nodes, self._rng, origin, journal)
        self._ports: list[LanePort] = []
        self.hub = Hub(self)
        self.leases = Leases(self)

    async def __aenter__(self) -> Client:
        self._stream.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Locks that are still held end by themselves."""
        await self.leases.close()
        await self._stream.close()
        await self.nodes.close()

    # --- lanes --------------------------------------------------------------------------------------

    def lane(self, number: int = 0) -> LanePort:
        """Lane `number` of this client, opened when first asked for. Order holds within a lane only."""
        errors.check(0 <= number < LANES_MAX, "a client has a bounded number of lanes")
        while len(self._ports) <= number:
            resume = self._resume if not self._ports else None
            port = self._stream.open_lane(self._new_client_id, resume)
            port.lane.known(self._seen_index)
            self._ports.append(port)
        return self._ports[number]

    def open_lane(self, new_client_id: Callable[[], ClientId]) -> LanePort:
        """A lane of somebody else's, under ids of theirs, beside the numbered ones; they end it with `close_lane`."""
        port = self._stream.open_lane(new_client_id)
        port.lane.known(self.known_index())
        return port

    def close_lane(self, port: LanePort) -> None:
        self.see_at_least(port.lane.known_index)
        self._stream.close_lane(port)

    def known_index(self) -> int:
        """The highest Raft index an acknowledgement of this client named: min_index for its own reads."""
        return max((port.lane.known_index for port in self._ports), default=self._seen_index)

    def see_at_least(self, raft_index: int) -> None:
        """From now on reads of workspaces wait for this Raft index, as if a command of this client had reached it."""
        self._seen_index = max(self._seen_index, raft_index)
        for port in self._ports:
            port.lane.known(raft_index)

    @property
    def judged(self) -> int:
        """Commands that the cluster accepted or refused."""
        return self._stream.judged

    @property
    def pending(self) -> int:
        """Commands without an outcome: they may be on their way."""
        return self._stream.pending

    def _new_client_id(self) -> ClientId:
        self._lanes_made += 1
        return derive_client_id(self._name, self._instance, self._lanes_made)

    # --- the cluster --------------------------------------------------------------------------------

    async def status(self) -> dict[str, cluster_pb2.NodeStatus | errors.HyperClusterError]:
        """Each node's own view, or why it gave none."""
        addresses = self.nodes.addresses()
        answers = await asyncio.gather(*(self.nodes.status(a) for a in addresses), return_exceptions=True)
        found: dict[str, cluster_pb2.NodeStatus | errors.HyperClusterError] = {}
        for address, answer in zip(addresses, answers, strict=True):
            if isinstance(answer, errors.HyperClusterError | cluster_pb2.NodeStatus):
                found[address] = answer
            elif isinstance(answer, BaseException):
                raise answer
        return found

    def read_options(self, level: ReadLevel, min_index: int = 0) -> read_pb2.ReadOptions:
        options = read_pb2.ReadOptions(min_index=min_index)
        options.level = {
            ReadLevel.LINEARIZABLE: read_pb2.READ_LEVEL_LINEARIZABLE,
            ReadLevel.LEADER_LOCAL: read_pb2.READ_LEVEL_LEADER_LOCAL,
            ReadLevel.BOUNDED_STALE: read_pb2.READ_LEVEL_BOUNDED_STALE,
        }[level]
        return options

    async def intent_status(self, intent: Intent) -> tuple[bool, int]:
        """(whether it was judged, as of which Raft index). "No" is final for that index only (WS-4): the command may
        still be on its way. More is told by `intent_outcome`."""
        found = await self.intent_outcome(intent)
        return found.state == "committed", found.as_of_index

    async def intent_outcome(self, intent: Intent) -> IntentOutcome:
        """What became of a command, with its result if it was judged (WS-4)."""
        return await intent_outcome(self, intent)

    # --- workspaces ---------------------------------------------------------------------------------

    async def workspaces(self, level: ReadLevel = ReadLevel.LINEARIZABLE) -> list[workspace_pb2.WorkspaceSummary]:
        """Those of the caller's scope, by name."""
        request = workspace_pb2.WorkspaceListRequest(read=self.read_options(level))
        answer: workspace_pb2.WorkspaceListResponse = await self.nodes.read(
            lambda channel, timeout: workspace_service(channel).List(request, timeout=timeout),
            "list workspaces",
            any_node=level is ReadLevel.BOUNDED_STALE,
        )
        return sorted(answer.workspaces, key=lambda summary: summary.name)

    async def create_workspace(
        self, name: str, *, uid: int | None = None, gid: int | None = None, mode: int = 0o755
    ) -> Workspace:
        """Raises RefusedError EXISTS if the name is taken."""
        create = file_pb.WorkspaceCreate(
            name=name,
            uid=os.getuid() if uid is None else uid,
            gid=os.getgid() if gid is None else gid,
            mode=mode,
        )
        command = command_pb.Command(workspace_create=create).SerializeToString()
        settled = raise_unless_ok(await self.lane().submit(command), f"create workspace {name}")
        errors.check(settled.file is not None and len(settled.file.inode_id) == 16, "the ack names the workspace")
        assert settled.file is not None
        return Workspace(self, settled.file.inode_id, name)

    async def open_workspace(self, name: str) -> Workspace:
        """Raises NotFoundError."""
        for summary in await self.workspaces():
            if summary.name == name:
                return Workspace(self, summary.workspace_id, name)
        raise errors.NotFoundError(f"workspace {name}: there is none of this name (see: hypercluster workspace list)")

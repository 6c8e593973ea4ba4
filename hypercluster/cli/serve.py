"""`hypercluster serve`: one node. The composition root: everything a node is made of is put together here.

Owns: the wiring, in straight lines, and the process: event loop, logs, exit code.
Never: logic that a test could want without a process.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import signal
import sys
from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path

import click
import uvloop

from hypercluster.cli.addresses import ClientAddresses
from hypercluster.cli.last_words import way_out
from hypercluster.cli.main import EXIT_FATAL
from hypercluster.cli.node_settings import archive_settings, engine_settings, proposer_settings
from hypercluster.cli.retention_parts import RetentionParts
from hypercluster.config import Config, ConfigError, load, split_address
from hypercluster.credentials.tls import ReloadingFiles, TlsFiles
from hypercluster.errors import MalformedError
from hypercluster.limits import APPLY_ROOM_BYTES
from hypercluster.log.admission import admit
from hypercluster.log.entry import stamp_end
from hypercluster.node.apply_loop import ApplyLoop, Events
from hypercluster.node.checkpoints import AnnouncedCheckpoints
from hypercluster.node.dedupe import stored_answer
from hypercluster.node.events import EventFanout
from hypercluster.node.fanout import Fanout
from hypercluster.node.leases import Leases
from hypercluster.node.lifecycle import Fatal, Hooks, Lifecycle
from hypercluster.node.maintenance import Maintenance, MaintenanceSettings
from hypercluster.node.members import Promotion
from hypercluster.node.op_log import stored_op_log
from hypercluster.node.open_leases import OpenLeases
from hypercluster.node.opening import OpenDirectory, Runners, open_directory
from hypercluster.node.own_lane import OwnLane
from hypercluster.node.proposer import Admission, Proposer
from hypercluster.node.reads import Reads, staleness_ms
from hypercluster.node.reaping import Reaping
from hypercluster.node.report import Fixed, Reporter
from hypercluster.node.standing import Standing
from hypercluster.node.timed_syncs import TimedSyncs
from hypercluster.node.versions_budget import VersionsSize
from hypercluster.node.worker_table import WorkerTable
from hypercluster.raft.adapter import RaftEngine
from hypercluster.raft.driver import EngineDriver, SystemClock
from hypercluster.raft.peer_hello import LocalNode
from hypercluster.raft.peer_transport import GrpcPeerTransport
from hypercluster.raft.settings import EngineParts
from hypercluster.raft.settings import Identity as EngineIdentity
from hypercluster.raft.side_frames import SideFrames
from hypercluster.rpc.cluster_service import ClusterService
from hypercluster.rpc.command_service import CommandService
from hypercluster.rpc.coordination_service import CoordinationService
from hypercluster.rpc.gate import Gate, GateSettings
from hypercluster.rpc.hub_service import HubService
from hypercluster.rpc.lock_messages import encode_event
from hypercluster.rpc.scoped import workspace_of
from hypercluster.rpc.server import ClientServer
from hypercluster.rpc.tls import client_listener_credentials
from hypercluster.rpc.who import Authentication
from hypercluster.rpc.worker_session import SessionParts
from hypercluster.rpc.workspace_service import WorkspaceService, encode_slice
from hypercluster.telemetry import logs
from hypercluster.telemetry.admin import AdminListener, Page, text_page
from hypercluster.telemetry.metrics import Metrics
from hypercluster.telemetry.percentiles import Percentiles
from hypercluster.values import Index, NodeId, Scope

log = logging.getLogger(__name__)

# What the hot path makes has no cycles and dies by its reference counts: looking for garbage seldom is enough.
GC_FIRST = 100_000
GC_NEXT = 50


@click.command()
@click.option("--config", "config_path", required=True, type=click.Path(path_type=Path), help="The node's node.toml.")
@click.option("--set", "flags", multiple=True, metavar="SECTION.NAME=VALUE", help="Overrides one setting; repeatable.")
def serve(config_path: Path, flags: tuple[str, ...]) -> int:
    """Run one node until it is told to stop (SIGTERM or Ctrl-C).

    `hypercluster cluster init` writes the configuration. A stop hands leadership over, drains what is in flight and
    ends within 10 seconds.
    """
    config = read_config(config_path, os.environ, flags)
    logs.set_up(config.node.id, config.log.level)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        error = runner.run(run_node(config, config_path.parent))
    if error is None:
        return 0
    words = way_out(error, config_path.parent / config.node.data)
    click.echo(f"error: {config.node.id} stopped: {error}{words}", err=True)
    sys.stderr.flush()
    os._exit(EXIT_FATAL)  # a thread may hang in a call that will never return


def read_config(path: Path, environment: Mapping[str, str], flags: tuple[str, ...]) -> Config:
    """Raises ConfigError or MalformedError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MalformedError(f"{path}: {error}") from error
    pairs = dict(flag.partition("=")[::2] for flag in flags)
    return load(text, str(path), environment, pairs)


def tls_problem(words: str) -> None:
    """Files on disk that this node does not use. Called from gRPC's threads."""
    log.error("the certificate files on disk are not used; those before stay", extra={"fields": {"problem": words}})


async def run_node(config: Config, base: Path) -> BaseException | None:
    """`base` is what relative paths of the configuration are relative to."""
    loop = asyncio.get_running_loop()
    fatal = Fatal()
    fatal.watch_loop(loop)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    runners = Runners.start(loop)
    data_directory = str((base / config.node.data).resolve())
    directory = open_directory(
        data_directory, NodeId(config.node.id), config.cluster.voters, runners, fatal, archive_settings(config)
    )
    try:
        return await _Wiring(config, base, directory, fatal).run(stop)
    finally:
        runners.close()


class _Wiring:
    """Every part of one node, in the order in which they need each other."""

    def __init__(self, config: Config, base: Path, directory: OpenDirectory, fatal: Fatal) -> None:
        self.config = config
        self.directory = directory
        self.fatal = fatal
        self.release = version("hypercluster")
        self.clock = SystemClock()
        self.metrics = Metrics()
        self.fsync_times = Percentiles()
        self.files = ReloadingFiles(
            TlsFiles(base / config.tls.ca, base / config.tls.cert, base / config.tls.key), tls_problem
        )
        self.loop = asyncio.get_running_loop()
        self.driver = EngineDriver(self.loop, self.clock)
        self._wire_engine()
        self._wire_shell()
        self.server = self._server()
        self.admin = AdminListener(
            {"/metrics": self._metrics_page, "/health": self._health_page, "/ready": self._ready_page}
        )
        hooks = Hooks(self.server.set_serving, self._stop_servers, self._close_engine, self._close_directory)
        self.lifecycle = Lifecycle(
            self.engine,
            self.proposer,
            self.reporter,
            self.maintenance,
            self.metrics,
            fatal,
            hooks,
            looks=(
                Promotion(self.engine, self.standing, self.clock).look,
                self.leases.look,
                self.open_leases.look,
                self.reaping.look,
                *self.retention.looks(),
            ),
        )

    def _wire_engine(self) -> None:
        identity, storage = self.directory.identity, self.directory.storage
        address = self.config.client_address()
        rng = random.Random(os.urandom(16))
        quarantined = tuple((one.index, one.ordinal) for one in self.directory.quarantined)
        local = LocalNode(
            identity.cluster_id,
            identity.node_id,
            identity.incarnation,
            address,
            self.release,
            quarantined,
            self.directory.birth,
        )
        self.transport = GrpcPeerTransport(
            local,
            self.files,
            rng=rng,
            on_fatal=self.fatal,
            applied_index=lambda: self.host.applied_index,
            admit=self.directory.met.admit,
        )
        self.side = SideFrames(self.transport)
        self.addresses = ClientAddresses(identity.node_id, address, self.transport)
        self.fanout = Fanout(stored_op_log(storage.store, self.clock.wall_ns), self.loop, self.metrics, encode_slice)
        self.retention = RetentionParts(
            self.config, self.directory, self.files, self.loop, self.clock, self.metrics, self.fatal, self.side
        )
        self.events = EventFanout(storage.store, self.metrics, encode_event)
        self.host = ApplyLoop(
            self.directory.machine,
            storage.store,
            self.retention.chunk_bytes,
            self.fanout,
            self.loop,
            self.clock,
            self.metrics,
            on_applied=self._on_applied,
            on_events=self._on_events,
            on_replaced=self.events.state_replaced,
            wake=self.driver.wake,
            has_room=lambda: storage.free_bytes() >= APPLY_ROOM_BYTES,
            on_snapshots=self.retention.snapshots.marked,
            on_trimmed=self.retention.archiving.trimmed,
        )
        parts = EngineParts(
            identity=EngineIdentity(identity.cluster_id, identity.node_id, identity.incarnation, address),
            initial=self.directory.founding,
            wal=self.directory.wal,
            host=self.host,
            checkpoints=AnnouncedCheckpoints(storage.checkpoints, self._state_replaced),
            chunks=storage.chunks,
            transport=self.side,
            clock=self.clock,
            syncs=TimedSyncs(self.directory.runners.syncs, self.clock, self.metrics, self.fsync_times),
            bulk=self.directory.runners.bulk,
            rng=rng,
            wake=self.driver.wake,
            on_fatal=self.fatal,
            flushed_index=self._flushed_index,
            stamp_end=stamp_end,
            has_room=lambda: storage.free_bytes() > 2 * MaintenanceSettings().disk_low_bytes,
        )
        self.engine = RaftEngine(parts, engine_settings(self.config))

    def _wire_shell(self) -> None:
        identity, storage, machine = self.directory.identity, self.directory.storage, self.directory.machine
        self.standing = Standing(self.engine, self.loop, self.addresses)
        self.reads = Reads(
            self.engine,
            self.standing,
            lambda: self.host.applied_index,
            lambda: staleness_ms(self.clock.boottime_ns(), self.engine.status().fresh_boottime_ns),
            self.loop,
            self.metrics,
            node_id=identity.node_id,
            cluster_id=identity.cluster_id,
            history_id=identity.history_id,
        )
        admission = Admission(
            admit,
            machine.last_seq,
            lambda group: stored_answer(machine.lane(group.run.client_id), group),
            sign=lambda client_id: self.leases.sign(client_id),  # noqa: PLW0108 (made below, over the proposer)
            reclaim=lambda run, sink: self.leases.guard_reclaims(run, sink),  # noqa: PLW0108
        )
        settings = proposer_settings(self.config)
        self.proposer = Proposer(self.engine, self.standing, admission, self.loop, self.clock, self.metrics, settings)
        self.workers = WorkerTable(self.metrics)
        self.reporter = Reporter(
            self.standing,
            Fixed(
                identity.cluster_id,
                identity.history_id,
                self.release,
                self.directory.path,
                tuple((one.index, one.ordinal) for one in self.directory.quarantined),
            ),
            self.clock,
            self.metrics,
            self.fsync_times,
            digest_at=self.host.digest_at,
            flushed_index=self._flushed_index,
            client_address=self.addresses,
            workers=self.workers,
            peer_problem=self.transport.problem,
        )
        self.maintenance = Maintenance(
            self.engine,
            self.proposer,
            self.standing,
            storage.store,
            self.clock,
            storage.free_bytes,
            MaintenanceSettings(versions_bytes_max=self.config.retention.versions_bytes_max),
            versions_size=lambda: VersionsSize(*storage.store.versions_bytes()),
        )
        self._wire_leases()
        self.retention.start(self.proposer, self.standing)

    def _wire_leases(self) -> None:
        """Each proposes on a lane of its own: none waits for another."""
        reader, standing, clock, metrics = self.directory.storage.store, self.standing, self.clock, self.metrics
        lanes = [OwnLane(self.proposer, standing) for _ in range(3)]
        self.leases = Leases(reader, self.reads, standing, lanes[0], self.loop, clock, metrics)
        self.open_leases = OpenLeases(reader, standing, lanes[1], clock, metrics)
        self.reaping = Reaping(reader, standing, lanes[2], clock, metrics)

    def _state_replaced(self) -> None:
        self.retention.chunk_bytes.state_replaced()
        self.host.state_replaced()

    def _on_applied(self, index: int) -> None:
        self.reads.on_applied(index)

    def _on_events(self, index: int, events: Events) -> None:
        self.leases.on_events(events)
        self.events.publish(index, events)

    def _flushed_index(self) -> Index:
        return self.directory.storage.store.flushed_index

    def _server(self) -> ClientServer:
        config, storage = self.config, self.directory.storage
        scope = Scope(config.access.org, config.access.project)
        authentication = Authentication(self.directory.identity.cluster_id, scope)
        operators = tuple(f"client:{name}" for name in config.access.operators)
        admins = tuple(f"client:{name}" for name in config.access.admins)
        gate = Gate(authentication, GateSettings(operators, admins), self.metrics, self.fatal)
        sessions = SessionParts(
            self.fanout.op_log,
            self.standing,
            self.directory.identity,
            self.workers,
            self.clock,
            proposer_settings(config),
            partial(workspace_of, storage.store),
        )
        snapshots = self.retention.calls(self.reads, self.standing, self.fanout.op_log)
        services = {
            "hypercluster.v1.CommandService": CommandService(self.proposer),
            "hypercluster.v1.HubService": HubService(storage.store, self.reads),
            "hypercluster.v1.WorkspaceService": WorkspaceService(
                storage.store, storage.chunks, self.reads, self.fanout, self.proposer, sessions, snapshots
            ),
            "hypercluster.v1.CoordinationService": CoordinationService(
                storage.store, self.reads, self.leases, self.open_leases, self.events
            ),
            "hypercluster.v1.ClusterService": ClusterService(self.engine, self.standing, self.reporter),
        }
        return ClientServer(services, gate)

    async def run(self, stop: asyncio.Event) -> BaseException | None:
        """Listens, replays, serves, and stops when told."""
        config = self.config
        await self.transport.listen(config.listen.peer)
        self.driver.run(self.engine)
        await self.server.start(config.listen.client, client_listener_credentials(self.files))
        host, port = split_address(config.listen.admin) or ("127.0.0.1", 0)
        await self.admin.start(host, port)
        # What is alive now lives as long as the process: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_FIRST, GC_NEXT, GC_NEXT)
        return await self.lifecycle.run(stop)

    async def _stop_servers(self, grace_s: float) -> None:
        await self.server.stop(grace_s)
        await self.admin.stop()

    async def _close_engine(self) -> None:
        self.driver.close()
        self.engine.stop()
        self.transport.close()
        await self.transport.wait_closed()

    def _close_directory(self) -> None:
        self.retention.close()
        self.directory.close()

    def _metrics_page(self) -> Page:
        self.reporter.report()
        return Page(200, "text/plain; version=0.0.4; charset=utf-8", self.metrics.page())

    def _health_page(self) -> Page:
        return text_page(200, "ok\n")

    def _ready_page(self) -> Page:
        missing = self.reporter.not_ready()
        return text_page(503, missing + "\n") if missing else text_page(200, "ready\n")


__all__ = ["ConfigError", "run_node", "serve"]

"""`hypercluster node rejoin`: the way back of a node whose directory is lost, empty or damaged (CL-15).

Owns: the order of the steps between this host and the cluster, and what the operator is told.
Never: deletes an old directory, touches one that a process has open, or promotes: the leader does that by itself.
Steps, each of which may be found done already: a plan with a new incarnation; the old incarnation leaves the members
(the leader keeps D-9's conditions); the directory moves aside; the new incarnation becomes a learner; its directory
is made and put in place. Interrupted anywhere, the command finishes when it is run again.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import click

from hypercluster.cli.client_command import json_option, print_json
from hypercluster.cli.connection import ENVIRONMENT, find_settings
from hypercluster.cli.founding import CLIENT_FILE
from hypercluster.cli.node_archive import archive
from hypercluster.cli.serve import read_config
from hypercluster.client import members as calls
from hypercluster.client.nodes import Nodes
from hypercluster.client.settings import ClientSettings
from hypercluster.config import Config, split_address
from hypercluster.credentials.names import node_subject
from hypercluster.credentials.tls import TlsFiles
from hypercluster.credentials.tls import load as load_tls
from hypercluster.errors import MalformedError, StepRefusedError, WrongClusterError
from hypercluster.pb.v1.cluster_pb2 import MembersResponse
from hypercluster.state_machine.machine import Quarantined
from hypercluster.storage.disk import Disk, PosixDisk
from hypercluster.storage.identity import DirectoryLock, new_incarnation
from hypercluster.storage.rejoin_plan import RejoinDirectory, RejoinPlan
from hypercluster.values import ClusterId, HistoryId, Incarnation, Index, Member, Membership, NodeId, Suffrage

SETTLE_S = 10.0  # how long the leader may still believe in the stream of a node that was just stopped
LOOK_S = 0.1


@click.group()
def node() -> None:
    """Bring a lost or damaged node back; look at what it has archived."""


node.add_command(archive)


@node.command()
@click.option("--config", "config_path", required=True, type=click.Path(path_type=Path), help="The node's node.toml.")
@click.option("--client", metavar="FILE", help="client.toml of a client in access.admins.")
@click.option("--address", default="", metavar="HOST:PORT", help="Peer address, if it is another one than before.")
@click.option("--no-promote", is_flag=True, help="Let it stay a learner.")
@json_option
def rejoin(config_path: Path, client: str | None, address: str, no_promote: bool, as_json: bool) -> None:
    """Give a stopped node a new, empty directory and make it a member again.

    For a node whose directory is lost, empty or damaged, or that was removed. The old directory is moved aside, never
    deleted. Afterwards start the node: it catches up as a learner and becomes a voter by itself. If the command is
    interrupted or refused, run it again: it goes on where it was.
    """
    config = read_config(config_path, os.environ, ())
    settings = find_settings(_client_file(client, config_path), None, None, None, None)
    done = asyncio.run(Rejoin(config, config_path, settings, address, promote=not no_promote).run())
    if as_json:
        print_json(
            {"node": config.node.id, "data": done.data, "incarnation": done.incarnation.hex(), "aside": done.aside}
        )
        return
    click.echo(
        f"{config.node.id} is a learner of the cluster, incarnation {done.incarnation.hex()}, data in {done.data}"
    )
    if done.aside:
        click.echo(f"  the old directory is {done.aside}; nothing in it was deleted")
    click.echo(f"  start it:  hypercluster serve --config {config_path}")
    if not no_promote:
        click.echo("  it becomes a voter by itself once it has caught up:  hypercluster member list")


def _client_file(named: str | None, config_path: Path) -> str | None:
    """Where `cluster init` and `dev` leave it, unless something was named."""
    beside = config_path.resolve().parent.parent / CLIENT_FILE
    if named is None and ENVIRONMENT not in os.environ and beside.is_file():
        return str(beside)
    return named


@dataclass(frozen=True, slots=True)
class Rejoined:
    data: str
    incarnation: Incarnation
    aside: str  # '' when there was nothing to move


class Rejoin:
    def __init__(
        self,
        config: Config,
        config_path: Path,
        settings: ClientSettings,
        address: str = "",
        *,
        promote: bool = True,
        disk: Disk | None = None,
    ) -> None:
        self._config = config
        self._node_id = NodeId(config.node.id)
        self._base = config_path.parent
        self._settings = settings
        self._address = address
        self._promote = promote
        self._disk = disk or PosixDisk()
        if address and split_address(address) is None:
            raise MalformedError(f"--address {address!r}: expected host:port")

    async def run(self) -> Rejoined:
        directory = RejoinDirectory(self._disk, str((self._base / self._config.node.data).resolve()))
        self._disk.mkdir(directory.work)
        nodes = Nodes(self._settings, random.Random())
        with ExitStack() as locks:
            locks.enter_context(DirectoryLock(directory.work))
            if self._disk.exists(directory.data):
                locks.enter_context(DirectoryLock(directory.data))  # and so no process has it open
            try:
                return await self._steps(directory, nodes)
            finally:
                await nodes.close()

    async def _steps(self, directory: RejoinDirectory, nodes: Nodes) -> Rejoined:
        found = await calls.members(nodes)
        self._check_cluster(found)
        plan = self._plan(directory, found)
        if not directory.is_placed(plan):
            await self._leave(nodes, plan)
            directory.move_aside(plan)
            found = await self._join(nodes, plan)
            plan = directory.make(plan, membership_of(found), quarantine_of(found))
            directory.place(plan)
        aside = directory.aside_path(plan)
        directory.forget()
        return Rejoined(directory.data, plan.incarnation, aside if self._disk.exists(aside) else "")

    def _check_cluster(self, found: MembersResponse) -> None:
        """Before anything is changed: certificate and configuration are of the cluster that answers."""
        config, cluster_id = self._config, ClusterId(found.cluster_id)
        tls = config.tls
        subject = load_tls(TlsFiles(self._base / tls.ca, self._base / tls.cert, self._base / tls.key)).subject
        if subject != node_subject(cluster_id, self._node_id):
            raise WrongClusterError(
                f"the certificate {tls.cert} is that of {subject.uri()}; the cluster that answers is "
                f"{cluster_id.hex()} and the configuration names node {self._node_id}"
            )
        voters = config.cluster.voters
        if voters and voters != found.configured_voters:
            raise MalformedError(f"cluster.voters {voters}: the cluster has {found.configured_voters}")

    def _plan(self, directory: RejoinDirectory, found: MembersResponse) -> RejoinPlan:
        plan = directory.load()
        if plan is not None and directory.is_spent(plan):
            directory.forget()
            plan = None
        if plan is None:
            life = new_incarnation()
            moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
            name = f"{os.path.basename(directory.data)}.aside-{moment}-{life.hex()[:8]}"
            old = calls.find(found, self._node_id)
            plan = RejoinPlan(
                ClusterId(found.cluster_id),
                HistoryId(found.history_id),
                self._node_id,
                life,
                name,
                self._address or (old.peer_address if old is not None else "") or self._config.listen.peer,
            )
            directory.write(plan)
        if (plan.cluster_id, plan.history_id, plan.node_id) != (found.cluster_id, found.history_id, self._node_id):
            raise WrongClusterError(f"{directory.work} holds the plan of another node or cluster: remove it first")
        return plan

    async def _leave(self, nodes: Nodes, plan: RejoinPlan) -> None:
        """The incarnation before this one is no member any more."""
        end_s = time.monotonic() + SETTLE_S
        while True:
            found = await calls.members(nodes)
            old = calls.find(found, self._node_id)
            if old is None or old.incarnation == plan.incarnation:
                return
            if not old.connected:
                await calls.remove_member(nodes, self._node_id, old.incarnation)
                return
            if time.monotonic() > end_s:
                raise StepRefusedError(
                    f"{self._node_id} (incarnation {old.incarnation.hex()}) is connected to {found.leader}, so it runs "
                    "somewhere: stop it first; nothing was changed"
                )
            await asyncio.sleep(LOOK_S)

    async def _join(self, nodes: Nodes, plan: RejoinPlan) -> MembersResponse:
        """The configuration in which the new incarnation is a member; adding it twice adds it once."""
        return await calls.add_member(nodes, self._node_id, plan.incarnation, plan.address, promote=self._promote)


def membership_of(found: MembersResponse) -> Membership:
    members = tuple(
        Member(
            NodeId(one.node_id),
            Incarnation(one.incarnation),
            one.peer_address,
            Suffrage[one.suffrage.upper()],
            one.promote,
        )
        for one in found.members
    )
    return Membership(Index(found.index), found.configured_voters, members)


def quarantine_of(found: MembersResponse) -> tuple[Quarantined, ...]:
    return tuple(
        Quarantined(Index(one.index), one.ordinal if one.HasField("ordinal") else None) for one in found.quarantined
    )

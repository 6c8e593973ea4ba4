"""Real processes: a voter that lost its directory can not vote, and comes back as a learner, then as a voter (CL-15).

Every test has a cluster of its own, because it breaks it.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hypercluster.cli.node import Rejoin
from hypercluster.cli.serve import read_config
from hypercluster.storage.disk import PosixDisk, PosixFile
from hypercluster.storage.founding import create_founding, load_founding
from hypercluster.storage.identity import DirectoryLock, Identity, create_identity, load_identity, new_incarnation
from hypercluster.storage.wal.inspect import inspect_segments
from hypercluster.values import NodeId
from tests.integration.cluster import FAST_RATE, Cluster, free_ports
from tests.integration.operating import (
    becomes_voter,
    command,
    ended,
    followers,
    members,
    rejoin,
    same_state,
    turned_away,
)
from tests.integration.test_three_nodes import write, write_until_acknowledged

DISK = PosixDisk()


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with Cluster(tmp_path) as running:
        await running.all_applied(1, 20)
        yield running


def make_by_hand(cluster: Cluster, name: str, identity: Identity, like: str) -> None:
    """What an operator gets who copies what `cluster init` wrote, or writes it anew."""
    data = cluster.data(name)
    shutil.rmtree(data)
    data.mkdir()
    with DirectoryLock(str(data)):
        create_identity(DISK, str(data), identity)
        create_founding(DISK, str(data), load_founding(DISK, str(cluster.data(like))))


async def stays_out(cluster: Cluster, name: str, problem: str, lane: int) -> None:
    """While `name` runs, the leader refuses it with `problem`, and never counts it."""
    end = time.monotonic() + 15
    while problem not in (found := (await members(cluster))[name]).problem:
        assert time.monotonic() < end, f"{name} is not refused with {problem}: {found}"
        await asyncio.sleep(0.05)
    index, _ = await write_until_acknowledged(cluster, lane, 1, "meanwhile", '"x"')
    found = (await members(cluster))[name]
    assert not found.connected
    assert found.match_index < index, "what it acknowledged before is no copy now, and nothing was added"
    status = await cluster.status(name, 2)
    assert status is None or (status.applied_index == 0 and status.role != "leader")


@pytest.mark.req("CL-15", "QUO-1", "D-9")
async def test_a_wiped_voter_is_no_voter_and_comes_back_as_one(cluster: Cluster) -> None:
    leader = await cluster.leader()
    victim, other = followers(cluster, leader)
    for seq in range(1, 21):
        await write(cluster, leader, 1, seq, f"k{seq}", f'"{seq}"')
    old = load_identity(DISK, str(cluster.data(victim)))
    cluster.kill(victim)

    # An empty directory: the node says what to do and does not start.
    shutil.rmtree(cluster.data(victim))
    cluster.data(victim).mkdir()
    cluster.start(victim)
    assert await ended(cluster, victim) == 4
    assert "hypercluster node rejoin" in cluster.log(victim)

    # Made by hand under its old incarnation, then under a new one: both others refuse it, two of three go on.
    make_by_hand(cluster, victim, old, leader)
    cluster.start(victim)
    await stays_out(cluster, victim, "LOST_LOG", 7)
    cluster.kill(victim)
    cluster.start(victim)  # now there is a log, and still not the one it had
    end = time.monotonic() + 15
    while await cluster.status(victim, 2) is None:
        assert time.monotonic() < end
        await asyncio.sleep(0.05)
    for _ in range(30):
        assert not (await members(cluster))[victim].connected
        await asyncio.sleep(0.05)
    cluster.kill(victim)
    fresh = Identity(old.cluster_id, old.node_id, new_incarnation(), old.history_id)
    make_by_hand(cluster, victim, fresh, leader)
    cluster.start(victim)
    await stays_out(cluster, victim, "WRONG_INCARNATION", 8)
    # With the other voter gone there is no majority: the impostor makes none.
    cluster.pause(other)
    assert await turned_away(cluster, leader), "two nodes of three are not reachable: nothing is acknowledged"
    status = await cluster.status(victim, 2)
    assert status is None or status.role != "leader"
    cluster.resume(other)
    leader = await cluster.leader(20)

    # While it runs nowhere, it comes back as a learner with a new incarnation, and then as a voter.
    code, said = await command("node", "rejoin", "--config", cluster.directory / victim / "node.toml")
    assert code == 4 and "is open in another process" in said, "a running node is left alone"
    cluster.kill(victim)
    done = await rejoin(cluster, victim)
    assert DISK.exists(f"{done['aside']}/identity"), "nothing of the old directory was deleted"
    assert done["incarnation"] not in (old.incarnation.hex(), fresh.incarnation.hex())
    found = (await members(cluster))[victim]
    assert (found.suffrage, found.promote, found.connected) == ("learner", True, False)
    again = await rejoin(cluster, victim)
    assert again["incarnation"] != done["incarnation"], "a directory that is in place and is given up gets another one"
    cluster.start(victim)
    await becomes_voter(cluster, victim, again["incarnation"])
    await write_until_acknowledged(cluster, 9, 1, "after", '"x"')
    await same_state(cluster)

    # It counts again: another node may go.
    leader = await cluster.leader()
    gone = next(name for name in cluster.plans if name not in {victim, leader})
    cluster.kill(gone)
    await write_until_acknowledged(cluster, 9, 2, "without the other", '"x"')
    code, said = await command("member", "remove", victim, "--config", cluster.client_file)
    assert code == 1 and "are needed" in said, "two voters of three configured is the least (D-9)"


@pytest.mark.req("CL-3", "CL-8", "CL-15")
async def test_a_damaged_log_is_named_and_the_node_comes_back_by_checkpoint(tmp_path: Path) -> None:
    settings = {**FAST_RATE, "raft": {"log_keep_entries": 100, "checkpoint_every_entries": 100}}
    async with Cluster(tmp_path, settings=settings) as cluster:
        leader = await cluster.leader()
        victim = followers(cluster, leader)[0]
        for seq in range(1, 251):
            await write(cluster, leader, 1, seq, f"k{seq % 50}", f'"{seq}"')
        await same_state(cluster)
        cluster.kill(victim)
        data = cluster.data(victim)
        code, said = await command("wal", "inspect", data)
        assert code == 0 and said.startswith(("sound", "torn")), said
        segment, offset = damage(data)
        code, said = await command("wal", "inspect", data)
        assert code == 1 and segment in said and f"at offset {offset}" in said and "DAMAGED" in said, said
        code, said = await command("wal", "inspect", data, "--json")
        found = json.loads(said)
        assert code == 1 and found["verdict"] == "damaged"
        assert [(one["file"], one["damage"]["offset"]) for one in found["segments"] if one["damage"]] == [
            (segment, offset)
        ]

        cluster.start(victim)
        assert await ended(cluster, victim) == 4
        said = cluster.log(victim)
        assert f"hypercluster wal inspect {data}`" in said and "hypercluster node rejoin --config node.toml`" in said
        done = await rejoin(cluster, victim)
        await cluster.restart(leader)  # whoever leads now knows from the configuration that it wants to be promoted
        await cluster.leader(20)
        cluster.start(victim)
        await becomes_voter(cluster, victim, done["incarnation"])
        await same_state(cluster)
        status = await cluster.status(victim)
        assert status is not None and status.base_index > 0, "its log begins at a checkpoint"
        assert damage_is_still_there(done["aside"], segment, offset)


def damage(data: Path) -> tuple[str, int]:
    """Flips a bit of an early group that later ones say was durable: (file, offset of the group)."""
    report = next(inspect_segments(DISK, str(data / "wal")))
    group = report.groups[len(report.groups) // 2]
    with open(report.path, "r+b") as file:
        file.seek(group.end - 1)
        flipped = bytes((file.read(1)[0] ^ 1,))
        file.seek(group.end - 1)
        file.write(flipped)
    return report.path, group.offset


def damage_is_still_there(aside: str, segment: str, offset: int) -> bool:
    report = next(inspect_segments(DISK, f"{aside}/wal"))
    return (
        report.path.endswith(segment.rsplit("/", 1)[1]) and report.damage is not None and report.damage.offset == offset
    )


@pytest.mark.req("CL-15")
async def test_nothing_is_founded_where_a_cluster_answers(cluster: Cluster, tmp_path: Path) -> None:
    plan = cluster.plans["n2"]
    out = tmp_path / "second"
    nodes = [
        f"--node=n1=127.0.0.1:{free_ports(1)[0]}",
        f"--node=n2=127.0.0.1:{plan.peer_port}",
        "--node=n3=127.0.0.1:9",
    ]
    code, said = await command("cluster", "init", *nodes, "--out", out)
    assert code == 1 and f"127.0.0.1:{plan.peer_port}  node n2 of cluster {cluster.cluster_id.hex()}" in said, said
    assert not DISK.exists(str(out))
    for name in cluster.plans:
        cluster.kill(name)
    code, said = await command("cluster", "init", *nodes, "--out", out)
    assert code == 0, said


class Stopped(BaseException):
    """The process ends here."""


class StoppingDisk(PosixDisk):
    """A disk on which the n-th change is the last thing that the process does not come to."""

    def __init__(self, changes_left: int) -> None:
        self.changes_left = changes_left

    def _change(self) -> None:
        if self.changes_left == 0:
            raise Stopped
        self.changes_left -= 1

    def open(self, path: str, *, create: bool = False) -> PosixFile:
        if create:
            self._change()
        return super().open(path, create=create)

    def mkdir(self, path: str) -> None:
        self._change()
        super().mkdir(path)

    def rename(self, source: str, target: str) -> None:
        self._change()
        super().rename(source, target)

    def unlink(self, path: str) -> None:
        self._change()
        super().unlink(path)


@pytest.mark.req("CL-15")
async def test_a_rejoin_that_stops_anywhere_is_finished_by_the_next(cluster: Cluster) -> None:
    victim = followers(cluster, await cluster.leader())[0]
    cluster.kill(victim)
    config_path = cluster.directory / victim / "node.toml"
    config = read_config(config_path, {}, ())
    lives = {load_identity(DISK, str(cluster.data(victim))).incarnation}
    stops = 0
    while True:
        disk = StoppingDisk(stops)
        try:
            await Rejoin(config, config_path, cluster.client_settings(), disk=disk).run()
            break
        except Stopped:
            stops += 1
        if stops % 3 == 0 and cluster.data(victim).is_dir():
            shutil.rmtree(cluster.data(victim))  # lost once more, while a plan may be there
        done = await Rejoin(config, config_path, cluster.client_settings()).run()
        now = (await members(cluster))[victim]
        identity = load_identity(DISK, done.data)
        assert identity.incarnation == done.incarnation == now.incarnation and now.suffrage == "learner"
        assert load_founding(DISK, done.data).find(NodeId(victim)) is not None
        assert identity.incarnation not in lives, "no incarnation is used twice"
        lives.add(identity.incarnation)
    print(f"stopped at {stops} changes")
    assert stops > 12
    cluster.start(victim)
    await becomes_voter(cluster, victim, load_identity(DISK, str(cluster.data(victim))).incarnation.hex())
    await same_state(cluster)


@pytest.mark.long
@pytest.mark.req("CL-15")
async def test_on_a_build_that_forgets_whom_it_met_an_empty_log_is_a_voter_again(tmp_path: Path) -> None:
    """What the product refuses: with it, a vote that was given could be given twice."""
    async with Cluster(tmp_path, module="tests.known_bad.serve", arguments=("--bad", "meets_anew")) as cluster:
        leader = await cluster.leader()
        victim, other = followers(cluster, leader)
        await write_until_acknowledged(cluster, 1, 1, "a", '"1"')
        old = load_identity(DISK, str(cluster.data(victim)))
        cluster.kill(victim)
        make_by_hand(cluster, victim, old, leader)
        cluster.kill(other)
        cluster.start(victim)
        await write_until_acknowledged(cluster, 1, 2, "a", '"2"')  # a majority of one log and an empty one

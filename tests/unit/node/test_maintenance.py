"""What the leader proposes by itself, and what happens when the disk fills."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hypercluster.limits import MIB
from hypercluster.node import maintenance as module
from hypercluster.node.answers import REASONS
from hypercluster.node.maintenance import LANE_QUIET_S, UPKEEP_EVERY_S, Maintenance, MaintenanceSettings
from hypercluster.node.versions_budget import VersionsSize
from hypercluster.state_machine import queries, versions
from hypercluster.state_machine.lanes import HOUR_SHIFT
from hypercluster.state_machine.store import Family
from hypercluster.values import ClientId
from tests.unit.node.commands import client, hub_set, submit
from tests.unit.node.test_proposer import Node


class World(Node):
    def __init__(self, settings: MaintenanceSettings) -> None:
        super().__init__()
        self.free_bytes = 10_000 * MIB
        self.versions = VersionsSize(0, 0)
        # Stamps of the scripted engine are real nanoseconds, so that "silent for a day" means something.
        self.engine.stamp_ns = self.turns.wall_ns()
        self.maintenance = Maintenance(
            self.engine,
            self.proposer,
            self.standing,
            self.state,
            self.turns,
            lambda: self.free_bytes,
            settings,
            versions_size=lambda: self.versions,
            random_bytes=lambda count: b"m" * count,
        )

    def write(self, lane: int, seq: int) -> None:
        self.send(submit(client(lane), seq, hub_set(f"k{lane}")))
        self.turns.settle()
        self.commit()

    def show_applied(self) -> None:
        self.engine.now = replace(self.engine.now, applied_index=self.host.applied_index)
        self.standing.forget()

    def look(self) -> None:
        """As the lifecycle does, until nothing more is proposed."""
        for _ in range(10):
            self.maintenance.look()
            self.turns.settle()
            while self.engine.proposals:
                self.commit()


@pytest.mark.req("D-7")
def test_silent_lanes_are_forgotten_by_a_logged_command_that_raises_the_floor() -> None:
    world = World(MaintenanceSettings(lane_silent_s=24 * 3600))
    for lane in range(1, 6):
        world.write(lane, 1)
    world.look()
    assert queries.lane_count(world.state) == 5, "nobody is silent yet"
    world.turns.now_s += 30 * 3600
    world.engine.stamp_ns = world.turns.wall_ns()
    world.write(9, 1)
    world.look()
    assert world.machine.last_seq(ClientId(client(1))) is None
    assert world.machine.last_seq(ClientId(client(9))) == 1
    assert queries.dedupe_floor(world.state) > 0
    world.answers.clear()
    world.send(submit(client(1), 1, hub_set("k1")))
    world.turns.settle()
    world.commit()
    assert world.flat() == [(1, REASONS["UNKNOWN"])], "a retry of what was forgotten is not applied again"


@pytest.mark.req("D-7", "D-8")
def test_a_lane_in_use_is_not_forgotten_however_many_there_are() -> None:
    """Its command on the way would begin the lane anew over a gap, and be applied again under another key."""
    world = World(MaintenanceSettings(lanes_max=1))
    hour_ns = 1 << HOUR_SHIFT
    world.turns.now_s += (hour_ns - world.turns.wall_ns() % hour_ns) / 1e9 - 1  # a second before an hour's end
    world.engine.stamp_ns = world.turns.wall_ns()
    for lane in (1, 2, 3):
        world.write(lane, 1)
    world.turns.now_s += 2
    world.engine.stamp_ns = world.turns.wall_ns()
    world.look()
    assert queries.lane_count(world.state) == 3, "all of them were used two seconds ago"
    world.turns.now_s += LANE_QUIET_S
    world.engine.stamp_ns = world.turns.wall_ns()
    world.look()
    assert queries.lane_count(world.state) < 3


def test_a_follower_proposes_nothing() -> None:
    world = World(MaintenanceSettings(lane_silent_s=0))
    world.write(1, 1)
    world.turns.now_s += 30 * 3600
    world.engine.follow("n2")
    world.maintenance.look()
    world.turns.settle()
    assert not world.engine.proposals


@pytest.mark.req("CL-4")
def test_a_node_short_of_room_refuses_writes_hands_over_and_comes_back() -> None:
    world = World(MaintenanceSettings(disk_low_bytes=256 * MIB))
    world.free_bytes = 255 * MIB
    world.maintenance.look()
    assert world.engine.transfers == [None]
    world.send(submit(client(1), 1, hub_set("a")))
    assert world.flat() == [(1, REASONS["DISK_FULL"])]
    world.turns.now_s += 2
    world.free_bytes = 400 * MIB
    world.maintenance.look()
    world.send(submit(client(1), 1, hub_set("a")))
    assert world.flat()[1:] == [(1, REASONS["DISK_FULL"])], "a little room is not enough to go back and forth"
    world.turns.now_s += 2
    world.free_bytes = 600 * MIB
    world.maintenance.look()
    world.send(submit(client(1), 1, hub_set("a")))
    world.turns.settle()
    world.commit()
    assert world.flat()[2:] == [(1, 0)]


@pytest.mark.req("D-18")
def test_old_versions_fall_below_a_logged_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(MaintenanceSettings(versions_keep_entries=5))
    for seq in range(1, 21):
        world.write(1, seq)
    world.show_applied()
    assert world.maintenance.due() == [], "it moves in large steps"
    monkeypatch.setattr(module, "VERSIONS_STEP_ENTRIES", 10)
    world.look()
    assert queries.versions_floor(world.state) == 15


@pytest.mark.req("D-18")
def test_versions_go_while_lanes_come_and_go_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "VERSIONS_STEP_ENTRIES", 10)
    world = World(MaintenanceSettings(versions_keep_entries=5))
    for lane in range(1, 41):
        world.write(lane, 1)
    world.turns.now_s += 30 * 3600
    world.engine.stamp_ns = world.turns.wall_ns()
    for seq in range(1, 21):
        world.write(99, seq)
    monkeypatch.setattr(module, "LANES_A_ROUND", 4)
    for _ in range(5):
        world.turns.now_s += UPKEEP_EVERY_S
        world.show_applied()
        world.maintenance.look()
        world.turns.settle()
        while world.engine.proposals:
            world.commit()
    assert queries.lane_count(world.state) > 1, "silent lanes are left"
    assert queries.versions_floor(world.state) >= 50


@pytest.mark.req("D-18")
def test_one_message_removes_more_than_one_command_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "VERSIONS_STEP_ENTRIES", 10)
    monkeypatch.setattr(versions, "FLOOR_KEYS_MAX", 6)
    world = World(MaintenanceSettings(versions_keep_entries=0))
    for seq in range(1, 41):
        world.write(1, seq)
    world.show_applied()
    world.maintenance.look()
    world.turns.settle()
    world.commit()
    assert queries.versions_floor(world.state) == 40
    left = len(list(world.state.scan(Family.VERSIONS, b"V", b"W")))
    assert left < 30, "a command removes two versions, each with the list it stands in"


@pytest.mark.req("D-18")
def test_old_versions_over_their_budget_go_early() -> None:
    world = World(MaintenanceSettings(versions_keep_entries=10**6, versions_bytes_max=1_000))
    for seq in range(1, 12):
        world.write(1, seq)
        world.versions = VersionsSize(0, 100 * seq)
        world.turns.now_s += UPKEEP_EVERY_S
        world.show_applied()
        world.maintenance.look()
        world.turns.settle()
        assert bool(world.engine.proposals) == (seq == 11), "a thousand bytes and no more are within the budget"
    world.commit()
    assert queries.versions_floor(world.state) == 4, "three quarters of the budget are left"

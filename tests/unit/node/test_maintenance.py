"""What the leader proposes by itself, and what happens when the disk fills."""

from __future__ import annotations

import pytest

from hypercluster.limits import MIB
from hypercluster.node.answers import REASONS
from hypercluster.node.maintenance import LANE_QUIET_S, Maintenance, MaintenanceSettings
from hypercluster.state_machine import queries
from hypercluster.state_machine.lanes import HOUR_SHIFT
from hypercluster.values import ClientId
from tests.unit.node.commands import client, hub_set, submit
from tests.unit.node.test_proposer import Node


class World(Node):
    def __init__(self, settings: MaintenanceSettings) -> None:
        super().__init__()
        self.free_bytes = 10_000 * MIB
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
            random_bytes=lambda count: b"m" * count,
        )

    def write(self, lane: int, seq: int) -> None:
        self.send(submit(client(lane), seq, hub_set(f"k{lane}")))
        self.turns.settle()
        self.commit()

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
def test_old_versions_fall_below_a_logged_floor() -> None:
    world = World(MaintenanceSettings(versions_keep_entries=5))
    from dataclasses import replace

    for seq in range(1, 21):
        world.write(1, seq)
    world.engine.now = replace(world.engine.now, applied_index=world.host.applied_index)
    world.standing.forget()
    assert world.maintenance.due() == [], "it moves in large steps"
    import hypercluster.node.maintenance as module

    step, module.VERSIONS_STEP_ENTRIES = module.VERSIONS_STEP_ENTRIES, 10
    try:
        world.look()
    finally:
        module.VERSIONS_STEP_ENTRIES = step
    assert queries.versions_floor(world.state) == 15

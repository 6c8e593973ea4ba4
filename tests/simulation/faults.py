"""The faults a run may meet. Each is drawn by the seed, hurts, and is undone by time or by the healing at the end.

Owns: `FAULTS`. A fault says whether it did anything; one that found nothing to hurt does not count.
At most a minority loses its disks: more than that loses acknowledged writes by definition.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hypercluster.values import Incarnation, NodeId

if TYPE_CHECKING:
    from tests.simulation.node import SimNode
    from tests.simulation.world import World


@dataclass(frozen=True, slots=True)
class Fault:
    name: str
    inject: Callable[[World, random.Random], bool]


def _crash(world: World, rng: random.Random) -> bool:
    """Power off one node; it comes back after a while."""
    up = world.up()
    if not up:
        return False
    _power_cycle(world, rng.choice(up), rng.uniform(0.05, 3.0))
    return True


def _crash_leader(world: World, rng: random.Random) -> bool:
    leader = world.leader()
    if leader is None:
        return False
    _power_cycle(world, leader, rng.uniform(0.05, 3.0))
    return True


def _crash_all(world: World, rng: random.Random) -> bool:
    """Power off everything at once, back one by one."""
    up = world.up()
    for node in up:
        _power_cycle(world, node, rng.uniform(0.1, 1.5))
    return bool(up)


def _crash_some(world: World, rng: random.Random) -> bool:
    """A majority, or a minority, at one moment."""
    up = world.up()
    if len(up) < 2:
        return False
    for node in rng.sample(up, rng.randint(2, len(up))):
        _power_cycle(world, node, rng.uniform(0.1, 2.5))
    return True


def _power_cycle(world: World, node: SimNode, down_s: float) -> None:
    world.events.trace(f"crash {node.node_id}")
    node.crash()
    world.restart_later(node, down_s)


def _names(world: World) -> list[NodeId]:
    return list(world.nodes)


def _heal_later(world: World, pairs: list[tuple[NodeId, NodeId]], delay_s: float) -> None:
    for source, target in pairs:
        world.network.cut(source, target)

    def heal() -> None:
        for source, target in pairs:
            world.network.heal(source, target)

    world.events.after(delay_s, heal)


def _partition_halves(world: World, rng: random.Random) -> bool:
    names = _names(world)
    rng.shuffle(names)
    at = rng.randint(1, len(names) - 1)
    left, right = names[:at], names[at:]
    _heal_later(world, [p for a in left for b in right for p in ((a, b), (b, a))], rng.uniform(0.5, 6.0))
    return True


def _isolate_leader(world: World, rng: random.Random) -> bool:
    leader = world.leader()
    if leader is None:
        return False
    others = [n for n in _names(world) if n != leader.node_id]
    pairs = [p for o in others for p in ((leader.node_id, o), (o, leader.node_id))]
    _heal_later(world, pairs, rng.uniform(0.5, 6.0))
    return True


def _one_way(world: World, rng: random.Random) -> bool:
    """One node is heard and hears nothing, or the other way round, from some or all."""
    names = _names(world)
    leader = world.leader()
    victim = leader.node_id if leader is not None and rng.random() < 0.5 else rng.choice(names)
    others = [n for n in names if n != victim]
    chosen = rng.sample(others, rng.randint(1, len(others)))
    outward = rng.random() < 0.5
    _heal_later(world, [(victim, o) if outward else (o, victim) for o in chosen], rng.uniform(0.5, 6.0))
    return True


def _reset_streams(world: World, rng: random.Random) -> bool:
    names = _names(world)
    for _ in range(rng.randint(1, 4)):
        one, other = rng.sample(names, 2)
        world.network.break_stream(one, other)
    return True


def _sync_fails(world: World, rng: random.Random) -> bool:
    """An fsync error: the node must stop (CL-4); it is restarted as after a power cut."""
    up = world.up()
    if not up:
        return False
    node = rng.choice(up)
    node.disk.fail_sync_at(rng.randint(1, 20))

    def again() -> None:
        if node.life is None:
            node.start()

    for delay in (1.0, 2.0, 4.0):
        world.events.after(delay, again)
    return True


def _disk_full(world: World, rng: random.Random) -> bool:
    up = world.up()
    if not up:
        return False
    node = rng.choice(up)
    used = 1 + (1 << 50) - node.disk.free_bytes("/")
    node.disk.set_capacity(max(4096, used + rng.randint(0, 64 * 1024)))
    world.events.after(rng.uniform(0.5, 4.0), lambda: node.disk.set_capacity(None))
    return True


def _clock_jump(world: World, rng: random.Random) -> bool:
    node = rng.choice(list(world.nodes.values()))
    node.clock.wall_offset_ns = int(rng.choice([-1, 1]) * rng.uniform(0.1, 3600.0) * 1e9)
    world.events.after(rng.uniform(0.5, 5.0), lambda: setattr(node.clock, "wall_offset_ns", 0))
    return True


def _pause(world: World, rng: random.Random) -> bool:
    """SIGSTOP: the process stands still, its sockets fill, and it goes on as if no time had passed."""
    leader = world.leader()
    up = [n for n in world.up() if not n.gate.paused]
    if not up:
        return False
    node = leader if leader in up and rng.random() < 0.6 else rng.choice(up)
    assert node is not None
    node.gate.paused = True
    world.events.after(rng.uniform(0.3, 4.0), node.gate.resume)
    return True


def _transfer(world: World, rng: random.Random) -> bool:
    leader = world.leader()
    if leader is None or leader.life is None:
        return False
    leader.life.engine.transfer_leadership(None, lambda _: None)
    return True


def _lose_disk(world: World, rng: random.Random) -> bool:
    """One voter comes back with an empty disk, as a stranger who is let in again step by step (CL-15)."""
    if world.wiped or len(world.up()) < len(world.nodes):
        return False
    node = rng.choice(list(world.nodes.values()))
    leader = world.leader()
    if leader is None or leader.life is None or leader is node:
        return False
    current = leader.life.engine.membership()
    if not all(n.life is not None and n.life.engine.membership() == current for n in world.nodes.values()):
        return False
    world.events.trace(f"lose disk {node.node_id}")
    node.wipe(Incarnation(rng.randbytes(16)), current)
    world.wiped.append(node.node_id)
    world.restart_later(node, rng.uniform(0.1, 2.0))
    return True


FAULTS = [
    Fault("crash", _crash),
    Fault("crash leader", _crash_leader),
    Fault("crash all", _crash_all),
    Fault("crash some", _crash_some),
    Fault("partition", _partition_halves),
    Fault("isolate leader", _isolate_leader),
    Fault("one-way cut", _one_way),
    Fault("reset streams", _reset_streams),
    Fault("sync fails", _sync_fails),
    Fault("disk full", _disk_full),
    Fault("clock jump", _clock_jump),
    Fault("pause", _pause),
    Fault("transfer", _transfer),
    Fault("lose disk", _lose_disk),
]

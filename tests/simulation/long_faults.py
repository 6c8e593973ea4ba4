"""What happens to nodes and workers in the long run. Each is drawn by the seed, hurts, and ends by itself (CH-11).

Owns: `NODE_FAULTS`, `WORKER_FAULTS`. They last longer than those of the short runs, as the timing of the cluster is
stretched there.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from tests.simulation.faults import Fault, _heal_later, _power_cycle, _reset_streams, _sync_fails
from tests.simulation.world import World

if TYPE_CHECKING:
    from tests.simulation.long_worker import LongWorker
    from tests.simulation.long_world import LongWorld


def _long(world: World) -> LongWorld:
    return cast("LongWorld", world)


def _crash(world: World, rng: random.Random) -> bool:
    up = world.up()
    if up:
        _power_cycle(world, rng.choice(up), rng.uniform(5.0, 600.0))
    return bool(up)


def _crash_leader(world: World, rng: random.Random) -> bool:
    leader = world.leader()
    if leader is not None:
        _power_cycle(world, leader, rng.uniform(5.0, 60.0))
    return leader is not None


def _lose_learner(world: World, rng: random.Random) -> bool:
    """Long enough for its mirror streams to be moved away, or not quite."""
    learners = [node for node in world.up() if node.node_id not in world.voters]
    if learners:
        _power_cycle(world, rng.choice(learners), rng.uniform(60.0, 1_800.0))
    return bool(learners)


def _isolate_leader(world: World, rng: random.Random) -> bool:
    leader = world.leader()
    if leader is None:
        return False
    others = [name for name in world.nodes if name != leader.node_id]
    pairs = [pair for o in others for pair in ((leader.node_id, o), (o, leader.node_id))]
    _heal_later(world, pairs, rng.uniform(30.0, 120.0))
    return True


def _partition(world: World, rng: random.Random) -> bool:
    names = list(world.nodes)
    rng.shuffle(names)
    at = rng.randint(1, len(names) - 1)
    pairs = [pair for a in names[:at] for b in names[at:] for pair in ((a, b), (b, a))]
    _heal_later(world, pairs, rng.uniform(30.0, 180.0))
    return True


def _pause(world: World, rng: random.Random) -> bool:
    up = [node for node in world.up() if not node.gate.paused]
    if up:
        node = rng.choice(up)
        node.gate.paused = True
        world.events.after(rng.uniform(5.0, 60.0), node.gate.resume)
    return bool(up)


def _some(world: World, rng: random.Random, share: float) -> list[LongWorker]:
    workers = list(_long(world).workers.values())
    return rng.sample(workers, max(1, int(len(workers) * rng.uniform(0.0, share))))


def _later(world: World, delay_s: float, call: Callable[[], None]) -> None:
    world.events.after(delay_s, call)


def _workers_leave(world: World, rng: random.Random) -> bool:
    for worker in _some(world, rng, 0.1):
        if worker.up:
            worker.stop()
            _later(world, rng.uniform(10.0, 3_600.0), worker.start)
    return True


def _workers_cut(world: World, rng: random.Random) -> bool:
    chosen, for_s = _some(world, rng, 0.2), rng.uniform(20.0, 600.0)
    for worker in chosen:
        worker.set_cut(True)
        _later(world, for_s * rng.uniform(0.9, 1.0), lambda worker=worker: worker.set_cut(False))  # type: ignore[misc]
    return True


def _workers_slow(world: World, rng: random.Random) -> bool:
    chosen, for_s, slow_s = _some(world, rng, 0.2), rng.uniform(60.0, 900.0), rng.uniform(1.0, 180.0)
    for worker in chosen:
        worker.slow_s = slow_s
        _later(world, for_s, lambda worker=worker: setattr(worker, "slow_s", 0.0))  # type: ignore[misc]
    return True


def _workers_replaced(world: World, rng: random.Random) -> bool:
    """Hosts that are gone for good, and new ones in their place."""
    for worker in _some(world, rng, 0.02):
        _long(world).replace_worker(worker)
    return True


NODE_FAULTS = [
    Fault("crash", _crash),
    Fault("crash leader", _crash_leader),
    Fault("lose a learner", _lose_learner),
    Fault("isolate leader", _isolate_leader),
    Fault("partition", _partition),
    Fault("pause", _pause),
    Fault("reset streams", _reset_streams),
    Fault("sync fails", _sync_fails),
]
WORKER_FAULTS = [
    Fault("workers leave", _workers_leave),
    Fault("workers cut", _workers_cut),
    Fault("workers slow", _workers_slow),
    Fault("workers replaced", _workers_replaced),
]

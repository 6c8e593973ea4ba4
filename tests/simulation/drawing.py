"""Everything of a simulated run that its seed decides before anything happens (CH-2).

Owns: `Draw`, and `draw`: size, load, faults and their times, weather of network and disk, settings of the product.
Never: draws for what happens during a run (world.py), or anything that does not follow from the seed.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from hypercluster.raft.settings import EngineSettings
from tests.simulation.client import WAKE_S
from tests.simulation.faults import FAULTS, Fault
from tests.simulation.network import Weather
from tests.simulation.node import DiskWeather, NodeTuning

FIRST_FAULT_S = 1.2
FILE_WEIGHT, HUB_WEIGHT = 5, 7


@dataclass(frozen=True, slots=True)
class Draw:
    """What a seed decides before anything happens."""

    seed: int
    nodes: int
    clients: int
    operations: int
    duration_s: float
    faults: tuple[tuple[float, Fault], ...]
    weather: Weather
    disk: DiskWeather
    tuning: NodeTuning
    learners: int = 0
    client_wake_s: float = WAKE_S
    lock_clients: int = 0
    takes_over: bool = False
    semaphores: bool = False


def draw(seed: int, *, nodes: int = 0, operations: int = 0) -> Draw:
    """Swarm testing (CH-2): which faults, how often, and which settings. Fewer operations make a shorter run."""
    rng = random.Random(f"draw/{seed}")
    duration_s = rng.uniform(5.0, 9.0)
    if operations and operations < 1_000:
        duration_s = max(4.0, duration_s / 2)
    kinds = rng.sample(FAULTS, rng.randint(2, len(FAULTS)))
    count = rng.randint(4, 9)
    times = sorted(rng.uniform(FIRST_FAULT_S, duration_s * 0.9) for _ in range(count))
    faults = tuple((at, rng.choice(kinds)) for at in times)
    weather = Weather(delay_max_s=rng.choice([0.001, 0.003, 0.02]))
    if rng.random() < 0.5:
        weather.spike_chance, weather.spike_s = rng.choice([0.001, 0.01]), rng.choice([0.1, 0.6])
    if rng.random() < 0.4:
        weather.break_chance = rng.choice([0.0005, 0.003])
    if rng.random() < 0.7:
        weather.client_break_chance = rng.choice([0.002, 0.02, 0.1])
    disk = DiskWeather(sync_max_s=rng.choice([0.0005, 0.003, 0.02]))
    if rng.random() < 0.4:
        disk.slow_chance = rng.choice([0.002, 0.02])
    keep = rng.choice([20, 60, 1000])
    engine = EngineSettings(
        log_keep_entries=keep,
        checkpoint_every_entries=rng.choice([50, 150, 1000]),
        append_entries_max=rng.choice([2, 16, 256]),
        checkpoint_piece_bytes=rng.choice([700, 8192, 512 * 1024]),
        promote_lag_entries_max=20,
    )
    # Each of their operations is an entry of its own: the seeds that have them cost half as much again.
    locks = random.Random(f"locks/{seed}")
    lock_clients = locks.choice([0, 2])
    takes_over, semaphores, opens = (lock_clients > 0 and locks.random() < share for share in (0.6, 0.5, 0.3))
    tuning = NodeTuning(
        segment_bytes=rng.choice([64, 256, 1024]) * 1024,
        flush_entries=rng.choice([5, 40, 400]),
        engine=engine,
        batch_ops=rng.choice([4, 32, 256]),
        leases=lock_clients > 0,
        opens=opens,
    )
    return Draw(
        seed,
        nodes or rng.choice([3, 3, 3, 5]),
        rng.randint(4, 8),
        operations or rng.randint(2_450, 2_950),
        duration_s,
        faults,
        weather,
        disk,
        tuning,
        lock_clients=lock_clients,
        takes_over=takes_over,
        semaphores=semaphores,
    )


def share(drawn: Draw, number: int) -> int:
    """Of the run's operations, for one client. A file operation takes several times as long to judge as a hub write."""
    weights = [HUB_WEIGHT if client % 2 else FILE_WEIGHT for client in range(drawn.clients)]
    return drawn.operations * weights[number] // sum(weights)

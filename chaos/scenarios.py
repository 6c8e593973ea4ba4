"""Named scenarios: what runs, what breaks, who judges.

Owns: the table SCENARIOS, and what a scenario may say.
Never: draws or starts anything.
Invariants: every name in a scenario exists (a test holds the table against the registries).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

ALL = ("*",)

# Operations a second that each workload asks for: together well above what a run needs, and small enough to check.
RATES: Mapping[str, float] = {
    "register": 90.0,
    "set": 30.0,
    "counter": 30.0,
    "files": 60.0,
    "reads": 60.0,
    "locks": 60.0,
}
# Clients that a workload has at one time. Most of those that lock wait or sleep.
WORKERS: Mapping[str, int] = {"locks": 10}
WORKERS_USUAL = 5
TWO_WORKERS = frozenset({"locks"})  # workloads whose clients are of two certificates


@dataclass(frozen=True, slots=True)
class Scenario:
    """`gap_s` and `last_s` bound the quiet between faults and the length of one. `share` is how many of the nemeses a
    seed takes, roughly: each run is cruel in a way of its own (CH-2)."""

    name: str
    words: str
    nemeses: tuple[str, ...] = ALL
    workloads: tuple[str, ...] = ("register", "set", "counter", "files", "reads", "locks")
    cluster: str = "switch"
    nodes: int = 3
    duration_s: float = 60.0
    gap_s: tuple[float, float] = (2.0, 6.0)
    last_s: tuple[float, float] = (2.0, 8.0)
    share: float = 1.0
    ops_min: int = 500  # completed operations below which a run says nothing
    faults_min: int = 1


def _table(*scenarios: Scenario) -> dict[str, Scenario]:
    return {scenario.name: scenario for scenario in scenarios}


PROCESS_NEMESES = (
    "kill-one",
    "kill-leader",
    "kill-minority",
    "kill-majority",
    "kill-all",
    "pause-one",
    "pause-leader",
    "rolling-restart",
)

SCENARIOS = _table(
    Scenario(
        "smoke",
        "two minutes of killed and paused processes, without root",
        nemeses=PROCESS_NEMESES,
        cluster="local",
        duration_s=75.0,
        ops_min=2_000,
        faults_min=5,
    ),
    Scenario("kills", "processes are killed, paused and restarted", nemeses=PROCESS_NEMESES),
    Scenario(
        "partitions",
        "halves, isolated leaders, bridges, rings and one-way cuts",
        nemeses=(
            "partition-halves",
            "partition-leader",
            "partition-bridge",
            "partition-ring",
            "partition-leader-deaf",
            "partition-leader-mute",
        ),
        nodes=5,
    ),
    Scenario(
        "links",
        "slow, jittery, lossy and narrow links, one direction at a time",
        nemeses=("link-delay", "link-jitter", "link-loss", "link-rate"),
    ),
    Scenario(
        "disks",
        "slow and failing syncs, full disks, power cuts",
        nemeses=("sync-slow", "sync-fails", "disk-full", "power-one", "power-minority", "power-all"),
    ),
    Scenario(
        "locks",
        "holders that sleep, die and are cut off, and what their old tokens can do",
        nemeses=(
            "kill-leader",
            "kill-one",
            "pause-leader",
            "leader-wakes-alone",
            "partition-leader",
            "partition-halves",
            "partition-ring",
        ),
        workloads=("locks", "files"),
        duration_s=180.0,
    ),
    Scenario(
        "awakenings",
        "leaders that stand still and wake alone, and then as much quiet as a lease needs to end",
        nemeses=("leader-wakes-alone",),
        workloads=("locks",),
        duration_s=180.0,
        gap_s=(8.0, 10.0),
        last_s=(3.0, 6.0),
        ops_min=300,
    ),
    Scenario("clocks", "clocks that jump and drift", nemeses=("clock-jump", "clock-drift")),
    Scenario(
        "swarm",
        "everything, a different part of it with every seed",
        duration_s=280.0,
        share=0.6,
        ops_min=20_000,
        faults_min=15,
        gap_s=(1.0, 5.0),
    ),
)

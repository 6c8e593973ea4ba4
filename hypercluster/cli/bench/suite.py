"""Which measurements make a bench run, in which order, and what is asked of each (PERF-2 to PERF-4, PERF-8, CL-12).

Owns: the workloads, the alternation with etcd, and the figures with their bars.
Never: leaves out a row that was lost.
"""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hypercluster import __version__
from hypercluster.cli.bench import measure
from hypercluster.cli.bench.etcd import EtcdCluster, LoadResult, etcd_version
from hypercluster.cli.bench.local import LocalCluster
from hypercluster.cli.bench.report import Figure, Report, Row, at_least, at_most
from hypercluster.values import ReadLevel

IN_FLIGHT = 512
SESSIONS = 8
PARTS = ("hub", "lone", "reads", "files", "failover", "idle")


@dataclass(frozen=True, slots=True)
class Settings:
    seconds: float = 5.0
    rounds: int = 3
    failovers: int = 5
    idle_s: float = 15.0
    parts: tuple[str, ...] = PARTS


@dataclass(slots=True)
class Runs:
    """Results by (workload, system), one a round."""

    found: dict[tuple[str, str], list[LoadResult]] = field(default_factory=dict)

    def add(self, workload: str, system: str, result: LoadResult) -> None:
        self.found.setdefault((workload, system), []).append(result)

    def rate(self, workload: str, system: str) -> list[float]:
        return [r.ops_s for r in self.found[(workload, system)]]

    def ratio(self, ours: str, theirs: str, of: Callable[[LoadResult], float]) -> float:
        """The median of the ratios round by round: neighbours in time share the machine's mood."""
        pairs = zip(self.found[(ours, "hypercluster")], self.found[(theirs, "etcd")], strict=True)
        return statistics.median(of(a) / of(b) for a, b in pairs)

    def rows(self) -> list[Row]:
        rows = []
        for (workload, system), results in self.found.items():
            rates = [r.ops_s for r in results]
            note = f"{min(rates):,.0f} to {max(rates):,.0f} in {len(rates)} rounds" if len(rates) > 1 else ""
            rows.append(
                Row(
                    workload,
                    system,
                    statistics.median(rates),
                    statistics.median(r.p50_ms for r in results),
                    statistics.median(r.p99_ms for r in results),
                    sum(r.errors for r in results),
                    note,
                )
            )
        return rows


def rate(result: LoadResult) -> float:
    return result.ops_s


def p99(result: LoadResult) -> float:
    return result.p99_ms


HUB16 = f"{IN_FLIGHT} in flight, 16 a message"
HUB64 = f"{IN_FLIGHT} in flight, 64 a message"
SINGLE64 = "64 writers, one each"
PUTS = f"{IN_FLIGHT} in flight, single puts"
TXN16 = f"{IN_FLIGHT} in flight, 16-put transactions"


async def run(directory: Path, etcd: EtcdCluster | None, settings: Settings, tell: Callable[[str], None]) -> Report:
    report = Report(
        context={
            "version": __version__,
            "etcd": etcd_version() if etcd is not None else None,
            "cores": os.cpu_count(),
            "machine": platform.machine(),
            "python": platform.python_version(),
            "disk_fdatasync_ms": round(measure.disk_sync_ms(directory), 3),
            "in_flight": IN_FLIGHT,
            "value_bytes": 256,
        }
    )
    runs = Runs()
    async with LocalCluster(directory / "hypercluster") as cluster:
        if "idle" in settings.parts:
            tell("idle cluster")
            percent = await measure.idle_core_percent(cluster, settings.idle_s)
            report.figures.append(at_most("idle_core_percent", percent, "% of a core", 4.0))
        if "hub" in settings.parts:
            await hub_rounds(cluster, etcd, settings, runs, tell)
            report.figures += hub_figures(runs, etcd is not None)
        await smaller_parts(cluster, settings, runs, report, tell)
    report.rows = runs.rows()
    return report


async def hub_rounds(
    cluster: LocalCluster, etcd: EtcdCluster | None, settings: Settings, runs: Runs, tell: Callable[[str], None]
) -> None:
    """Ours and theirs in turn, round after round."""
    for number in range(1, settings.rounds + 1):
        for workload, sessions, window, per_message in (
            (HUB16, SESSIONS, IN_FLIGHT // SESSIONS, 16),
            (HUB64, SESSIONS, IN_FLIGHT // SESSIONS, 64),
            (SINGLE64, 64, 1, 1),
        ):
            tell(f"round {number} of {settings.rounds}: {workload}")
            result = await measure.hub_load(
                cluster, sessions=sessions, window=window, per_message=per_message, seconds=settings.seconds
            )
            runs.add(workload, "hypercluster", result)
            if etcd is not None:
                for theirs, clients, txn in _against(workload):
                    tell(f"round {number} of {settings.rounds}: etcd, {theirs}")
                    found = etcd.run(
                        clients=clients, conns=8, seconds=settings.seconds, warm=2.0, value_bytes=256, txn=txn
                    )
                    runs.add(theirs, "etcd", found)


def _against(workload: str) -> list[tuple[str, int, int]]:
    """(their workload, requests in flight, puts each) that is measured right after ours."""
    if workload == HUB16:
        return [(PUTS, IN_FLIGHT, 1)]
    if workload == HUB64:
        return [(TXN16, IN_FLIGHT // 16, 16)]
    return [(SINGLE64, 64, 1)]


def hub_figures(runs: Runs, against: bool) -> list[Figure]:
    figures = [Figure("hub_ops_s", statistics.median(runs.rate(HUB16, "hypercluster")), "ops/s")]
    if not against:
        return figures
    return [
        *figures,
        at_least("etcd_single_put_ratio", runs.ratio(HUB16, PUTS, rate), "x", 2.0),
        at_least("etcd_single_put_ratio_64", runs.ratio(HUB64, PUTS, rate), "x", 2.0),
        at_most("etcd_single_put_p99_ratio", runs.ratio(HUB16, PUTS, p99), "x", 1.0),
        at_most("etcd_single_put_p99_ratio_64", runs.ratio(HUB64, PUTS, p99), "x", 1.0),
        at_least("etcd_txn16_ratio", runs.ratio(HUB16, TXN16, rate), "x", 1.3),
        at_least("etcd_txn16_ratio_64", runs.ratio(HUB64, TXN16, rate), "x", 1.3),
        at_least("single_op_ratio", runs.ratio(SINGLE64, SINGLE64, rate), "x", 0.9),
    ]


async def smaller_parts(
    cluster: LocalCluster, settings: Settings, runs: Runs, report: Report, tell: Callable[[str], None]
) -> None:
    if "lone" in settings.parts:
        tell("one writer alone")
        result = await measure.hub_load(cluster, sessions=1, window=1, per_message=1, seconds=settings.seconds)
        runs.add("one writer alone", "hypercluster", result)
        bar_ms = 3 * float(str(report.context["disk_fdatasync_ms"])) + 2
        report.figures.append(at_most("lone_writer_p50_ms", result.p50_ms, "ms", round(bar_ms, 2)))
    if "reads" in settings.parts:
        for level in (ReadLevel.LINEARIZABLE, ReadLevel.BOUNDED_STALE):
            name = f"{level.name.lower().replace('_', '-')} reads, 64 at once"
            tell(name)
            runs.add(name, "hypercluster", await measure.read_load(cluster, level, tasks=64, seconds=settings.seconds))
    if "files" in settings.parts:
        for number in range(1, settings.rounds + 1):
            tell(f"round {number} of {settings.rounds}: workspace operations")
            found = await measure.file_load(cluster, seconds=settings.seconds, seed=number)
            runs.add("workspace creates and appends", "hypercluster", found)
        rates = runs.rate("workspace creates and appends", "hypercluster")
        report.figures.append(at_least("workspace_ops_s", statistics.median(rates), "ops/s", 4_000))
    if "failover" in settings.parts:
        times = []
        for number in range(1, settings.failovers + 1):
            tell(f"failover {number} of {settings.failovers}")
            times.append(await measure.failover_s(cluster))
        report.figures.append(at_most("failover_p50_s", statistics.median(times), "s", 1.0))
        report.figures.append(at_most("failover_max_s", max(times), "s", 2.0))

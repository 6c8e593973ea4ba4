"""`hypercluster bench workspace`: what a replicated tree costs, from its Merkle tree to its workers (PERF-4, WS-35).

Owns: the measurements and their bars: durable small-file operations, Merkle updates and proofs by the size of the tree,
commit to applied on 1, 8 and 50 workers, and a mount beside a local disk where this machine can mount.
Never: leaves out a part without a note that says why.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console

from hypercluster import __version__
from hypercluster.cli.bench import measure, mounted
from hypercluster.cli.bench.followers import Followers, Plan
from hypercluster.cli.bench.local import LocalCluster
from hypercluster.cli.bench.report import Figure, Report, Row, at_least, at_most
from hypercluster.cli.bench.tree import measure_tree
from hypercluster.cli.founding import CLIENT_FILE
from hypercluster.client.client import Client
from hypercluster.client.import_tree import import_tree

PARTS = ("tree", "files", "workers", "mount")
WORKERS = (1, 8, 50)
WORKERS_A_PROCESS = 13
SPREAD_OPS_S = 40.0

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Settings:
    seconds: float = 5.0
    rounds: int = 3
    leaves_max: int = 1_000_000
    workers: tuple[int, ...] = WORKERS
    files: int = 5_000
    parts: tuple[str, ...] = PARTS


async def run(directory: Path, settings: Settings, tell: Tell) -> Report:
    report = Report(
        context={
            "version": __version__,
            "cores": os.cpu_count(),
            "machine": platform.machine(),
            "python": platform.python_version(),
            "disk_fdatasync_ms": round(measure.disk_sync_ms(directory), 3),
        }
    )
    if "tree" in settings.parts:
        _tree(settings, report, tell)
    if {"files", "workers", "mount"} & set(settings.parts):
        async with LocalCluster(directory / "hypercluster") as cluster:
            if "files" in settings.parts:
                await _files(cluster, settings, report, tell)
            for count in settings.workers if "workers" in settings.parts else ():
                tell(f"commit to applied on {count} workers")
                await _spread(cluster, directory, count, settings, report)
            if "mount" in settings.parts:
                await _mount(cluster, directory, settings, report, tell)
    return report


def _tree(settings: Settings, report: Report, tell: Tell) -> None:
    for leaves in (size for size in (1_000, 10_000, 100_000, 1_000_000) if size <= settings.leaves_max):
        tell(f"Merkle tree of {leaves:,} leaves")
        cost = measure_tree(leaves, seed=leaves)
        name = f"{leaves // 1_000}k"
        report.figures.append(Figure(f"merkle_update_p50_us_{name}", cost.update.p50_us, "µs"))
        # The bar is for trees of up to 100 k entries; an entry has two leaves, its own and its inode's.
        bar = at_most(f"merkle_update_p99_us_{name}", cost.update.p99_us, "µs", 10.0)
        report.figures.append(bar if leaves <= 200_000 else Figure(bar.name, bar.value, bar.unit))
        report.figures.append(at_most(f"proof_p99_us_{name}", cost.proof.p99_us, "µs", 1_000.0))
        report.figures.append(Figure(f"proof_verification_p99_us_{name}", cost.verification.p99_us, "µs"))


async def _files(cluster: LocalCluster, settings: Settings, report: Report, tell: Tell) -> None:
    rates = []
    for number in range(1, settings.rounds + 1):
        tell(f"round {number} of {settings.rounds}: creates and appends")
        found = await measure.file_load(cluster, seconds=settings.seconds, seed=number)
        rates.append(found.ops_s)
        words = "creates and appends, a root each"
        report.rows.append(Row(words, "hypercluster", found.ops_s, found.p50_ms, found.p99_ms, found.errors))
    report.figures.append(at_least("workspace_ops_s", statistics.median(rates), "ops/s", 4_000))


async def _spread(cluster: LocalCluster, directory: Path, count: int, settings: Settings, report: Report) -> None:
    """Small writes at a steady pace, and when each worker had applied them, from the leader's stamp on."""
    async with Client(cluster.settings(), name="bench") as client:
        workspace = await client.create_workspace(f"spread-{count}")
        plans = [
            Plan(
                str(directory / "hypercluster" / CLIENT_FILE),
                workspace.workspace_id.hex(),
                str(directory / f"followers-{count}"),
                first,
                min(WORKERS_A_PROCESS, count - first),
            )
            for first in range(0, count, WORKERS_A_PROCESS)
        ]
        async with Followers(plans) as followers:
            stamps: dict[int, int] = {}
            began_s = time.monotonic()
            for number in itertools.count():
                due_s = began_s + number / SPREAD_OPS_S
                if due_s > began_s + settings.seconds:
                    break
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                done = await workspace.ops.create(bytes(16), b"f%d" % number, 0o644)
                stamps[done.log_index] = done.committed_at_ns
            moments = await followers.stop(max(stamps))
    late_ms = sorted((at_ns - stamps[i]) / 1e6 for worker in moments for i, at_ns in worker if i in stamps)
    missing = count * len(stamps) - len(late_ms)
    if missing:
        report.notes.append(f"{missing} of {count * len(stamps)} applications had not come to {count} workers in time")
    p50_ms, p99_ms = late_ms[len(late_ms) // 2], late_ms[int(len(late_ms) * 0.99)]
    report.figures.append(at_most(f"commit_to_applied_p50_ms_{count}_workers", p50_ms, "ms", 10.0))
    report.figures.append(at_most(f"commit_to_applied_p99_ms_{count}_workers", p99_ms, "ms", 100.0))


async def _mount(cluster: LocalCluster, directory: Path, settings: Settings, report: Report, tell: Tell) -> None:
    why = mounted.missing()
    if why:
        report.notes.append(f"the mount was not measured: {why}")
        return
    tell(f"a mount beside a local disk: git over {settings.files} files")
    local = directory / "local"
    await asyncio.to_thread(mounted.make_repository, local, settings.files)
    async with Client(cluster.settings(), name="bench") as client:
        for name in ("creates", "git"):
            await client.create_workspace(name)
        await import_tree(await client.open_workspace("git"), str(local))
    client_file = directory / "hypercluster" / CLIENT_FILE
    for number in (1, 8):
        tell(f"creates by {number} threads")
        beside = await asyncio.to_thread(mounted.creates_s, directory / f"creates-{number}", number, settings.seconds)
        rate = await asyncio.to_thread(_creates_on_mount, client_file, directory, number, settings.seconds)
        report.figures.append(Figure(f"mount_creates_s_{number}_threads", rate, "files/s"))
        report.figures.append(Figure(f"local_creates_s_{number}_threads", beside, "files/s"))
    tell("git status")
    report.figures.append(Figure("git_status_local_s", await asyncio.to_thread(mounted.status_s, local), "s"))
    report.figures.append(
        Figure("git_status_mount_s", await asyncio.to_thread(_status_on_mount, client_file, directory), "s")
    )


def _creates_on_mount(client_file: Path, directory: Path, threads: int, seconds: float) -> float:
    with mounted.mounted(client_file, "creates", directory / f"mount-{threads}") as point:
        return mounted.creates_s(point / f"by-{threads}", threads, seconds)


def _status_on_mount(client_file: Path, directory: Path) -> float:
    with mounted.mounted(client_file, "git", directory / "mount-git") as point:
        return mounted.status_s(point)


@click.command("workspace")
@click.option("--seconds", default=5.0, show_default=True, help="Measured time of each run.")
@click.option("--rounds", default=3, show_default=True, help="Runs of the file load; the median counts.")
@click.option("--leaves-max", default=1_000_000, show_default=True, help="The largest Merkle tree.")
@click.option("--files", default=5_000, show_default=True, help="Files of the tree on the mount.")
@click.option("--parts", default=",".join(PARTS), show_default=True, help="Which measurements, comma-separated.")
@click.option("--data", type=click.Path(path_type=Path), help="Directory on the disk to measure.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and no tables.")
@click.option("--json-file", type=click.Path(path_type=Path), help="Write the JSON object here.")
def workspace(
    seconds: float,
    rounds: int,
    leaves_max: int,
    files: int,
    parts: str,
    data: Path | None,
    as_json: bool,
    json_file: Path | None,
) -> int:
    """Measure a workspace: its tree, its operations, its workers, a mount."""
    chosen = tuple(part for part in parts.split(",") if part)
    unknown = set(chosen) - set(PARTS)
    if unknown:
        raise click.UsageError(f"--parts: {', '.join(sorted(unknown))} is none of {', '.join(PARTS)}")
    began_s = time.monotonic()

    def tell(words: str) -> None:
        click.echo(f"{time.monotonic() - began_s:6.0f} s  {words}", err=True)

    with tempfile.TemporaryDirectory(dir=data, prefix="hypercluster-bench-") as made:
        settings = Settings(seconds, rounds, leaves_max, WORKERS, files, chosen)
        report = asyncio.run(run(Path(made), settings, tell))
    if json_file is not None:
        report.write(json_file)
    if as_json:
        click.echo(report.as_json())
    else:
        report.show(Console(width=140))
    return 0

"""`hypercluster bench` (PERF-1): options in, tables or JSON out.

Owns: the command line of the bench. What is measured stands in suite.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
import time
from pathlib import Path

import click
from rich.console import Console

from hypercluster.cli.bench.etcd import EtcdCluster, EtcdMissingError, build_load
from hypercluster.cli.bench.suite import PARTS, Settings, run
from hypercluster.cli.bench.workspace import workspace


def cache_directory() -> Path:
    """Where the compiled etcd load is kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "hypercluster"


@click.group(invoke_without_command=True)
@click.option("--against", type=click.Choice(["etcd"]), help="Run the same work against three local etcd members.")
@click.option("--seconds", default=5.0, show_default=True, help="Measured time of each run.")
@click.option("--rounds", default=3, show_default=True, help="Runs of each workload; medians count.")
@click.option("--failovers", default=5, show_default=True, help="Leaders killed.")
@click.option("--parts", default=",".join(PARTS), show_default=True, help="Which measurements, comma-separated.")
@click.option(
    "--data", type=click.Path(path_type=Path), help="Directory on the disk to measure; a temporary one if not set."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and no tables.")
@click.option("--json-file", type=click.Path(path_type=Path), help="Write the JSON object here, and a plot beside it.")
@click.pass_context
def bench(
    ctx: click.Context,
    against: str | None,
    seconds: float,
    rounds: int,
    failovers: int,
    parts: str,
    data: Path | None,
    as_json: bool,
    json_file: Path | None,
) -> int:
    """Measure a three-node cluster on this machine, made for the purpose and removed afterwards.

    Figures are printed with the bar each has to pass. The exit code is 0 also when a bar is missed: this is a
    measurement; 1 means that it could not be made. `bench workspace` looks at a replicated tree more closely.
    """
    if ctx.invoked_subcommand is not None:
        return 0
    chosen = tuple(part for part in parts.split(",") if part)
    unknown = set(chosen) - set(PARTS)
    if unknown:
        raise click.UsageError(f"--parts: {', '.join(sorted(unknown))} is none of {', '.join(PARTS)}")
    settings = Settings(seconds, rounds, failovers, parts=chosen)
    began_s = time.monotonic()

    def tell(words: str) -> None:
        click.echo(f"{time.monotonic() - began_s:6.0f} s  {words}", err=True)

    with tempfile.TemporaryDirectory(dir=data, prefix="hypercluster-bench-") as made:
        directory = Path(made)
        with contextlib.ExitStack() as stack:
            etcd = None
            if against:
                try:
                    etcd = stack.enter_context(EtcdCluster(directory, build_load(cache_directory())))
                except EtcdMissingError as error:
                    tell(f"etcd is left out: {error}")
            report = asyncio.run(run(directory, etcd, settings, tell))
            if against and etcd is None:
                report.notes.append("etcd was asked for and could not be run: no ratios")
    if json_file is not None:
        report.write(json_file)
    if as_json:
        sys.stdout.write(report.as_json() + "\n")
    else:
        report.show(Console(width=None if sys.stdout.isatty() else 140))
    return 0


bench.add_command(workspace)

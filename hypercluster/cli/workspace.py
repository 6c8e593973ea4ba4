"""`hypercluster workspace`: replicated file trees from the command line (WS-61).

Owns: the commands that name a workspace as a whole; those on paths stand in workspace_paths.py.
Never: reads or writes through anything but the client library.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from hypercluster.cli import (
    snapshots,
    workspace_lock,
    workspace_log,
    workspace_paths,
    workspace_proof,
    workspace_shared,
    workspace_xattr,
)
from hypercluster.cli.client_command import (
    json_option,
    on_terminal,
    print_json,
    print_table,
    run_client,
    shown,
    timeout_option,
)
from hypercluster.cli.connection import connection_options
from hypercluster.cli.words import count, size
from hypercluster.cli.workspace_shared import settings_summary
from hypercluster.client.client import Client
from hypercluster.client.export_tree import ExportReport, export_tree
from hypercluster.client.import_tree import ImportReport, import_tree
from hypercluster.client.import_tree import Progress as ImportProgress
from hypercluster.client.local_patterns import DEFAULTS
from hypercluster.client.settings import ClientSettings
from hypercluster.client.workspace import Workspace
from hypercluster.client.workspace_check import NodeRoot, compare_nodes
from hypercluster.errors import NotFoundError
from hypercluster.pb.v1 import workspace_pb2
from hypercluster.pb.v1.coordination_command_pb2 import WorkspaceSet

SKIPPED_SHOWN = 20
LOCAL_SHOWN = 5


@click.group()
def workspace() -> None:
    """Work with replicated file trees."""


for module in (
    workspace_paths,
    workspace_xattr,
    workspace_log,
    workspace_lock,
    workspace_shared,
    workspace_proof,
    snapshots,
):
    for command in module.COMMANDS:
        workspace.add_command(command)


@workspace.command("create")
@click.argument("name")
@click.option("--uid", type=click.IntRange(0), default=None, help="Owner of all files; yours by default.")
@click.option("--gid", type=click.IntRange(0), default=None, help="Group of all files; yours by default.")
@click.option("--local-defaults", is_flag=True, help="Build output, dependencies and caches stay on their host.")
@json_option
@timeout_option
@connection_options
def create_command(
    name: str,
    uid: int | None,
    gid: int | None,
    local_defaults: bool,
    as_json: bool,
    timeout_s: float | None,
    settings: ClientSettings,
) -> None:
    """Make an empty workspace called NAME."""

    async def work(client: Client) -> Workspace:
        made = await client.create_workspace(name, uid=uid, gid=gid)
        if local_defaults:
            await made.change_settings(WorkspaceSet(local_patterns=DEFAULTS))
        return made

    made = run_client(settings, work, timeout_s)
    if as_json:
        print_json({"name": name, "workspace_id": made.workspace_id.hex()})
    else:
        click.echo(f"✓ workspace {name}   id {made.workspace_id.hex()}")


@workspace.command("list")
@json_option
@timeout_option
@connection_options
def list_command(as_json: bool, timeout_s: float | None, settings: ClientSettings) -> None:
    """List the workspaces."""

    async def work(client: Client) -> list[workspace_pb2.WorkspaceSummary]:
        return await client.workspaces()

    found = run_client(settings, work, timeout_s)
    if as_json:
        for summary in found:
            print_json(_summary(summary))
        return
    rows = [
        (s.name, count(s.inode_count), size(s.bytes_total), count(s.log_index), s.root.hex()[:12] + "…") for s in found
    ]
    print_table(("NAME", "ENTRIES", "SIZE", "LOG INDEX", "ROOT"), rows)


@workspace.command("import")
@click.argument("name")
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--strict", is_flag=True, help="Exit with 1 if anything was skipped.")
@json_option
@timeout_option
@connection_options
def import_command(
    name: str, directory: Path, strict: bool, as_json: bool, timeout_s: float | None, settings: ClientSettings
) -> int:
    """Put what is in DIRECTORY into the workspace NAME, which is made if there is none.

    Content, modes, times, symlinks, hard links and user attributes are kept. What stands in the way is replaced;
    nothing else is removed. What the workspace's local patterns name stays where it is, and is named.
    """

    async def work(client: Client) -> ImportReport:
        try:
            opened = await client.open_workspace(name)
        except NotFoundError:
            opened = await client.create_workspace(name)
        with ExitStack() as stack:
            tell = _progress_bar(stack, f"import {name}")
            return await import_tree(opened, os.fsencode(directory), tell, await opened.local_patterns())

    report = run_client(settings, work, timeout_s)
    if as_json:
        print_json(_import_summary(report))
    else:
        _show_import(report)
    return 1 if strict and report.skipped else 0


def _progress_bar(stack: ExitStack, title: str) -> Callable[[ImportProgress], None] | None:
    """On standard error, and only if that is a terminal."""
    if not on_terminal():
        return None
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f} of {task.total:.0f}"),
        TimeElapsedColumn(),
    )
    bar = stack.enter_context(Progress(*columns, console=Console(stderr=True), transient=True))
    task = bar.add_task(title, total=None)

    def tell(progress: ImportProgress) -> None:
        bar.update(task, completed=progress.entries_done, total=progress.entries_total)

    return tell


def _show_import(report: ImportReport) -> None:
    chunks = report.chunks_new + report.chunks_shared
    shared = f" ({report.chunks_shared * 100 // chunks} % shared)" if chunks else ""
    speed = report.operations / report.elapsed_s if report.elapsed_s else 0.0
    click.echo(
        f"✓ {count(report.files)} files, {size(report.bytes_total)}, {count(report.chunks_new)} new chunks{shared}"
        f"   {count(round(speed))} ops/s   log_index {count(report.log_index)}"
        f"   root {report.root.hex()[:4]}…{report.root.hex()[-2:]}"
    )
    for path, why in report.skipped[:SKIPPED_SHOWN]:
        click.echo(f"  skipped {os.fsdecode(path)}: {why}", err=True)
    if len(report.skipped) > SKIPPED_SHOWN:
        click.echo(f"  and {count(len(report.skipped) - SKIPPED_SHOWN)} more (see --json)", err=True)


def _import_summary(report: ImportReport) -> dict[str, object]:
    return {
        "files": report.files,
        "directories": report.directories,
        "symlinks": report.symlinks,
        "links": report.links,
        "bytes": report.bytes_total,
        "chunks_new": report.chunks_new,
        "chunks_shared": report.chunks_shared,
        "operations": report.operations,
        "elapsed_s": round(report.elapsed_s, 3),
        "log_index": report.log_index,
        "root": report.root.hex(),
        "skipped": [{"path": os.fsdecode(path), "why": why} for path, why in report.skipped],
    }


@workspace.command("export")
@click.argument("name")
@click.argument("directory", type=click.Path(path_type=Path))
@json_option
@timeout_option
@connection_options
def export_command(
    name: str, directory: Path, as_json: bool, timeout_s: float | None, settings: ClientSettings
) -> None:
    """Write the workspace NAME, as it is at one moment, into the new directory DIRECTORY."""

    async def work(client: Client) -> tuple[ExportReport, bytes]:
        opened = await client.open_workspace(name)
        return await export_tree(opened, directory), (await opened.settings()).local_patterns

    report, local_patterns = run_client(settings, work, timeout_s)
    if as_json:
        problems = [{"path": path, "problem": words} for path, words in report.problems.items()]
        found = {"entries": report.entries, "bytes": report.bytes_total, "log_index": report.log_index}
        local = shown(local_patterns).splitlines()
        print_json({**found, "root": report.root.hex(), "problems": problems, "local_patterns": local})
        return
    click.echo(
        f"✓ {count(report.entries)} entries, {size(report.bytes_total)}   log_index {count(report.log_index)}"
        f"   root {report.root.hex()[:12]}…"
    )
    for path, words in report.problems.items():
        click.echo(f"  could not be set: {path}: {words}", err=True)
    if local_patterns:
        click.echo(f"  not in it, because it stays on each host: {local_words(local_patterns)}", err=True)


@workspace.command("status")
@click.argument("name")
@json_option
@timeout_option
@connection_options
def status_command(name: str, as_json: bool, timeout_s: float | None, settings: ClientSettings) -> None:
    """Show one workspace, confirmed with a majority."""

    async def work(client: Client) -> tuple[workspace_pb2.WorkspaceSummary, WorkspaceSet]:
        opened = await client.open_workspace(name)
        return (await opened.barrier()).workspace, await opened.settings()

    summary, present = run_client(settings, work, timeout_s)
    if as_json:
        print_json({**_summary(summary), "settings": settings_summary(present)})
        return
    click.echo(f"workspace {summary.name}   id {summary.workspace_id.hex()}")
    click.echo(f"{count(summary.inode_count)} entries, {size(summary.bytes_total)}")
    click.echo(f"log_index {count(summary.log_index)}   root {summary.root.hex()}")
    click.echo(f"on each host only: {local_words(present.local_patterns)}")
    if present.quota_bytes or present.quota_nodes:
        nodes = count(present.quota_nodes) if present.quota_nodes else "any number of"
        of_bytes = size(present.quota_bytes) if present.quota_bytes else "any size"
        click.echo(f"quota: {of_bytes}, {nodes} entries")
    if present.enforce_reservations:
        click.echo("reservations are enforced")


@workspace.command("verify")
@click.argument("name")
@json_option
@timeout_option
@connection_options
def verify_command(name: str, as_json: bool, timeout_s: float | None, settings: ClientSettings) -> int:
    """Compare the workspace's root on every node at one log_index. Exit code 1 if they differ or a node is missing.

    A mirror directory is verified on its host, with `hypercluster worker verify`.
    """

    async def work(client: Client) -> list[NodeRoot]:
        return await compare_nodes(await client.open_workspace(name))

    found = run_client(settings, work, timeout_s)
    equal = len({(n.log_index, n.root) for n in found if not n.problem}) == 1
    missing = any(n.problem for n in found)
    if as_json:
        nodes = [
            {"node": n.address, "log_index": n.log_index, "root": n.root.hex(), "problem": n.problem} for n in found
        ]
        print_json({"equal": equal, "nodes": nodes})
    else:
        rows = [(n.address, count(n.log_index), n.problem or n.root.hex()) for n in found]
        print_table(("NODE", "LOG INDEX", "ROOT"), rows)
        click.echo("✓ equal on every node" if equal and not missing else "✗ not shown to be equal on every node")
    return 0 if equal and not missing else 1


def local_words(patterns: bytes) -> str:
    """What stays on its host (WS-56), in a few words."""
    lines = [line for line in shown(patterns).splitlines() if line.strip() and not line.startswith("#")]
    if not lines:
        return "nothing (see: hypercluster workspace set --local-defaults)"
    more = f" and {len(lines) - LOCAL_SHOWN} more" if len(lines) > LOCAL_SHOWN else ""
    return ", ".join(lines[:LOCAL_SHOWN]) + more


def _summary(summary: workspace_pb2.WorkspaceSummary) -> dict[str, object]:
    return {
        "name": summary.name,
        "workspace_id": summary.workspace_id.hex(),
        "entries": summary.inode_count,
        "bytes": summary.bytes_total,
        "log_index": summary.log_index,
        "root": summary.root.hex(),
        "raft_index": summary.raft_index,
    }
